"""Worker: one server process among several on a port, started by the supervisor's pool (``pool.py``).

Its task comes pickled on standard input, and then commands for as long as the supervisor lives: the end of that input,
however it comes, is the worker's end. Its messages go pickled to standard output (``messages.py``).
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
from queue import SimpleQueue
from typing import Any

from recsys.errors import RecsysError
from recsys.serving.log_ids import use_log_ids
from recsys.serving.logs import configure_logs
from recsys.serving.process.ending import END_MARGIN_S, bounded_end
from recsys.serving.process.malloc import limit_arenas
from recsys.serving.process.signals import dump_stacks_on_sigusr1, forward_signals, sigterm_interrupts, wait_for_signal
from recsys.serving.process.workers.messages import Commands, Heartbeat, Output, Ready, Task
from recsys.serving.scheduling import use_batch_scheduling

_log = logging.getLogger("recsys.serving")

EXIT_GRACE_S = 5.0
"""Time that a worker may take to end, beyond the drain."""


def main() -> int:
    """Serve until SIGTERM, or until the supervisor is gone; returns the exit code."""
    output = Output(os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)  # whatever else prints
    # Not through sys.stdin, whose lock the interpreter wants when it ends.
    orders = os.fdopen(os.dup(0), "rb")
    try:
        task: Task = pickle.load(orders)
    except EOFError:
        return 1
    limit_arenas()
    use_batch_scheduling()
    dump_stacks_on_sigusr1()
    limit_s = task.settings.drain_timeout_s + EXIT_GRACE_S
    commands = Commands(orders, limit_s=limit_s)
    configure_logs(task.settings.log_format, worker=task.number)
    use_log_ids(task.settings)
    if task.core is not None:
        _pin_to(task.core)
    try:
        _serve(task, commands, output)
    except KeyboardInterrupt:
        return 130
    except RecsysError as error:
        output.send(error)
        return 1
    return 0


def _serve(task: Task, commands: Commands, output: Output) -> None:
    # Imported here: it takes a while, and a signal or the supervisor's end must be handled from the start.
    from recsys.serving.process.server import serving
    from recsys.serving.process.startup import load_models
    from recsys.serving.process.workers.control import control

    signals: SimpleQueue[Any] = SimpleQueue()
    loading = load_models(task.settings, task.plan, verified=task.verified)
    end = bounded_end(task.settings.drain_timeout_s + END_MARGIN_S)
    with sigterm_interrupts(), loading as loaded, forward_signals(signals), end as begin_end:
        number = loaded[0].number
        server = serving(
            task.settings,
            *loaded,
            share_port=True,
            counts=task.counts,
            worker=task.number - 1,
            on_heartbeat=lambda stuck: output.try_send(Heartbeat(stuck=stuck)),
            fallback=task.certificates,
            shared_access=task.access,
            columns_folder=task.columns,
        )
        with server as running, control(task, running, commands, output):
            output.send(
                Ready(model=running.model, model_version=running.model_version, release=running.release, plan=number)
            )
            wait_for_signal(signals)
            begin_end()


def _pin_to(core: int) -> None:
    try:
        os.sched_setaffinity(0, {core})
    except OSError as error:  # the cores of a container may change while it runs
        _log.warning("cannot be pinned to core %d: %s; running on any", core, error.strerror)


if __name__ == "__main__":
    sys.exit(main())
