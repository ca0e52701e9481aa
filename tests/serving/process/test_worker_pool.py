"""The crew of workers without any process: what keeps one from being started, and how one ended."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import SimpleNamespace

import pytest

from recsys.errors import ConfigError
from recsys.serving.process import worker_pool as crew
from recsys.serving.process.worker import Beat, Ready, Task
from recsys.serving.process.worker_pool import MAX_STARTS, Crew, Told
from recsys.serving.settings import Settings


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The numbers of the workers that were tried on a system that has no process to give."""
    numbers: list[int] = []

    def refused(task: Task) -> subprocess.Popen[bytes]:
        numbers.append(task.number)
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(crew, "_started", refused)
    monkeypatch.setattr(crew, "_BACKOFF_S", 0.0)
    yield numbers


def test_without_a_process_to_be_had_the_start_ends(tried: list[int]) -> None:
    workers = Crew(Settings(), cores=[None, None], events=SimpleQueue())
    with pytest.raises(ConfigError, match="no process for worker 1: Resource temporarily unavailable"):
        workers.start()
    workers.end(timeout_s=1.0)


def test_without_a_process_to_be_had_later_it_is_tried_as_often_as_one_that_cannot_start(
    tried: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    workers = Crew(Settings(), cores=[None], events=SimpleQueue())
    workers.complete = True
    for _ in range(MAX_STARTS - 1):
        workers.heed(None)
        assert workers.rest_s() == 0.0
    with pytest.raises(ConfigError, match="no process for worker 1"):
        workers.heed(None)
    assert tried == [1] * MAX_STARTS
    assert f"worker 1 could not start ({MAX_STARTS - 1} times in a row): no process" in capfd.readouterr().err


def test_while_another_worker_serves_it_is_tried_again_and_again(tried: list[int]) -> None:
    workers = Crew(Settings(), cores=[None, None], events=SimpleQueue())
    workers.complete = True
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as serving:
        workers._workers[1].process, workers._workers[1].ready_s = serving, 0.0
        for _ in range(2 * MAX_STARTS):
            workers.heed(None)
        assert tried == [1] * 2 * MAX_STARTS
        workers._workers[1].ready_s = None
        with pytest.raises(ConfigError, match="no process for worker 1"):
            workers.heed(None)
        workers.end(timeout_s=5.0)


@pytest.mark.parametrize(
    ("code", "how"), [(3, "ended with code 3"), (-9, "was killed by SIGKILL"), (-40, "was killed by signal 40")]
)
def test_every_end_of_a_process_has_words(code: int, how: str) -> None:
    assert crew._how(code) == how


LOOK_S = 1.0


@contextmanager
def watched(
    monkeypatch: pytest.MonkeyPatch, *, hang_timeout_s: float = 30.0
) -> Iterator[tuple[Crew, subprocess.Popen[bytes], Callable[[float], None]]]:
    """A crew with one worker that serves, its process, and a function that lets seconds pass between two looks."""
    now_s = 1000.0

    def passes(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds
        workers.heed(None)

    monkeypatch.setattr(crew, "time", SimpleNamespace(monotonic=lambda: now_s))
    program = "import signal; signal.signal(signal.SIGUSR1, signal.SIG_IGN); print(flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        workers = Crew(Settings(hang_timeout_s=hang_timeout_s), cores=[None], events=SimpleQueue())
        workers._workers[0].process = process
        workers.heed(Told(process, Ready(model="m", model_version="1")))
        yield workers, process, passes
        process.kill()


def test_a_worker_that_is_silent_for_too_long_is_killed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with watched(monkeypatch) as (workers, process, passes):
        for _ in range(29):
            passes(LOOK_S)
        workers.heed(Told(process, Beat(stuck="the store's event loop")))
        assert "hangs" not in capfd.readouterr().err
        for _ in range(2):
            passes(LOOK_S)
        assert process.wait() == -signal.SIGKILL
        workers._ended(workers._workers[0], process.returncode)
    said = capfd.readouterr().err
    assert "hangs: no request got through for 30 s, it waits for the store's event loop; its stacks:" in said
    assert f"worker 1 (pid {process.pid}) hung and was killed by SIGKILL; it is started again" in said


def test_a_worker_that_beats_is_never_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    with watched(monkeypatch) as (workers, process, passes):
        for _ in range(100):
            passes(29.0)
            workers.heed(Told(process, Beat(stuck="")))
        assert process.poll() is None


def test_a_worker_that_moves_again_before_it_is_killed_is_let_be(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with watched(monkeypatch) as (workers, process, passes):
        for _ in range(30):
            passes(LOOK_S)
        workers.heed(Told(process, Beat(stuck="")))
        for _ in range(29):
            passes(LOOK_S)
        assert process.poll() is None
    assert f"worker 1 (pid {process.pid}) moves again, and is let be" in capfd.readouterr().err


def test_time_in_which_the_supervisor_did_not_run_is_not_held_against_the_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with watched(monkeypatch) as (workers, process, passes):
        for _ in range(5):
            passes(3600.0)
        assert process.poll() is None
        assert workers._workers[0].silent_s == 5 * 2 * LOOK_S


def test_a_hang_timeout_of_0_lets_silent_workers_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with watched(monkeypatch, hang_timeout_s=0.0) as (workers, process, passes):
        for _ in range(100):
            passes(LOOK_S)
        assert process.poll() is None and workers.rest_s() == math.inf
