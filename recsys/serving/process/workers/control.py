"""Control: a worker does what its supervisor orders: it prepares releases, changes over, and passes on admin calls."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future, InvalidStateError

from recsys.errors import RecsysError, ReleaseError
from recsys.releases.status import ServerStatus
from recsys.serving.process.releases.switch import ReleaseSwitch
from recsys.serving.process.server import RunningServer
from recsys.serving.process.workers.messages import (
    Abort,
    AdminAnswer,
    AdminRequest,
    Command,
    Commands,
    Commit,
    Committed,
    Damaged,
    Output,
    Prepare,
    Prepared,
    Task,
)

_log = logging.getLogger("recsys.serving")

_DAMAGE_POLL_S = 0.5

_ADMIN_THREADS = 8


@contextlib.contextmanager
def control(task: Task, server: RunningServer, commands: Commands, output: Output) -> Iterator[None]:
    """Follow the supervisor's commands for the duration of a ``with`` block.

    Args:
        task: the worker's.
        server: answers calls.
        commands: of the supervisor.
        output: where answers go.
    """
    commands.on_abort = server.switch.stop_preparing
    threading.Thread(target=_follow, args=(server.switch, commands, output), name="control", daemon=True).start()
    stop = threading.Event()
    threading.Thread(target=_watch_damage, args=(server.switch, output, stop), name="damage", daemon=True).start()
    with contextlib.ExitStack() as stack:
        stack.callback(stop.set)
        if task.settings.admin_port is not None:
            from recsys.serving.process.listening.grpc_server import message_first
            from recsys.serving.process.listening.rooms import open_rooms
            from recsys.serving.rpc.admin_service import admin_server
            from recsys.serving.rpc.early_ends import EarlyEnds

            asking = _Asking(output)
            commands.on_answer = asking.answered
            rooms = stack.enter_context(open_rooms(_ADMIN_THREADS))
            stack.callback(asking.close)
            pool, most, _ = stack.enter_context(message_first(task.settings, rooms, EarlyEnds(None).record))
            served = admin_server(task.settings.admin_port, asking.ask, pool, most=most, interceptors=server.access)
            stack.enter_context(served)
        yield


def _follow(switch: ReleaseSwitch, commands: Commands, output: Output) -> None:
    while True:
        command = commands.queue.get()
        if isinstance(command, Prepare):
            if command.plan.number > commands.aborted:
                output.try_send(_prepared(switch, command))
        elif isinstance(command, Abort):  # in its turn: a plan before it may wait for its commit
            switch.abort()
        else:
            _commit(switch, command, output)


def _prepared(switch: ReleaseSwitch, command: Prepare) -> Prepared:
    number = command.plan.number
    try:
        return Prepared(plan=number, report="; ".join(found.text() for found in switch.prepare(command.plan)))
    except RecsysError as error:
        return Prepared(plan=number, refused=str(error))
    except Exception as error:  # of a library: the release is of no use, and the server goes on without it
        _log.exception("a release could not be prepared")
        return Prepared(plan=number, refused=f"{type(error).__name__}: {error}")


def _commit(switch: ReleaseSwitch, command: Command, output: Output) -> None:
    assert isinstance(command, Commit)
    try:
        switch.commit(command.plan)
        output.try_send(Committed(plan=command.plan))
    except ReleaseError as error:  # it was given up meanwhile: the supervisor has ordered that
        _log.warning("%s", error)


def _watch_damage(switch: ReleaseSwitch, output: Output, stop: threading.Event) -> None:
    told: set[str] = set()
    while not stop.wait(_DAMAGE_POLL_S):
        damaged = switch.damaged()
        told &= damaged.keys()  # it may be loaded anew, whole, and be damaged again
        for name, why in damaged.items():
            if name not in told:
                told.add(name)
                output.try_send(Damaged(release=name, why=why))


class _Asking:
    """Questions to the supervisor that wait for their answers. Safe to use from several threads."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[AdminAnswer]] = {}

    def ask(self, reload: bool, timeout_s: float) -> ServerStatus:
        """The server's status, after ``served.json`` was read again if ``reload``.

        Raises:
            ReleaseError: what it says was refused.
            TimeoutError: no answer in time.
            OSError: the supervisor is gone.
        """
        number, answer = next(self._numbers), Future[AdminAnswer]()
        self._waiting[number] = answer
        try:
            self._output.send(AdminRequest(number=number, reload=reload))
            found = answer.result(timeout_s)
        finally:
            del self._waiting[number]
        if found.refused:
            raise ReleaseError(found.refused)
        return found.status

    def close(self) -> None:
        """End the calls that wait: the supervisor answers no more."""
        for waiting in list(self._waiting.values()):
            with contextlib.suppress(InvalidStateError):
                waiting.set_exception(ReleaseError("the server is draining"))

    def answered(self, answer: AdminAnswer) -> None:
        """Take an answer; nobody may wait for it any more."""
        if (waiting := self._waiting.get(answer.number)) is not None:
            with contextlib.suppress(InvalidStateError):  # the server ends
                waiting.set_result(answer)
