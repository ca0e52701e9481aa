"""Calls are counted to the release that was to answer them: answers, and failures that are not the caller's fault."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.plan_server import PlanServer, plan_of, plan_server
from support.tiny_bundle import FEATURES, ITEMS, reference_scores, write_tiny_bundle
from support.tiny_workers import until

from recsys.client import Client, RankQuery, RpcError
from recsys.errors import (
    InvalidInputError,
    ModelError,
    NotExportedError,
    OverloadedError,
    StoreError,
    StoreUnavailableError,
)
from recsys.proto.ranker_pb2 import Id, Ids, RankRequest
from recsys.releases.served import ServedModel
from recsys.serving.deadline import CallerLeftError, Deadline
from recsys.serving.handlers.ranker import Ranker, RankResult
from recsys.serving.handlers.routes import LoadedRelease, user_point
from recsys.serving.rpc.answer_counts import AnswerCounts
from recsys.serving.settings import Settings
from recsys.serving.telemetry.counters import Telemetry
from recsys.serving.telemetry.layout import create_counter_file
from recsys.serving.telemetry.release_figures import read_release_figures
from recsys.serving.telemetry.totals import read_totals

CANDIDATES, AGE = [5, 1, 3, 1], {"age": 1.0}
USERS = range(1, 13)
OTHERS = [user for user in USERS if user_point("m", user) < 50]
SCORES = {
    "tiny": reference_scores(events=[], candidates=[5, 1, 3], age=1.0),
    "other": reference_scores(events=[], candidates=[5, 1, 3], age=2.0),
}
"""Of the distinct candidates; the other release's items have twice the vectors."""


@pytest.fixture
def served(tiny_bundle: Path, tmp_path: Path, redis_url: str) -> Iterator[PlanServer]:
    """Half of the users have the release ``other``."""
    write_tiny_bundle(tmp_path / "other", model="other", items=2 * ITEMS)
    plan = plan_of(ServedModel(live="tiny", split={"other": 50.0}), {"tiny": tiny_bundle, "other": tmp_path / "other"})
    settings = Settings(port=0, redis_url=redis_url, store_timeout_ms=5_000)
    with plan_server(plan, settings, tmp_path) as found:
        yield found


def fail_the_other(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Let the release ``other`` fail once its requests were read."""
    result = Ranker._result

    def failing(ranker: Ranker, *arguments: Any) -> RankResult:
        if ranker.release == "other":
            raise error
        return result(ranker, *arguments)

    monkeypatch.setattr(Ranker, "_result", failing)


def test_an_answer_counts_to_its_release_with_the_scores_of_all_its_candidates(served: PlanServer) -> None:
    assert 2 < len(OTHERS) < len(USERS) - 2
    with Client(served.address) as client:
        for user in USERS:
            answer = client.rank(user=user, candidates=CANDIDATES, features=AGE, top_k=1)
            assert answer.release == ("other" if user in OTHERS else "tiny")
    for name, calls in (("other", len(OTHERS)), ("tiny", len(USERS) - len(OTHERS))):
        found = served.figures(name)
        assert (found.answered, found.failed, found.degraded, found.scored) == (calls, 0, 0, 3 * calls)
        assert found.score_sum == pytest.approx(calls * SCORES[name].sum(), abs=1e-4)
        assert found.latency.count == calls and found.latency.sum_us > 0


def test_a_call_that_fails_counts_to_the_release_that_was_to_answer_it(
    served: PlanServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_the_other(monkeypatch, ModelError("release other: no numbers"))
    with Client(served.address) as client:
        for user in USERS:
            if user not in OTHERS:
                client.rank(user=user, candidates=CANDIDATES)
                continue
            with pytest.raises(RpcError):
                client.rank(user=user, candidates=CANDIDATES)
    other, tiny = served.figures("other"), served.figures("tiny")
    assert (other.answered, other.failed, other.error_share) == (0, len(OTHERS), 1.0)
    assert (tiny.answered, tiny.failed) == (len(USERS) - len(OTHERS), 0)


def test_a_batch_counts_once_for_each_release_and_its_failure_to_the_one_that_raised(
    served: PlanServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = [RankQuery(user=user, candidates=CANDIDATES, features=AGE) for user in USERS]
    with Client(served.address) as client:
        client.rank_batch(queries)
        before = {name: served.figures(name) for name in ("tiny", "other")}
        assert {name: found.answered for name, found in before.items()} == {"tiny": 1, "other": 1}
        assert before["other"].scored == 3 * len(OTHERS)
        assert before["other"].score_sum == pytest.approx(len(OTHERS) * SCORES["other"].sum(), abs=1e-4)
        fail_the_other(monkeypatch, ModelError("release other: no numbers"))
        with pytest.raises(RpcError):
            client.rank_batch(queries)
    since = {name: served.figures(name) - before[name] for name in before}
    assert {name: (found.answered, found.failed) for name, found in since.items()} == {"tiny": (0, 0), "other": (0, 1)}


def test_a_callers_fault_is_no_failure_of_a_release(served: PlanServer) -> None:
    with Client(served.address) as client:
        for wrong in ({"candidates": [1], "features": {"agee": 1.0}}, {"candidates": [1], "model": "none"}):
            with pytest.raises(RpcError):
                client.rank(user=1, **wrong)  # type: ignore[arg-type]
    assert [served.figures(name).calls for name in ("tiny", "other")] == [0, 0]


@pytest.mark.parametrize(("leaves", "code", "failed"), [(True, "CANCELLED", 0), (False, "DEADLINE_EXCEEDED", 1)])
def test_an_answer_that_nobody_waits_for_any_more_counts_as_what_its_caller_saw(
    served: PlanServer, monkeypatch: pytest.MonkeyPatch, leaves: bool, code: str, failed: int
) -> None:
    rank, ranked, user = Ranker.rank, threading.Event(), OTHERS[0]

    def late(ranker: Ranker, *arguments: Any, deadline: Deadline) -> RankResult:
        found = rank(ranker, *arguments, deadline=deadline)
        ranked.set()
        while deadline.abandoned is not None and not deadline.abandoned():
            time.sleep(0.005)
        return found

    monkeypatch.setattr(Ranker, "rank", late)
    request = RankRequest(user=Id(integer=user), candidates=Ids(integers=[1, 2])).SerializeToString()
    with grpc.insecure_channel(served.address) as channel:
        call = channel.unary_unary("/recsys.v1.Ranker/Rank").future(request, timeout=600.0 if leaves else 3.0)
        if leaves:
            assert ranked.wait(60)
            call.cancel()
        else:
            error: Any = call.exception()
            assert error.code().name == code
        until(lambda: read_totals(served.counts).times["call_seconds", "Rank"].count)
    counted = {key: count for key, count in read_totals(served.counts).counters.items() if count}
    assert {key: count for key, count in counted.items() if key[0] == "requests"} == {("requests", "Rank", code): 1}
    found = served.figures("other")
    assert (found.answered, found.failed, found.latency.count) == (0, failed, 0)


@pytest.mark.parametrize(
    ("error", "left_s", "failed"),
    [
        (ModelError("no numbers"), 1.0, 1),
        (ZeroDivisionError(), 1.0, 1),
        (OverloadedError("full"), 1.0, 1),
        (StoreUnavailableError("away"), 1.0, 1),
        (StoreError("foreign"), 1.0, 1),
        (TimeoutError("the deadline has passed"), -1.0, 1),
        (CallerLeftError("the caller has left"), 1.0, 0),
        (InvalidInputError("wrong"), 1.0, 0),
        (NotExportedError("export it with it"), 1.0, 0),
    ],
)
def test_each_error_counts_by_whose_fault_it_is(error: Exception, left_s: float, failed: int, tmp_path: Path) -> None:
    path = create_counter_file(tmp_path / "counts", workers=1, methods=[])
    counts = AnswerCounts(Telemetry(path))
    with pytest.raises(type(error)), counts.failures(Deadline.after(left_s), [a_release(slot=2), a_release(slot=2)]):
        raise error
    assert [found.failed for found in read_release_figures(path)] == [0, 0, failed, 0, 0, 0, 0, 0]


def a_release(*, slot: int) -> LoadedRelease:
    return LoadedRelease(name="r", features=FEATURES, ranker=None, recommender=None, close=lambda: None, slot=slot)
