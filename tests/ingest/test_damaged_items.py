"""Events that take an attribute from an item whose bytes in Redis are damaged: they are refused, the others stored."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import redis
from support.ingest_log import EVENTS, T0_MS

from recsys.feature_store.redis.keys import entity_key
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.entities import make_columns
from recsys.features.history.records import make_events
from recsys.ingest import run
from recsys.ingest.dead_letters import DeadLetterFile
from recsys.ingest.files import file_source
from recsys.rows.contract import event_rows
from recsys.rows.files import raw_file
from recsys.serving.deadline import Deadline
from recsys.serving.handlers.append import Append, write

DAMAGED = 7


@pytest.fixture(params=["bytes", "type"])
async def store(
    redis_url: str, redis_admin: redis.Redis, request: pytest.FixtureRequest
) -> AsyncIterator[RedisFeatureStore]:
    """Items 5 to 8 have genres ten times their ids; 7 is damaged."""
    store = RedisFeatureStore.connect(redis_url, EVENTS)
    items = np.arange(5, 9)
    genres = make_columns(EVENTS.item, {"genre": items * 10}, length=len(items))
    await store.put_entities("item", items, genres, timeout_s=5)
    key = entity_key(EVENTS.name, "item", DAMAGED)
    redis_admin.delete(key)
    if request.param == "bytes":
        redis_admin.set(key, b"junk")
    else:
        redis_admin.rpush(key, b"junk")
    yield store
    await store.close()


async def genres_of(store: RedisFeatureStore, user: int) -> list[tuple[int, int]]:
    _, events = await store.history(user, timeout_s=5)
    return list(zip(events["item"].tolist(), events["genre"].tolist(), strict=True))


def append_of(user: int, items: list[int], *, genre: int = -1) -> Append:
    times_ms = [T0_MS + n for n in range(len(items))]
    attributes = {"genre": [genre] * len(items)}
    return Append(user_key=user, events=make_events(EVENTS, item=items, timestamp_ms=times_ms, attributes=attributes))


async def test_an_append_of_a_damaged_item_is_refused_and_the_others_are_written(store: RedisFeatureStore) -> None:
    appends = [append_of(1, [5, 6]), append_of(2, [6, DAMAGED]), append_of(3, [DAMAGED], genre=3), append_of(4, [8, 9])]
    results = await write(store, EVENTS, appends, deadline=Deadline.after(5))
    assert [result.added for result in results] == [2, 0, 1, 2]
    assert "takes attributes from its item: recsys:v1:{ingested:item:7}:7" in str(results[1].refused)
    assert await genres_of(store, 1) == [(5, 50), (6, 60)]
    assert await genres_of(store, 2) == []
    assert await genres_of(store, 3) == [(DAMAGED, 3)], "it has a genre of its own"
    assert await genres_of(store, 4) == [(8, 80), (9, -1)], "an item without features is none that is damaged"


async def test_ingest_puts_events_of_a_damaged_item_into_the_dead_letters(
    store: RedisFeatureStore, tmp_path: Path
) -> None:
    rows = [{"user_id": 1 + n % 2, "item_id": 5 + n % 4, "timestamp_ms": T0_MS + n} for n in range(8)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = file_source(raw_file(tmp_path / "log.jsonl"), event_rows(EVENTS), batch_events=100)
    counts = await run.ingest(store, EVENTS, [source], dead_letters=DeadLetterFile(tmp_path / "rejected"))
    assert (counts.events, counts.added, counts.rejected) == (8, 6, 2)
    letters = [json.loads(line) for line in (tmp_path / "rejected").read_text().splitlines()]
    assert [letter["row"] for letter in letters] == [3, 7]
    assert all("its item cannot be read: recsys:v1:{ingested:item:7}:7" in letter["reason"] for letter in letters)
    assert await genres_of(store, 1) == [(5, 50), (5, 50)] and await genres_of(store, 2) == [(6, 60), (8, 80)] * 2
