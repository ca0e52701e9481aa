"""Messages between a supervisor and its workers, and the pipes that they go through."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import IO

from recsys.certificates import Certificates
from recsys.errors import RecsysError
from recsys.releases.status import ServerStatus
from recsys.serving.process.releases.plan import Plan, Verified
from recsys.serving.rpc.access.shared import SharedAccess
from recsys.serving.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Task:
    """A worker's task.

    Attributes:
        number: from 1; for log lines.
        settings: with the ports and the Redis that all workers share.
        plan: what to serve; None: the bundles of the settings.
        core: the only core to run on; None for any.
        counts: the file that all workers count in; None for none.
        verified: of these bundles, the states of the files that the supervisor verified in full.
        certificates: for the case that their files are no good when the worker starts; None: of no use then.
        access: what workers share of access; None: there is no access file.
        columns: folder of the item columns that they share; None: each has its own.
    """

    number: int
    settings: Settings
    plan: Plan | None
    core: int | None
    counts: Path | None
    verified: Verified = field(default_factory=dict)
    certificates: Certificates | None = None
    access: SharedAccess | None = None
    columns: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Ready:
    """The worker answers calls, by the plan of that number."""

    model: str
    model_version: str
    release: str
    plan: int


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """A report of the worker's watchdog (``watchdog.py``).

    Attributes:
        stuck: what was waited for in vain; empty: requests get through.
    """

    stuck: str


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The worker can change over to a plan, or cannot.

    Attributes:
        plan: its number.
        refused: why not; empty if it can.
        report: what the replay found, in words.
    """

    plan: int
    refused: str = ""
    report: str = ""


@dataclass(frozen=True, kw_only=True)
class Committed:
    """The worker answers by the plan of that number from now on."""

    plan: int


@dataclass(frozen=True, kw_only=True)
class Damaged:
    """A loaded release is of no use any more; ``why`` says so, and names it."""

    release: str
    why: str


@dataclass(frozen=True, kw_only=True)
class AdminRequest:
    """A call of the admin service, for the supervisor to answer by an :class:`AdminAnswer` of the same number.

    Attributes:
        number: of the call.
        reload: ``served.json`` is to be read again first, and the switch to be waited for.
    """

    number: int
    reload: bool


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Load what a plan has and the worker has not, and answer with :class:`Prepared`."""

    plan: Plan


@dataclass(frozen=True, kw_only=True)
class Commit:
    """Change over to the plan of that number."""

    plan: int


@dataclass(frozen=True, kw_only=True)
class Abort:
    """Give up the plan of that number, which was prepared, is being prepared, or waits for that."""

    plan: int


@dataclass(frozen=True, kw_only=True)
class AdminAnswer:
    """The supervisor's answer to a call of the admin service.

    Attributes:
        number: of the call.
        status: of the server, from the coordinator.
        refused: why a reload was refused; empty if it was not.
    """

    number: int
    status: ServerStatus
    refused: str = ""


Message = Ready | Heartbeat | Prepared | Committed | Damaged | AdminRequest | RecsysError
"""Sent by a worker to its supervisor."""

Command = Prepare | Commit | Abort | AdminAnswer
"""Sent by a supervisor to its workers, after the task."""


class Output:
    """The way to the supervisor. Safe to use from several threads."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, message: Message) -> None:
        """Send a message; raises OSError if the supervisor is gone."""
        with self._lock:
            self._stream.write(pickle.dumps(message))
            self._stream.flush()

    def try_send(self, message: Message) -> None:
        """Send a message, if the supervisor is there: if it is not, this process ends, too."""
        with contextlib.suppress(OSError):
            self.send(message)


class Commands:
    """The commands of the supervisor, read by a thread. Without a supervisor it ends the process.

    Args:
        orders: the stream of pickled commands.
        limit_s: time that the process may then take to end.
    """

    def __init__(self, orders: IO[bytes], *, limit_s: float) -> None:
        self.queue: SimpleQueue[Command] = SimpleQueue()
        self.on_abort: Callable[[], None] | None = None
        """Called at once, from the thread that reads: what is being prepared is to end. It must not wait."""
        self.aborted = 0
        """Plans up to this number are not to be prepared any more."""
        self.on_answer: Callable[[AdminAnswer], None] | None = None
        threading.Thread(target=self._read, args=(orders, limit_s), name="supervisor", daemon=True).start()

    def _read(self, orders: IO[bytes], limit_s: float) -> None:
        with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
            while True:
                command: Command = pickle.load(orders)
                if isinstance(command, AdminAnswer):
                    if self.on_answer is not None:
                        self.on_answer(command)
                    continue
                if isinstance(command, Abort):
                    self.aborted = command.plan
                    if self.on_abort is not None:
                        self.on_abort()
                self.queue.put(command)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(limit_s)
        os._exit(1)  # nobody is left to kill what does not end
