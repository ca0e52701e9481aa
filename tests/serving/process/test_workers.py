"""Several worker processes on one port: a worker that dies, does not start, drains; a supervisor that dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
import redis
from support.tiny_bundle import FEATURES
from support.tiny_workers import Callers, connections, pids, until, workers

from recsys.client import Client
from recsys.errors import BundleError, ConfigError, StoreFormatError
from recsys.feature_store.redis.keys import meta_key
from recsys.serving.process.serve import serve
from recsys.serving.process.server import running_server
from recsys.serving.process.workers import worker
from recsys.serving.settings import Settings


def runs(pid: int) -> bool:
    """Whether a process is there, and not only waiting to be asked for its exit code."""
    try:
        return re.search(r"^State:\s+Z", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE) is None
    except FileNotFoundError:
        return False


async def test_a_worker_that_is_killed_is_replaced_and_other_connections_notice_nothing(
    tiny_bundle: Path, tmp_path: Path, redis_url: str
) -> None:
    with workers(tmp_path, tiny_bundle, redis_url) as server:
        callers = Callers(server.address, 12)
        running = [asyncio.create_task(callers.call(i)) for i in range(12)]
        await callers.all_answered(20)
        killed, other = server.facts["workers"]
        lost = connections(killed, server.facts["port"])
        assert lost + connections(other, server.facts["port"]) == 12
        os.kill(killed, signal.SIGKILL)
        replaced = asyncio.to_thread(until, lambda: len(now := pids(tmp_path)) == 2 and killed not in now)
        await replaced
        await callers.all_answered(20)
        callers.stop = True
        await asyncio.gather(*running)
        await callers.close()
        assert other in pids(tmp_path)
        facts = json.loads((tmp_path / "ready.json").read_text())
        assert facts["start_s"] == server.facts["start_s"], "what the server's start took, not a worker's age"
        failed = [codes for codes in callers.failed if codes]
        assert len(failed) <= lost, "only callers of the killed worker may have failed"
        assert all(code == grpc.StatusCode.UNAVAILABLE for codes in failed for code in codes)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        assert server.process.stderr is not None
        assert f"worker 1 (pid {killed}) was killed by SIGKILL; restarting" in server.process.stderr.read()


def test_each_client_has_a_connection_of_its_own(tiny_bundle: Path, tmp_path: Path, redis_url: str) -> None:
    with workers(tmp_path, tiny_bundle, redis_url) as server, contextlib.ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(Client(server.address)).rank(user=1, candidates=[1])
        assert sum(connections(pid, server.facts["port"]) for pid in server.facts["workers"]) == 6


async def test_at_sigterm_all_workers_finish_what_they_do(tiny_bundle: Path, tmp_path: Path, redis_url: str) -> None:
    with workers(tmp_path, tiny_bundle, redis_url) as server:
        callers = Callers(server.address, 8)
        running = [asyncio.create_task(callers.call(i)) for i in range(8)]
        await callers.all_answered(20)
        server.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.process.wait, 20) == 0
        callers.stop = True
        await asyncio.gather(*running)
        await callers.close()
        # CANCELLED is gRPC's own, for a call that has come and is not yet handled when the server stops.
        allowed = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert {code for codes in callers.failed for code in codes} <= allowed
        assert not any(runs(pid) for pid in server.facts["workers"])
        assert not (tmp_path / "ready.json").exists()
        assert server.process.stderr is not None
        log = server.process.stderr.read()
        assert f"on {server.address} with 2 workers" in log and "draining" in log and "stopped" in log
        assert "Traceback" not in log and "Fatal" not in log


def test_workers_end_with_a_supervisor_that_is_killed(tiny_bundle: Path, tmp_path: Path, redis_url: str) -> None:
    with workers(tmp_path, tiny_bundle, redis_url) as server:
        assert all(runs(pid) for pid in server.facts["workers"])
        server.process.kill()
        until(lambda: not any(runs(pid) for pid in server.facts["workers"]))


def test_a_worker_that_does_not_end_is_ended_all_the_same_when_its_supervisor_is_gone() -> None:
    hung = (
        "import signal, threading, time; from recsys.serving import worker; "
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "threading.Thread(target=worker._end_with_supervisor, args=(0.1,), daemon=True).start(); time.sleep(600)"
    )
    command = [sys.executable, "-c", hung]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, timeout=60, check=False).returncode == 1


def test_a_supervisor_loads_what_it_uses_and_not_what_workers_use() -> None:
    modules = "recsys.serving.process.workers.supervisor, recsys.serving.telemetry.prometheus"
    code = f"import sys, {modules}; print(*{{'grpc', 'onnxruntime', 'torch'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not pin processes to cores")
def test_a_worker_whose_core_was_taken_away_runs_on_any(caplog: pytest.LogCaptureFixture) -> None:
    cores = os.sched_getaffinity(0)
    worker._pin_to(100_000)
    assert os.sched_getaffinity(0) == cores
    assert "cannot be pinned to core 100000: Invalid argument; running on any" in caplog.text


def test_a_ready_file_that_cannot_be_renewed_ends_nothing(tiny_bundle: Path, tmp_path: Path, redis_url: str) -> None:
    with workers(tmp_path, tiny_bundle, redis_url) as server, Client(server.address) as client:
        (tmp_path / "ready.json").unlink()
        (tmp_path / "ready.json").mkdir()
        killed, other = server.facts["workers"]
        os.kill(killed, signal.SIGKILL)
        until(lambda: any(pid not in (killed, other) for pid in children(server.process.pid) if runs(pid)))
        client.wait_ready()
        assert len(client.rank(user=1, candidates=[1, 2], timeout_s=10.0).scores) == 2
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        assert server.process.stderr is not None
        assert f"ready file '{tmp_path}/ready.json' cannot be written: Is a directory" in server.process.stderr.read()


def test_a_private_redis_is_shared_by_the_workers(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = str(tmp_path / "redis")
    with workers(tmp_path, tiny_bundle, "", RECSYS_REDIS_DIR=folder) as server, Client(server.address) as client:
        client.append_events(user=1, items=[5], timestamps_ms=[time.time_ns() // 1_000_000])
        os.kill(server.facts["workers"][0], signal.SIGKILL)
        until(lambda: len(now := pids(tmp_path)) == 2 and server.facts["workers"][0] not in now)
        client.wait_ready()
        assert client.get_history(user=1).items.tolist() == [5]
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0


def test_a_signal_while_workers_start_ends_them(tiny_bundle: Path, tmp_path: Path) -> None:
    from support.tiny_server import start_server_process

    variables = {"RECSYS_BUNDLE": str(tiny_bundle), "RECSYS_WORKERS": "2", "RECSYS_REDIS_DIR": str(tmp_path / "redis")}
    with start_server_process(tmp_path, **variables) as process:
        started = until(
            lambda: [p for p in children(process.pid) if b"recsys.serving.process.workers.worker" in command(p)]
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 130
        assert not any(runs(pid) for pid in started)


def children(pid: int) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


def test_what_keeps_a_worker_from_starting_ends_the_start(
    tiny_bundle: Path, redis_url: str, redis_admin: redis.Redis, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="bundle is not set"):
        serve(Settings(redis_url=redis_url, port=0, workers=2))
    with pytest.raises(BundleError, match="not a bundle"):
        serve(Settings(bundle=tmp_path, redis_url=redis_url, port=0, workers=2))
    redis_admin.hset(meta_key(FEATURES.name), "history", "another layout")
    with pytest.raises(StoreFormatError, match="another layout"):
        serve(Settings(bundle=tiny_bundle, redis_url=redis_url, port=0, workers=2))


def test_a_worker_that_cannot_be_started_again_is_tried_until_it_can(
    tiny_bundle: Path, tmp_path: Path, redis_url: str, redis_admin: redis.Redis
) -> None:
    with workers(tmp_path, tiny_bundle, redis_url) as server:
        layout = redis_admin.hget(meta_key(FEATURES.name), "history")
        redis_admin.hset(meta_key(FEATURES.name), "history", "another layout")
        os.kill(server.facts["workers"][1], signal.SIGKILL)
        until(lambda: pids(tmp_path) == server.facts["workers"][:1])
        if layout is None:
            redis_admin.hdel(meta_key(FEATURES.name), "history")
        else:
            redis_admin.hset(meta_key(FEATURES.name), "history", layout)
        until(lambda: len(pids(tmp_path)) == 2)
        server.process.terminate()
        assert server.process.wait(60) == 0


def test_when_no_worker_can_be_started_again_the_server_ends(
    tiny_bundle: Path, tmp_path: Path, redis_url: str, redis_admin: redis.Redis
) -> None:
    with workers(tmp_path, tiny_bundle, redis_url) as server:
        redis_admin.hset(meta_key(FEATURES.name), "history", "another layout")
        for pid in server.facts["workers"]:
            os.kill(pid, signal.SIGKILL)
        assert server.process.wait(60) == 1
        assert server.process.stderr is not None
        log = server.process.stderr.read()
        assert "worker 2 could not start (1 times in a row): " in log
        assert "StoreFormatError" in log and "another layout" in log
        assert not (tmp_path / "ready.json").exists()


def test_a_taken_port_is_refused_by_its_name(tiny_bundle: Path, redis_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            serve(Settings(bundle=tiny_bundle, redis_url=redis_url, port=port, workers=2))
    with running_server(Settings(bundle=tiny_bundle, port=0, redis_url=redis_url)) as first:
        with pytest.raises(ConfigError, match="Address already in use"):
            serve(Settings(bundle=tiny_bundle, redis_url=redis_url, port=first.port, workers=2))


def test_a_server_cannot_take_the_port_of_workers(tiny_bundle: Path, tmp_path: Path, redis_url: str) -> None:
    with workers(tmp_path, tiny_bundle, redis_url) as server:
        for count in (1, 2):
            with pytest.raises(ConfigError, match="Address already in use"):
                serve(Settings(bundle=tiny_bundle, redis_url=redis_url, port=server.facts["port"], workers=count))


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not pin processes to cores")
def test_as_many_workers_as_cores_keep_to_a_core_each(tiny_bundle: Path, tmp_path: Path, redis_url: str) -> None:
    cores = os.sched_getaffinity(0)
    with workers(tmp_path, tiny_bundle, redis_url, RECSYS_WORKERS="0") as server:
        assert len(server.facts["workers"]) == len(cores)
        if len(cores) > 1:
            assert {c for pid in server.facts["workers"] for c in os.sched_getaffinity(pid)} == cores
            assert all(len(os.sched_getaffinity(pid)) == 1 for pid in server.facts["workers"])
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(20)
    with workers(tmp_path, tiny_bundle, redis_url, RECSYS_WORKERS="0", RECSYS_PIN_WORKERS="off") as server:
        assert all(os.sched_getaffinity(pid) == cores for pid in server.facts["workers"])
