"""The feature store on a Redis Cluster of three primaries with a replica each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
from contracts.failover_contract import check_failover
from contracts.feature_store_contract import *  # noqa: F403
from contracts.feature_store_contract.shop import SHOP, USER, events_of, rows_of
from contracts.link_contract import check_servers
from redis.crc import key_slot
from redis.exceptions import NoScriptError, ResponseError
from support.redis_servers import (
    SLOTS,
    Server,
    cluster,
    documented_acl,
    eventually,
    free_port,
    repeated,
    running,
    synced,
)

from recsys.errors import StoreUnavailableError
from recsys.feature_store.redis.keys import entity_key, history_keys
from recsys.feature_store.redis.link.cluster import ClusterLink
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.entities import make_columns

ITEMS = np.arange(1000)
PRICES = make_columns(SHOP.item, {"price": ITEMS.tolist()}, length=len(ITEMS))


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    with cluster(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


@pytest.fixture
async def store(nodes: list[Server]) -> AsyncIterator[RedisFeatureStore]:
    for node in nodes[:3]:
        node.ask("FLUSHALL")
    store = RedisFeatureStore.connect(f"redis+cluster://{nodes[0].address},{nodes[1].address}", SHOP)
    yield store
    await store.close()


@pytest.fixture
async def link(nodes: list[Server]) -> AsyncIterator[ClusterLink]:
    for node in nodes[:3]:
        node.ask("FLUSHALL")
    link = ClusterLink(f"redis+cluster://{nodes[0].address}")
    yield link
    await link.close()


def owner(nodes: list[Server], key: bytes) -> Server:
    """As the cluster was made."""
    return nodes[next(i for i in range(3) if key_slot(key) < (i + 1) * SLOTS // 3)]


async def test_items_of_all_nodes_are_read_with_the_history_in_one_call(store: RedisFeatureStore) -> None:
    await store.put_entities("item", ITEMS, PRICES, timeout_s=5)
    await store.append(USER, events_of([(1, 1, 1, 1)]), timeout_s=5)
    inputs = await store.read_for_rank(USER, ITEMS[::-1].copy(), time_ms=1 << 50, timeout_s=5)
    assert not inputs.user_degraded and not inputs.items_degraded
    assert inputs.item_columns["price"].tolist() == ITEMS[::-1].tolist()
    assert rows_of(inputs.events) == [(1, 1, 1, 1)]
    assert (await store.entities("item", ITEMS, timeout_s=5))["price"].tolist() == ITEMS.tolist()


async def test_the_documented_permissions_are_enough(nodes: list[Server], store: RedisFeatureStore) -> None:
    for node in nodes:
        node.ask("ACL", "SETUSER", "recsys", *documented_acl("pa55word").split(), "+cluster|slots", "+asking")
    url = f"redis+cluster://recsys:pa55word@{nodes[0].address}"
    user = RedisFeatureStore.connect(url, SHOP)
    await user.put_entities("item", ITEMS, PRICES, timeout_s=5)
    await user.append(USER, events_of([(1, 1, 1, 1)]), timeout_s=5)
    assert not (await user.read_for_rank(USER, ITEMS, time_ms=1 << 50, timeout_s=5)).items_degraded
    await user.close()


async def test_replies_are_in_the_order_of_the_commands_and_errors_are_among_them(link: ClusterLink) -> None:
    keys = [b"k%d" % i for i in range(30)]
    assert await link.round_trip([(b"MSET", *(t for key in keys for t in (key, key)))], timeout_s=5) == [b"OK"]
    found = await link.round_trip(
        [(b"GET", keys[7]), (b"MGET", *keys, b"none"), (b"LLEN", keys[1]), (b"EVALSHA", "0" * 40, 1, keys[2])],
        timeout_s=5,
    )
    assert found[:2] == [keys[7], [*keys, None]]
    assert isinstance(found[2], ResponseError) and str(found[2]).startswith("WRONGTYPE")
    assert isinstance(found[3], NoScriptError)
    assert await link.round_trip([], timeout_s=5) == []


async def test_keys_of_a_slot_on_the_move_are_found_and_afterwards_at_the_new_node(
    nodes: list[Server], link: ClusterLink
) -> None:
    here, gone, new = b"{tag}here", b"{tag}gone", b"{tag}new"
    slot, source = key_slot(here), owner(nodes, here)
    target = nodes[(nodes.index(source) + 1) % 3]
    source_id, target_id = source.ask("CLUSTER", "MYID"), target.ask("CLUSTER", "MYID")
    await link.round_trip([(b"MSET", here, b"1", gone, b"2")], timeout_s=5)
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
    source.ask("MIGRATE", "127.0.0.1", target.port, gone, 0, 5000)
    assert await link.round_trip([(b"GET", gone), (b"MGET", here, gone, new)], timeout_s=5) == [
        b"2",
        [b"1", b"2", None],
    ]
    assert await link.round_trip([(b"MSET", new, b"3", here, b"1")], timeout_s=5) == [b"OK"]
    with pytest.raises(StoreUnavailableError, match="slot .* is on the move"):
        await link.round_trip([(b"EVAL", b"return 1", 2, here, gone)], timeout_s=5)
    source.ask("MIGRATE", "127.0.0.1", target.port, here, 0, 5000)
    for node in nodes[:3]:
        node.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)
    assert await link.round_trip([(b"MGET", here, gone, new)], timeout_s=5) == [[b"1", b"2", b"3"]]
    # Back, so that the other tests find the cluster as it was made.
    target.ask("FLUSHALL")
    for node in nodes[:3]:
        node.ask("CLUSTER", "SETSLOT", slot, "NODE", source_id)
    source.ask("CLUSTER", "BUMPEPOCH")
    assert await link.round_trip([(b"GET", here)], timeout_s=5) == [None]


async def test_connections_to_each_node_are_bounded(nodes: list[Server]) -> None:
    before = [node.clients() for node in nodes]
    store = RedisFeatureStore.connect(f"redis+cluster://{nodes[0].address}", SHOP, max_connections=2, item_max_age_s=0)
    calls = (store.read_for_rank(u, ITEMS[:100], time_ms=1 << 50, timeout_s=10) for u in range(40))
    assert not any(inputs.items_degraded for inputs in await asyncio.gather(*calls))
    assert all(node.clients() - count <= 2 for node, count in zip(nodes, before, strict=True))
    await store.close()


async def test_a_slow_node_degrades_only_what_it_has_and_holds_nobody_past_the_deadline(
    nodes: list[Server], store: RedisFeatureStore
) -> None:
    await store.append(USER, events_of([(1, 1, 1, 1)]), timeout_s=5)
    home = owner(nodes, history_keys("shop", USER).open)
    elsewhere = [i for i in range(500) if owner(nodes, entity_key("shop", "item", i)) is not home]
    at_home = [i for i in range(500) if i not in elsewhere]
    home.ask("CLIENT", "PAUSE", 700)
    started_s = time.monotonic()
    inputs = await store.read_for_rank(USER, np.array(elsewhere), time_ms=1 << 50, timeout_s=0.1)
    assert inputs.user_degraded and not inputs.items_degraded
    inputs = await store.read_for_rank(USER, np.array(at_home), time_ms=1 << 50, timeout_s=0.1)
    assert inputs.user_degraded and inputs.items_degraded
    assert time.monotonic() - started_s < 0.6
    eventually(lambda: home.ask("PING"))
    # The answers that come late must not be taken for those of other requests.
    await repeated(lambda: store.history(USER, limit=1, timeout_s=5))
    inputs = await store.read_for_rank(USER, np.array(at_home), time_ms=1 << 50, timeout_s=5)
    assert rows_of(inputs.events) == [(1, 1, 1, 1)] and not inputs.items_degraded


async def test_its_servers_are_the_nodes_with_slots(link: ClusterLink) -> None:
    assert await check_servers(link) == 3


async def test_a_caller_that_leaves_harms_no_neighbour(link: ClusterLink) -> None:
    keys = [b"k%d" % i for i in range(300)]
    await link.round_trip([(b"MSET", *(t for key in keys for t in (key, key)))], timeout_s=5)
    for _ in range(20):
        leaving = [asyncio.create_task(link.round_trip([(b"MGET", *keys)], timeout_s=5)) for _ in range(5)]
        staying = asyncio.create_task(link.round_trip([(b"MGET", *reversed(keys))], timeout_s=5))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in leaving:
            task.cancel()
        assert await staying == [keys[::-1]]
        await asyncio.gather(*leaving, return_exceptions=True)


async def test_a_cluster_that_is_away_is_an_unavailable_store() -> None:
    store = RedisFeatureStore.connect(f"redis+cluster://127.0.0.1:{free_port()}", SHOP)
    with pytest.raises(StoreUnavailableError, match="127.0.0.1"):
        await store.ping(timeout_s=5)
    with pytest.raises(StoreUnavailableError, match="not tried again yet"):
        await store.ping(timeout_s=5)
    await store.close()


async def test_a_single_redis_behind_a_cluster_url_is_told_apart(tmp_path: Path) -> None:
    server = Server(folder=tmp_path / "single", lines=())
    with running(server):
        store = RedisFeatureStore.connect(f"redis+cluster://{server.address}", SHOP)
        with pytest.raises(StoreUnavailableError, match="no topology of a cluster.* has a redis:// URL"):
            await store.ping(timeout_s=5)
        await store.close()


async def test_after_a_primary_is_killed_appends_go_on_at_its_replica(
    nodes: list[Server], store: RedisFeatureStore
) -> None:
    def replicas() -> None:
        for replica, primary in zip(nodes[3:], nodes[:3], strict=True):
            eventually(lambda r=replica, p=primary: synced(r, p))

    await check_failover(store, wait_for_replicas=replicas, kill=nodes[1].kill)
    assert nodes[4].ask("ROLE")[0] == "master"
