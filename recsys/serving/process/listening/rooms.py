"""Rooms: threads for the handlers of each kind of call, so that one kind that is full leaves the others theirs.

Health checks have threads that no other call can take, and never wait in them. Who watches health, or reads the
services' descriptions, keeps a thread for as long as it likes: there one gives way to a newcomer, of the caller that
has most (``rpc/streams/fair_share.py``).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from recsys.serving.rpc.interceptors import HEALTH
from recsys.serving.rpc.streams.fair_share import Holder, giving_way, holder_of

_NOBODY = Holder("", "")

REFLECTION = "/grpc.reflection."
"""Begins the paths of its methods."""


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    cancel: Callable[[], object]


class Room:
    """Threads for calls of one kind. Safe to use from several threads.

    Args:
        name: of the threads.
        threads: how many.
        most: calls at a time, those that wait for a thread included.
        endless: its calls last as long as their callers like: when it is full, cancel one for a new one, rather than
            refuse that.
    """

    def __init__(self, name: str, *, threads: int, most: int | None = None, endless: bool = False) -> None:
        self.most = threads if most is None else most
        self.completed = 0
        """Handlers that have returned, so far."""
        self.threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._endless = endless
        self._lock = threading.Lock()
        self._calls: dict[_Call, Holder] = {}
        """The oldest first."""

    def start(
        self,
        cancel: Callable[[], object],
        work: Callable[..., object],
        *arguments: object,
        peer: Callable[[], str] = lambda: "",
    ) -> bool:
        """Run a call's handler in a thread; False: there is no room.

        Args:
            cancel: cancels the call, whatever its handler does.
            work: the handler.
            arguments: its.
            peer: gives the caller's address, as gRPC writes it; asked where calls are endless.

        Raises:
            RuntimeError: the system has no more threads to give.
        """
        call, ended = _Call(cancel), None
        holder = holder_of(peer()) if self._endless else _NOBODY
        with self._lock:
            if len(self._calls) >= self.most:
                if not self._endless:
                    return False
                ended = giving_way(self._calls, holder).calls[0]
                del self._calls[ended]
            self._calls[call] = holder
        if ended is not None:
            ended.cancel()
        try:
            self.threads.submit(self._run, call, work, arguments)
        except BaseException:
            with self._lock:
                self._calls.pop(call, None)
            raise
        return True

    def cancel_endless(self) -> None:
        """Cancel all calls, if they are endless: the server drains."""
        with self._lock:
            calls = list(self._calls) if self._endless else []
        for call in calls:
            call.cancel()

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        """Run something that is no call."""
        return self.threads.submit(work)

    def close(self) -> None:
        """Wait for all handlers, and end the threads."""
        self.threads.shutdown()

    def _run(self, call: _Call, work: Callable[..., object], arguments: tuple[object, ...]) -> None:
        try:
            work(*arguments)
        finally:
            with self._lock:
                self._calls.pop(call, None)
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

    def cancel_endless(self) -> None:
        """Cancel the calls that would last for ever: the server drains."""
        self.watches.cancel_endless()
        self.reflection.cancel_endless()


@contextlib.contextmanager
def open_rooms(calls: int) -> Iterator[Rooms]:
    """Rooms for the duration of a ``with`` block, which ends when all handlers have.

    Args:
        calls: threads for calls other than health and reflection.
    """
    rooms = Rooms(
        calls=Room("call", threads=calls),
        checks=Room("health", threads=2, most=1_000),
        watches=Room("watch", threads=32, endless=True),
        reflection=Room("reflection", threads=4, endless=True),
    )
    with contextlib.ExitStack() as stack:
        for room in (rooms.calls, rooms.checks, rooms.watches, rooms.reflection):
            stack.callback(room.close)
        yield rooms
