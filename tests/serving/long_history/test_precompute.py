"""`recsys precompute-states`: afterwards every long history has its state, and only what lacked one was computed."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from support.command_line import recsys
from support.redis_servers import eventually
from support.tiny_bundle import write_tiny_bundle
from support.tiny_sdim import RECENT, T0_MS, fill, random_events, sdim_bundle
from typer.testing import CliRunner

from recsys.bundle import open_bundle
from recsys.cli import app
from recsys.cli import serving as cli_serving
from recsys.errors import BundleError, InvalidInputError, ModelError, RecsysError, StoreUnavailableError
from recsys.feature_store.redis.keys import history_keys, state_key
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.feature_store.redis.values.state import StoredState, unpack_state
from recsys.features.history.records import encode_history
from recsys.serving.inference.graphs import load_graph
from recsys.serving.long_history import precompute as precompute_module
from recsys.serving.long_history.precompute import (
    PrecomputedStates,
    PrecomputeLimits,
    open_states,
    precompute_states,
    precompute_users,
)
from recsys.serving.long_history.users import ColdStates, all_users, cold_states, long_users

LENGTHS = {1: 10, 2: 132, 3: 133, 4: 400, 5: 5_000, 6: RECENT + 500, 70_000: 300}
LONG = [user for user, length in LENGTHS.items() if length > 132]
TTL_S = 1_000


def state_of(admin: redis.Redis, user: int) -> StoredState | None:
    bundle = sdim_bundle()
    assert bundle.manifest.state is not None
    rows, width = bundle.manifest.state.rows, bundle.manifest.state.width
    version = bundle.manifest.state_version
    value = admin.get(state_key(bundle.features.name, user, version))
    return None if value is None else unpack_state(value, version=version, rows=rows, width=width)


async def test_every_long_history_has_a_state_of_the_sums_of_its_events(
    redis_url: str, redis_admin: redis.Redis
) -> None:
    await fill(redis_url, LENGTHS)
    bundle = sdim_bundle()
    done = await asyncio.to_thread(precompute_states, bundle, redis_url, ttl_s=TTL_S)
    assert (done.users, done.written, done.short, done.kept, done.refused) == (7, len(LONG), 2, 0, 0)
    graph = load_graph(bundle, "encode", 1)
    store = RedisFeatureStore.connect(redis_url, bundle.features)
    for user, length in LENGTHS.items():
        state = state_of(redis_admin, user)
        if user not in LONG:
            assert state is None
            continue
        _, events = await store.history(user, timeout_s=5)
        (expected,) = graph.run(None, encode_history(bundle.features, events[-RECENT:]))
        assert state is not None and (state.covered, state.end) == (min(length, RECENT), length)
        np.testing.assert_allclose(state.sums, expected, rtol=0, atol=np.abs(expected).max() * 2.0**-10)
    await store.close()


async def test_again_it_writes_only_what_is_missing_or_lags_behind(redis_url: str, redis_admin: redis.Redis) -> None:
    await fill(redis_url, LENGTHS)
    bundle = sdim_bundle()
    await asyncio.to_thread(precompute_states, bundle, redis_url, ttl_s=TTL_S)
    store = RedisFeatureStore.connect(redis_url, bundle.features)
    for user, more in ((4, 31), (5, 32)):
        events = random_events(bundle.features, more, seed=9, start=LENGTHS[user])
        await store.append(user, events, timeout_s=5)
    await store.close()
    redis_admin.delete(state_key(bundle.features.name, 3, bundle.manifest.state_version))
    redis_admin.set(state_key(bundle.features.name, 70_000, bundle.manifest.state_version), b"half a sta")
    again = await asyncio.to_thread(precompute_states, bundle, redis_url, ttl_s=TTL_S)
    assert (again.written, again.kept, again.short) == (3, 2, 2)
    assert [getattr(state_of(redis_admin, user), "end", None) for user in (3, 5)] == [133, 5_032]


async def test_several_processes_do_the_same(
    redis_url: str, redis_admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precompute_module, "_USERS_PER_BATCH", 2)
    await fill(redis_url, LENGTHS)
    told: list[tuple[int, int]] = []
    looked: list[tuple[int, int]] = []
    done = await asyncio.to_thread(
        precompute_states,
        sdim_bundle(),
        redis_url,
        ttl_s=TTL_S,
        processes=2,
        progress=lambda d, total: told.append((d.users, total)),
        looking=lambda read, total: looked.append((read, total)),
    )
    assert (done.users, done.written, done.short) == (7, len(LONG), 2)
    assert len(told) == 4 and told[-1] == (7, 7)
    assert looked == [(7, 7)]
    assert all(state_of(redis_admin, user) is not None for user in LONG)


def _kill(users: list[int]) -> PrecomputedStates:
    os.kill(os.getpid(), signal.SIGKILL)
    return PrecomputedStates()


async def test_a_process_that_is_killed_is_named(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(redis_url, LENGTHS)
    monkeypatch.setattr(precompute_module, "_precompute_here", _kill)
    with pytest.raises(RecsysError, match="a process was killed, .*; run it again to go on"):
        await asyncio.to_thread(precompute_states, sdim_bundle(), redis_url, ttl_s=TTL_S, processes=2)


async def test_no_state_is_written_that_was_computed_from_a_table_that_was_written_over(
    redis_url: str, redis_admin: redis.Redis, tmp_path: Path
) -> None:
    await fill(redis_url, LENGTHS)
    shutil.copytree(sdim_bundle().path, tmp_path / "bundle")
    bundle = open_bundle(tmp_path / "bundle")
    table = max((tmp_path / "bundle" / "tables").iterdir(), key=lambda file: file.stat().st_size)

    def compute() -> None:
        with open_states(bundle, redis_url, ttl_s=TTL_S) as (store, states):
            with table.open("r+b") as stream:
                stream.write(bytes(64))
            precompute_users(store, states, LONG, ttl_s=TTL_S)

    with pytest.raises(ModelError, match=f"{table.name} was written to"):
        await asyncio.to_thread(compute)
    with pytest.raises(BundleError, match=f"{table.name} was altered"):  # in a process of the pool, too
        await asyncio.to_thread(
            precompute_states, bundle, redis_url, ttl_s=TTL_S, limits=PrecomputeLimits(low_priority=True)
        )
    assert all(state_of(redis_admin, user) is None for user in LONG)


async def test_a_history_that_is_not_ours_stops_nobody_else(redis_url: str, redis_admin: redis.Redis) -> None:
    await fill(redis_url, LENGTHS)
    redis_admin.set(
        history_keys(sdim_bundle().features.name, 2).open, b"something else, and long enough to be asked about"
    )
    done = await asyncio.to_thread(precompute_states, sdim_bundle(), redis_url, ttl_s=TTL_S)
    assert (done.refused, done.written) == (1, len(LONG))


async def test_users_are_found_whatever_else_is_in_redis(redis_url: str, redis_admin: redis.Redis) -> None:
    await fill(redis_url, {user: 1 for user in (3, 1 << 61, 0)})
    redis_admin.set("recsys:v1:{another:u:5}:h", b"x")
    redis_admin.set(f"recsys:v1:{{{sdim_bundle().features.name}:u:x}}:h", b"x")
    with open_states(sdim_bundle(), redis_url, ttl_s=TTL_S) as (store, _):
        assert (await asyncio.to_thread(all_users, store)).tolist() == [0, 3, 1 << 61]


async def active_now(url: str, users: Sequence[int]) -> None:
    """Give these users an event of a minute ago."""
    store = RedisFeatureStore.connect(url, sdim_bundle().features)
    for user in users:
        start = time.time_ns() // 1_000_000 - 60_000 - T0_MS
        await store.append(user, random_events(sdim_bundle().features, 1, seed=1, start=start), timeout_s=5)
    await store.close()


async def test_users_with_a_long_history_are_found_those_active_last_first(redis_url: str) -> None:
    await fill(redis_url, LENGTHS)
    await active_now(redis_url, [3, 1])
    with open_states(sdim_bundle(), redis_url, ttl_s=TTL_S) as (store, _):
        found = await asyncio.to_thread(long_users, store, sdim_bundle())
        assert found.keys.tolist() == [3, 6, 5, 4, 70_000]
        assert (found.total, found.short, found.inactive, found.refused) == (7, 2, 0, 0)


async def test_users_who_were_not_active_lately_are_left_out_and_counted(
    redis_url: str, redis_admin: redis.Redis
) -> None:
    await fill(redis_url, LENGTHS)
    await active_now(redis_url, [3, 5])
    lately = PrecomputeLimits(active_within_s=3_600)
    done = await asyncio.to_thread(precompute_states, sdim_bundle(), redis_url, ttl_s=TTL_S, limits=lately)
    assert (done.users, done.written, done.short, done.inactive) == (7, 2, 2, 3)
    assert [user for user in LENGTHS if state_of(redis_admin, user)] == [3, 5]
    arguments = ("precompute-states", str(sdim_bundle().path), "--redis-url", redis_url)
    told = await asyncio.to_thread(CliRunner().invoke, app, [*arguments, "--active-within-s", "30"])
    assert "7 users in" in told.stdout and "5 users not active lately left out" in told.stdout


async def test_no_more_users_are_read_in_a_second_than_allowed_and_a_long_history_counts_as_several(
    redis_url: str, redis_admin: redis.Redis
) -> None:
    await fill(redis_url, LENGTHS)
    redis_admin.config_resetstat()
    slow = PrecomputeLimits(max_users_per_s=20)
    done = await asyncio.to_thread(precompute_states, sdim_bundle(), redis_url, ttl_s=TTL_S, limits=slow)
    blocks = sum((min(length, RECENT) - 132) // 1_024 for length in LENGTHS.values() if length > 132)
    assert done.written == len(LONG) and done.elapsed_s >= (len(LONG) + blocks) / 20
    assert redis_admin.info("commandstats")["cmdstat_lrange"]["calls"] <= len(LONG) + 2 * blocks


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="this system knows no idle scheduling")
async def test_states_are_computed_while_nothing_else_wants_the_core(redis_url: str) -> None:
    await fill(redis_url, LENGTHS)
    found: set[int] = set()

    def look(*_: object) -> None:
        found.update(os.sched_getscheduler(child.pid or 0) for child in multiprocessing.active_children())

    low = PrecomputeLimits(low_priority=True)
    done = await asyncio.to_thread(precompute_states, sdim_bundle(), redis_url, ttl_s=TTL_S, limits=low, progress=look)
    assert done.written == len(LONG)
    assert found == {os.SCHED_IDLE}


@pytest.mark.parametrize("limits", [{"max_users_per_s": -1.0}, {"active_within_s": -1}])
def test_a_limit_below_nothing_is_refused(limits: dict[str, Any]) -> None:
    (name,) = limits
    with pytest.raises(InvalidInputError, match=f"{name} is -1.*; allowed: 0 for no bound, or more"):
        PrecomputeLimits(**limits)


async def test_cold_states_are_those_that_users_lack_who_need_one(redis_url: str, redis_admin: redis.Redis) -> None:
    await fill(redis_url, LENGTHS)
    await active_now(redis_url, [1, 3, 5])
    bundle, ever = sdim_bundle(), 10 * 365 * 86_400

    def cold(**more: Any) -> ColdStates:
        with open_states(bundle, redis_url, ttl_s=TTL_S) as (store, _):
            return cold_states(bundle, store, **more)

    found = await asyncio.to_thread(cold, active_within_s=ever)
    assert (found.looked_at, found.cold, found.share) == (5, 5, 1.0)
    assert (await asyncio.to_thread(cold, active_within_s=3_600)).looked_at == 2
    assert (await asyncio.to_thread(cold, active_within_s=ever, sample=3)).looked_at == 3
    assert await asyncio.to_thread(cold, active_within_s=ever, timeout_s=0.0) == ColdStates(looked_at=0, cold=0)
    await asyncio.to_thread(precompute_states, bundle, redis_url, ttl_s=TTL_S)
    redis_admin.delete(state_key(bundle.features.name, 5, bundle.manifest.state_version))
    assert (await asyncio.to_thread(cold, active_within_s=ever)).share == 0.2


def test_of_a_bundle_without_a_state_and_of_an_empty_store_nothing_is_cold(redis_url: str, tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "tiny")
    with open_states(sdim_bundle(), redis_url, ttl_s=TTL_S) as (store, _):
        for bundle in (open_bundle(tmp_path / "tiny"), sdim_bundle()):
            assert cold_states(bundle, store, active_within_s=3_600).share == 0.0


def test_a_bundle_without_a_state_is_refused(redis_url: str, tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "tiny")
    with pytest.raises(InvalidInputError, match="model 'tiny' keeps no state of users: none to compute"):
        precompute_states(open_bundle(tmp_path / "tiny"), redis_url, ttl_s=TTL_S)
    with pytest.raises(InvalidInputError, match="processes is 0; allowed: 1 or more"):
        precompute_states(sdim_bundle(), redis_url, ttl_s=TTL_S, processes=0)


def test_without_redis_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError):
        precompute_states(sdim_bundle(), f"unix://{tmp_path}/none.sock", ttl_s=TTL_S)


def test_nobody_to_compute_for_is_no_error(redis_url: str) -> None:
    done = precompute_states(sdim_bundle(), redis_url, ttl_s=TTL_S, processes=2)
    assert done + PrecomputedStates(users=1, elapsed_s=-done.elapsed_s) == PrecomputedStates(users=1)


async def test_the_command_tells_what_it_did(redis_url: str, tmp_path: Path) -> None:
    await fill(redis_url, LENGTHS)
    arguments = ("precompute-states", str(sdim_bundle().path), "--redis-url", redis_url, "--processes", "2")
    told = await asyncio.to_thread(recsys, *arguments, cwd=tmp_path)
    assert told.returncode == 0 and f"{len(LONG)} states written" in told.stdout
    again = await asyncio.to_thread(recsys, *arguments, "--json", cwd=tmp_path)
    counts = json.loads(again.stdout)
    assert (counts["users"], counts["written"], counts["kept"], counts["short"]) == (7, 0, len(LONG), 2)


def test_interrupted_before_its_first_batch_it_says_that_it_can_be_run_again(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*given: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("recsys.serving.long_history.precompute.precompute_states", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cli_serving.precompute_states(sdim_bundle().path, redis_url=redis_url)
    assert capsys.readouterr().err == "broken off; run it again to go on\n"


async def test_broken_off_it_goes_on_where_it_was(redis_url: str, redis_admin: redis.Redis, tmp_path: Path) -> None:
    await fill(redis_url, {user: 140 for user in range(1_000)})
    command = [
        sys.executable,
        "-m",
        "recsys.cli",
        "precompute-states",
        str(sdim_bundle().path),
        "--redis-url",
        redis_url,
    ]
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    await asyncio.to_thread(eventually, lambda: redis_admin.keys("*:s:*"))
    process.send_signal(signal.SIGINT)
    _, told = await asyncio.to_thread(process.communicate, timeout=30)
    assert process.returncode in (0, 130) and T0_MS < time.time() * 1000
    if process.returncode == 130:
        assert "run it again to go on" in told.decode()
    before = len(redis_admin.keys("*:s:*"))
    done = await asyncio.to_thread(precompute_states, sdim_bundle(), redis_url, ttl_s=TTL_S)
    assert (done.kept, done.written) == (before, 1_000 - before)
