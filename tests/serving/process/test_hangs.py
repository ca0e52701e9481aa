"""Workers and servers that hang without dying are noticed, and replaced or reported; busy ones are kept."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.metrics_page import page_series, total
from support.tiny_server import ServerProcess, server_process, stalled
from support.tiny_workers import Callers, connections, pids, until, workers

from recsys.client import Client
from recsys.proto.ranker_pb2 import Id, Ids, RankRequest
from recsys.serving.inference.fair_lock import FairLock
from recsys.serving.process.server import running_server
from recsys.serving.settings import Settings

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING

# Ways to hang that a server takes at SIGUSR2, in every process that finds this module on its path.
SITE = """
import ctypes, signal, sys

def hang(number, frame):
    {how}

if "recsys.serving.process.workers.worker" in " ".join(sys.orig_argv):
    signal.signal(signal.SIGUSR2, hang)
"""
KEEPS_THE_LOCK = "lock = ctypes.PyDLL(None).pthread_mutex_lock; mutex = bytes(64); lock(mutex); lock(mutex)"
KEEPS_THE_MODEL = "import recsys.serving.inference.fair_lock as t; t.FairLock._release = lambda lock: None"
NO_MORE_THREADS = "from concurrent.futures import ThreadPoolExecutor as pool; pool.submit = None"

HANG_S = 4.0
"""Less, and a worker that only waits for a busy machine counts as hung."""

LONGER_S = 1.5 * HANG_S


@contextlib.contextmanager
def hangable(folder: Path, bundle: Path, redis_url: str, how: str, **more: str) -> Iterator[ServerProcess]:
    """Two workers that hang at SIGUSR2."""
    site = folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE.format(how=how))
    with workers(folder, bundle, redis_url, PYTHONPATH=str(site), RECSYS_HANG_TIMEOUT_S=str(HANG_S), **more) as server:
        yield server


def log_until_its_end(server: ServerProcess) -> str:
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0
    assert server.process.stderr is not None
    return server.process.stderr.read()


async def test_a_worker_that_is_stopped_is_replaced_and_other_connections_notice_nothing(
    tiny_bundle: Path, tmp_path: Path, redis_url: str
) -> None:
    with hangable(tmp_path, tiny_bundle, redis_url, "pass", RECSYS_METRICS_PORT="0") as server:
        callers = Callers(server.address, 12)
        running = [asyncio.create_task(callers.call(i)) for i in range(12)]
        await callers.all_answered(20)
        stopped, other = server.facts["workers"]
        lost = connections(stopped, server.facts["port"])
        assert lost + connections(other, server.facts["port"]) == 12
        os.kill(stopped, signal.SIGSTOP)
        await asyncio.to_thread(until, lambda: len(now := pids(tmp_path)) == 2 and stopped not in now)
        await callers.all_answered(20)
        callers.stop = True
        await asyncio.gather(*running)
        await callers.close()
        assert other in pids(tmp_path)
        assert len([codes for codes in callers.failed if codes]) <= lost, "only callers of the stopped worker"
        page = urllib.request.urlopen(server.facts["metrics"]).read().decode()
        assert 'recsys_restarts_total{reason="hung"} 1.0' in page
        assert 'recsys_restarts_total{reason="died"} 0.0' in page
        log = log_until_its_end(server)
        hangs = rf"worker 1 \(pid {stopped}\) hangs: no request got through for [45] s, no heartbeat: stopped"
        assert re.search(hangs, log)
        assert f"worker 1 (pid {stopped}) hung and was killed by SIGKILL; restarting" in log


@pytest.mark.parametrize(
    ("how", "last", "stack"),
    [
        (KEEPS_THE_MODEL, "waiting for the lock of the model", "in work"),
        # In one process these are found in test_watchdog.py.
        pytest.param(KEEPS_THE_LOCK, "no heartbeat: stopped, or in native code", "in hang", marks=pytest.mark.prove),
        pytest.param(NO_MORE_THREADS, "waiting for a thread to handle a call: ", "in work", marks=pytest.mark.prove),
    ],
)
def test_a_worker_that_hangs_says_where_and_is_replaced(
    tiny_bundle: Path, tmp_path: Path, redis_url: str, how: str, last: str, stack: str
) -> None:
    with hangable(tmp_path, tiny_bundle, redis_url, how) as server:
        hung, other = server.facts["workers"]
        os.kill(hung, signal.SIGUSR2)
        until(lambda: len(now := pids(tmp_path)) == 2 and hung not in now)
        assert other in pids(tmp_path)
        with Client(server.address) as client:
            assert len(client.rank(user=1, candidates=[1, 2], timeout_s=10.0).scores) == 2
        log = log_until_its_end(server)
        assert re.search(rf"worker 1 \(pid {hung}\) hangs: no request got through for [45] s, {last}", log)
        assert stack in log.partition("its stacks:")[2]


@pytest.mark.prove  # test_watchdog.py has a queue that moves, in one process
async def test_workers_with_long_work_and_a_slow_store_are_kept(
    tiny_bundle: Path, tmp_path: Path, redis_url: str, redis_admin: redis.Redis
) -> None:
    large = RankRequest(user=Id(integer=1), candidates=Ids(integers=range(10_000)))
    more = {"RECSYS_HANG_TIMEOUT_S": str(HANG_S), "RECSYS_STORE_TIMEOUT_MS": "20000"}
    with workers(tmp_path, tiny_bundle, redis_url, **more) as server:
        callers = Callers(server.address, 12, request=large)
        running = [asyncio.create_task(callers.call(i)) for i in range(12)]
        await asyncio.sleep(LONGER_S)
        with stalled(redis_admin):
            await asyncio.sleep(LONGER_S)
        await callers.all_answered(1)
        callers.stop = True
        await asyncio.gather(*running)
        await callers.close()
        assert pids(tmp_path) == server.facts["workers"]
        assert not any(callers.failed)
        assert "hangs" not in log_until_its_end(server)


def test_a_worker_may_drain_for_longer_than_it_may_hang(
    tiny_bundle: Path, tmp_path: Path, redis_url: str, redis_admin: redis.Redis
) -> None:
    more = {"RECSYS_WORKERS": "2", "RECSYS_HANG_TIMEOUT_S": str(HANG_S), "RECSYS_STORE_TIMEOUT_MS": "20000"}
    with workers(tmp_path, tiny_bundle, redis_url, **more) as server, Client(server.address) as client:
        client.wait_ready()
        (drained,) = (pid for pid in server.facts["workers"] if connections(pid, server.facts["port"]))
        with ThreadPoolExecutor(1) as pool, stalled(redis_admin) as go_on:
            running = pool.submit(client.rank, user=1, candidates=[1], timeout_s=60.0)
            time.sleep(0.3)
            os.kill(drained, signal.SIGTERM)
            time.sleep(LONGER_S)
            go_on()
            assert running.result().degraded == ()
        until(lambda: len(now := pids(tmp_path)) == 2 and drained not in now)
        log = log_until_its_end(server)
        assert f"(pid {drained}) ended with code 0; restarting" in log and "hangs" not in log


async def test_health_shows_a_server_that_hangs_alone_and_its_recovery(
    tiny_bundle: Path,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    settings = Settings(bundle=tiny_bundle, port=0, redis_url=redis_url, hang_timeout_s=3.0, metrics_port=0)
    with running_server(settings) as server:
        written = capfd.readouterr().err
        shown = re.search(r"metrics on (\S+)", written)
        assert shown is not None

        def serve() -> float:
            return total(page_series(shown[1]), "recsys_workers_serving")

        async with grpc.aio.insecure_channel(server.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)

            async def found(status: int) -> None:
                for name in ("", "recsys.v1.Ranker", "recsys.v1.FeatureStore"):
                    while (await health.Check(health_pb2.HealthCheckRequest(service=name))).status != status:
                        await asyncio.sleep(0.05)

            await found(SERVING)
            kept: list[FairLock] = []
            with monkeypatch.context() as patched:
                patched.setattr(FairLock, "_release", lambda lock: kept.append(lock))
                await asyncio.to_thread(until, lambda: kept)
            await found(NOT_SERVING)
            await asyncio.to_thread(until, lambda: serve() == 0)  # an alert sees it, too
            kept[0]._release()
            await found(SERVING)
            await asyncio.to_thread(until, lambda: serve() == 1)
    assert "no request gets through, waiting for the lock of the model; the stacks of all threads follow" in caplog.text
    assert "requests get through again" in caplog.text
    assert "in report" in capfd.readouterr().err


def test_a_timeout_of_0_runs_no_watchdog(tiny_bundle: Path, redis_url: str) -> None:
    for hang_timeout_s, threads in ((1.0, 1), (0.0, 0)):
        settings = Settings(bundle=tiny_bundle, port=0, redis_url=redis_url, hang_timeout_s=hang_timeout_s)
        with running_server(settings):
            assert [thread.name for thread in threading.enumerate()].count("watchdog") == threads


def test_a_server_that_may_not_listen_on_its_private_address_serves_all_the_same(
    tiny_bundle: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    taken = f"recsys-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"\0{taken}")
        monkeypatch.setattr("recsys.serving.process.server.make_private_address", lambda: f"unix-abstract:{taken}")
        settings = Settings(bundle=tiny_bundle, port=0, redis_url=redis_url, hang_timeout_s=0.5)
        with running_server(settings) as server, Client(server.address) as client:
            assert len(client.rank(user=1, candidates=[1, 2], timeout_s=10.0).scores) == 2
    assert "a gRPC that hangs will not be noticed" in caplog.text


def test_sigusr1_prints_the_stacks_of_a_server_and_leaves_it_alone(
    tiny_bundle: Path, tmp_path: Path, redis_url: str
) -> None:
    with server_process(tmp_path, RECSYS_BUNDLE=str(tiny_bundle), REDIS_URL=redis_url) as server:
        os.kill(server.process.pid, signal.SIGUSR1)
        with Client(server.address) as client:
            assert len(client.rank(user=1, candidates=[1, 2], timeout_s=10.0).scores) == 2
        assert "in serve_alone" in log_until_its_end(server)
