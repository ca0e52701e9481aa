"""AppendEvents and GetHistory, through gRPC, on a real store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import redis
from support.tiny_server import Start, stalled

from recsys.client import AsyncClient, DeadlineExceeded, InvalidArgument, RpcError, Unavailable
from recsys.data.log.event_table import EventTable, open_event_table, user_events, write_event_table
from recsys.errors import StoreUnavailableError
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.feature_set import Categorical, FeatureSet, History
from recsys.features.hashing import MISSING, string_key
from recsys.proto.feature_store_pb2 import AppendEventsRequest, AppendEventsResponse, EventColumns
from recsys.proto.limits import OFFSET_JUMP
from recsys.proto.ranker_pb2 import Id, Ids
from recsys.serving.handlers.store_slot import StoreSlot
from recsys.serving.rpc.store_service import FeatureStoreService
from recsys.serving.settings import Settings


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


async def test_a_history_is_read_by_time(client: AsyncClient) -> None:
    at_ms = now_ms() - 1_000
    await client.append_events(user=1, items=range(10), timestamps_ms=[at_ms + i for i in range(10)])
    part = await client.get_history(user=1, limit=100, since_ms=at_ms + 3, until_ms=at_ms + 6)
    assert part.items.tolist() == [3, 4, 5]
    assert part.appended == 10, "the counters are the whole history's"
    assert (await client.get_history(user=1, limit=2, until_ms=at_ms + 6)).items.tolist() == [4, 5]
    assert (await client.get_history(user=1, limit=100, since_ms=at_ms + 8)).items.tolist() == [8, 9]


async def test_pages_give_the_whole_history_once_even_where_timestamps_are_equal(client: AsyncClient) -> None:
    at_ms = now_ms() - 1_000
    await client.append_events(user=1, items=range(12), timestamps_ms=[at_ms + i // 3 for i in range(12)])
    whole = (await client.get_history(user=1, limit=100)).items.tolist()
    assert sorted(whole) == list(range(12))
    page = await client.get_history(user=1, limit=5)
    items = page.items.tolist()
    while len(page.items) == 5:
        oldest_ms = int(page.timestamps_ms[0])
        had = int((page.timestamps_ms == oldest_ms).sum())
        page = await client.get_history(user=1, limit=5, until_ms=oldest_ms + 1)
        items = page.items[: len(page.items) - had].tolist() + items
    assert items == whole


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        (
            {"since_ms": 1_700_000_000},
            "since_ms is 1700000000; allowed: times from 1973-.*: is it in seconds",
        ),
        ({"until_ms": -1}, "until_ms is -1; allowed: times from 1973-"),
        (
            {"since_ms": 1_700_000_000_000_000_000},
            "since_ms is .*; allowed: times from 1973-.*: is it in nanoseconds",
        ),
        (
            {"since_ms": 1_700_000_000_000, "until_ms": 1_700_000_000_000},
            "until_ms is 1700000000000; allowed: later than since_ms, which is 1700000000000, or 0",
        ),
    ],
)
async def test_a_range_of_time_that_is_none_is_refused(
    client: AsyncClient, asked: dict[str, int], complaint: str
) -> None:
    with pytest.raises(InvalidArgument, match=f": {complaint}"):
        await client.get_history(user=1, **asked)


async def test_histories_of_many_users_come_in_the_order_asked(client: AsyncClient) -> None:
    at_ms = now_ms() - 1_000
    for user, items in ((1, [5, 6, 7, 8, 9]), (2, [4])):
        times_ms = [at_ms + i for i in range(len(items))]
        await client.append_events(
            user=user, items=items, timestamps_ms=times_ms, attributes={"rating": [3] * len(items)}
        )
    histories = await client.get_histories(users=[2, 404, 1, 2])
    assert [h.items.tolist() for h in histories] == [[4], [], [6, 7, 8, 9], [4]], "four are what the model reads"
    assert [h.appended for h in histories] == [1, 0, 5, 1]
    assert histories[2].attributes["rating"].tolist() == [3] * 4
    assert histories[2].timestamps_ms.tolist() == [at_ms + i for i in range(1, 5)]
    (alone,) = await client.get_histories(users=[1], limit=3)
    assert alone.items.tolist() == [7, 8, 9]


async def test_too_many_users_or_events_of_users_are_refused(client: AsyncClient) -> None:
    assert len(await client.get_histories(users=range(1_000), limit=50)) == 1_000
    for users, limit, complaint in (
        ([], 0, "users: got 0; allowed: 1 to 1,000 per request"),
        (range(1_001), 0, "users: got 1,001; allowed: 1 to 1,000 per request"),
        ([1, -1], 0, r"users\[1\] is -1 or the empty text, which stand for no value; send an id"),
        ([1], 10_001, "limit is 10,001; allowed: 1 to 10,000, or 0 for as many as a model reads"),
        (
            range(1_000),
            51,
            "limit: 51 events of 1,000 users are 51,000; allowed: 50,000 per call: send fewer users or a lower limit",
        ),
    ):
        with pytest.raises(InvalidArgument, match=f": {complaint}"):
            await client.get_histories(users=users, limit=limit)


async def test_events_up_to_the_last_offset_of_their_source_are_not_applied_again(client: AsyncClient) -> None:
    at_ms = now_ms() - 1_000

    async def append(items: list[int], offsets: list[int], source: str = "clicks/0") -> int:
        times_ms = [at_ms + i for i in items]
        appended = await client.append_events(
            user=1, items=items, timestamps_ms=times_ms, source=source, offsets=offsets
        )
        return appended.added

    assert await append([1, 2], [0, OFFSET_JUMP]) == 2
    assert await append([7, 8], [5, OFFSET_JUMP + 1]) == 1, "an offset that was passed, even with another event"
    assert await append([9], [5], source="clicks/1") == 1
    assert (await client.get_history(user=1)).items.tolist() == [1, 2, 8, 9]


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
            with pytest.raises((Unavailable, DeadlineExceeded)):
                await client.get_history(user=1, timeout_s=0.3)


MOVIES = FeatureSet(
    name="movies",
    user_id=Categorical(name="user_id"),
    item_id=Categorical(name="item_id"),
    item=(Categorical(name="genre", id_type="string"), Categorical(name="tags", max_values=2)),
    history=History(attributes=(Categorical(name="genre", id_type="string"), Categorical(name="rating", storage="u8"))),
)
ITEMS = {"item_id": [5, 6, 7], "genre": ["war", None, "drama"], "tags": [[1], [2, 3], []]}
T0_MS = 1_700_000_000_000
SENT: dict[str, Any] = {
    "items": Ids(integers=[7, 5, 6, 5]),
    "timestamps_ms": [T0_MS + i for i in range(4)],
    "arrivals_ms": [T0_MS + i for i in range(4)],
    "attributes": {"rating": Ids(integers=[3, -1, 5, 1])},
}


class Call:
    """What the service needs of a gRPC context."""

    status: grpc.StatusCode | None = None

    def time_remaining(self) -> float:
        return 5.0

    def is_active(self) -> bool:
        return True

    def peer(self) -> str:
        return "ipv4:127.0.0.1:50000"

    def add_callback(self, callback: Any) -> bool:
        return True

    def set_trailing_metadata(self, trailers: Any) -> None:
        pass

    def abort(self, code: grpc.StatusCode, message: str) -> None:
        self.status = code
        raise RpcAborted(message)


class RpcAborted(Exception):
    pass


@pytest.fixture
async def movies(redis_url: str) -> AsyncIterator[RedisFeatureStore]:
    store = RedisFeatureStore.connect(redis_url, MOVIES)
    yield store
    await store.close()


@pytest.fixture
def table(tmp_path: Path) -> EventTable:
    """The log that holds what ``SENT`` sends."""
    log = {
        "user_id": [1] * 4,
        "item_id": [7, 5, 6, 5],
        "timestamp_ms": SENT["timestamps_ms"],
        "rating": np.array([3, -1, 5, 1]),
    }
    write_event_table(MOVIES, {"user_id": [1]}, ITEMS, log, tmp_path / "table")
    return open_event_table(tmp_path / "table")


async def append(store: RedisFeatureStore, **changes: Any) -> AppendEventsResponse:
    message = AppendEventsRequest(user=Id(integer=1), events=EventColumns(**{**SENT, **changes}))
    return await asyncio.to_thread(service(store).AppendEvents, message, Call())


def service(store: RedisFeatureStore) -> FeatureStoreService:
    """The service, whose loop is the test's: so its handlers are called from other threads."""
    settings = Settings(bundle=Path("unused"))
    return FeatureStoreService(StoreSlot(store, MOVIES), settings, loop=asyncio.get_running_loop())


async def put_items(store: RedisFeatureStore, table: EventTable) -> None:
    columns = {f.name: table.items[f.name] for f in MOVIES.item}
    await store.put_entities("item", table.item_keys, columns, timeout_s=5)


async def test_a_live_event_has_the_bytes_that_training_saw(movies: RedisFeatureStore, table: EventTable) -> None:
    await put_items(movies, table)
    assert (await append(movies)).added == 4
    _, stored = await movies.history(1, limit=10, timeout_s=5)
    assert stored.tobytes() == user_events(table, 0).tobytes()
    assert stored["genre"].tolist() == [string_key("drama"), string_key("war"), MISSING, string_key("war")]


async def test_so_has_an_event_of_a_stream(movies: RedisFeatureStore, table: EventTable) -> None:
    await put_items(movies, table)

    def messages() -> Iterator[AppendEventsRequest]:
        columns = EventColumns(**{**SENT, "attributes": {**SENT["attributes"], "genre": Ids(texts=["x"] * 4)}})
        for user, events in ((1, EventColumns(**SENT)), (2, columns), (3, EventColumns(**SENT))):
            yield AppendEventsRequest(user=Id(integer=user), events=events)

    assert (await asyncio.to_thread(service(movies).AppendEventStream, messages(), Call())).added == 12
    (_, first), (_, second), (_, third) = await movies.histories([1, 2, 3], limit=10, timeout_s=5)
    assert first.tobytes() == third.tobytes() == user_events(table, 0).tobytes()
    assert second["genre"].tolist() == [string_key("x")] * 4


async def test_sending_a_loaded_event_adds_nothing(movies: RedisFeatureStore, table: EventTable) -> None:
    await put_items(movies, table)
    await movies.append(1, user_events(table, 0), timeout_s=5)
    again = await append(movies)
    assert (again.added, again.stored) == (0, 4)


async def test_an_attribute_with_a_value_and_an_unknown_item_are_left_as_they_are(
    movies: RedisFeatureStore, table: EventTable
) -> None:
    await append(movies)  # before the store knows any item
    await put_items(movies, table)
    genres = Ids(texts=["war", "", "tale", ""])  # items 7, 5, 6, 5: without a value, item 5 gives its own
    await append(movies, attributes={**SENT["attributes"], "genre": genres}, timestamps_ms=[T0_MS + 9] * 4)
    _, stored = await movies.history(1, limit=10, timeout_s=5)
    later = [string_key(text) for text in ("war", "war", "tale", "war")]
    assert stored["genre"].tolist() == [MISSING] * 4 + later


async def test_when_items_cannot_be_read_nothing_is_appended(
    movies: RedisFeatureStore, table: EventTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unreachable(*_: Any, **__: Any) -> None:
        raise StoreUnavailableError("the store is away")

    monkeypatch.setattr(movies, "entity_rows", unreachable)
    call = Call()
    message = AppendEventsRequest(user=Id(integer=1), events=EventColumns(**SENT))
    with pytest.raises(RpcAborted, match="the store is away"):
        await asyncio.to_thread(service(movies).AppendEvents, message, call)
    assert call.status == grpc.StatusCode.UNAVAILABLE
    header, _ = await movies.history(1, limit=10, timeout_s=5)
    assert header.appended == 0
