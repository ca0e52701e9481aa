"""Worker pool: the worker processes of a supervisor, started, monitored, restarted, stopped.

A worker that serves sends heartbeats (``watchdog.py``). One that is silent or stuck for ``hang_timeout_s`` is asked for
its stacks, killed, and restarted as a dead one is. Before it serves it has no callers, and may take its time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pickle
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from recsys.backoff import backoff_s
from recsys.certificates import CertificateWatch
from recsys.errors import ConfigError, RecsysError
from recsys.serving.console import say
from recsys.serving.process.children import start_python
from recsys.serving.process.releases.plan import Plan, Verified
from recsys.serving.process.workers.messages import Command, Heartbeat, Message, Ready, Task
from recsys.serving.rpc.access.shared import SharedAccess
from recsys.serving.settings import Settings
from recsys.serving.telemetry.counters import Telemetry

MAX_STARTS = 4
"""Failed starts in a row of one worker after which the server ends, when no other one serves."""

_STABLE_S = 10.0
"""A worker that served for so long is restarted without back-off."""

_BACKOFF_S, _MAX_BACKOFF_S = 0.25, 10.0

_CHECK_S = 1.0
"""Longest time between two checks for silent workers."""

_STACK_DUMP_S = 1.0
"""Time that a hung worker gets to print its stacks."""

_CUT_OFF = 1
"""Exit code of a worker that did not end in time (``ending.py``)."""


class WorkerEvent(NamedTuple):
    """A message of a worker's process, or its exit code."""

    process: subprocess.Popen[bytes]
    message: Message | int


@dataclass(kw_only=True)
class _Worker:
    """A slot of the pool, for one process after the other.

    Attributes:
        task: theirs.
        process: the current one; None while the next one is not started.
        start_at_s: when to start the next one, ``time.monotonic`` seconds.
        ready_s: since when it serves; None before.
        error: why it could not start.
        failed_starts: starts in a row that failed.
        short_runs: runs in a row that ended soon.
        silent_s: for how long no request is known to get through it.
        stuck: what its last heartbeat waited for in vain.
        hung: ``silent_s`` has reached the limit.
        superseded: it was ended for another plan's sake.
    """

    task: Task
    process: subprocess.Popen[bytes] | None = None
    start_at_s: float = 0.0
    ready_s: float | None = None
    error: RecsysError | None = None
    failed_starts: int = 0
    short_runs: int = 0
    silent_s: float = 0.0
    stuck: str = ""
    hung: bool = False
    superseded: bool = False

    @property
    def name(self) -> str:
        """Number and process id, for log lines."""
        assert self.process is not None
        return f"worker {self.task.number} (pid {self.process.pid})"


class WorkerPool:
    """Worker processes that serve one port. Used from one thread, the main one.

    Args:
        settings: of each worker.
        cores: one for each worker: the core it is pinned to, or None.
        events: gets each :class:`WorkerEvent`, from other threads, for :meth:`handle`.
        counts: the file that all count in; None for none.
        plan: what they serve; None: the bundles of the settings.
        verified: of these bundles, the states of the files that were verified in full.
        certificates: theirs, followed here, too; each worker is given the last good ones. None: they speak no TLS.
        access: gives each worker what they share of access.
        columns: folder of the item columns that they share; None: each has its own.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        cores: Sequence[int | None],
        events: SimpleQueue[Any],
        counts: Path | None = None,
        plan: Plan | None = None,
        verified: Verified | None = None,
        certificates: CertificateWatch | None = None,
        access: Callable[[], SharedAccess | None] = lambda: None,
        columns: Path | None = None,
    ) -> None:
        task = Task(
            number=0,
            settings=settings,
            plan=plan,
            core=None,
            counts=counts,
            verified=verified or {},
            columns=columns,
        )
        tasks = [dataclasses.replace(task, number=i + 1, core=core) for i, core in enumerate(cores)]
        self._workers = [_Worker(task=task) for task in tasks]
        self._commands: dict[subprocess.Popen[bytes], SimpleQueue[Command | None]] = {}
        self._events = events
        self._counts = counts
        self._certificates = certificates
        self._access = access
        self._hang_timeout_s = settings.hang_timeout_s
        self._check_every_s = min(_CHECK_S, settings.hang_timeout_s / 4)
        self._checked_s = time.monotonic()
        self.pinned = None not in cores
        self.all_started = False
        """Set once all have been ready at the same time."""
        self.model = self.model_version = self.release = ""
        self.deaths = 0
        """Workers that ended by themselves while they served, so far."""

    def start(self) -> None:
        """Start the workers that are due; raises as :meth:`handle`."""
        now_s = time.monotonic()
        for worker in self._workers:
            if worker.process is None and worker.start_at_s <= now_s:
                task = dataclasses.replace(worker.task, access=self._access())
                if self._certificates is not None:
                    task = dataclasses.replace(task, certificates=self._certificates.current.without_context())
                try:
                    worker.process = start_python("-m", "recsys.serving.process.workers.worker", first=task)
                except OSError as error:  # no memory or no process to be had: the others go on meanwhile
                    problem = ConfigError(f"no process for worker {worker.task.number}: {error.strerror}")
                    self._start_failed(worker, problem)
                    continue
                threading.Thread(target=self._read_events, args=(worker.process,), daemon=True).start()
                commands: SimpleQueue[Command | None] = SimpleQueue()
                self._commands[worker.process] = commands
                threading.Thread(target=_write_commands, args=(worker.process, commands), daemon=True).start()

    def wait_s(self) -> float:
        """Seconds until :meth:`handle` has something to do by itself; infinite for nothing."""
        start_at_s = [worker.start_at_s for worker in self._workers if worker.process is None]
        if self._hang_timeout_s:
            start_at_s.append(self._checked_s + self._check_every_s)
        return max(0.0, min(start_at_s, default=math.inf) - time.monotonic())

    def pids(self) -> list[int]:
        """Process ids of those that serve."""
        return [w.process.pid for w in self._workers if w.process is not None and w.ready_s is not None]

    def serving(self) -> list[subprocess.Popen[bytes]]:
        """Processes that serve."""
        return [w.process for w in self._workers if w.process is not None and w.ready_s is not None]

    def send(self, process: subprocess.Popen[bytes], command: Command) -> None:
        """Send a command to a worker's process; one that has ended gets none, and its end is reported."""
        if (commands := self._commands.get(process)) is not None:
            commands.put(command)

    def set_plan(self, plan: Plan) -> None:
        """Give later processes another plan; those that do not serve yet are started again with it.

        Failed starts were those of the plan before, and are forgotten.
        """
        for worker in self._workers:
            worker.task = dataclasses.replace(worker.task, plan=plan)
            worker.failed_starts, worker.start_at_s = 0, 0.0
            if worker.process is not None and worker.ready_s is None:
                worker.superseded = True
                worker.process.kill()

    def handle(self, event: WorkerEvent | None) -> None:
        """Record an event, kill workers that hang, and start those that are due.

        Raises:
            RecsysError: a worker could not start: at first, or :data:`MAX_STARTS` times in a row when none serves.
        """
        for worker in self._workers:
            if event is not None and worker.process is event.process:
                self._record(worker, event.message)
        self.all_started |= len(self.pids()) == len(self._workers)
        if self._hang_timeout_s:
            self._check_liveness()
        self.start()

    def stop(self, *, timeout_s: float) -> bool:
        """Let all finish their requests, and return when they have ended; after ``timeout_s`` they are killed.

        Returns:
            True: all that served ended by themselves, and as they should.
        """
        left = [worker for worker in self._workers if worker.process is not None]
        for worker in left:
            assert worker.process is not None
            worker.process.terminate()
        all_ended = True
        deadline_s = time.monotonic() + timeout_s
        for worker in left:
            process = worker.process
            assert process is not None
            try:
                process.wait(max(0.0, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                say(f"{worker.name} has not ended within {timeout_s:g} s: killed")
                process.kill()
                process.wait()
                all_ended = False
            else:
                code = process.returncode
                if worker.ready_s is not None and (code == _CUT_OFF or code < 0):
                    why = "it did not end in time; its stacks are above" if code > 0 else "its requests were cut"
                    say(f"{worker.name} {_exit_reason(code)}: {why}")
                    all_ended = False
            _close_pipes(process)
        return all_ended

    def _check_liveness(self) -> None:
        """Kill those that were silent for too long."""
        # While this process was stopped, or the whole machine, the workers may have been, too.
        now_s = time.monotonic()
        elapsed_s, self._checked_s = min(now_s - self._checked_s, 2 * self._check_every_s), now_s
        for worker in self._workers:
            if worker.process is None or worker.ready_s is None:
                continue
            worker.silent_s += elapsed_s
            if worker.hung and worker.silent_s >= self._hang_timeout_s + _STACK_DUMP_S:
                worker.process.kill()
            elif not worker.hung and worker.silent_s >= self._hang_timeout_s:
                worker.hung = True
                last = f"waiting for {worker.stuck}" if worker.stuck else "no heartbeat: stopped, or in native code"
                say(f"{worker.name} hangs: no request got through for {worker.silent_s:.0f} s, {last}; its stacks:")
                worker.process.send_signal(signal.SIGUSR1)

    def _record(self, worker: _Worker, message: Message | int) -> None:
        if isinstance(message, Heartbeat):
            worker.stuck = message.stuck
            if worker.hung and not message.stuck:
                say(f"{worker.name} recovered and is kept")
            if not message.stuck:
                worker.silent_s, worker.hung = 0.0, False
        elif isinstance(message, Ready):
            plan = worker.task.plan
            if plan is not None and message.plan != plan.number:  # it was ready in the moment of a switch
                assert worker.process is not None
                worker.superseded = True
                worker.process.kill()
                return
            worker.ready_s, worker.failed_starts, worker.silent_s = time.monotonic(), 0, 0.0
            if plan is None and self.model_version not in ("", message.model_version):
                number, older = worker.task.number, self.model_version
                say(f"worker {number} serves {message.model_version}, others {older}: the bundle was replaced in place")
            self.model, self.model_version, self.release = message.model, message.model_version, message.release
        elif isinstance(message, RecsysError):
            worker.error = message
        elif isinstance(message, int):
            self._exited(worker, message)

    def _exited(self, worker: _Worker, code: int) -> None:
        process, number, now_s = worker.process, worker.task.number, time.monotonic()
        assert process is not None
        if (commands := self._commands.pop(process, None)) is not None:
            commands.put(None)
        _close_pipes(process)
        ended = f"{worker.name} {'hung and ' if worker.hung else ''}{_exit_reason(code)}"
        problem: RecsysError | None = None
        if worker.superseded:
            worker.start_at_s = 0.0
        elif worker.ready_s is None:
            own = ConfigError(f"{ended} before it served; its own message is above, if there is one")
            problem = worker.error or own
        else:
            self.deaths += 1
            wait_s = _schedule_restart(worker, served_s=now_s - worker.ready_s)
            say(f"{ended}; restarting" + (f" in {wait_s:g} s" if wait_s else ""))
        if self._counts is not None:
            # In its row: nobody else writes there until the next one starts.
            row = Telemetry(self._counts, worker=number - 1)
            if not worker.superseded:
                row.count("restarts", "hung" if worker.hung else "died")
            row.clear_gauges()
        worker.process, worker.ready_s, worker.error = None, None, None
        worker.silent_s, worker.stuck, worker.hung, worker.superseded = 0.0, "", False, False
        # Its predecessor has read the hot rows.
        settings = dataclasses.replace(worker.task.settings, read_ahead_s=0.0)
        worker.task = dataclasses.replace(worker.task, settings=settings)
        if problem is not None:  # at last: who handles it may go on with this worker
            self._start_failed(worker, problem)

    def _start_failed(self, worker: _Worker, error: RecsysError) -> None:
        worker.failed_starts += 1
        _schedule_restart(worker, served_s=0.0)  # who handles the error may go on
        if not self.all_started or (worker.failed_starts >= MAX_STARTS and not self.pids()):
            raise error
        say(f"worker {worker.task.number} could not start ({worker.failed_starts} times in a row): {error}")

    def _read_events(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        # Whatever a dying process leaves in the pipe: its exit code must be reported.
        with contextlib.suppress(Exception):
            while True:
                self._events.put(WorkerEvent(process, pickle.load(process.stdout)))
        self._events.put(WorkerEvent(process, process.wait()))


def _write_commands(process: subprocess.Popen[bytes], commands: SimpleQueue[Command | None]) -> None:
    """Write commands until None comes, in a thread: a worker that is stopped reads none, and its pipe is soon full."""
    assert process.stdin is not None
    with contextlib.suppress(OSError, ValueError):  # ValueError: the pipe is closed
        while (command := commands.get()) is not None:
            pickle.dump(command, process.stdin)
            process.stdin.flush()


def _schedule_restart(worker: _Worker, *, served_s: float) -> float:
    """Set when the next process is due; returns the seconds until then."""
    worker.short_runs = 0 if served_s >= _STABLE_S else worker.short_runs + 1
    wait_s = backoff_s(worker.short_runs - 1, first_s=_BACKOFF_S, longest_s=_MAX_BACKOFF_S)
    worker.start_at_s = time.monotonic() + wait_s
    return wait_s


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _exit_reason(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # real-time signals have no names
        return f"was killed by signal {-code}"
