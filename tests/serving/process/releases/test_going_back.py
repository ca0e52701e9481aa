"""Servers that go back by themselves, for real: from a release that fails, is damaged, or kills workers."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from support.release_store import CANDIDATES, Load, TinyStore, live, release_server
from support.tiny_bundle import FEATURES, ITEMS, write_tiny_bundle
from support.tiny_server import ServerProcess, start_server_process
from support.tiny_workers import pids, until

from recsys.client import Client, RpcError
from recsys.releases.release import RELEASES


def fail_until_left(server: ServerProcess, store: TinyStore, model: str) -> None:
    """Call for what a broken release has no number for, until the server leaves it."""
    with Client(server.address) as client:

        def left() -> bool:
            with contextlib.suppress(RpcError):
                client.rank(user=1, candidates=CANDIDATES, model=model, timeout_s=20.0)
            return bool(store.status().refused.startswith("went back: "))

        until(left)


def push_broken(store: TinyStore, folder: Path) -> str:
    """A release that knows no number for item 5, which no request of a load time asks for."""
    items = (2 * ITEMS).astype(np.float32)
    items[CANDIDATES[0]] = np.nan
    write_tiny_bundle(folder, items=items)
    name = store.push_bundle(folder)
    store.expected[name] = np.full(len(CANDIDATES), np.nan)
    return name


def test_a_release_whose_calls_fail_is_left_within_seconds_also_after_a_restart(tmp_path: Path, redis_url: str) -> None:
    store = TinyStore(tmp_path)
    good = store.push(1.0)
    broken = push_broken(store, tmp_path / "broken")
    store.promote(good)
    more = {"RECSYS_RELEASE_REPLAY": "0", "RECSYS_WORKERS": "1", "RECSYS_PORT": "0"}
    with release_server(tmp_path / "server", store, redis_url, **more) as server:
        port = str(server.facts["port"])
        with Load(server.address, store) as load:
            load.until_answered(good, 200)
            store.promote(broken)
            reason = until(lambda: (refused := store.status().refused).startswith("went back: ") and refused)
            load.until_answered(good, 200)
        assert broken in reason and good in reason and "failed" in reason and "RELEASE_MAX_ERRORS" in reason.upper()
        assert load.failed and load.wrong == []
        assert all(broken in str(error) for error in load.failed), "the error names the release"
        assert store.status().models["tiny"].live == good
    with release_server(tmp_path / "again", store, redis_url, **{**more, "RECSYS_PORT": port}) as server:
        assert live(server) == good
        until(lambda: store.status().refused == reason)
        better = store.push(1.1)
        store.promote(better)
        until(lambda: live(server) == better)
        assert until(lambda: not store.status().refused)


def test_a_live_release_that_is_cut_off_in_the_store_is_left_for_the_one_before_it(
    tmp_path: Path, redis_url: str
) -> None:
    store = TinyStore(tmp_path)
    before, cut = store.push(1.0), store.push(1.2)
    store.promote(before)
    store.promote(cut)
    with release_server(tmp_path / "server", store, redis_url) as server:
        assert live(server) == cut
        file = store.path / RELEASES / cut / "ranking" / "tables" / "items.bin"
        with Load(server.address, store) as load:
            load.until_answered(cut)
            os.chmod(file, 0o644)
            os.truncate(file, 8)
            load.until_answered(before, 50)
        assert load.wrong == [] and server.process.poll() is None
        assert all(cut in str(error) for error in load.failed)
        assert "items.bin" in until(lambda: store.status().refused)


def test_a_kept_release_that_was_damaged_answers_nobody_until_it_is_repaired(tmp_path: Path, redis_url: str) -> None:
    store = TinyStore(tmp_path)
    good, other = store.push(1.0), store.push(1.2)
    store.promote(other)
    with release_server(tmp_path / "server", store, redis_url) as server, Load(server.address, store) as load:
        load.until_answered(other)
        store.promote(good)
        load.until_answered(good)
        file = store.path / RELEASES / other / "ranking" / "tables" / "items.bin"
        whole = file.read_bytes()
        os.chmod(file, 0o644)
        file.write_bytes(bytes(len(whole)))
        until(lambda: any("items.bin" in warning for warning in store.status().warnings))
        store.promote(other)
        assert "items.bin" in until(lambda: store.status().refused)
        assert live(server) == good
        store.promote(good)
        until(lambda: not store.status().refused)
        file.write_bytes(whole)
        store.promote(other)
        load.until_answered(other, 50)
        until(lambda: not store.status().warnings)
    assert load.failed == [] and load.wrong == []


def test_workers_that_end_again_and_again_since_a_switch_are_a_reason_to_go_back(
    tmp_path: Path, redis_url: str
) -> None:
    store = TinyStore(tmp_path)
    first, second = store.push(1.0), store.push(1.2)
    store.promote(first)
    with release_server(tmp_path / "server", store, redis_url, RECSYS_RELEASE_REPLAY="0") as server:
        store.promote(second)
        until(lambda: store.status().models["tiny"].live == second)
        for _ in range(3):
            victim = until(lambda: len(both := pids(tmp_path / "server")) == 2 and both)[0]
            os.kill(victim, signal.SIGKILL)
            until(lambda victim=victim: victim not in pids(tmp_path / "server"))
        assert "3 workers ended by themselves since" in until(lambda: store.status().refused)
        until(lambda: live(server) == first)


def test_a_release_that_no_worker_can_start_with_is_left_at_the_start(tmp_path: Path, redis_url: str) -> None:
    store = TinyStore(tmp_path)
    good = store.push(1.0)
    store.promote(good)
    # Its files are those of its manifest, and its FeatureSet is none that the store can hold beside the other's.
    write_tiny_bundle(tmp_path / "odd", features=dataclasses.replace(FEATURES, user=()))
    odd = store.push_bundle(tmp_path / "odd")
    store.promote(odd)
    with release_server(tmp_path / "server", store, redis_url) as server:
        assert live(server) == good
        assert "no worker starts" in until(lambda: store.status().refused)


def test_a_worker_that_is_started_again_needs_no_release_that_is_only_kept(tmp_path: Path, redis_url: str) -> None:
    store = TinyStore(tmp_path)
    kept, second = store.push(1.0), store.push(1.2)
    store.promote(kept)
    with release_server(tmp_path / "server", store, redis_url) as server:
        store.promote(second)
        until(lambda: store.status().models["tiny"].live == second and kept in store.status().loaded)
        shutil.move(store.path / RELEASES / kept, tmp_path / "away")
        victim = pids(tmp_path / "server")[0]
        os.kill(victim, signal.SIGKILL)
        both = until(lambda: victim not in (now := pids(tmp_path / "server")) and len(now) == 2 and now)
        assert {live(server) for _ in range(6)} == {second} and len(both) == 2


def test_a_server_of_several_models_starts_again_with_what_it_had_gone_back_to(tmp_path: Path, redis_url: str) -> None:
    store = TinyStore(tmp_path)
    first, second, other = store.push(1.0), store.push(1.1), store.push(1.2)
    broken = push_broken(store, tmp_path / "broken")
    store.promote(first)  # with none before it
    store.promote(second, model="second")
    more = {"RECSYS_RELEASE_REPLAY": "0", "RECSYS_WORKERS": "1"}
    with release_server(tmp_path / "server", store, redis_url, **more) as server:
        store.promote(broken, model="second")
        until(lambda: live(server, "second") == broken)
        # A switch of another model does not end the watch, and is not what is gone back from.
        store.promote(other)
        until(lambda: live(server) == other)
        fail_until_left(server, store, "second")
        until(lambda: live(server, "second") == second)
        assert live(server) == other
        port, reason = str(server.facts["port"]), store.status().refused
        server.process.terminate()
        server.process.wait(30)
    with release_server(tmp_path / "again", store, redis_url, **more, RECSYS_PORT=port) as server:
        assert (live(server), live(server, "second")) == (other, second)
        until(lambda: store.status().refused == reason)


def test_a_start_without_a_release_that_a_worker_can_start_with_ends(tmp_path: Path, redis_url: str) -> None:
    store = TinyStore(tmp_path)
    before = store.push(1.0)
    store.promote(before)
    write_tiny_bundle(tmp_path / "odd", features=dataclasses.replace(FEATURES, user=()))
    store.promote(store.push_bundle(tmp_path / "odd"))
    graph = store.path / RELEASES / before / "ranking" / "user.onnx"
    os.chmod(graph.parent, 0o755)
    graph.unlink()
    process = start_server_process(tmp_path, RECSYS_RELEASES=str(store.path), REDIS_URL=redis_url, RECSYS_WORKERS="2")
    errors = process.communicate(timeout=60)[1]
    assert process.returncode != 0
    assert "graph 'user', input 'age'" in errors and "refused: " in errors and "user.onnx is missing" in errors


def test_a_damaged_release_with_none_before_it_answers_again_when_it_is_repaired_and_asked_for(
    tmp_path: Path, redis_url: str
) -> None:
    store = TinyStore(tmp_path)
    only = store.push(1.0)
    store.promote(only)
    with release_server(tmp_path / "server", store, redis_url) as server:
        file = store.path / RELEASES / only / "ranking" / "tables" / "items.bin"
        os.chmod(file, 0o644)
        file.write_bytes(bytes(len(file.read_bytes())))
        until(lambda: store.status().warnings)
        with Client(server.address) as client, pytest.raises(RpcError, match="INTERNAL.*is damaged"):
            client.rank(user=1, candidates=CANDIDATES, timeout_s=20.0)
        store.push_bundle(tmp_path / "bundle-1")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: not store.status().warnings)
        with Load(server.address, store) as load:
            load.until_answered(only, 50)
        assert load.failed == [] and load.wrong == []
