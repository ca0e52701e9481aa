"""Every error reaches the caller as the status it stands for."""

from __future__ import annotations

import logging
import re

import grpc
import pytest
from support.paths import DOCS

from recsys import errors
from recsys.client import DeadlineExceeded
from recsys.serving.rpc.statuses import STATUS_CODES, IncidentLog, status_of

CODES = grpc.StatusCode


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidInputError("why"), CODES.INVALID_ARGUMENT),
        (errors.NotFoundError("why"), CODES.NOT_FOUND),
        (errors.OverloadedError("why"), CODES.RESOURCE_EXHAUSTED),
        (errors.StoreUnavailableError("why"), CODES.UNAVAILABLE),
        (errors.StoreFormatError("why"), CODES.FAILED_PRECONDITION),
        (errors.StoreError("why"), CODES.FAILED_PRECONDITION),
        (errors.NotExportedError("why"), CODES.FAILED_PRECONDITION),
        (TimeoutError("why"), CODES.DEADLINE_EXCEEDED),
        (errors.ModelError("why"), CODES.INTERNAL),
    ],
)
def test_an_expected_error_keeps_its_message(error: Exception, code: grpc.StatusCode) -> None:
    assert status_of(error) == (code, "why")


def test_an_unexpected_error_shows_an_id_and_logs_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    try:
        {}["secret"]
    except KeyError as error:
        code, message = status_of(error)
    assert code == CODES.INTERNAL and "secret" not in message and "Traceback" not in message
    incident = re.search(r"incident ([0-9a-f]{8})$", message)
    assert incident is not None
    assert incident[1] in caplog.text and "KeyError: 'secret'" in caplog.text


def _raised(kind: type[Exception]) -> Exception:
    try:
        raise kind("here")
    except Exception as error:
        return error


def test_of_one_kind_of_incident_one_in_10_s_is_logged_and_the_others_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now_s = [100.0]
    incidents = IncidentLog(clock=lambda: now_s[0])
    ids = {incidents.log(_raised(KeyError)) for _ in range(50)}
    assert len(ids) == 1 and len(caplog.records) == 1 and ids.pop() in caplog.text
    now_s[0] += 10.1
    incidents.log(_raised(KeyError))
    assert len(caplog.records) == 2 and "(49 more like it since incident" in caplog.text
    now_s[0] += 10.1
    incidents.log(_raised(KeyError))
    assert len(caplog.records) == 3 and "more" not in caplog.records[2].getMessage()


def test_incidents_of_other_types_and_places_are_logged_at_once(caplog: pytest.LogCaptureFixture) -> None:
    incidents = IncidentLog()
    try:
        raise KeyError("elsewhere")
    except KeyError as error:
        elsewhere = error
    errors_seen = (_raised(KeyError), _raised(IndexError), elsewhere, ValueError("never raised"))
    assert len({incidents.log(error) for error in errors_seen}) == 4 == len(caplog.records)


def test_the_runbook_lists_every_status() -> None:
    runbook = (DOCS / "operate" / "runbook.md").read_text()
    for code in (*STATUS_CODES.values(), CODES.INTERNAL):
        assert f"| {code.name} |" in runbook


def test_the_clients_errors_are_also_ours() -> None:
    assert issubclass(DeadlineExceeded, TimeoutError) and issubclass(DeadlineExceeded, errors.RecsysError)
