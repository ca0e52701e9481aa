"""Follower: reads ``served.json`` when it changes, and writes the server's status, in a thread: a folder may hang."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from recsys.errors import RecsysError, ReleaseError
from recsys.rate_limited_log import RateLimitedLog
from recsys.releases.release import open_release
from recsys.releases.served import SERVED, Served, read_served, served_text
from recsys.releases.status import EVERY_S, ServerStatus, remove_status, write_status

_log = logging.getLogger("recsys.serving")

_REREAD_S = 5.0
"""Time after which the file is read anyway: one written in place may keep its size, and its time on a coarse clock."""

_STATUS_S = EVERY_S - 1.0
"""A status that does not change is written again after so long, for its time says that the server lives."""


class ServedRead(NamedTuple):
    """The content of ``served.json`` has changed, or was asked for; or it cannot be read.

    Attributes:
        served: the content; None if it cannot be read.
        error: why it cannot be read.
        asked: somebody asked for it: what was refused before is tried again.
    """

    served: Served | None
    error: str
    asked: bool


class Follower:
    """Follows one store of releases.

    Args:
        store: the folder.
        poll_s: time between two looks; 0: only when asked.
        seen: the content that is known already.
        events: gets a :class:`ServedRead` for each change.
    """

    def __init__(self, store: Path, *, poll_s: float, seen: Served, events: SimpleQueue[Any]) -> None:
        self._store = store
        self._poll_s = poll_s
        self._events = events
        self._seen: Served | str = seen
        self._mark: tuple[int, ...] = ()
        self._read_s = 0.0
        self._wake = threading.Event()
        self._asked = False
        self._stopped = False
        self._status: ServerStatus | None = None
        self._written: ServerStatus | None = None
        self._written_s = 0.0
        self._trouble = RateLimitedLog(_log)
        self._thread = threading.Thread(target=self._run, name="releases", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def ask(self) -> None:
        """Read the file now, and report it whether it has changed or not."""
        self._asked = True
        self._wake.set()

    def publish(self, status: ServerStatus) -> None:
        """Have a status written; the latest counts."""
        self._status = status
        self._wake.set()

    def stop(self, *, timeout_s: float = 2.0) -> None:
        """End, and remove the status if the folder answers: the server is gone."""
        self._stopped = True
        self._wake.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopped:
            if asked := self._asked:  # one that is asked in this moment is not forgotten
                self._asked = False
            if self._poll_s or asked:
                self._look(asked)
            self._write()
            self._wake.wait(self._poll_s or 1.0)
            self._wake.clear()
        if self._status is not None and self._status.refused:
            self._write()  # remembered for the next start
        elif self._status is not None:
            remove_status(self._store, self._status.server)

    def _look(self, asked: bool) -> None:
        mark: tuple[int, ...]
        try:
            status = (self._store / SERVED).stat()
            mark = (status.st_ino, status.st_size, status.st_mtime_ns)
        except OSError:
            mark = ()
        if not asked and mark and mark == self._mark and time.monotonic() - self._read_s < _REREAD_S:
            return
        self._mark, self._read_s = mark, time.monotonic()
        found: Served | str
        try:
            found = read_served(self._store) or f"{self._store / SERVED}: is gone"
        except ReleaseError as error:
            found = str(error)
        if asked or _content(found) != _content(self._seen):
            self._seen = found
            self._wait_for_releases(found)
            if isinstance(found, str):
                self._events.put(ServedRead(None, found, asked))
            else:
                self._events.put(ServedRead(found, "", asked))

    def _wait_for_releases(self, found: Served | str) -> None:
        """Read the records of releases here first: a folder that hangs keeps this thread, not the main one."""
        if isinstance(found, Served):
            for name in {name for model in found.models.values() for name in model.used()}:
                with contextlib.suppress(ReleaseError):  # whoever needs it says so
                    open_release(self._store, name)

    def _write(self) -> None:
        status = self._status
        if status is None or (status is self._written and time.monotonic() - self._written_s < _STATUS_S):
            return
        self._written, self._written_s = status, time.monotonic()
        try:
            write_status(self._store, status)
        except (RecsysError, OSError) as error:  # a folder that servers may only read; the status is on the admin port
            self._trouble.warning(None, "the status of this server is not written: %s", error)


def _content(found: Served | str) -> str:
    return found if isinstance(found, str) else served_text(found)
