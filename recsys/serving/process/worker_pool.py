"""The worker processes of a supervisor: started, listened to, started again, ended.

A worker that serves beats (``pulse.py``). One that is silent or stuck for ``hang_timeout_s`` is asked for its stacks,
killed, and started again as a dead one is. Before it serves it has no callers, and may take its time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from recsys.errors import ConfigError, RecsysError
from recsys.serving.console import say
from recsys.serving.process.worker import Beat, Ready, Task
from recsys.serving.settings import Settings
from recsys.serving.telemetry.counters import Telemetry

MAX_STARTS = 4
"""When a worker could not start so often in a row and no other one serves, the server has nothing to offer."""

_STABLE_S = 10.0
"""A worker that served for so long is started again as if it were the first time."""

_BACKOFF_S, _MAX_BACKOFF_S = 0.25, 10.0

_LOOK_S = 1.0
"""How often to look who is silent, at least."""

_STACKS_S = 1.0
"""What a hung worker gets to print its stacks."""


class Told(NamedTuple):
    """What became of a worker's process: what it says, or its exit code."""

    process: subprocess.Popen[bytes]
    what: Ready | RecsysError | Beat | int


@dataclass(kw_only=True)
class _Worker:
    """A place for one process after the other.

    Attributes:
        task: what they are to do.
        process: the one of now; None while the next one is not started.
        due_s: when to start the next one, ``time.monotonic`` seconds.
        ready: since when it serves; None before.
        error: what it said instead.
        failed: how often in a row it could not start.
        short: how often in a row it ended soon.
        silent_s: for how long no request is known to get through it.
        stuck: what its last beat waited for in vain.
        hung: whether that was too long.
    """

    task: Task
    process: subprocess.Popen[bytes] | None = None
    due_s: float = 0.0
    ready_s: float | None = None
    error: RecsysError | None = None
    failed: int = 0
    short: int = 0
    silent_s: float = 0.0
    stuck: str = ""
    hung: bool = False

    @property
    def name(self) -> str:
        """For log lines."""
        assert self.process is not None
        return f"worker {self.task.number} (pid {self.process.pid})"


class Crew:
    """Worker processes that serve one port. Used from one thread, the main one.

    Args:
        settings: of each worker.
        cores: one for each worker: the core it keeps to, or None.
        events: gets a :class:`Told` from other threads, for :meth:`heed`.
        counts: the file that all count in; None for none.
    """

    def __init__(
        self, settings: Settings, *, cores: Sequence[int | None], events: SimpleQueue[Any], counts: Path | None = None
    ) -> None:
        tasks = [Task(number=i + 1, settings=settings, core=core, counts=counts) for i, core in enumerate(cores)]
        self._workers = [_Worker(task=task) for task in tasks]
        self._events = events
        self._counts = counts
        self._hang_timeout_s = settings.hang_timeout_s
        self._look_every_s = min(_LOOK_S, settings.hang_timeout_s / 4)
        self._looked_s = time.monotonic()
        self.pinned = None not in cores
        self.complete = False
        """Whether all have been ready, some time."""
        self.model = self.model_version = ""

    def start(self) -> None:
        """Start whoever is due; raises as :meth:`heed`."""
        now_s = time.monotonic()
        for worker in self._workers:
            if worker.process is None and worker.due_s <= now_s:
                try:
                    worker.process = _started(worker.task)
                except OSError as error:  # no memory or no process to be had: the others go on meanwhile
                    problem = ConfigError(f"no process for worker {worker.task.number}: {error.strerror}")
                    self._not_started(worker, problem)
                    continue
                threading.Thread(target=self._listen, args=(worker.process,), daemon=True).start()

    def rest_s(self) -> float:
        """Seconds until :meth:`heed` has something to do by itself; infinite for nothing."""
        due_s = [worker.due_s for worker in self._workers if worker.process is None]
        if self._hang_timeout_s:
            due_s.append(self._looked_s + self._look_every_s)
        return max(0.0, min(due_s, default=math.inf) - time.monotonic())

    def pids(self) -> list[int]:
        """Of those that serve."""
        return [w.process.pid for w in self._workers if w.process is not None and w.ready_s is not None]

    def heed(self, told: Told | None) -> None:
        """Note what became of a process, end who hangs, and start whoever is due.

        Raises:
            RecsysError: a worker could not start: at first, or :data:`MAX_STARTS` times in a row when none serves.
        """
        for worker in self._workers:
            if told is not None and worker.process is told.process:
                self._note(worker, told.what)
        self.complete |= len(self.pids()) == len(self._workers)
        if self._hang_timeout_s:
            self._look()
        self.start()

    def end(self, *, timeout_s: float) -> None:
        """Let all finish what they do, and return when they have ended; after ``timeout_s`` they are killed."""
        processes = [worker.process for worker in self._workers if worker.process is not None]
        for process in processes:
            process.terminate()
        deadline_s = time.monotonic() + timeout_s
        for process in processes:
            try:
                process.wait(max(0.0, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _close(process)

    def _look(self) -> None:
        """End those who were silent for too long."""
        # While this process was stopped, or the whole machine, the workers may have been, too.
        now_s = time.monotonic()
        passed_s, self._looked_s = min(now_s - self._looked_s, 2 * self._look_every_s), now_s
        for worker in self._workers:
            if worker.process is None or worker.ready_s is None:
                continue
            worker.silent_s += passed_s
            if worker.hung and worker.silent_s >= self._hang_timeout_s + _STACKS_S:
                worker.process.kill()
            elif not worker.hung and worker.silent_s >= self._hang_timeout_s:
                worker.hung = True
                last = f"it waits for {worker.stuck}" if worker.stuck else "it says nothing: stopped, or in native code"
                say(f"{worker.name} hangs: no request got through for {worker.silent_s:.0f} s, {last}; its stacks:")
                worker.process.send_signal(signal.SIGUSR1)

    def _note(self, worker: _Worker, what: Ready | RecsysError | Beat | int) -> None:
        if isinstance(what, Beat):
            worker.stuck = what.stuck
            if worker.hung and not what.stuck:
                say(f"{worker.name} moves again, and is let be")
            if not what.stuck:
                worker.silent_s, worker.hung = 0.0, False
        elif isinstance(what, Ready):
            worker.ready_s, worker.failed, worker.silent_s = time.monotonic(), 0, 0.0
            if self.model_version not in ("", what.model_version):
                number, older = worker.task.number, self.model_version
                say(f"worker {number} serves {what.model_version}, others {older}: the bundle was replaced in place")
            self.model, self.model_version = what.model, what.model_version
        elif isinstance(what, RecsysError):
            worker.error = what
        else:
            self._ended(worker, what)

    def _ended(self, worker: _Worker, code: int) -> None:
        process, number, now_s = worker.process, worker.task.number, time.monotonic()
        assert process is not None
        _close(process)
        ended = f"{worker.name} {'hung and ' if worker.hung else ''}{_how(code)}"
        if worker.ready_s is None:
            problem = ConfigError(f"{ended} before it served; what it said is above, if anything")
            self._not_started(worker, worker.error or problem)
        else:
            wait_s = _later(worker, served_s=now_s - worker.ready_s)
            say(f"{ended}; it is started again" + (f" in {wait_s:g} s" if wait_s else ""))
        if self._counts is not None:  # in its row: nobody else writes there until the next one starts
            row = Telemetry(self._counts, worker=number - 1)
            row.count("restarts", "hung" if worker.hung else "died")
        worker.process, worker.ready_s, worker.error = None, None, None
        worker.silent_s, worker.stuck, worker.hung = 0.0, "", False
        # Its predecessor has read the hot rows.
        settings = dataclasses.replace(worker.task.settings, warm_up_s=0.0)
        worker.task = dataclasses.replace(worker.task, settings=settings)

    def _not_started(self, worker: _Worker, error: RecsysError) -> None:
        worker.failed += 1
        if not self.complete or (worker.failed >= MAX_STARTS and not self.pids()):
            raise error
        say(f"worker {worker.task.number} could not start ({worker.failed} times in a row): {error}")
        _later(worker, served_s=0.0)

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        # Whatever a dying process leaves in the pipe: its end must be told.
        with contextlib.suppress(Exception):
            while True:
                self._events.put(Told(process, pickle.load(process.stdout)))
        self._events.put(Told(process, process.wait()))


def _started(task: Task) -> subprocess.Popen[bytes]:
    # -P: a file in the current folder must not stand in for a module. What this process found, a worker finds too.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "recsys.serving.process.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        # Ctrl-C reaches a terminal's whole group: the workers are to be told by the supervisor alone.
        process_group=0,
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended already, which is told
        pickle.dump(task, process.stdin)
        process.stdin.flush()
    return process


def _later(worker: _Worker, *, served_s: float) -> float:
    """Set when the next process is due; the seconds until then."""
    worker.short = 0 if served_s >= _STABLE_S else worker.short + 1
    wait_s = 0.0 if worker.short <= 1 else min(_MAX_BACKOFF_S, _BACKOFF_S * 2.0 ** min(worker.short - 2, 10))
    worker.due_s = time.monotonic() + wait_s
    return wait_s


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # real-time signals have no names
        return f"was killed by signal {-code}"
