"""Shadows: their scores are compared as defined and never returned; they take nothing from the calls."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.plan_server import PlanServer, plan_of, plan_server
from support.tiny_bundle import ITEMS, V, reference_scores, write_tiny_bundle
from support.tiny_retrieval import best_items, tiny_tables, write_tiny_retrieval

from recsys.arrays import Float64Array
from recsys.client import Client, Ranking, RankQuery, pin
from recsys.feature_store.base import RankRead
from recsys.feature_store.blocking import BlockingFeatureStore
from recsys.releases.served import ServedModel
from recsys.serving.handlers.ranker import Ranker, RankResult
from recsys.serving.handlers.routes import LoadedRelease
from recsys.serving.process import server as server_module
from recsys.serving.process.releases.plan import Plan
from recsys.serving.settings import Settings

ROLL = 2
CANDIDATES = list(range(V))
HELD_USER = 99


@pytest.fixture(scope="module")
def rolled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle in which item i has the vector that item i - 2 has in the tiny one."""
    path = tmp_path_factory.mktemp("rolled") / "rolled"
    write_tiny_bundle(path, model="rolled", items=np.roll(ITEMS, ROLL, axis=0))
    return path


def live_scores(candidates: Sequence[int] = CANDIDATES) -> Float64Array:
    return reference_scores(events=[], candidates=candidates, age=1.0)


def shadow_scores(candidates: Sequence[int] = CANDIDATES) -> Float64Array:
    return reference_scores(events=[], candidates=[(item - ROLL) % V for item in candidates], age=1.0)


def common(best: int) -> float:
    """Share of the best items of the one that are the best of the other, by the definition."""
    live, shadow = (set(np.argsort(-scores)[:best].tolist()) for scores in (live_scores(), shadow_scores()))
    return len(live & shadow) / best


def shadowed(live: Path, shadow: Path, *, percent: float = 100.0) -> Plan:
    return plan_of(ServedModel(live="live", shadow={"shadow": percent}), {"live": live, "shadow": shadow})


def settings_of(redis_url: str, **more: Any) -> Settings:
    return Settings(port=0, redis_url=redis_url, **{"store_timeout_ms": 5_000, **more})


@pytest.fixture
def served(tiny_bundle: Path, rolled: Path, tmp_path: Path, redis_url: str) -> Iterator[PlanServer]:
    """A server that gives every request to the shadow, too."""
    with plan_server(shadowed(tiny_bundle, rolled), settings_of(redis_url), tmp_path) as found:
        yield found


def ask(client: Client, *, user: int = 1, candidates: Sequence[int] = CANDIDATES, top_k: int = 0) -> Ranking:
    return client.rank(user=user, candidates=candidates, features={"age": 1.0}, top_k=top_k, timeout_s=20.0)


def wait_until(reached: Callable[[], bool], *, timeout_s: float = 10.0) -> None:
    until_s = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < until_s
        time.sleep(0.005)


def ended(server: PlanServer) -> int:
    """Requests that the shadow was offered and is done with."""
    found = server.figures("shadow")
    return found.shadow_scored + found.shadow_dropped + found.shadow_failed


@contextmanager
def held_call(server: PlanServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A call stays in flight, in its read of the store, for the duration of a ``with`` block."""
    holds, opened = threading.Event(), threading.Event()
    read = BlockingFeatureStore.read_many_for_rank

    def held(store: BlockingFeatureStore, reads: Sequence[RankRead], **more: Any) -> Any:
        if reads[0].user_key == HELD_USER:
            holds.set()
            assert opened.wait(20)
        return read(store, reads, **more)

    monkeypatch.setattr(BlockingFeatureStore, "read_many_for_rank", held)
    with ThreadPoolExecutor(1) as pool, Client(server.address) as client:
        call = pool.submit(ask, client, user=HELD_USER)
        try:
            assert holds.wait(20)
            yield
        finally:
            opened.set()
            call.result(20)


def test_scores_of_a_shadow_are_compared_by_candidate_and_never_returned(served: PlanServer) -> None:
    with Client(served.address) as client:
        for top_k in (0, 3):
            answer = ask(client, top_k=top_k)
            assert (answer.release, answer.model) == ("live", "tiny")
            best = np.sort(live_scores())[::-1][:3] if top_k else live_scores()
            np.testing.assert_allclose(answer.scores, best, atol=1e-6)
        wait_until(lambda: ended(served) == 2)
    found = served.figures("shadow")
    assert (found.shadow_offered, found.shadow_scored, found.compared) == (2, 2, 2 * V)
    difference = np.abs(live_scores() - shadow_scores()).sum()
    assert found.difference_sum == pytest.approx(2 * difference, abs=1e-4)
    # Half of all candidates where a request asks for all, else as many as it asks for.
    assert (common(4), common(3)) == (0.5, pytest.approx(1 / 3))
    assert found.overlap_sum == pytest.approx(common(4) + common(3), abs=1e-5)
    assert found.shadow_latency.count == 2 and found.shadow_latency.sum_us > 0
    assert (found.answered, found.failed, found.scored) == (0, 0, 0), "it has answered nothing"
    live = served.figures("live")
    assert (live.answered, live.shadow_offered) == (2, 0)


def test_candidates_that_stand_twice_are_compared_once_and_requests_of_a_batch_each(served: PlanServer) -> None:
    candidates = [5, 1, 5, 3, 1]
    with Client(served.address) as client:
        client.rank_batch([RankQuery(user=user, candidates=candidates, features={"age": 1.0}) for user in (1, 2, 3)])
        wait_until(lambda: ended(served) == 3)
    found = served.figures("shadow")
    difference = np.abs(live_scores([5, 1, 3]) - shadow_scores([5, 1, 3])).sum()
    assert (found.shadow_scored, found.compared) == (3, 9)
    assert found.difference_sum == pytest.approx(3 * difference, abs=1e-4)


def test_items_of_retrieve_and_candidates_of_recommend_are_compared(
    tiny_bundle: Path, rolled: Path, tmp_path: Path, redis_url: str
) -> None:
    ours = tiny_tables()
    others = replace(ours, items_MD=np.roll(ours.items_MD, 5, axis=0))
    write_tiny_retrieval(tmp_path / "ours", ours)
    write_tiny_retrieval(tmp_path / "others", others)
    plan = shadowed(tiny_bundle, rolled)
    folders = {"live": tmp_path / "ours", "shadow": tmp_path / "others"}
    releases = {name: replace(release, retrieval=folders[name]) for name, release in plan.releases.items()}
    plan = replace(plan, releases=releases)
    with plan_server(plan, settings_of(redis_url), tmp_path) as server, Client(server.address) as client:
        found = client.retrieve(user=4, top_k=6, exclude=[1])
        items, more = (best_items(tables, 4, [1], 6)[0].tolist() for tables in (ours, others))
        assert found.items.tolist() == items and 0 < len(set(items) & set(more)) < 6
        wait_until(lambda: ended(server) == 1)
        figures = server.figures("shadow")
        assert (figures.shadow_retrieved, figures.compared, figures.mean_overlap) == (1, 0, None)
        assert figures.mean_items_overlap == pytest.approx(len(set(items) & set(more)) / 6, abs=1e-5)
        client.recommend(user=4, top_k=2, candidates=8, features={"age": 1.0})
        wait_until(lambda: ended(server) == 2)
    figures = server.figures("shadow")
    candidates = best_items(ours, 4, [], 8)[0].tolist()
    difference = np.abs(live_scores(candidates) - shadow_scores(candidates)).sum()
    assert (figures.shadow_scored, figures.shadow_retrieved, figures.compared) == (2, 1, 8)
    assert figures.difference_sum == pytest.approx(difference, abs=1e-4)


def test_a_shadow_makes_its_lists_by_the_rules_of_the_request(served: PlanServer) -> None:
    with Client(served.address) as client:
        rules = [pin(CANDIDATES[0], 1), pin(CANDIDATES[1], 2)]
        best = client.rank(user=1, candidates=CANDIDATES, features={"age": 1.0}, top_k=2, rules=rules)
        assert best.items == list(CANDIDATES[:2])
        wait_until(lambda: ended(served) == 1)
    found = served.figures("shadow")
    assert (found.shadow_scored, found.compared, found.mean_overlap) == (1, V, 1.0)
    assert common(2) < 1.0, "without rules the two would differ"


def test_under_load_shadows_are_dropped_and_answers_are_not(
    served: PlanServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 80
    with held_call(served, monkeypatch), Client(served.address) as client:
        for _ in range(calls):
            np.testing.assert_allclose(ask(client).scores, live_scores(), atol=1e-6)
        assert served.figures("shadow").shadow_dropped >= calls - 65, "64 wait, and one has its turn"
        wait_until(lambda: ended(served) == calls)
        found = served.figures("shadow")
        assert (found.shadow_offered, found.shadow_dropped, found.shadow_scored) == (calls, calls, 0)
    with Client(served.address) as client:
        ask(client)
        wait_until(lambda: served.figures("shadow").shadow_scored >= 1)
    assert served.figures("live").failed == 0


def test_a_shadow_takes_no_place_of_a_call(
    tiny_bundle: Path, rolled: Path, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with blocked_shadow(monkeypatch) as (begun, opened):
        settings = settings_of(redis_url, max_in_flight=1)
        with plan_server(shadowed(tiny_bundle, rolled), settings, tmp_path) as server, Client(server.address) as client:
            ask(client)
            assert begun.wait(10)
            ask(client)
            opened.set()
    assert server.figures("live").answered == 2


@contextmanager
def blocked_shadow(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Work of shadows stands still: events of its beginning, and to let it go on."""
    begun, opened = threading.Event(), threading.Event()
    rank_unseen = Ranker.rank_unseen

    def blocked(ranker: Ranker, *arguments: Any, **more: Any) -> RankResult:
        begun.set()
        assert opened.wait(20)
        return rank_unseen(ranker, *arguments, **more)

    monkeypatch.setattr(Ranker, "rank_unseen", blocked)
    try:
        yield begun, opened
    finally:
        opened.set()


def test_a_release_at_work_as_a_shadow_is_closed_after_it_and_what_waits_for_it_is_dropped(
    tiny_bundle: Path, rolled: Path, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    open_loaded_release = server_module.open_loaded_release

    def opened_release(*arguments: Any) -> LoadedRelease:
        loaded = open_loaded_release(*arguments)
        return replace(loaded, close=lambda: (closed.append(loaded.name), loaded.close())[1])

    monkeypatch.setattr(server_module, "open_loaded_release", opened_release)
    plan = shadowed(tiny_bundle, rolled)
    alone = replace(plan, number=2, models={"m": ServedModel(live="live")}, releases={"live": plan.releases["live"]})
    with (
        blocked_shadow(monkeypatch) as (begun, opened),
        plan_server(plan, settings_of(redis_url), tmp_path) as server,
        Client(server.address) as client,
    ):
        ask(client)
        assert begun.wait(10)
        ask(client)
        server.server.switch.prepare(alone)
        closing = server.server.switch.commit(2)
        closing.join(0.2)
        assert closed == [] and ask(client).release == "live"
        opened.set()
        closing.join(10)
        assert closed == ["shadow"]
        wait_until(lambda: ended(server) == 2)
        found = server.figures("shadow")
        assert (found.shadow_offered, found.shadow_scored, found.shadow_dropped) == (2, 1, 1)


def test_a_shadow_that_fails_or_gives_no_numbers_harms_no_call(
    tiny_bundle: Path, tmp_path: Path, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    items = ITEMS.copy()
    items[6] = math.nan  # a missing event reads the last row
    write_tiny_bundle(tmp_path / "broken", model="broken", items=items)
    plan = shadowed(tiny_bundle, tmp_path / "broken")
    with plan_server(plan, settings_of(redis_url), tmp_path) as server, Client(server.address) as client:
        np.testing.assert_allclose(ask(client).scores, live_scores(), atol=1e-6)
        wait_until(lambda: ended(server) == 1)
        found = server.figures("shadow")
        assert (found.shadow_failed, found.shadow_scored, found.compared) == (1, 0, 0)
        assert "release shadow failed" in caplog.text
        ask(client, candidates=[0, 1, 2])
        wait_until(lambda: server.figures("shadow").shadow_scored == 1)


def test_a_degraded_answer_is_compared_with_nothing(tiny_bundle: Path, rolled: Path, tmp_path: Path) -> None:
    settings = settings_of("redis://127.0.0.1:1", store_timeout_ms=100)
    with plan_server(shadowed(tiny_bundle, rolled), settings, tmp_path) as server, Client(server.address) as client:
        assert ask(client).degraded
    assert server.figures("shadow").shadow_offered == 0


def test_each_shadow_gets_its_percentage(tiny_bundle: Path, rolled: Path, tmp_path: Path, redis_url: str) -> None:
    calls, percent = 400, 25.0
    plan = shadowed(tiny_bundle, rolled, percent=percent)
    with plan_server(plan, settings_of(redis_url), tmp_path) as server, Client(server.address) as client:
        for _ in range(calls // 100):
            client.rank_batch([RankQuery(user=1, candidates=[1])] * 100)
        offered = server.figures("shadow").shadow_offered
    spread = 5 * math.sqrt(calls * 0.25 * 0.75)
    assert abs(offered - calls * percent / 100) < spread


def test_what_a_shadow_scores_is_not_logged(tiny_bundle: Path, rolled: Path, tmp_path: Path, redis_url: str) -> None:
    folder = tmp_path / "log"
    settings = settings_of(redis_url, log_requests=1.0, request_log_dir=folder)
    with plan_server(shadowed(tiny_bundle, rolled), settings, tmp_path) as server, Client(server.address) as client:
        ask(client)
        wait_until(lambda: ended(server) == 1)
    rows = [row for file in folder.glob("*.parquet") for row in pq.read_table(file).to_pylist()]
    assert [(row["release"], row["model"]) for row in rows] == [("live", "tiny")]
