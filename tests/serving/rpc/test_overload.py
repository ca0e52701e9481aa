"""Many callers, and callers that leave: nobody waits without bound, and nobody harms a neighbour."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import redis
from support.tiny_bundle import reference_scores
from support.tiny_server import Start, stalled

from recsys.client import AsyncClient, Overloaded, Ranking, RankQuery, retries
from recsys.features.encode import EncodedRequest
from recsys.serving.inference import ranking_session
from recsys.serving.inference.ranking_session import RankingSession
from recsys.serving.rpc import store_service


class Gate:
    """Holds the model in the middle of a run until it is opened, and notes of how many candidates each run is."""

    def __init__(self) -> None:
        self.runs: list[int] = []
        self.opened = threading.Event()

    def put_into(self, monkeypatch: pytest.MonkeyPatch) -> None:
        user_side = RankingSession._user_side

        def held(session: RankingSession, request: EncodedRequest, *more: Any) -> Any:
            self.runs.append(request.candidate_count)
            assert self.opened.wait(20)
            return user_side(session, request, *more)

        monkeypatch.setattr(RankingSession, "_user_side", held)


@pytest.fixture
def gate() -> Gate:
    return Gate()


async def until(true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline_s, "waited in vain"
        await asyncio.sleep(0.01)


def asked(client: AsyncClient, count: int) -> asyncio.Task[Ranking]:
    """A request for so many candidates, on its way."""
    return asyncio.create_task(client.rank(user=1, candidates=list(range(count))))


async def left(call: asyncio.Task[Ranking]) -> None:
    """The caller has gone, and the server knows."""
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await asyncio.sleep(0.2)


async def answered(call: asyncio.Task[Ranking], count: int) -> None:
    expected = reference_scores(events=[], candidates=list(range(count)))
    np.testing.assert_allclose((await call).scores, expected, atol=1e-6)


async def test_who_leaves_while_the_store_is_read_costs_no_model_run(
    start: Start, gate: Gate, redis_admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start() as client:
        gate.put_into(monkeypatch)
        gate.opened.set()
        with stalled(redis_admin) as go_on:
            leaving, staying = asked(client, 2), asked(client, 3)
            await asyncio.sleep(0.2)
            await left(leaving)
            go_on()
            await answered(staying, 3)
        await answered(asked(client, 4), 4)
        assert sorted(gate.runs) == [3, 4]


async def test_who_leaves_while_waiting_for_the_model_costs_no_model_run(
    start: Start, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start() as client:
        gate.put_into(monkeypatch)
        first = asked(client, 1)
        await until(lambda: gate.runs == [1])
        leaving, staying = asked(client, 2), asked(client, 3)
        await asyncio.sleep(0.2)
        await left(leaving)
        gate.opened.set()
        await answered(first, 1)
        await answered(staying, 3)
        assert gate.runs == [1, 3]


async def test_who_leaves_while_the_model_runs_holds_nobody_up(
    start: Start, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start(max_in_flight=2) as client:
        gate.put_into(monkeypatch)
        leaving = asked(client, 2)
        await until(lambda: gate.runs == [2])
        staying = asked(client, 3)
        await left(leaving)
        gate.opened.set()
        await answered(staying, 3)
        await asyncio.gather(*(answered(asked(client, 1), 1) for _ in range(2)))  # both places are free again


async def test_a_flood_is_refused_at_once_and_leaves_nothing_behind(start: Start, redis_admin: redis.Redis) -> None:
    async with start(max_in_flight=4, default_deadline_ms=20_000) as client:
        threads = threading.active_count()
        with stalled(redis_admin) as go_on:
            calls = [asked(client, 1 + i % 3) for i in range(400)]
            await until(lambda: sum(call.done() for call in calls) == 396)
            for call in calls:
                if call.done():
                    with pytest.raises(
                        Overloaded, match="4 requests are being served, the limit|48 calls are being handled, the limit"
                    ):
                        await call
            assert threading.active_count() - threads <= 2 * 4 + store_service.MAX_STREAMS + 8
            go_on()
            await asyncio.gather(*(answered(call, 1 + i % 3) for i, call in enumerate(calls) if not call.done()))
        await asyncio.gather(*(answered(asked(client, 2), 2) for _ in range(4)))


async def test_a_flood_of_store_calls_leaves_room_for_rank(start: Start, redis_admin: redis.Redis) -> None:
    async with start(max_in_flight=2, store_timeout_ms=50) as client:
        with stalled(redis_admin):
            reads = [asyncio.create_task(client.get_history(user=user)) for user in range(50)]
            await until(lambda: sum(read.done() for read in reads) >= 48)
            await answered(asked(client, 2), 2)
        results = await asyncio.gather(*reads, return_exceptions=True)
        assert sum(isinstance(result, Overloaded) for result in results) == 48


def slow_model(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """A server that is started now expects its model to take so long for a request of few candidates."""
    monkeypatch.setattr(ranking_session, "_UNIT_S", seconds / ranking_session._REQUEST_UNITS)


async def test_who_cannot_be_answered_in_time_is_refused_at_once_and_told_when_to_retry(
    start: Start, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_model(monkeypatch, 1.0)
    monkeypatch.setattr(retries, "MOST", 0)
    async with start() as client:
        gate.put_into(monkeypatch)
        first = asked(client, 1)
        await until(lambda: gate.runs == [1])
        with pytest.raises(
            Overloaded, match="1 requests are being served, which .* deadline, .*; retry after"
        ) as refused:
            await client.rank(user=1, candidates=[1], timeout_s=0.7)
        assert refused.value.retry_after_s is not None and refused.value.retry_after_s > 0.7
        waiting = asked(client, 2)  # it has ten seconds
        with pytest.raises(Overloaded, match="requests are being served, which"):
            await client.rank_batch([RankQuery(user=1, candidates=[1])] * 10, timeout_s=9.0)
        gate.opened.set()
        await answered(first, 1)
        await answered(waiting, 2)
        assert gate.runs == [1, 2]


async def test_with_long_deadlines_hundreds_wait_for_the_model_and_all_are_answered(
    start: Start, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start() as client:
        gate.put_into(monkeypatch)
        calls = [asyncio.create_task(client.rank(user=1, candidates=[1, 2], timeout_s=60.0)) for _ in range(300)]
        await until(lambda: gate.runs == [2])
        await asyncio.sleep(0.5)
        gate.opened.set()
        await asyncio.gather(*(answered(call, 2) for call in calls[:1]), *calls)
        assert gate.runs == [2] * 300


async def test_who_leaves_while_waiting_for_the_model_gives_its_place_back_at_once(
    start: Start, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start(max_in_flight=2) as client:
        gate.put_into(monkeypatch)
        first = asked(client, 1)
        await until(lambda: gate.runs == [1])
        leaving = asked(client, 2)
        await asyncio.sleep(0.2)
        await left(leaving)
        staying = asked(client, 3)
        await asyncio.sleep(0.2)
        assert not staying.done(), "it waits, in the place of who left, while the model still runs"
        gate.opened.set()
        await answered(first, 1)
        await answered(staying, 3)


async def test_who_waited_too_long_is_refused_before_its_deadline_and_costs_no_model_run(
    start: Start, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_model(monkeypatch, 1.0)
    async with start() as client:
        gate.put_into(monkeypatch)
        first = asked(client, 1)
        await until(lambda: gate.runs == [1])
        with pytest.raises(Overloaded, match="left of the deadline, the model needs .* and others are before it"):
            await client.rank(user=1, candidates=[1, 2], timeout_s=3.0)
        gate.opened.set()
        await answered(first, 1)
        await answered(asked(client, 3), 3)
        assert gate.runs == [1, 3]


async def test_calls_of_the_store_are_refused_by_the_time_left_too(
    start: Start, redis_admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_service, "_UNIT_S", 1.0 / store_service._CALL_UNITS)
    async with start() as client:
        with stalled(redis_admin) as go_on:
            reads = [asyncio.create_task(client.get_history(user=user, timeout_s=60.0)) for user in range(5)]
            await asyncio.sleep(0.3)
            with pytest.raises(Overloaded, match="5 requests are being served, which .* deadline, .*; retry after"):
                await client.get_history(user=9, timeout_s=2.0)
            go_on()
            assert [len((await read).items) for read in reads] == [0] * 5
        for _ in range(50):  # what was expected in vain is forgotten
            await client.get_history(user=9)
        both = await asyncio.gather(*(client.get_history(user=9, timeout_s=5.0) for _ in range(2)))
        assert [len(history.items) for history in both] == [0, 0]
