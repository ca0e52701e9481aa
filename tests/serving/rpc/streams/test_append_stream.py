"""AppendEventStream, through gRPC, on a real store."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis
from support.tiny_server import Start, stalled

from recsys.client import AsyncClient, DeadlineExceeded, Overloaded, StoreUnavailable, UserEvents
from recsys.errors import InvalidInputError
from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.feature_store.redis.keys import history_keys
from recsys.proto import feature_store_pb2 as pb
from recsys.proto.ranker_pb2 import Id, Ids
from recsys.serving.process.server import running_server
from recsys.serving.rpc import store_service
from recsys.serving.rpc.streams import open_streams
from recsys.serving.settings import Settings

NOW_MS = time.time_ns() // 1_000_000 - 60_000


def one(user: int, *items: int, **more: Any) -> UserEvents:
    """Events of a user, one per item, a millisecond apart."""
    return UserEvents(user=user, items=items, timestamps_ms=[NOW_MS + i for i in range(len(items))], **more)


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    deadline_s = time.monotonic() + 10
    while not await true():
        assert time.monotonic() < deadline_s, "waited in vain"
        await asyncio.sleep(0.01)


async def test_every_user_gets_its_events(client: AsyncClient) -> None:
    summary = await client.append_stream(one(user, user, user + 1) for user in range(1_200))
    assert (summary.batches, summary.events, summary.added) == (1_200, 2_400, 2_400)
    assert (summary.rejected, summary.rejections) == (0, ())
    histories = await client.get_histories(users=range(1_000))
    assert [h.items.tolist() for h in histories] == [[user, user + 1] for user in range(1_000)]


async def test_a_stream_sent_again_adds_nothing(client: AsyncClient) -> None:
    batches = [one(1, 5, 6), one(2, 7), one(1, 5, 6, 7)]
    assert (await client.append_stream(batches)).added == 4
    again = await client.append_stream(batches)
    assert (again.events, again.added) == (6, 0)
    assert (await client.get_history(user=1)).items.tolist() == [5, 6, 7]


async def test_an_empty_stream_does_nothing(client: AsyncClient) -> None:
    assert (await client.append_stream([])).batches == 0


async def test_what_is_not_allowed_is_rejected_and_the_rest_applied(client: AsyncClient) -> None:
    wrong_time = UserEvents(user=2, items=[5], timestamps_ms=[1_700_000_000])
    unknown = one(3, 5, attributes={"ratig": [1]})
    summary = await client.append_stream([one(1, 5), wrong_time, unknown, one(4, 5, 6)])
    assert (summary.batches, summary.events, summary.added, summary.rejected) == (4, 5, 3, 2)
    (first, why), second = summary.rejections
    assert first == 1 and why.startswith(
        "events.timestamps_ms[0]: 'timestamp_ms' is 1700000000; allowed: times from 1973-"
    )
    assert why.endswith("is it in seconds?")
    assert second == (2, "events.attributes['ratig'] is not declared: did you mean 'rating'? valid: rating")
    assert [len(h.items) for h in await client.get_histories(users=[1, 2, 3, 4])] == [1, 0, 0, 2]


async def test_the_first_hundred_rejections_are_listed_and_all_counted(client: AsyncClient) -> None:
    summary = await client.append_stream(UserEvents(user=-1, items=[5], timestamps_ms=[NOW_MS]) for _ in range(130))
    assert summary.rejected == 130
    assert [message for message, _ in summary.rejections] == list(range(100))


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"offsets": [1, 2]}, "offsets: got 2 without a source; set source, or neither"),
        ({"source": "s"}, "offsets: got 0 values for 2 events of source 's'; allowed: one per event"),
        ({"source": "s", "offsets": [3]}, "offsets: got 1 values for 2 events of source 's'; allowed: one per event"),
        ({"source": "s", "offsets": [3, -4]}, "offsets[1] is -4; allowed: 0 or more"),
        ({"source": "é" * 129, "offsets": [3, 4]}, "source: got 258 bytes; allowed: up to 256"),
    ],
)
async def test_a_source_or_offsets_that_do_not_fit_are_rejected(
    client: AsyncClient, more: dict[str, Any], reason: str
) -> None:
    summary = await client.append_stream([one(1, 5, 6, **more), one(1, 7)])
    assert (summary.added, summary.rejections) == (1, ((0, reason),))


async def test_sources_may_alternate(client: AsyncClient) -> None:
    batches = [
        one(1, 5, source="a", offsets=[0]),
        one(1, 6, source="b", offsets=[0]),
        one(1, 7),
        one(1, 8, source="a", offsets=[0]),  # passed
        one(2, 9, source="a", offsets=[0]),  # of another user
        one(1, 10, source="b", offsets=[1]),
    ]
    assert (await client.append_stream(batches)).added == 5
    assert sorted((await client.get_history(user=1, limit=20)).items.tolist()) == [5, 6, 7, 10]


async def test_events_are_there_while_the_stream_goes_on(client: AsyncClient) -> None:
    async def batches() -> AsyncIterator[UserEvents]:
        for user in range(3):
            yield one(user, 5)
            await until(partial(stored, user))

    async def stored(user: int) -> bool:
        return len((await client.get_history(user=user)).items) == 1

    assert (await client.append_stream(batches())).added == 3


async def test_when_the_store_goes_away_the_error_says_how_far_it_came(start: Start, tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as server:
        async with start(redis_url=server.url) as client:

            async def batches() -> AsyncIterator[UserEvents]:
                for user in range(7):
                    yield one(user, 5, 6)
                yield one(-1, 5)  # is rejected
                await until(all_stored)
                redis.Redis.from_url(server.url).shutdown(nosave=True)
                yield one(7, 5, 6)
                await asyncio.sleep(60)  # the error does not wait for the next message

            async def all_stored() -> bool:
                return sum(h.appended for h in await client.get_histories(users=range(7))) == 14

            with pytest.raises(StoreUnavailable, match="; the first [78] messages of the stream are applied, unless"):
                await client.append_stream(batches())


async def test_a_users_foreign_bytes_reject_that_users_messages_and_no_others(
    client: AsyncClient, redis_admin: redis.Redis
) -> None:
    redis_admin.set(history_keys("tiny", 7).open, b"someone else's")
    summary = await client.append_stream([one(user, 5) for user in (6, 7, 8)])
    assert (summary.batches, summary.added, summary.rejected) == (3, 2, 1)
    ((message, reason),) = summary.rejections
    assert message == 1 and ":u:7}:h: not a history" in reason
    assert (await client.get_history(user=8)).items.tolist() == [5]


async def test_the_senders_pace_is_the_stores(client: AsyncClient, redis_admin: redis.Redis) -> None:
    sent = 0

    def batches() -> Iterator[UserEvents]:
        nonlocal sent
        for user in range(400):  # 100 MB, as sent
            yield one(user, *range(10_000))
            sent += 1

    with stalled(redis_admin) as go_on:
        running = asyncio.create_task(client.append_stream(batches(), timeout_s=60))
        before = -1
        while sent != before or not sent:  # until nothing more is taken
            before = sent
            await asyncio.sleep(0.5)
        assert not running.done()
        assert sent < 200
        go_on()
        summary = await running
    assert sent == summary.batches == 400


async def test_a_cancelled_stream_leaves_nothing_half_applied(client: AsyncClient, redis_admin: redis.Redis) -> None:
    with stalled(redis_admin):
        running = asyncio.create_task(client.append_stream(one(user, *range(20)) for user in range(600)))
        await asyncio.sleep(0.2)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    lengths = [len(h.items) for h in await client.get_histories(users=range(600), limit=20)]
    assert set(lengths) <= {0, 20}
    assert (await client.append_stream(one(user, *range(20)) for user in range(600))).events == 12_000
    assert {h.appended for h in await client.get_histories(users=range(600))} == {20}


async def test_a_stream_keeps_its_deadline(client: AsyncClient) -> None:
    async def batches() -> AsyncIterator[UserEvents]:
        yield one(1, 5)
        await asyncio.sleep(60)

    with pytest.raises(DeadlineExceeded):
        await client.append_stream(batches(), timeout_s=0.3)
    assert (await client.get_history(user=1)).items.tolist() == [5]


async def test_a_stream_waits_for_its_place(start: Start, redis_admin: redis.Redis) -> None:
    async with start(max_in_flight=1) as client:
        with stalled(redis_admin) as go_on:
            first = asyncio.create_task(client.append_events(user=1, items=[5], timestamps_ms=[NOW_MS]))
            await asyncio.sleep(0.1)
            second = asyncio.create_task(client.append_stream([one(2, 5)]))
            await asyncio.sleep(0.1)
            go_on()
            assert (await first).added == (await second).added == 1


async def test_without_a_place_it_ends_and_says_how_far_it_came(
    start: Start, redis_admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_service, "_BATCH_S", 0.1)
    async with start(max_in_flight=1) as client:
        with stalled(redis_admin) as go_on:
            first = asyncio.create_task(client.append_events(user=1, items=[5], timestamps_ms=[NOW_MS]))
            await asyncio.sleep(0.1)
            with pytest.raises(Overloaded, match="1 requests are being served, the limit.*; the first 0 messages of"):
                await client.append_stream([one(2, 5)])
            go_on()
            assert (await first).added == 1


async def test_a_store_that_does_not_answer_ends_it_long_before_its_deadline(
    client: AsyncClient, redis_admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_service, "_BATCH_S", 0.1)
    with stalled(redis_admin), pytest.raises(StoreUnavailable, match="no answer within .* ms; the first 0 messages of"):
        await client.append_stream([one(1, 5)], timeout_s=60)


async def test_what_the_sender_raises_ends_the_stream(client: AsyncClient) -> None:
    def batches() -> Iterator[UserEvents]:
        yield one(1, 5)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await client.append_stream(batches())
    mixed: Any = [1, "a"]
    with pytest.raises(InvalidInputError, match="^batch 1: items: .*; allowed: 64-bit integers only, or strings only"):
        await client.append_stream([one(1, 5), UserEvents(user=1, items=mixed, timestamps_ms=[NOW_MS] * 2)])
    assert (await client.append_stream([one(2, 5)])).added == 1


def kept_open(user: int, end: asyncio.Event, *, every_s: float = 60.0) -> AsyncIterator[UserEvents]:
    """A stream that sends an event, and then one each time, until the end."""

    async def batches() -> AsyncIterator[UserEvents]:
        while not end.is_set():
            yield one(user, 5)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(end.wait(), every_s)

    return batches()


async def test_a_stream_that_is_idle_for_too_long_is_ended_and_told_how_far_it_came(start: Start) -> None:
    async with start(stream_idle_timeout_s=0.5) as client:
        why = (
            r"no message for 0\.5 s, the limit \(RECSYS_STREAM_IDLE_TIMEOUT_S\); the first 1 messages of the stream are"
        )
        with pytest.raises(DeadlineExceeded, match=why):
            await client.append_stream(kept_open(1, asyncio.Event()), timeout_s=30)
        slow = asyncio.Event()
        sending = asyncio.create_task(client.append_stream(kept_open(2, slow, every_s=0.1), timeout_s=30))
        await asyncio.sleep(1.5)
        slow.set()
        assert (await sending).batches > 5
        assert [len(h.items) for h in await client.get_histories(users=[1, 2])] == [1, 1]


async def test_when_all_places_are_taken_the_longest_idle_stream_gives_way(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_service, "MAX_STREAMS", 3)
    async with start() as client:
        end = asyncio.Event()

        async def opened(user: int, every_s: float) -> asyncio.Task[Any]:
            task = asyncio.create_task(client.append_stream(kept_open(user, end, every_s=every_s), timeout_s=60))
            await until(lambda: stored(user))
            return task

        async def stored(user: int) -> bool:
            return len((await client.get_history(user=user)).items) == 1

        busy, idle, later = [await opened(user, every_s) for user, every_s in ((1, 0.1), (2, 60.0), (3, 60.0))]
        await asyncio.sleep(1.2)
        assert (await client.append_stream([one(4, 5)])).added == 1
        with pytest.raises(
            Overloaded, match=r"the stream was idle for \d\.\d s, longest of 3.*; the first 1 messages of"
        ):
            await idle
        assert not busy.done() and not later.done()
        end.set()
        assert (await busy).batches > 5 and (await later).batches == 1


async def test_a_stream_that_sends_is_not_ended_for_another(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_service, "MAX_STREAMS", 2)
    monkeypatch.setattr(open_streams, "_MIN_IDLE_S", 1.0)
    async with start() as client:
        end = asyncio.Event()
        sending = [
            asyncio.create_task(client.append_stream(kept_open(user, end, every_s=0.1), timeout_s=60))
            for user in (1, 2)
        ]
        await asyncio.sleep(1.0)
        with pytest.raises(Overloaded, match="2 streams are open and in use, the limit; retry with backoff"):
            await client.append_stream([one(3, 5)])
        end.set()
        assert all(summary.batches > 3 for summary in await asyncio.gather(*sending))


async def test_a_message_that_is_none_names_its_place_and_what_came_before_is_stored(
    tiny_bundle: Path, redis_url: str
) -> None:
    messages = [
        pb.AppendEventsRequest(
            user=Id(integer=user), events=pb.EventColumns(items=Ids(integers=[5]), timestamps_ms=[NOW_MS])
        ).SerializeToString()
        for user in (1, 2)
    ]
    with running_server(Settings(bundle=tiny_bundle, port=0, redis_url=redis_url)) as server:
        async with AsyncClient(server.address, timeout_s=10.0) as client:
            async with grpc.aio.insecure_channel(server.address) as channel:
                call = channel.stream_unary("/recsys.v1.FeatureStore/AppendEventStream")
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call(iter([*messages, b"\xff\xff\xff", messages[0]]), timeout=20)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            why = str(caught.value.details())
            assert why.startswith("message 2 of the stream, counted from 0, is none of this method's: ")
            assert "; the first 2 messages of the stream are applied, unless they were rejected;" in why
            assert [h.items.tolist() for h in await client.get_histories(users=[1, 2])] == [[5], [5]]
