"""BlockingLink: the contract of a store over it, from threads without an event loop; and Redis in trouble."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from contracts.feature_store_contract import *  # noqa: F403
from contracts.feature_store_contract.shop import SHOP, USER, events_of, rows_of
from contracts.link_contract import check_servers
from support.redis_servers import Proxy, Server, cluster, make_certificate, running, sentinel_service

from recsys.errors import ConfigError, StoreUnavailableError
from recsys.feature_store.blocking import run_sync
from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.feature_store.item_cache import ItemCache
from recsys.feature_store.redis.link.blocking import BlockingLink
from recsys.feature_store.redis.link.protocol import Command, Reply
from recsys.feature_store.redis.store import RedisFeatureStore


@contextmanager
def loop_in_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """asyncio's own loop, whose resolver tests can replace; the server's loop (uvloop) resolves names by itself."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def link_to(url: str) -> Iterator[BlockingLink]:
    with loop_in_thread() as loop:
        link = BlockingLink(url, loop=loop)
        try:
            yield link
        finally:
            run_sync(link.close())


def ask(link: BlockingLink, *commands: Command, timeout_s: float = 5.0) -> list[Reply]:
    return run_sync(link.round_trip(commands, timeout_s=timeout_s))


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisFeatureStore]:
    with link_to(redis_url) as link:
        yield RedisFeatureStore(SHOP, link=link, cache=ItemCache(SHOP.item))


def test_what_waits_for_an_event_loop_is_named() -> None:
    with pytest.raises(RuntimeError, match="sleep waits for an event loop; here only a BlockingLink"):
        run_sync(asyncio.sleep(0))


def test_errors_of_what_is_driven_pass_through() -> None:
    async def fails() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run_sync(fails())


def test_replies_are_in_the_order_of_the_commands_and_errors_are_among_them(redis_url: str) -> None:
    with link_to(redis_url) as link:
        set_, wrong, found = ask(link, (b"SET", b"k", b"1"), (b"HGET", b"k", b"f"), (b"GET", b"k"))
        assert (set_, found) == (b"OK", b"1") and str(wrong).startswith("WRONGTYPE")
        assert ask(link) == []


def test_it_is_its_own_server(redis_url: str) -> None:
    with link_to(redis_url) as link:
        assert run_sync(check_servers(link)) == 1
        assert run_sync(link.servers(timeout_s=5)) == [link]


def test_the_nodes_of_a_cluster_are_its_servers_without_a_loop_too(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes, link_to(f"redis+cluster://{nodes[0].address}") as link:
        assert run_sync(check_servers(link)) == 3


def test_a_reply_larger_than_one_read_is_whole(redis_url: str) -> None:
    with link_to(redis_url) as link:
        value = os.urandom(1 << 20)
        assert ask(link, (b"SET", b"k", value), (b"GET", b"k")) == [b"OK", value]


def test_callers_at_a_time_get_their_own_replies(redis_url: str) -> None:
    def echo(number: int) -> bool:
        return all(ask(link, (b"ECHO", f"{number}-{i}")) == [f"{number}-{i}".encode()] for i in range(300))

    with link_to(redis_url) as link, ThreadPoolExecutor(8) as pool:
        assert all(pool.map(echo, range(8)))


def test_a_connection_is_used_again(redis_url: str, redis_admin: redis.Redis) -> None:
    with link_to(redis_url) as link:
        numbers = {ask(link, (b"CLIENT", b"ID"))[0] for _ in range(5)}
    assert len(numbers) == 1


def test_a_dead_connection_is_replaced_without_an_error(redis_url: str, redis_admin: redis.Redis) -> None:
    with link_to(redis_url) as link:
        (number,) = ask(link, (b"CLIENT", b"ID"))
        redis_admin.client_kill_filter(_id=number)
        assert ask(link, (b"PING",)) == [b"PONG"]


def test_a_redis_that_does_not_answer_costs_the_time_given_and_then_nothing(
    redis_url: str, redis_admin: redis.Redis
) -> None:
    pid = int(redis_admin.info("server")["process_id"])
    with link_to(redis_url) as link:
        ask(link, (b"SET", b"k", b"old"))
        os.kill(pid, signal.SIGSTOP)
        try:
            for _ in range(3):
                with pytest.raises(StoreUnavailableError, match="no answer within 50 ms"):
                    ask(link, (b"GET", b"k"), timeout_s=0.05)
            with pytest.raises(StoreUnavailableError, match=r"no answer within 50 ms \(not tried again yet\)"):
                ask(link, (b"GET", b"k"), timeout_s=0.05)
        finally:
            os.kill(pid, signal.SIGCONT)
        deadline_s = time.monotonic() + 10
        while True:
            try:
                assert ask(link, (b"ECHO", b"new")) == [b"new"], "not the reply to what was given up"
                break
            except StoreUnavailableError:
                assert time.monotonic() < deadline_s
                time.sleep(0.02)


def test_a_restarted_redis_is_found_again(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server, link_to(server.url) as link:
        ask(link, (b"SET", b"k", b"1"))
        url = server.url
        server.stop()
        with pytest.raises(StoreUnavailableError, match="No such file|refused|not tried again"):
            ask(link, (b"GET", b"k"))
        with EmbeddedRedis(tmp_path) as again:
            assert again.url == url
            time.sleep(0.1)
            assert ask(link, (b"GET", b"k")) == [b"1"]


def test_a_resolver_that_does_not_answer_costs_the_time_given(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()

    def resolve(*args: object, **kwargs: object) -> list[object]:
        done.wait(60)
        raise socket.gaierror("gave up")

    with link_to("redis://cache.example:6379") as link, monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", resolve)
        try:
            with pytest.raises(StoreUnavailableError, match="no answer within 100 ms"):
                ask(link, (b"PING",), timeout_s=0.1)
            assert not done.is_set()
        finally:
            done.set()


def test_the_next_address_of_a_host_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(folder=tmp_path, lines=())
    with running(server), socket.socket() as nobody, monkeypatch.context() as patched:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        addresses = [nobody.getsockname(), ("127.0.0.1", server.port)]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in addresses]
        patched.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
        with link_to("redis://cache.example") as link:
            assert ask(link, (b"ECHO", b"here")) == [b"here"]


def test_what_is_no_redis_is_unavailable(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, ThreadPoolExecutor(1) as pool:

        def answer() -> None:
            connection = other.accept()[0]
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        answering = pool.submit(answer)
        with link_to(f"redis://127.0.0.1:{other.getsockname()[1]}") as link:
            with pytest.raises(StoreUnavailableError, match="redis://127.0.0.1:"):
                ask(link, (b"GET", b"k"))
        answering.result()


def test_a_malformed_url_is_refused_at_once() -> None:
    with loop_in_thread() as loop, pytest.raises(ConfigError, match="not the URL of a Redis"):
        BlockingLink("http://cache", loop=loop)


def test_it_logs_in_and_chooses_the_database(tmp_path: Path) -> None:
    server = Server(folder=tmp_path, lines=("user app on >pw ~* +@all",))
    with running(server):
        with link_to(f"redis://app:pw@{server.address}/3") as link:
            assert ask(link, (b"ACL", b"WHOAMI")) == [b"app"]
            assert b" db=3 " in ask(link, (b"CLIENT", b"INFO"))[0]
        with link_to(f"redis://app:hunter2@{server.address}") as link:
            with pytest.raises(StoreUnavailableError, match="WRONGPASS|invalid username-password") as caught:
                ask(link, (b"PING",))
            assert "hunter2" not in str(caught.value)


async def test_tls_is_spoken_and_an_unknown_authority_refused(tmp_path: Path) -> None:
    certificate, server = make_certificate(tmp_path), Server(folder=tmp_path / "redis", lines=())
    with running(server):
        async with Proxy(target_port=server.port, tls=certificate.context()).running() as proxy:
            url = f"rediss://localhost:{proxy.port}"
            with link_to(f"{url}?ssl_ca_certs={certificate.certificate}") as trusting, link_to(url) as distrusting:
                assert await asyncio.to_thread(ask, trusting, (b"PING",)) == [b"PONG"]
                with pytest.raises(StoreUnavailableError, match="certificate verify failed"):
                    await asyncio.to_thread(ask, distrusting, (b"PING",))


def test_sentinel_is_followed_from_a_thread_without_a_loop(tmp_path: Path) -> None:
    with sentinel_service(tmp_path) as (_, sentinels):
        with link_to(f"redis+sentinel://{sentinels[0].address}/shop-primary") as link:
            store = RedisFeatureStore(SHOP, link=link, cache=ItemCache(SHOP.item))
            run_sync(store.append(USER, events_of([(1, 1, 1, 1)]), timeout_s=5))
            _, events = run_sync(store.history(USER, limit=5, timeout_s=5))
            assert rows_of(events) == [(1, 1, 1, 1)]
            ranked = run_sync(store.read_for_rank(USER, events["item"], time_ms=2**52, timeout_s=5))
            assert not ranked.user_degraded and len(ranked.events) == 1
            assert run_sync(check_servers(link)) == 1


async def test_writes_of_others_are_told(redis_url: str, redis_admin: redis.Redis) -> None:
    told: list[object] = []
    with link_to(redis_url) as link:
        watching = asyncio.create_task(link.watch(b"p:", told.append))
        deadline_s = time.monotonic() + 10
        while [b"p:1"] not in told:
            redis_admin.set("p:1", "x")
            await asyncio.sleep(0.02)
            assert time.monotonic() < deadline_s
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
