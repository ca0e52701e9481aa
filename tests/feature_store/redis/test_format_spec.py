"""docs/specs/redis_format.md and the code agree, byte for byte."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import redis
from support.paths import DOCS

from recsys.feature_store.redis.keys import layouts
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.entities import WITHDRAWN, make_columns, pack_rows, unpack_rows
from recsys.features.feature_set import Categorical, FeatureSet, History, Numeric
from recsys.features.history.records import (
    HEADER,
    HistoryHeader,
    make_events,
    pack_header,
    unpack_events,
    unpack_header,
)

SPEC = (DOCS / "specs/redis_format.md").read_text()
GENRE = Categorical(name="genre", id_type="string")
EXAMPLE = FeatureSet(
    name="example",
    user_id=Categorical(name="user_id"),
    item_id=Categorical(name="item_id"),
    item=(Categorical(name="tags", id_type="string", max_values=2), Numeric(name="price")),
    history=History(attributes=(GENRE, Categorical(name="rating", storage="u8"))),
)
CHUNK = 4064 // 33
EVENTS = make_events(
    EXAMPLE,
    item=[42, 7],
    timestamp_ms=[1000, 2000],
    arrival_ms=[1005, 2005],
    attributes={"genre": ["a", None], "rating": [5, None]},
)
ROW = make_columns(EXAMPLE.item, {"tags": [["a"]], "price": [1.5]}, length=1)


def block(name: str) -> str:
    found = re.search(rf"```{name}\n(.*?)```", SPEC, re.DOTALL)
    assert found is not None
    return found.group(1).strip()


def test_the_history_example_is_what_is_written() -> None:
    expected = pack_header(EXAMPLE, HistoryHeader(chunk=CHUNK, appended=2, newest_ms=2000)) + EVENTS.tobytes()
    assert bytes.fromhex(block("history")) == expected


def test_the_history_example_reads_back() -> None:
    data = bytes.fromhex(block("history"))
    header, dtype = unpack_header(EXAMPLE, data[: HEADER.size])
    assert (header.appended, header.trimmed) == (2, 0) and dtype == EVENTS.dtype
    assert unpack_events(EXAMPLE, data[HEADER.size :]).tolist() == EVENTS.tolist()


def test_the_entity_example_is_what_is_written() -> None:
    row = bytes.fromhex(block("entity"))
    assert pack_rows(EXAMPLE.item, ROW) == [row]
    assert unpack_rows(EXAMPLE.item, [row])["price"].tolist() == [1.5]


def test_the_withdrawn_example_is_what_is_written_and_reads_as_missing() -> None:
    assert bytes.fromhex(block("withdrawn")) == WITHDRAWN
    assert unpack_rows(EXAMPLE.item, [WITHDRAWN, None])["tags"].tolist() == [[-1, -1], [-1, -1]]


def test_the_meta_example_is_what_is_written() -> None:
    assert layouts(EXAMPLE)["item"][0] == block("meta")
    assert json.loads(layouts(EXAMPLE)["history"][0])["fields"][3:] == [["genre", "<i8"], ["rating", "|u1"]]


async def test_redis_holds_the_example_bytes(redis_url: str, redis_admin: redis.Redis) -> None:
    store = RedisFeatureStore.connect(redis_url, EXAMPLE)
    await store.append(1, EVENTS[::-1], timeout_s=5)
    await store.put_entities("item", np.array([3]), ROW, timeout_s=5)
    await store.close()
    assert redis_admin.get("recsys:v1:{example:u:1}:h") == bytes.fromhex(block("history"))
    assert redis_admin.get("recsys:v1:{example:item:3}:3") == bytes.fromhex(block("entity"))
    assert redis_admin.hget("recsys:v1:example:meta", "item") == block("meta").encode()


async def test_redis_holds_the_example_of_changed_items(redis_url: str, redis_admin: redis.Redis) -> None:
    store = RedisFeatureStore.connect(redis_url, EXAMPLE)
    columns = make_columns(EXAMPLE.item, {"price": [1.5, 2.5]}, length=2)
    await store.put_entities("item", np.array([42, 7]), columns, timeout_s=5)
    await store.close()
    ((_, fields),) = redis_admin.xrange("recsys:v1:example:item_changes")
    assert fields == {b"items": bytes.fromhex(block("item_changes"))}


@pytest.mark.parametrize("key", ["h", "c", "o", "f", "s:<version>"])
def test_every_user_key_in_the_specification_has_the_hash_tag(key: str) -> None:
    assert f"`recsys:v1:{{<fs>:u:<user>}}:{key}`" in SPEC
