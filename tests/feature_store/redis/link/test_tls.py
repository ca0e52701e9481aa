"""The feature store over TLS, as an ACL user that may do no more than it must; and through a slow network."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from contracts.feature_store_contract import *  # noqa: F403
from contracts.feature_store_contract.shop import SHOP, USER, events_of, rows_of
from support.redis_servers import (
    SERVERS,
    Certificate,
    Proxy,
    Server,
    documented_acl,
    free_port,
    make_certificate,
    running,
)

from recsys.errors import StoreUnavailableError
from recsys.feature_store.redis.store import RedisFeatureStore


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(folder=tmp_path_factory.mktemp("acl"), lines=())
    with running(server):
        server.ask("ACL", "SETUSER", "recsys", *documented_acl("pa55word").split())
        yield server


@pytest.fixture
async def proxy(server: Server, certificate: Certificate) -> AsyncIterator[Proxy]:
    async with Proxy(target_port=server.port, tls=certificate.context()).running() as proxy:
        yield proxy


@pytest.fixture
async def store(server: Server, proxy: Proxy, certificate: Certificate) -> AsyncIterator[RedisFeatureStore]:
    server.ask("FLUSHALL")
    url = f"rediss://recsys:pa55word@localhost:{proxy.port}?ssl_ca_certs={certificate.certificate}"
    store = RedisFeatureStore.connect(url, SHOP)
    yield store
    await store.close()


async def test_the_user_may_touch_no_other_keys_and_run_no_other_commands(
    server: Server, store: RedisFeatureStore
) -> None:
    with redis.Redis(port=server.port, username="recsys", password="pa55word") as client:
        script = ("EVAL", "return redis.call('GET', 'other')", "0")
        for command in (("GET", "other"), ("FLUSHALL",), ("CONFIG", "GET", "*"), ("KEYS", "*"), script):
            with pytest.raises(redis.ResponseError):
                client.execute_command(*command)


async def test_an_unknown_authority_or_host_is_refused(proxy: Proxy, certificate: Certificate, tmp_path: Path) -> None:
    urls = {
        f"rediss://localhost:{proxy.port}": "certificate verify failed",
        f"rediss://localhost:{proxy.port}?ssl_ca_certs={tmp_path}/none.pem": "No such file",
    }
    for url, reason in urls.items():
        store = RedisFeatureStore.connect(url, SHOP)
        with pytest.raises(StoreUnavailableError, match=reason):
            await store.ping(timeout_s=5)
        await store.close()


async def test_a_wrong_password_is_reported_without_showing_it(proxy: Proxy, certificate: Certificate) -> None:
    url = f"rediss://recsys:hunter2@localhost:{proxy.port}?ssl_ca_certs={certificate.certificate}"
    store = RedisFeatureStore.connect(url, SHOP)
    with pytest.raises(StoreUnavailableError, match="WRONGPASS|invalid username-password") as caught:
        await store.ping(timeout_s=5)
    assert "hunter2" not in str(caught.value)
    await store.close()


def start_with_tls(folder: Path, lines: tuple[str, ...]) -> Server:
    """Of this machine's servers the first one that was built with TLS, started."""
    reasons = []
    for name, program in SERVERS.items():
        server = Server(folder=folder / name, lines=lines, program=program)
        try:
            server.start()
        except RuntimeError as error:
            server.stop()
            reasons.append(f"{name}: {error}")
        else:
            return server
    pytest.skip("no server with TLS: " + "; ".join(reasons))


async def test_a_redis_with_tls_of_its_own_is_spoken_to(tmp_path: Path, certificate: Certificate) -> None:
    port = free_port()
    lines = (
        f"tls-port {port}",
        f"tls-cert-file {certificate.certificate}",
        f"tls-key-file {certificate.key}",
        f"tls-ca-cert-file {certificate.certificate}",
        "tls-auth-clients yes",
    )
    server = start_with_tls(tmp_path, lines)
    try:
        own = f"ssl_certfile={certificate.certificate}&ssl_keyfile={certificate.key}"
        url = f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate.certificate}&{own}"
        store = RedisFeatureStore.connect(url, SHOP)
        results = await asyncio.gather(*(store.append(u, events_of([(1, 1, 1, 1)]), timeout_s=5) for u in range(20)))
        assert [result.added for result in results] == [1] * 20
        await store.close()
    finally:
        server.stop()


async def test_a_slow_network_holds_nobody_past_the_deadline(server: Server) -> None:
    server.ask("FLUSHALL")
    async with Proxy(target_port=server.port).running() as slow:
        store = RedisFeatureStore.connect(f"redis://recsys:pa55word@127.0.0.1:{slow.port}", SHOP)
        await store.append(USER, events_of([(1, 1, 1, 1)]), timeout_s=5)
        slow.delay_s = 0.5
        started_s = time.monotonic()
        inputs = await store.read_for_rank(USER, np.arange(10), time_ms=1 << 50, timeout_s=0.05)
        assert time.monotonic() - started_s < 0.4
        assert inputs.user_degraded and inputs.items_degraded
        slow.delay_s = 0.0
        inputs = await store.read_for_rank(USER, np.arange(10), time_ms=1 << 50, timeout_s=5)
        assert rows_of(inputs.events) == [(1, 1, 1, 1)]
        await store.close()
