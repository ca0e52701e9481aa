"""The pool of workers without any process: failed starts, exit reasons, hangs."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import SimpleNamespace

import pytest

from recsys.errors import ConfigError
from recsys.serving.process.workers import pool as worker_pool
from recsys.serving.process.workers.messages import Commit, Heartbeat, Ready, Task
from recsys.serving.process.workers.pool import MAX_STARTS, WorkerEvent, WorkerPool
from recsys.serving.settings import Settings


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The numbers of the workers that were tried on a system that has no process to give."""
    numbers: list[int] = []

    def refused(*arguments: str, first: Task) -> subprocess.Popen[bytes]:
        numbers.append(first.number)
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(worker_pool, "start_python", refused)
    monkeypatch.setattr(worker_pool, "_BACKOFF_S", 0.0)
    yield numbers


def test_without_a_process_to_be_had_the_start_ends(tried: list[int]) -> None:
    pool = WorkerPool(Settings(), cores=[None, None], events=SimpleQueue())
    with pytest.raises(ConfigError, match="no process for worker 1: Resource temporarily unavailable"):
        pool.start()
    pool.stop(timeout_s=1.0)


def test_without_a_process_to_be_had_later_it_is_tried_as_often_as_one_that_cannot_start(
    tried: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    pool = WorkerPool(Settings(), cores=[None], events=SimpleQueue())
    pool.all_started = True
    for _ in range(MAX_STARTS - 1):
        pool.handle(None)
        assert pool.wait_s() == 0.0
    with pytest.raises(ConfigError, match="no process for worker 1"):
        pool.handle(None)
    assert tried == [1] * MAX_STARTS
    assert f"worker 1 could not start ({MAX_STARTS - 1} times in a row): no process" in capfd.readouterr().err


def test_while_another_worker_serves_it_is_tried_again_and_again(tried: list[int]) -> None:
    pool = WorkerPool(Settings(), cores=[None, None], events=SimpleQueue())
    pool.all_started = True
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as serving:
        pool._workers[1].process, pool._workers[1].ready_s = serving, 0.0
        for _ in range(2 * MAX_STARTS):
            pool.handle(None)
        assert tried == [1] * 2 * MAX_STARTS
        pool._workers[1].ready_s = None
        with pytest.raises(ConfigError, match="no process for worker 1"):
            pool.handle(None)
        pool.stop(timeout_s=5.0)


def test_a_worker_that_reads_no_commands_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdin=pipe, stdout=pipe) as deaf:
        monkeypatch.setattr(worker_pool, "start_python", lambda *arguments, first: deaf)
        pool = WorkerPool(Settings(), cores=[None], events=SimpleQueue())
        pool.start()

        def send() -> None:
            for number in range(5_000):  # more than the pipe takes
                pool.send(deaf, Commit(plan=number))

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        sender.join(20)
        assert not sender.is_alive()
        deaf.kill()
        pool.stop(timeout_s=5.0)


@pytest.mark.parametrize(
    ("code", "how"), [(3, "ended with code 3"), (-9, "was killed by SIGKILL"), (-40, "was killed by signal 40")]
)
def test_every_end_of_a_process_has_words(code: int, how: str) -> None:
    assert worker_pool._exit_reason(code) == how


CHECK_S = 1.0


@contextmanager
def serving_pool(
    monkeypatch: pytest.MonkeyPatch, *, hang_timeout_s: float = 30.0
) -> Iterator[tuple[WorkerPool, subprocess.Popen[bytes], Callable[[float], None]]]:
    """A pool with one worker that serves, its process, and a function that lets seconds pass between two checks."""
    now_s = 1000.0

    def passes(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds
        pool.handle(None)

    monkeypatch.setattr(worker_pool, "time", SimpleNamespace(monotonic=lambda: now_s))
    program = "import signal; signal.signal(signal.SIGUSR1, signal.SIG_IGN); print(flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        pool = WorkerPool(Settings(hang_timeout_s=hang_timeout_s), cores=[None], events=SimpleQueue())
        pool._workers[0].process = process
        pool.handle(WorkerEvent(process, Ready(model="m", model_version="1", release="r", plan=1)))
        yield pool, process, passes
        process.kill()


def test_a_worker_that_is_silent_for_too_long_is_killed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving_pool(monkeypatch) as (pool, process, passes):
        for _ in range(29):
            passes(CHECK_S)
        pool.handle(WorkerEvent(process, Heartbeat(stuck="the store's event loop")))
        assert "hangs" not in capfd.readouterr().err
        for _ in range(2):
            passes(CHECK_S)
        assert process.wait() == -signal.SIGKILL
        pool._exited(pool._workers[0], process.returncode)
    log = capfd.readouterr().err
    assert "hangs: no request got through for 30 s, waiting for the store's event loop; its stacks:" in log
    assert f"worker 1 (pid {process.pid}) hung and was killed by SIGKILL; restarting" in log


def test_a_worker_that_sends_heartbeats_is_never_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving_pool(monkeypatch) as (pool, process, passes):
        for _ in range(100):
            passes(29.0)
            pool.handle(WorkerEvent(process, Heartbeat(stuck="")))
        assert process.poll() is None


def test_a_worker_that_recovers_before_it_is_killed_is_kept(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving_pool(monkeypatch) as (pool, process, passes):
        for _ in range(30):
            passes(CHECK_S)
        pool.handle(WorkerEvent(process, Heartbeat(stuck="")))
        for _ in range(29):
            passes(CHECK_S)
        assert process.poll() is None
    assert f"worker 1 (pid {process.pid}) recovered and is kept" in capfd.readouterr().err


def test_time_in_which_the_supervisor_did_not_run_is_not_held_against_the_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving_pool(monkeypatch) as (pool, process, passes):
        for _ in range(5):
            passes(3600.0)
        assert process.poll() is None
        assert pool._workers[0].silent_s == 5 * 2 * CHECK_S


def test_a_hang_timeout_of_0_kills_no_silent_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving_pool(monkeypatch, hang_timeout_s=0.0) as (pool, process, passes):
        for _ in range(100):
            passes(CHECK_S)
        assert process.poll() is None and pool.wait_s() == math.inf
