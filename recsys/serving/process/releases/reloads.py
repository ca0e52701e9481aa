"""Reloads: callers of the admin service that wait until ``served.json`` was read and acted upon."""

from __future__ import annotations

from recsys.releases.status import ServerStatus
from recsys.serving.process.releases.switching import Process
from recsys.serving.process.workers.messages import AdminAnswer, AdminRequest
from recsys.serving.process.workers.pool import WorkerPool


class Reloads:
    """The calls that wait. Used from the supervisor's main thread.

    Args:
        pool: the workers, which have the callers.
    """

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._waiting: list[tuple[Process, int]] = []
        self._asked = False

    def add(self, process: Process, request: AdminRequest) -> None:
        """Let a call of a worker wait."""
        self._waiting.append((process, request.number))
        self._asked = True

    def taken(self) -> bool:
        """True once after a call came: the file is to be read."""
        asked, self._asked = self._asked, False
        return asked

    def answer(self, status: ServerStatus) -> None:
        """Answer all that wait."""
        waiting, self._waiting = self._waiting, []
        for process, number in waiting:
            self._pool.send(process, AdminAnswer(number=number, status=status, refused=status.refused))
