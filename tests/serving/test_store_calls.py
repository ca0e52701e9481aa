"""AppendEvents and GetHistory, through gRPC, on a real store."""

from __future__ import annotations

import time

import pytest
import redis
from tiny_server import Start, stalled

from recsys.client import AsyncClient, DeadlineExceeded, InvalidArgument, RpcError, Unavailable


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def test_a_history_comes_back_oldest_first_with_missing_attributes(client: AsyncClient) -> None:
    at_ms = now_ms()
    appended = await client.append_events(
        user=1, items=[5, 4], timestamps_ms=[at_ms, at_ms - 9], attributes={"rating": [2, None]}
    )
    history = await client.get_history(user=1)
    assert (appended.added, appended.stored) == (2, 2)
    assert history.items.tolist() == [4, 5]
    assert history.timestamps_ms.tolist() == [at_ms - 9, at_ms]
    assert history.attributes["rating"].tolist() == [-1, 2]
    assert (history.appended, history.trimmed) == (2, 0)


async def test_an_event_is_known_from_when_the_server_got_it_unless_the_caller_says(client: AsyncClient) -> None:
    before_ms = now_ms()
    await client.append_events(user=1, items=[5], timestamps_ms=[before_ms - 60_000])
    await client.append_events(user=2, items=[5], timestamps_ms=[before_ms - 60_000], arrivals_ms=[before_ms - 50_000])
    received_ms = (await client.get_history(user=1)).arrivals_ms[0]
    assert before_ms <= received_ms <= now_ms()
    assert (await client.get_history(user=2)).arrivals_ms.tolist() == [before_ms - 50_000]


async def test_sending_an_event_again_adds_nothing(client: AsyncClient) -> None:
    at_ms = now_ms()
    await client.append_events(user=1, items=[5], timestamps_ms=[at_ms])
    again = await client.append_events(user=1, items=[5, 6], timestamps_ms=[at_ms, at_ms])
    assert (again.added, again.stored) == (1, 2)


async def test_history_is_limited_to_what_was_asked_or_what_a_model_reads(client: AsyncClient) -> None:
    at_ms = now_ms()
    await client.append_events(user=1, items=range(10), timestamps_ms=[at_ms + i for i in range(10)])
    assert (await client.get_history(user=1)).items.tolist() == [6, 7, 8, 9]
    assert (await client.get_history(user=1, limit=2)).items.tolist() == [8, 9]
    assert (await client.get_history(user=1, limit=10_000)).items.tolist() == list(range(10))
    with pytest.raises(InvalidArgument, match="limit is 10,001; allowed: 1 to 10,000, or 0"):
        await client.get_history(user=1, limit=10_001)


async def test_an_unknown_user_has_an_empty_history(client: AsyncClient) -> None:
    history = await client.get_history(user=404)
    assert len(history.items) == 0 and history.appended == 0


async def test_foreign_bytes_are_reported_and_left_alone(client: AsyncClient, redis_admin: redis.Redis) -> None:
    redis_admin.set(b"recsys:v1:{tiny:u:7}:h", b"someone else's")
    for call in (client.get_history(user=7), client.append_events(user=7, items=[1], timestamps_ms=[now_ms()])):
        with pytest.raises(RpcError, match="FAILED_PRECONDITION: .*:u:7}:h"):
            await call
    assert redis_admin.get(b"recsys:v1:{tiny:u:7}:h") == b"someone else's"


async def test_a_store_that_does_not_answer_is_unavailable_within_the_deadline(
    start: Start, redis_admin: redis.Redis
) -> None:
    async with start() as client:
        with stalled(redis_admin):
            started_s = time.monotonic()
            with pytest.raises((Unavailable, DeadlineExceeded)):
                await client.get_history(user=1, timeout_s=0.3)
            assert time.monotonic() - started_s < 1.0
