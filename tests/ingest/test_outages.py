"""When Redis is killed, away, or full: nothing that was acknowledged is lost, nothing is stored twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import redis
from support.ingest_log import (
    EVENTS,
    assert_store_holds,
    ingested,
    ingesting,
    make_log,
    packed,
    write_jsonl,
    write_parquet,
)

from recsys.feature_store.embedded.server import redis_binary
from recsys.feature_store.redis.keys import history_keys, positions_key
from recsys.feature_store.redis.store import RedisFeatureStore

LOG = make_log(12_000)


class Server:
    """A Redis with an append-only file that can be killed.

    With ``fsync="everysec"``, as in production, its end may lose what it acknowledged in the last 2 s: while the
    disk is busy with a sync, Redis keeps newer writes in memory. With ``"always"`` nothing acknowledged is lost.
    """

    def __init__(self, folder: Path, fsync: Literal["always", "everysec"]) -> None:
        self._folder = folder
        self._fsync = fsync
        self.url = f"unix://{folder}/redis.sock"
        self.admin = redis.Redis.from_url(self.url)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [redis_binary(), "--port", "0", "--unixsocket", str(self._folder / "redis.sock"), "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", self._fsync, "--dir", str(self._folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_for(self.answers)

    def answers(self) -> bool:
        with contextlib.suppress(redis.ConnectionError):
            return bool(self.admin.ping())
        return False

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def lose_the_newest(self, size_bytes: int) -> None:
        """As a power failure does: the end of the append-only file never reached the disk."""
        file = max(self._folder.rglob("*.aof"), key=lambda f: f.stat().st_size)
        os.truncate(file, max(0, file.stat().st_size - size_bytes))

    def used_bytes(self) -> int:
        return int(self.admin.info("memory")["used_memory"])  # type: ignore[index]

    def rows_done(self) -> int:
        texts = self.admin.hgetall(positions_key(EVENTS.name)).values()  # type: ignore[union-attr]
        return max((int(text.rpartition(b":")[2].strip(b" }")) for text in texts), default=0)


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    server.start()
    try:
        yield server
    finally:
        server.kill()
        server.admin.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running(Server(tmp_path, "always")) as server:
        yield server


@pytest.fixture
def forgetful_server(tmp_path: Path) -> Iterator[Server]:
    with running(Server(tmp_path, "everysec")) as server:
        yield server


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


async def test_what_was_acknowledged_survives_the_end_of_redis(server: Server) -> None:
    rows = [{**row, "user_id": i % 10} for i, row in enumerate(LOG[:2000])]
    for begin in range(0, len(rows), 200):
        store = RedisFeatureStore.connect(server.url, EVENTS)
        part = rows[begin : begin + 200]
        batches = [(user, packed([row for row in part if row["user_id"] == user])) for user in range(10)]
        await store.append_many(batches, timeout_s=10)
        server.kill()
        await store.close()
        server.start()
    await asyncio.to_thread(assert_store_holds, server.url, rows)


def test_an_ingester_outlives_a_redis_that_is_killed_or_loses_writes_and_stores_everything_once(
    forgetful_server: Server, tmp_path: Path
) -> None:
    server = forgetful_server
    file = write_parquet(tmp_path / "log.parquet", LOG)
    random = np.random.Generator(np.random.PCG64(0))
    with ingesting(file, "--batch-events", "50", url=server.url, cwd=tmp_path) as process:
        for count in (1_000, 4_000, 7_000):
            wait_for(lambda at=count: server.rows_done() >= at)
            time.sleep(random.uniform(0, 0.01))
            assert process.poll() is None
            server.kill()
            if count == 4_000:
                server.lose_the_newest(100_003)
            server.start()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert server.rows_done() == len(LOG)
    assert_store_holds(server.url, LOG)


def test_an_ingester_gives_up_on_a_redis_that_stays_away_and_the_next_one_goes_on(
    server: Server, tmp_path: Path
) -> None:
    file = write_parquet(tmp_path / "log.parquet", LOG)
    arguments = (file, "--batch-events", "250", "--retry-for", "0.5")
    with ingesting(*arguments, url=server.url, cwd=tmp_path) as process:
        wait_for(lambda: server.rows_done() >= 3_000)
        server.kill()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 4
    assert "redis.sock" in err and "run it again to go on" in err
    server.start()
    done = server.rows_done()
    assert ingested(*arguments, url=server.url, cwd=tmp_path)["events"] == len(LOG) - done < len(LOG)
    assert_store_holds(server.url, LOG)


def test_a_full_redis_ends_the_ingester_by_name_and_the_next_one_goes_on(server: Server, tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "log.parquet", LOG)
    ingested(file, url=server.url, cwd=tmp_path)
    all_bytes = server.used_bytes()
    server.admin.flushall()
    server.admin.config_set("maxmemory", (server.used_bytes() + all_bytes) // 2)
    with ingesting(file, "--batch-events", "200", url=server.url, cwd=tmp_path) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 4
    assert "out of memory" in err and "maxmemory" in err and "Traceback" not in err
    done = server.rows_done()
    assert 0 < done < len(LOG)
    users = sorted({row["user_id"] for row in LOG})

    async def read() -> list[int]:
        store = RedisFeatureStore.connect(server.url, EVENTS)
        try:
            return [header.stored for header, _ in await store.histories(users, limit=9999, timeout_s=5)]
        finally:
            await store.close()

    assert sum(asyncio.run(read())) > 0  # reads go on
    server.admin.config_set("maxmemory", 0)
    assert ingested(file, url=server.url, cwd=tmp_path)["events"] == len(LOG) - done
    assert_store_holds(server.url, LOG)


def test_a_redis_that_is_not_there_at_the_start_is_told_at_once(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "log.parquet", LOG[:10])
    with ingesting(file, url="unix:///nonexistent/redis.sock", cwd=tmp_path) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 4 and "/nonexistent/redis.sock" in err


def test_a_redis_that_refuses_the_login_is_told_at_once_and_without_the_password(
    server: Server, tmp_path: Path
) -> None:
    file = write_parquet(tmp_path / "log.parquet", LOG[:10])
    server.admin.config_set("requirepass", "the-password")
    with ingesting(file, url=f"{server.url}?password=not-the-password", cwd=tmp_path) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 4 and "WRONGPASS" in err and "redis.sock" in err
    assert "not-the-password" not in err and "Traceback" not in err


def test_events_of_a_user_whose_history_is_not_ours_go_to_the_dead_letters(
    redis_url: str, redis_admin: redis.Redis, tmp_path: Path
) -> None:
    log = make_log(400)
    foreign = log[0]["user_id"]
    key = history_keys(EVENTS.name, foreign).open
    redis_admin.set(key, "mine")
    counts = ingested(write_jsonl(tmp_path / "log.jsonl", log), url=redis_url, cwd=tmp_path)
    theirs = [row for row in log if row["user_id"] == foreign]
    letters = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert counts["rejected"] == len(letters) == len(theirs)
    assert all("not a history" in letter["reason"] for letter in letters)
    assert redis_admin.get(key) == b"mine"
    assert_store_holds(redis_url, [row for row in log if row["user_id"] != foreign])


def test_an_ingester_goes_on_with_a_stream_whose_redis_was_emptied(
    redis_url: str, redis_admin: redis.Redis, tmp_path: Path
) -> None:
    with ingesting("--redis-stream", "clicks", "--follow", "--flush-ms", "20", url=redis_url, cwd=tmp_path) as process:
        for rows in (LOG[:50], LOG[50:100]):
            *_, last = [redis_admin.xadd("clicks", row) for row in rows]

            def done(last: bytes = last) -> bool:
                (group,) = redis_admin.xinfo_groups("clicks") or [{}]
                return group.get("last-delivered-id") == last and group["pending"] == 0

            wait_for(done)
            if rows[0] is LOG[0]:
                redis_admin.flushall()
        assert process.poll() is None
    assert_store_holds(redis_url, LOG[50:100])
