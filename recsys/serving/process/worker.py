"""A worker: one server process among several on a port, started by the supervisor (``crew.py``).

What it is to do comes pickled on standard input, which then stays open for as long as the supervisor lives: its end,
however it comes, is the worker's end. What became of it goes pickled to standard output.
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
from recsys.serving.process.scheduling import run_as_batch
from recsys.serving.process.signals import heard, signals_to, sigterm_interrupts, stacks_on_sigusr1
from recsys.serving.settings import Settings

_log = logging.getLogger("recsys.serving")

SLACK_S = 5.0
"""What a worker may take to end, beyond the drain."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a worker is to do.

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
class Beat:
    """A beat of the worker's pulse (``pulse.py``).

    Attributes:
        stuck: what was waited for in vain; empty: requests get through.
    """

    stuck: str


def main() -> int:
    """Serve until SIGTERM, or until the supervisor is gone; the exit code."""
    told = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else prints
    try:
        task: Task = pickle.load(sys.stdin.buffer)
    except EOFError:
        return 1
    run_as_batch()
    stacks_on_sigusr1()
    limit_s = task.settings.drain_timeout_s + SLACK_S
    threading.Thread(target=_end_with_supervisor, args=(limit_s,), name="supervisor", daemon=True).start()
    logging.basicConfig(format=f"worker {task.number}: %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    if task.core is not None:
        _keep_to(task.core)
    try:
        _serve(task, told)
    except KeyboardInterrupt:
        return 130
    except RecsysError as error:
        _tell(told, error)
        return 1
    return 0


def _serve(task: Task, told: IO[bytes]) -> None:
    # Imported here: it takes a while, and a signal or the supervisor's end must be heeded from the start.
    from recsys.serving.process.server import serving
    from recsys.serving.process.startup import loaded

    signals: SimpleQueue[Any] = SimpleQueue()
    with sigterm_interrupts(), loaded(task.settings) as (models, redis_url), signals_to(signals):
        row = task.number - 1
        server = serving(
            task.settings, models, redis_url, share_port=True, counts=task.counts, worker=row, beat=partial(_beat, told)
        )
        with server as running:
            _tell(told, Ready(model=running.model, model_version=running.model_version))
            heard(signals)


def _keep_to(core: int) -> None:
    try:
        os.sched_setaffinity(0, {core})
    except OSError as error:  # the cores of a container may change while it runs
        _log.warning("core %d cannot be kept to: %s; running on any", core, error.strerror)


def _end_with_supervisor(limit_s: float) -> None:
    # Not through sys.stdin, whose lock the interpreter wants when it ends.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(limit_s)
    os._exit(1)  # nobody is left to kill what does not end


def _beat(told: IO[bytes], stuck: str) -> None:
    with contextlib.suppress(OSError):  # the supervisor is gone: this process ends, too
        _tell(told, Beat(stuck=stuck))


def _tell(told: IO[bytes], what: Ready | RecsysError | Beat) -> None:
    told.write(pickle.dumps(what))  # in one piece: two threads tell
    told.flush()


if __name__ == "__main__":
    # Pickles name the module by its own name.
    from recsys.serving.process import worker

    sys.exit(worker.main())
