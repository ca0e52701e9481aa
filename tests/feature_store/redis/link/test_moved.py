"""A Redis behind one address, a proxy's or a name, which from one moment on leads to another server."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from contracts.feature_store_contract.shop import SHOP, USER, events_of, rows_of
from support.ingest_log import EVENTS, assert_holds, ingesting, make_log
from support.redis_servers import SERVERS, Proxy, Server, eventually, running, synced

from recsys.errors import StoreError, StoreUnavailableError
from recsys.feature_store.blocking import BlockingFeatureStore, run_sync
from recsys.feature_store.embedded.server import redis_binary
from recsys.feature_store.item_cache import ItemCache
from recsys.feature_store.redis.keys import positions_key
from recsys.feature_store.redis.link.blocking import BlockingLink
from recsys.feature_store.redis.link.protocol import Command
from recsys.feature_store.redis.link.replies import translate, value_of
from recsys.feature_store.redis.link.server import RedisLink
from recsys.feature_store.redis.store import RedisFeatureStore

on_every_server = pytest.mark.parametrize("program", SERVERS.values(), ids=SERVERS)
on_one_server = pytest.mark.parametrize("program", [redis_binary()], ids=["one"])
OLD_S = 0.6
"""A connection of this age is replaced by one error."""


@contextmanager
def pair(folder: Path, program: str) -> Iterator[tuple[Server, Server]]:
    """A primary and its replica."""
    primary = Server(folder=folder / "a", lines=(), program=program)
    replica = Server(folder=folder / "b", lines=(f"replicaof 127.0.0.1 {primary.port}",), program=program)
    with running(primary, replica):
        eventually(lambda: synced(replica, primary))
        yield primary, replica


def change_places(primary: Server, replica: Server) -> None:
    """The replica takes over, and the primary becomes its replica: it lives on, and its connections with it."""
    eventually(lambda: synced(replica, primary))
    replica.ask("REPLICAOF", "NO", "ONE")
    primary.ask("REPLICAOF", "127.0.0.1", replica.port)


@on_every_server
async def test_appends_and_reads_follow_the_address_without_an_error_seen(tmp_path: Path, program: str) -> None:
    with pair(tmp_path, program) as (first, second):
        async with Proxy(target_port=first.port).running() as proxy:
            store = RedisFeatureStore.connect(f"redis://127.0.0.1:{proxy.port}", SHOP)
            for place, server in enumerate((first, second)):
                # Several connections: each would stay where it is.
                appends = [store.append(user, events_of([(place, 5, 1, place)]), timeout_s=5) for user in range(4)]
                assert [result.stored for result in await asyncio.gather(*appends)] == [place + 1] * 4
                assert server.ask("ROLE")[0] == "master"
                if server is first:
                    await asyncio.sleep(OLD_S)
                    change_places(first, second)
                    proxy.target_port = second.port
            assert len(rows_of((await store.history(0, timeout_s=5))[1])) == 2
            assert first.clients() == 0, "nothing of ours is left at the old primary"
            await store.close()


@on_one_server
async def test_what_is_watched_follows_the_address_too(tmp_path: Path, program: str) -> None:
    seen: list[object] = []
    with pair(tmp_path, program) as (first, second):
        async with Proxy(target_port=first.port).running() as proxy:
            link = RedisLink(f"redis://127.0.0.1:{proxy.port}")
            watching = asyncio.create_task(link.watch(b"k", seen.append))
            await link.round_trip([(b"SET", b"k", b"1")], timeout_s=5)
            await asyncio.sleep(OLD_S)
            assert seen[0] is None
            change_places(first, second)
            proxy.target_port = second.port
            assert await link.round_trip([(b"SET", b"k", b"2")], timeout_s=5) == [b"OK"]
            with pytest.raises(StoreUnavailableError):  # whereupon who watches begins anew
                await watching
            await link.close()


@on_one_server
async def test_threads_without_a_loop_follow_the_address(tmp_path: Path, program: str) -> None:
    loop = asyncio.get_running_loop()
    with pair(tmp_path, program) as (first, second):
        async with Proxy(target_port=first.port).running() as proxy:
            link = BlockingLink(f"redis://127.0.0.1:{proxy.port}", loop=loop)
            script = (b"EVAL", b"return redis.call('INCR', KEYS[1])", 1, b"k")

            def count() -> object:
                return run_sync(link.round_trip([script], timeout_s=5))

            assert await asyncio.to_thread(count) == [1]
            await asyncio.sleep(OLD_S)
            change_places(first, second)
            proxy.target_port = second.port
            assert await asyncio.to_thread(count) == [2]
            await asyncio.to_thread(lambda: run_sync(link.close()))


@on_one_server
async def test_who_only_reads_learns_it_from_a_write_that_changes_nothing(tmp_path: Path, program: str) -> None:
    with pair(tmp_path, program) as (first, second):
        async with Proxy(target_port=first.port).running() as proxy:
            link = BlockingLink(f"redis://127.0.0.1:{proxy.port}", loop=asyncio.get_running_loop())
            store = BlockingFeatureStore(RedisFeatureStore(SHOP, link=link, cache=ItemCache(SHOP.item)))
            for turn in range(2):
                await asyncio.to_thread(store.history, USER, timeout_s=5)
                if turn == 0:
                    await asyncio.sleep(OLD_S)
                    change_places(first, second)
                    proxy.target_port = second.port
                    await asyncio.to_thread(store.history, USER, timeout_s=5)
                    assert first.clients() == 1, "a replica answers, and says nothing of it"
                    await asyncio.to_thread(store.check_primary, timeout_s=5)
            assert (first.clients(), second.clients(), second.ask("DBSIZE")) == (0, 1, 0)
            await asyncio.to_thread(store.close)


@on_one_server
async def test_a_server_that_stays_read_only_refuses_for_now_and_costs_few_connections(
    tmp_path: Path, program: str
) -> None:
    with pair(tmp_path, program) as (_, replica):
        store = RedisFeatureStore.connect(f"redis://{replica.address}", SHOP)
        before = int(replica.info("INFO", "stats")["total_connections_received"])
        for _ in range(200):
            with pytest.raises(StoreUnavailableError, match="refuses for now: READONLY"):
                await store.append(USER, events_of([(1, 1, 1, 1)]), timeout_s=5)
        assert int(replica.info("INFO", "stats")["total_connections_received"]) - before < 20
        await store.close()


@on_every_server
def test_an_ingester_that_follows_a_file_goes_on_at_the_new_primary(tmp_path: Path, program: str) -> None:
    rows = make_log(600)
    lines = [json.dumps(row) + "\n" for row in rows]
    file = tmp_path / "log.jsonl"
    file.write_text("".join(lines[:200]))
    with pair(tmp_path, program) as (first, second), proxy_in_thread(first.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}"

        def position(server: Server) -> str:
            return "".join(server.ask("HVALS", positions_key(EVENTS.name)))

        with ingesting(file, "--follow", "--flush-ms", "20", url=url, cwd=tmp_path) as process:
            early = eventually(lambda: position(first))
            time.sleep(OLD_S)
            change_places(first, second)
            proxy.target_port = second.port
            with file.open("a") as log:
                log.write("".join(lines[200:]))
            end = str(file.stat().st_size)
            eventually(lambda: end in position(second))
            assert process.poll() is None and early != position(second)
            process.terminate()
            process.communicate(timeout=30)
        asyncio.run(assert_holds(f"redis://{second.address}", rows))


@contextmanager
def proxy_in_thread(port: int) -> Iterator[Proxy]:
    proxy, ready, done = Proxy(target_port=port), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with proxy.running():
            ready.set()
            await done.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join()
        loop.close()


NOT_NOW = "not now"
OPERATOR = "an operator"


def _replica(server: Server) -> None:
    server.ask("REPLICAOF", "127.0.0.1", 1)


def _cut_off(server: Server) -> None:
    server.ask("CONFIG", "SET", "replica-serve-stale-data", "no")
    _replica(server)


def _without_replicas(server: Server) -> None:
    server.ask("CONFIG", "SET", "min-replicas-to-write", 1)


def _full(server: Server) -> None:
    server.ask("CONFIG", "SET", "maxmemory", 1)


def _no_disk(server: Server) -> None:
    (server.folder / "dump.rdb").unlink(missing_ok=True)
    (server.folder / "dump.rdb").mkdir()
    server.ask("SET", "k", "v")
    server.ask("CONFIG", "SET", "save", "1 1")
    server.ask("BGSAVE")
    eventually(lambda: server.info("INFO", "persistence")["rdb_last_bgsave_status"] == "err")


CASES: dict[str, tuple[Callable[[Server], None], str]] = {
    "READONLY": (_replica, NOT_NOW),
    "MASTERDOWN": (_cut_off, NOT_NOW),
    "NOREPLICAS": (_without_replicas, NOT_NOW),
    "OOM": (_full, OPERATOR),
    "MISCONF": (_no_disk, OPERATOR),
}


@on_every_server
@pytest.mark.parametrize("code", CASES)
async def test_an_error_about_the_server_is_known_from_a_command_a_program_and_an_append(
    tmp_path: Path, program: str, code: str
) -> None:
    trouble, verdict = CASES[code]
    server = Server(folder=tmp_path / "a", lines=(), program=program)
    with running(server):
        store = RedisFeatureStore.connect(f"redis://{server.address}", SHOP)
        await store.append(USER, events_of([(1, 1, 1, 1)]), timeout_s=5)
        trouble(server)
        texts = (b"return redis.call('SET', KEYS[1], 'x')", b"return redis.pcall('SET', KEYS[1], 'x')")
        plain = (b"GET", b"k") if code == "MASTERDOWN" else (b"SET", b"k", b"x")
        commands: list[Command] = [plain, *((b"EVAL", text, 1, b"k") for text in texts)]
        link = RedisLink(f"redis://{server.address}")
        for reply in await link.round_trip(commands, timeout_s=5):
            assert str(reply).startswith(code)
            assert isinstance(translate(reply, "k"), StoreUnavailableError) == (verdict == NOT_NOW)
        with pytest.raises(StoreError) as refused:
            await store.append(USER, events_of([(2, 2, 1, 2)]), timeout_s=5)
        assert isinstance(refused.value, StoreUnavailableError) == (verdict == NOT_NOW)
        for each in (link, store):
            await each.close()
        server.ask("CONFIG", "SET", "save", "")  # without a disk it would not end by itself


@on_every_server
async def test_an_error_in_a_transaction_replaces_an_old_connection(tmp_path: Path, program: str) -> None:
    server = Server(folder=tmp_path / "a", lines=(), program=program)
    with running(server):
        link = RedisLink(f"redis://{server.address}")
        for command in ((b"SET", b"k", b"x"), (b"EVAL", b"return redis.call('SET', KEYS[1], 'x')", 1, b"k")):
            server.ask("REPLICAOF", "NO", "ONE")
            (before,) = await link.round_trip([(b"CLIENT", b"ID")], timeout_s=5)
            await asyncio.sleep(OLD_S)
            _replica(server)
            await link.round_trip([(b"MULTI",), command, (b"EXEC",)], timeout_s=5)
            assert await link.round_trip([(b"CLIENT", b"ID")], timeout_s=5) != [before]
        await link.close()


@on_every_server
async def test_a_program_that_was_killed_may_run_again(tmp_path: Path, program: str) -> None:
    server = Server(folder=tmp_path / "a", lines=("lua-time-limit 10",), program=program)
    with running(server):
        link = RedisLink(f"redis://{server.address}")
        endless = asyncio.create_task(link.round_trip([(b"EVAL", b"while true do end", 0)], timeout_s=20))
        await asyncio.sleep(0.3)
        (busy,) = await link.round_trip([(b"GET", b"k")], timeout_s=5)
        server.ask("SCRIPT", "KILL")
        for reply in (busy, (await endless)[0]):
            with pytest.raises(StoreUnavailableError, match="refuses for now"):
                value_of("the key", reply)
        await link.close()
