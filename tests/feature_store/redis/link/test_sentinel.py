"""The feature store on the primary that Sentinel names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from contracts.failover_contract import check_failover
from contracts.feature_store_contract import *  # noqa: F403
from contracts.feature_store_contract.shop import SHOP, USER, events_of
from contracts.link_contract import check_servers
from support.redis_servers import (
    SERVICE,
    Proxy,
    Server,
    agreed,
    eventually,
    free_port,
    known_primary,
    primary_of,
    sentinel_service,
    synced,
)

from recsys.errors import StoreUnavailableError
from recsys.feature_store.redis.link.connect import open_link
from recsys.feature_store.redis.store import RedisFeatureStore

Service = tuple[list[Server], list[Server]]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with sentinel_service(tmp_path_factory.mktemp("sentinel")) as both:
        yield both


def url_of(service: Service) -> str:
    return f"redis+sentinel://{','.join(s.address for s in service[1])}/{SERVICE}"


@pytest.fixture
async def store(service: Service) -> AsyncIterator[RedisFeatureStore]:
    primary_of(service[0]).ask("FLUSHALL")
    store = RedisFeatureStore.connect(url_of(service), SHOP)
    yield store
    await store.close()


async def test_connections_to_the_primary_and_the_sentinels_are_bounded(service: Service) -> None:
    primary, sentinel = primary_of(service[0]), service[1][0]
    before, asked_before = primary.clients(), sentinel.clients()
    store = RedisFeatureStore.connect(url_of(service), SHOP, max_connections=3)
    await asyncio.gather(*(store.history(USER, limit=1, timeout_s=5) for _ in range(50)))
    assert 1 <= primary.clients() - before <= 3
    assert sentinel.clients() - asked_before <= 1
    await store.close()


async def test_the_primary_is_the_only_server(service: Service) -> None:
    link = open_link(url_of(service))
    assert await check_servers(link) == 1
    await link.close()


async def test_sentinels_that_are_away_or_wrong_delay_nobody(service: Service) -> None:
    async with Proxy(target_port=service[1][1].port, delay_s=60).running() as hung:
        places = [f"127.0.0.1:{free_port()}", f"127.0.0.1:{hung.port}", service[1][2].address]
        store = RedisFeatureStore.connect(f"redis+sentinel://{','.join(places)}/{SERVICE}", SHOP)
        # The hung one would use up all of the time if the sentinels were asked one after the other.
        await store.ping(timeout_s=1)
        await store.close()


async def test_an_unknown_service_is_named(service: Service) -> None:
    store = RedisFeatureStore.connect(f"redis+sentinel://{service[1][0].address}/no-such", SHOP)
    with pytest.raises(StoreUnavailableError, match="knows no service 'no-such'.*sentinel monitor"):
        await store.ping(timeout_s=5)
    with pytest.raises(StoreUnavailableError, match="not tried again yet"):
        await store.ping(timeout_s=5)
    await store.close()


async def test_no_sentinel_is_an_unavailable_store_at_once() -> None:
    store = RedisFeatureStore.connect(f"redis+sentinel://127.0.0.1:{free_port()}/{SERVICE}", SHOP)
    with pytest.raises(StoreUnavailableError, match="127.0.0.1"):
        await store.ping(timeout_s=5)
    with pytest.raises(StoreUnavailableError, match="not tried again yet"):
        await store.ping(timeout_s=5)
    await store.close()


async def test_a_replica_that_refuses_writes_makes_the_sentinels_be_asked(
    service: Service, store: RedisFeatureStore
) -> None:
    await store.append(USER, events_of([(1, 1, 1, 1)]), timeout_s=5)
    old = primary_of(service[0])
    other = next(s for s in service[0] if s is not old)
    eventually(lambda: synced(other, old))
    service[1][0].ask("SENTINEL", "FAILOVER", SERVICE)
    eventually(lambda: other.ask("ROLE")[0] == "master")
    # As the sentinels do some seconds later; then the connections that we have are to a replica.
    old.ask("REPLICAOF", "127.0.0.1", other.port)
    eventually(lambda: all(known_primary(s)["port"] == str(other.port) for s in service[1]))
    result = await store.append(USER, events_of([(2, 2, 1, 2)]), timeout_s=5)
    assert (result.added, result.stored) == (1, 2)
    eventually(lambda: synced(old, other))


async def test_after_the_primary_is_killed_appends_go_on_at_the_new_one(
    service: Service, store: RedisFeatureStore
) -> None:
    servers, sentinels = service
    victim = primary_of(servers)
    other = next(s for s in servers if s is not victim)
    eventually(lambda: all(agreed(s) and known_primary(s)["port"] == str(victim.port) for s in sentinels))
    await check_failover(store, wait_for_replicas=lambda: eventually(lambda: synced(other, victim)), kill=victim.kill)
    assert primary_of(servers) is other
