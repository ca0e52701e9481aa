"""Every error reaches the caller as the status it stands for."""

from __future__ import annotations

import logging
import re

import grpc
import pytest

from recsys import errors
from recsys.client import DeadlineExceeded
from recsys.serving.status import status_of

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
        (TimeoutError("why"), CODES.DEADLINE_EXCEEDED),
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


def test_the_clients_errors_are_also_ours() -> None:
    assert issubclass(DeadlineExceeded, TimeoutError) and issubclass(DeadlineExceeded, errors.RecsysError)
