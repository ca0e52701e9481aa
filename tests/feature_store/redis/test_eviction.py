"""A Redis that drops keys, or was emptied under a running program: said by name, and not filled without its record."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from contracts.feature_store_contract.shop import SHOP, USER, events_of
from support.redis_servers import SERVERS, Server, cluster, running

from recsys.errors import StoreFormatError
from recsys.feature_store.redis.keys import meta_key
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.entities import make_columns
from recsys.features.feature_set import Categorical
from recsys.features.history.records import require_history

EVENTS = events_of([(1, 1, 1, 1)])
ITEMS = np.array([1])
OTHER_LAYOUT = replace(SHOP, history=replace(require_history(SHOP), attributes=(Categorical(name="other"),)))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.fixture(params=SERVERS.values(), ids=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    server = Server(folder=tmp_path / "a", lines=(), program=request.param)
    with running(server):
        yield server


@pytest.mark.parametrize(
    ("policy", "dropped"),
    [("allkeys-lru", "histories and features"), ("volatile-ttl", "histories with ttl_s and states")],
)
async def test_a_policy_that_drops_keys_is_warned_of_once_by_name(
    server: Server, caplog: pytest.LogCaptureFixture, policy: str, dropped: str
) -> None:
    store = RedisFeatureStore.connect(f"redis://{server.address}", SHOP)
    await store.ping(timeout_s=5)
    assert not warnings(caplog) and store.warning_counts()["evicts"] == 0
    server.ask("CONFIG", "SET", "maxmemory-policy", policy)
    for _ in range(2):
        await store.ping(timeout_s=5)
    (text,) = warnings(caplog)
    assert f"{server.address}: maxmemory-policy is {policy}: " in text and f"drops {dropped}" in text
    assert "0 keys so far" in text and "Set it to noeviction" in text
    assert store.warning_counts()["evicts"] == 2
    await store.close()


async def test_keys_that_were_dropped_are_counted_and_the_record_is_written_again(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    store = RedisFeatureStore.connect(f"redis://{server.address}", SHOP)
    await store.append(USER, EVENTS, timeout_s=5)
    await store.ping(timeout_s=5)
    record = server.ask("HGETALL", meta_key("shop"))
    server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
    server.ask("SET", "foreign", "x" * 1_000)
    server.ask("CONFIG", "SET", "maxmemory", 1)
    while server.ask("EXISTS", meta_key("shop")):  # whatever is read or written drops one more
        server.ask("SET", "foreign", "x")
    server.ask("CONFIG", "SET", "maxmemory", 0)
    await store.ping(timeout_s=5)
    assert server.ask("HGETALL", meta_key("shop")) == record
    text = " ".join(warnings(caplog))
    assert re.search(r"maxmemory-policy is allkeys-random: .* [1-9]\d* keys so far", text)
    assert re.search(r"lost the record of the history part.*maxmemory-policy allkeys-random, [1-9]\d* keys", text)
    await store.close()


@pytest.mark.parametrize("part", ["history", "item"])
async def test_what_is_written_after_redis_was_emptied_has_its_record_and_others_are_refused(
    server: Server, caplog: pytest.LogCaptureFixture, part: str
) -> None:
    store = RedisFeatureStore.connect(f"redis://{server.address}", SHOP)
    other = RedisFeatureStore.connect(f"redis://{server.address}", OTHER_LAYOUT if part == "history" else OTHER_ITEMS)

    async def write() -> None:
        if part == "history":
            await store.append(USER, EVENTS, timeout_s=5)
        else:
            await store.put_entities("item", ITEMS, make_columns(SHOP.item, {}, length=1), timeout_s=5)

    await store.ping(timeout_s=5)
    await write()
    for _ in range(2):  # at once, within the second in which the layout is not checked again
        server.ask("FLUSHALL")
        await write()
        assert server.ask("HEXISTS", meta_key("shop"), part) == 1
        with pytest.raises(StoreFormatError, match=f"the {part} part of this store was filled with layout"):
            await other.ping(timeout_s=5)
    assert store.warning_counts()["lost"] == 2
    (text,) = warnings(caplog)  # the second within ten seconds is counted alone
    assert f"lost the record of the {part} part" in text and "maxmemory-policy noeviction, 0 keys so far" in text
    assert "recsys materialize, recsys ingest --restart" in text
    for each in (store, other):
        await each.close()


OTHER_ITEMS = replace(SHOP, item=(Categorical(name="other"),))


async def test_who_only_reads_says_that_redis_was_emptied_and_writes_nothing(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    writer, reader = (RedisFeatureStore.connect(f"redis://{server.address}", SHOP) for _ in range(2))
    await writer.append(USER, EVENTS, timeout_s=5)
    await reader.ping(timeout_s=5)
    server.ask("FLUSHALL")
    for _ in range(2):
        await reader.ping(timeout_s=5)
    assert len(warnings(caplog)) == 1 and "lost the record of the history part" in warnings(caplog)[0]
    assert server.ask("DBSIZE") == 0, "an operator may fill it with another layout"
    for each in (writer, reader):
        await each.close()


async def test_a_user_who_may_not_ask_is_told_so(redis_url: str, redis_admin: redis.Redis, caplog: Any) -> None:
    redis_admin.acl_setuser("blind", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all", "-info"])
    try:
        store = RedisFeatureStore.connect(f"{redis_url}?username=blind&password=pw", SHOP)
        for _ in range(2):
            await store.ping(timeout_s=5)
        (text,) = warnings(caplog)
        assert re.search(r"maxmemory-policy cannot be read \(NOPERM .*\): give the user the right \+info", text)
        await store.close()
    finally:
        redis_admin.acl_deluser("blind")


async def test_every_node_of_a_cluster_is_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with cluster(tmp_path) as nodes:
        nodes[1].ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lfu")
        store = RedisFeatureStore.connect(f"redis+cluster://{nodes[0].address}", SHOP)
        await store.ping(timeout_s=5)
        (text,) = warnings(caplog)
        assert f"{nodes[1].address}: maxmemory-policy is allkeys-lfu" in text
        await store.close()
