"""Worker: one server process among several on a port, started by the supervisor's pool (``pool.py``).

Its task comes pickled on standard input, which then stays open for as long as the supervisor lives: its end, however it
comes, is the worker's end. Its messages (:class:`Ready`, :class:`Heartbeat`, an error) go pickled to standard output.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from recsys.errors import RecsysError
from recsys.serving.process.scheduling import use_batch_scheduling
from recsys.serving.process.signals import dump_stacks_on_sigusr1, forward_signals, sigterm_interrupts, wait_for_signal
from recsys.serving.settings import Settings

_log = logging.getLogger("recsys.serving")

EXIT_GRACE_S = 5.0
"""Time that a worker may take to end, beyond the drain."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A worker's task.

    Attributes:
        number: from 1; for log lines.
        settings: with the port and the Redis that all workers share.
        core: the only core to run on; None for any.
        counts: the file that all workers count in; None for none.
    """

    number: int
    settings: Settings
    core: int | None
    counts: Path | None


@dataclass(frozen=True, kw_only=True)
class Ready:
    """The worker answers calls."""

    model: str
    model_version: str


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """A report of the worker's watchdog (``watchdog.py``).

    Attributes:
        stuck: what was waited for in vain; empty: requests get through.
    """

    stuck: str


Message = Ready | Heartbeat | RecsysError
"""Sent by a worker to its supervisor."""


def main() -> int:
    """Serve until SIGTERM, or until the supervisor is gone; returns the exit code."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else prints
    try:
        task: Task = pickle.load(sys.stdin.buffer)
    except EOFError:
        return 1
    use_batch_scheduling()
    dump_stacks_on_sigusr1()
    limit_s = task.settings.drain_timeout_s + EXIT_GRACE_S
    threading.Thread(target=_end_with_supervisor, args=(limit_s,), name="supervisor", daemon=True).start()
    logging.basicConfig(format=f"worker {task.number}: %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    if task.core is not None:
        _pin_to(task.core)
    try:
        _serve(task, output)
    except KeyboardInterrupt:
        return 130
    except RecsysError as error:
        _send(output, error)
        return 1
    return 0


def _serve(task: Task, output: IO[bytes]) -> None:
    # Imported here: it takes a while, and a signal or the supervisor's end must be handled from the start.
    from recsys.serving.process.server import serving
    from recsys.serving.process.startup import load_models

    signals: SimpleQueue[Any] = SimpleQueue()
    with sigterm_interrupts(), load_models(task.settings) as loaded, forward_signals(signals):
        row = task.number - 1
        server = serving(
            task.settings,
            *loaded,
            share_port=True,
            counts=task.counts,
            worker=row,
            on_heartbeat=partial(_send_heartbeat, output),
        )
        with server as running:
            _send(output, Ready(model=running.model, model_version=running.model_version))
            wait_for_signal(signals)


def _pin_to(core: int) -> None:
    try:
        os.sched_setaffinity(0, {core})
    except OSError as error:  # the cores of a container may change while it runs
        _log.warning("cannot be pinned to core %d: %s; running on any", core, error.strerror)


def _end_with_supervisor(limit_s: float) -> None:
    # Not through sys.stdin, whose lock the interpreter wants when it ends.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(limit_s)
    os._exit(1)  # nobody is left to kill what does not end


def _send_heartbeat(output: IO[bytes], stuck: str) -> None:
    with contextlib.suppress(OSError):  # the supervisor is gone: this process ends, too
        _send(output, Heartbeat(stuck=stuck))


def _send(output: IO[bytes], message: Message) -> None:
    output.write(pickle.dumps(message))  # in one piece: two threads send
    output.flush()


if __name__ == "__main__":
    # Pickles name the module by its own name.
    from recsys.serving.process.workers import worker

    sys.exit(worker.main())
