"""Rooms: threads for the handlers of each kind of call, so that one kind that is full leaves the others theirs.

Health checks have threads that no other call can take, and never wait in them. Who watches health, or reads the
services' descriptions, keeps a thread for as long as it likes: there the oldest gives way to a newcomer.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from recsys.serving.rpc.interceptors import HEALTH

REFLECTION = "/grpc.reflection."
"""Begins the paths of its methods."""


class Room:
    """Threads for calls of one kind. Safe to use from several threads.

    Args:
        name: of the threads.
        threads: how many.
        most: calls at a time, those that wait for a thread included.
        oldest_gives_way: when it is full, cancel the oldest call for a new one, rather than refuse that.
    """

    def __init__(self, name: str, *, threads: int, most: int | None = None, oldest_gives_way: bool = False) -> None:
        self.most = threads if most is None else most
        self.completed = 0
        """Handlers that have returned, so far."""
        self.threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._oldest_gives_way = oldest_gives_way
        self._lock = threading.Lock()
        self._calls: dict[object, Callable[[], object]] = {}

    def start(self, cancel: Callable[[], object], work: Callable[..., object], *arguments: object) -> bool:
        """Run a call's handler in a thread; False: there is no room.

        Args:
            cancel: cancels the call, whatever its handler does.
            work: the handler.
            arguments: its.

        Raises:
            RuntimeError: the system has no more threads to give.
        """
        key, oldest = object(), None
        with self._lock:
            if len(self._calls) >= self.most:
                if not self._oldest_gives_way:
                    return False
                oldest = self._calls.pop(next(iter(self._calls)))
            self._calls[key] = cancel
        if oldest is not None:
            oldest()
        try:
            self.threads.submit(self._run, key, work, arguments)
        except BaseException:
            with self._lock:
                self._calls.pop(key, None)
            raise
        return True

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        """Run something that is no call."""
        return self.threads.submit(work)

    def close(self) -> None:
        """Wait for all handlers, and end the threads."""
        self.threads.shutdown()

    def _run(self, key: object, work: Callable[..., object], arguments: tuple[object, ...]) -> None:
        try:
            work(*arguments)
        finally:
            with self._lock:
                self._calls.pop(key, None)
                self.completed += 1


@dataclass(frozen=True, kw_only=True)
class Rooms:
    """The rooms of a server."""

    calls: Room
    checks: Room
    watches: Room
    reflection: Room

    def of(self, path: str) -> Room:
        """The room of a method, by its path."""
        if path.startswith(HEALTH):
            return self.watches if path == HEALTH + "Watch" else self.checks
        return self.reflection if path.startswith(REFLECTION) else self.calls


@contextlib.contextmanager
def open_rooms(calls: int) -> Iterator[Rooms]:
    """Rooms for the duration of a ``with`` block, which ends when all handlers have.

    Args:
        calls: threads for calls other than health and reflection.
    """
    rooms = Rooms(
        calls=Room("call", threads=calls),
        checks=Room("health", threads=2, most=1_000),
        watches=Room("watch", threads=32, oldest_gives_way=True),
        reflection=Room("reflection", threads=4, oldest_gives_way=True),
    )
    with contextlib.ExitStack() as stack:
        for room in (rooms.calls, rooms.checks, rooms.watches, rooms.reflection):
            stack.callback(room.close)
        yield rooms
