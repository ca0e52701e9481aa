"""The store on every Redis and Valkey that this machine has; the contract's suite runs on the default one."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from contracts.feature_store_contract.shop import SHOP, T0_MS, USER, events_of, rows_of
from support.paths import ROOT
from support.redis_servers import SERVERS, Server, running

from recsys.feature_store.base import StateRead
from recsys.feature_store.embedded.server import redis_binary
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.entities import make_columns
from recsys.features.history.records import require_history

OTHERS = {name: program for name, program in SERVERS.items() if program != redis_binary()}


@pytest.mark.parametrize("program", SERVERS.values(), ids=SERVERS)
async def test_what_is_written_is_read_in_every_way(tmp_path: Path, program: str) -> None:
    features = replace(
        SHOP, history=replace(require_history(SHOP), max_events=400, recent=4, ttl_s=10**6, max_age_s=10**6)
    )
    rows = [(t, t, 1, t) for t in range(500)]
    server = Server(folder=tmp_path / "a", lines=(), program=program)
    with running(server):
        store = RedisFeatureStore.connect(f"redis://{server.address}", features)
        following = asyncio.create_task(store.follow_items())
        for part in (rows[:100], rows[101:], rows[100:101], rows):  # one comes late, and all a second time
            server.ask("SCRIPT", "FLUSH")
            await store.append(USER, events_of(part), timeout_s=5)
        header, events = await store.history(USER, timeout_s=5)
        assert rows_of(events) == rows[100:] and (header.appended, header.trimmed) == (500, 100)
        sent = [(8, events_of(rows[:3])), (9, events_of(rows[:2]))]
        offsets = [np.arange(3), np.arange(2)]
        for added in (3, 0):
            results = await store.append_many(sent, source="s", offsets=offsets, timeout_s=5)
            assert (results[0].added, results[0].stored) == (added, 3)
        await store.replace_many([(9, events_of(rows[:1]))], arrived_until_ms=T0_MS + 99, timeout_s=5)
        assert [len(e) for _, e in await store.histories([8, 9, 10], limit=5, timeout_s=5)] == [3, 1, 0]
        assert sorted([user async for some in store.users() for user in some]) == [USER, 8, 9]
        items, columns = np.array([1, 2]), make_columns(SHOP.item, {"price": [1.0, 2.0]}, length=2)
        await store.put_entities("item", items, columns, timeout_s=5)
        await store.put_states([(USER, b"state")], version="v", ttl_s=60, timeout_s=5)
        await store.save_position("log", "5", timeout_s=5)
        assert await store.positions(timeout_s=5) == {"log": "5"}
        state = StateRead(version="v", tail=4)
        read = await store.read_for_rank(USER, items, time_ms=T0_MS + 500, timeout_s=5, state=state)
        assert (read.state, read.item_columns["price"].tolist()) == (b"state", [1.0, 2.0])
        assert not read.user_degraded and not read.items_degraded
        await store.ping(timeout_s=5)
        following.cancel()
        await store.close()


@pytest.mark.prove
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("program", OTHERS.values(), ids=OTHERS)
def test_the_suites_of_the_store_and_of_ingest_pass_on_it_too(program: str) -> None:
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-m", "not prove"]
    with tempfile.TemporaryDirectory() as folder:  # its name is short: some tests hold sockets to lie in theirs
        run = subprocess.run(
            [*command, "--basetemp", f"{folder}/t", "tests/feature_store", "tests/ingest"],
            cwd=ROOT,
            env={**os.environ, "RECSYS_REDIS_SERVER": program},
            capture_output=True,
            text=True,
        )
    assert run.returncode == 0, run.stdout[-5_000:]
