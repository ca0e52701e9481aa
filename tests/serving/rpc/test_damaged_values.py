"""Every kind of key in Redis, damaged in every way: who asks for it is told, and nobody else notices.

An answer is right, or it is marked, or the call fails by name: never a wrong value without a mark, never INTERNAL.
"""

from __future__ import annotations

import struct
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from support.tiny_bundle import FEATURES, write_tiny_bundle
from support.tiny_server import Start

from recsys.client import AsyncClient, StoreRefused, UnknownText, UserEvents
from recsys.feature_store.redis.keys import entity_key, history_keys, meta_key, names_key
from recsys.features.entities import entity_dtype, row_header
from recsys.features.feature_set import Categorical
from recsys.features.hashing import KEY_LIMIT, string_key

NOW_MS = time.time_ns() // 1_000_000
USERS = [1, 2, 3]
DAMAGED = 2
ITEMS = [6, 7, 8]
EVENTS = 35
"""The older sixteen are a sealed chunk, with so many."""

Tamper = Callable[[redis.Redis, bytes], None]


def set_to(made: Callable[[bytes], bytes]) -> Tamper:
    def tamper(admin: redis.Redis, key: bytes) -> None:
        value = admin.get(key)
        assert isinstance(value, bytes)
        admin.set(key, made(value))

    return tamper


def another_type(admin: redis.Redis, key: bytes) -> None:
    admin.delete(key)
    admin.zadd(key, {"member": 1.0})


def seeded_bytes(length: int) -> bytes:
    return np.random.default_rng(7).bytes(length)


WAYS: dict[str, Tamper] = {
    "another type": another_type,
    "empty": set_to(lambda value: b""),
    "cut off": set_to(lambda value: value[:-3]),
    "cut in the header": set_to(lambda value: value[:5]),
    "longer": set_to(lambda value: value + b"\0"),
    "garbage": set_to(lambda value: seeded_bytes(len(value))),
    "huge": set_to(lambda value: value + b"x" * (1 << 20)),
    "of a future version": set_to(lambda value: value[:4] + b"\xff" * 2 + value[6:] if value[:1] == b"R" else value),
}
ROW_WAYS = {**WAYS, "of a future version": set_to(lambda value: value[:2] + b"\xff\xff" + value[4:])}
ROW_WAYS["of another FeatureSet"] = set_to(lambda value: value[:4] + b"othr" + value[8:])
ROW_WAYS["infinite"] = set_to(lambda value: value[:8] + struct.pack("<f", np.inf) + value[12:])
HISTORY_WAYS = {
    **WAYS,
    "of another FeatureSet": set_to(lambda value: value[:8] + b"otherlay" + value[16:]),
    "more trimmed than appended": set_to(lambda value: value[:32] + struct.pack("<Q", 1 << 40) + value[40:]),
    "chunks of nothing": set_to(lambda value: value[:16] + bytes(4) + value[20:]),
    "more appended than there are": set_to(lambda value: value[:24] + struct.pack("<Q", EVENTS + 16) + value[32:]),
    "another newest time": set_to(lambda value: value[:48] + struct.pack("<q", NOW_MS * 2) + value[56:]),
    "an item that is no key": set_to(lambda value: value[:-25] + struct.pack("<q", -7) + value[-17:]),
    "times in disorder": set_to(lambda value: value[:-42] + struct.pack("<q", NOW_MS + 10**6) + value[-34:]),
    "gone": lambda admin, key: admin.delete(key),
}
WAYS_BEHIND_AN_APPEND = {
    "more appended than there are",
    "another newest time",
    "an item that is no key",
    "times in disorder",
}
"""An append of what is newest looks at no chunk and no record; who reads is told."""

CHUNK_WAYS: dict[str, Tamper] = {
    "another type": another_type,
    "cut off": lambda admin, key: admin.lset(key, 0, b"short"),
    "garbage": lambda admin, key: admin.lset(key, 0, seeded_bytes(16 * 25)),
    "huge": lambda admin, key: admin.lset(key, 0, b"x" * (1 << 20)),
    "one more": lambda admin, key: admin.rpush(key, bytes(16 * 25)),
}


def test_the_ways_are_of_the_format() -> None:
    assert entity_dtype(FEATURES.item).itemsize == 12 and row_header(FEATURES.item)[:2] == b"RE"


@pytest.fixture
async def filled(client: AsyncClient) -> AsyncClient:
    """Three users and three items, all with everything."""
    for user in USERS:
        times_ms = [NOW_MS - EVENTS + n for n in range(EVENTS)]
        await client.append_events(
            user=user, items=list(range(EVENTS)), timestamps_ms=times_ms, source="log", offsets=list(range(EVENTS))
        )
    await client.put_entities(entity="user", ids=USERS, features={"age": [1.5, 2.5, 3.5]})
    await client.put_entities(entity="item", ids=ITEMS, features={"price": [1.0, 2.0, 3.0]})
    await client.put_entities(entity="shop", ids=["a", "b"], features={"rating": [4.0, 5.0], "city": [7, 8]})
    return client


@pytest.mark.parametrize("way", ROW_WAYS)
async def test_a_damaged_row_is_told_and_the_others_come(
    start: Start, redis_admin: redis.Redis, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    key = entity_key("tiny", "item", 7)
    async with start(item_max_age_s=0) as client:
        await client.put_entities(entity="item", ids=ITEMS, features={"price": [1.0, 2.0, 3.0]})
        ROW_WAYS[way](redis_admin, key)
        before = redis_admin.dump(key)
        for _ in range(3):
            found = await client.get_features(entity="item", ids=[8, 7, 6, 7])
            assert list(found.damaged) == [1, 3] and key.decode() in found.damaged[1]
            assert found.columns["price"].tolist() == [3.0, 0.0, 1.0, 0.0], "0 is what a missing price is"
        ranking = await client.rank(user=1, candidates=ITEMS)
        assert ranking.degraded == ("items",) and np.isfinite(ranking.scores).all()
        assert (await client.rank(user=1, candidates=[6, 8])).degraded == ()
        assert redis_admin.dump(key) == before
        named = [record for record in caplog.records if key.decode() in record.getMessage()]
        assert len(named) <= 2, "once by GetFeatures, once by Rank, however often it is read"
        await client.put_entities(entity="item", ids=[7], features={"price": [2.0]})
        assert (await client.get_features(entity="item", ids=[7])).damaged == {}


@pytest.mark.parametrize("way", ROW_WAYS)
async def test_a_damaged_row_of_a_user_degrades_the_user_alone(
    filled: AsyncClient, redis_admin: redis.Redis, way: str
) -> None:
    key = entity_key("tiny", "user", DAMAGED)
    ROW_WAYS[way](redis_admin, key)
    found = await filled.get_features(entity="user", ids=USERS)
    assert list(found.damaged) == [1] and key.decode() in found.damaged[1]
    assert found.columns["age"].tolist() == [1.5, 0.0, 3.5]
    ranking = await filled.rank(user=DAMAGED, candidates=ITEMS)
    assert ranking.degraded == ("user",) and ranking.history_events == 4, "the history is still good"
    assert (await filled.rank(user=1, candidates=ITEMS)).degraded == ()


async def test_a_damaged_row_of_another_entity_is_told(filled: AsyncClient, redis_admin: redis.Redis) -> None:
    key = entity_key("tiny", "shop", string_key("b"))
    row = redis_admin.get(key)
    assert isinstance(row, bytes)
    redis_admin.set(key, row[:12] + struct.pack("<q", KEY_LIMIT) + row[20:])
    found = await filled.get_features(entity="shop", ids=["a", "b"])
    assert list(found.damaged) == [1] and "'city' is 4611686018427387904, which is never stored" in found.damaged[1]
    assert found.columns["city"].tolist() == [7, -1]


async def test_a_user_without_features_has_a_history_all_the_same(
    filled: AsyncClient, redis_admin: redis.Redis
) -> None:
    redis_admin.delete(entity_key("tiny", "user", DAMAGED))
    ranking = await filled.rank(user=DAMAGED, candidates=ITEMS)
    assert ranking.degraded == () and ranking.history_events == 4
    histories = await filled.get_histories(users=USERS, limit=100)
    assert [len(h.items) for h in histories] == [EVENTS] * 3 and not any(h.damaged for h in histories)


@pytest.mark.parametrize("limit", [4, 100])
@pytest.mark.parametrize("way", HISTORY_WAYS)
async def test_a_damaged_history_is_told_and_the_others_come(
    filled: AsyncClient, redis_admin: redis.Redis, caplog: pytest.LogCaptureFixture, way: str, limit: int
) -> None:
    key = history_keys("tiny", DAMAGED).open
    HISTORY_WAYS[way](redis_admin, key)
    before = redis_admin.dump(key)
    await _told(filled, key, caplog, limit)
    assert (await filled.rank(user=DAMAGED, candidates=ITEMS)).degraded == ("user",)
    assert (await filled.rank(user=1, candidates=ITEMS)).degraded == ()
    if way not in WAYS_BEHIND_AN_APPEND:
        with pytest.raises(StoreRefused, match="FAILED_PRECONDITION: .*recsys:v1:{tiny:u:2}"):
            await filled.append_events(user=DAMAGED, items=[1], timestamps_ms=[NOW_MS])
        batches = [UserEvents(user=user, items=[99], timestamps_ms=[NOW_MS]) for user in USERS]
        summary = await filled.append_stream(batches)
        assert (summary.added, summary.rejected) == (2, 1)
        assert summary.rejections[0][0] == 1 and "recsys:v1:{tiny:u:2}" in summary.rejections[0][1]
        assert redis_admin.dump(key) == before


@pytest.mark.parametrize("way", CHUNK_WAYS)
async def test_damaged_chunks_are_told_by_who_reads_them(
    filled: AsyncClient, redis_admin: redis.Redis, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    keys = history_keys("tiny", DAMAGED)
    CHUNK_WAYS[way](redis_admin, keys.sealed)
    await _told(filled, keys.open if way != "another type" else keys.sealed, caplog, 100)
    newest = await filled.get_histories(users=[DAMAGED], limit=4)
    assert newest[0].damaged or newest[0].items.tolist() == list(range(EVENTS))[-4:]


async def _told(client: AsyncClient, key: bytes, caplog: pytest.LogCaptureFixture, limit: int) -> None:
    for _ in range(3):
        one, damaged, three = await client.get_histories(users=USERS, limit=limit)
        assert key.decode() in damaged.damaged and len(damaged.items) == 0
        for good in (one, three):
            assert good.items.tolist() == list(range(EVENTS))[-limit:] and not good.damaged
    named = [record for record in caplog.records if key.decode() in record.getMessage()]
    assert len(named) == 1
    with pytest.raises(StoreRefused, match="FAILED_PRECONDITION: recsys:v1:{tiny:u:2}:[hc]: "):
        await client.get_history(user=DAMAGED, limit=limit)


@pytest.mark.parametrize(
    ("tamper", "problem"),
    [
        (another_type, "{tiny:u:2}:o: the key holds another Redis type"),
        (lambda admin, key: admin.hset(key, "log", b"soon"), "{tiny:u:2}:o: corrupt: .* restart the source"),
        (lambda admin, key: admin.hset(key, "log", b"9" * 20), "{tiny:u:2}:o: corrupt: .* restart the source"),
    ],
    ids=["another type", "no number", "beyond 64 bits"],
)
async def test_a_damaged_offset_refuses_the_source_by_name(
    filled: AsyncClient, redis_admin: redis.Redis, tamper: Tamper, problem: str
) -> None:
    key = history_keys("tiny", DAMAGED).offsets
    tamper(redis_admin, key)
    event: dict[str, Any] = {"user": DAMAGED, "items": [1], "timestamps_ms": [NOW_MS + 1]}
    with pytest.raises(StoreRefused, match=problem):
        await filled.append_events(**event, source="log", offsets=[EVENTS])
    assert len((await filled.get_history(user=DAMAGED, limit=100)).items) == EVENTS
    assert (await filled.append_events(**event)).added == 1, "other events of the user come"
    if tamper is not another_type:
        event["items"] = [2]
        restarted = await filled.append_events(**event, source="log", offsets=[EVENTS], restart_source=True)
        assert (restarted.added, restarted.skipped) == (1, 0)


@pytest.mark.parametrize("tamper", [another_type, lambda admin, key: admin.hset(key, "history", b"\xff\xfe")])
async def test_a_damaged_record_of_layouts_refuses_writes_by_name_and_reads_go_on(
    start: Start, redis_admin: redis.Redis, tamper: Tamper
) -> None:
    async with start() as client:
        await client.append_events(user=1, items=[1], timestamps_ms=[NOW_MS])
        tamper(redis_admin, meta_key("tiny"))
        time.sleep(1.1)  # the record is looked at once a second
        with pytest.raises(StoreRefused, match="recsys:v1:tiny:meta"):
            await client.append_events(user=1, items=[2], timestamps_ms=[NOW_MS])
        assert (await client.get_history(user=1)).items.tolist() == [1]
        assert (await client.rank(user=1, candidates=ITEMS)).degraded == ()


TEXTS = replace(FEATURES, item_id=Categorical(name="item_id", id_type="string"))


@pytest.fixture
async def texts(start: Start, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    write_tiny_bundle(tmp_path / "texts", features=TEXTS)
    async with start(bundle=tmp_path / "texts") as client:
        await client.append_events(user=1, items=["hat", "shoe"], timestamps_ms=[NOW_MS, NOW_MS + 1])
        yield client


@pytest.mark.parametrize("text", [b"boot", b"\xff\xfe", b"", b"x" * (1 << 20)])
async def test_a_text_that_is_not_its_keys_is_unknown(
    texts: AsyncClient, redis_admin: redis.Redis, caplog: pytest.LogCaptureFixture, text: bytes
) -> None:
    key = string_key("hat")
    redis_admin.hset(names_key("tiny", key % 64), str(key), text)
    for _ in range(2):
        assert (await texts.get_history(user=1)).items.tolist() == [UnknownText(key), "shoe"]
    assert len([r for r in caplog.records if names_key("tiny", key % 64).decode() in r.getMessage()]) == 1


async def test_texts_of_another_type_are_unknown_and_the_others_known(
    texts: AsyncClient, redis_admin: redis.Redis
) -> None:
    key = string_key("hat")
    assert key % 64 != string_key("shoe") % 64
    another_type(redis_admin, names_key("tiny", key % 64))
    assert (await texts.get_history(user=1)).items.tolist() == [UnknownText(key), "shoe"]
    beside = next(text for text in map(str, range(1000)) if string_key(text) % 64 == key % 64)
    with pytest.raises(StoreRefused, match="recsys:v1:{tiny:names:[0-9]+}: the key holds another Redis type"):
        await texts.append_events(user=1, items=[beside], timestamps_ms=[NOW_MS + 2])
