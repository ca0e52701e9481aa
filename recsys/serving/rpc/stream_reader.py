"""OpenStreams: streams of messages that callers send, each read by a thread for an event loop.

A stream may be idle for a limited time, and when too many are open, one that is idle gives way to a new one.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any, TypeVar

from recsys.errors import AccessError, InvalidInputError, OverloadedError
from recsys.serving.current_call import note_refusal

Message = TypeVar("Message")

_BUFFER = 2
"""Messages received ahead; when so many wait, the sender has to."""

_MIN_IDLE_S = 1.0
"""A stream that has sent something since then does not give way."""


class StreamEnded(Exception):
    """A stream is read no further.

    Args:
        error: to be told to its sender, with how far it came.
    """

    def __init__(self, error: InvalidInputError | AccessError | OverloadedError | TimeoutError) -> None:
        super().__init__(str(error))
        self.error = error


class OpenStreams:
    """The streams that are open. Used on one event loop.

    Args:
        most: so many at a time.
        idle_limit_s: the longest time between two messages of one.
    """

    def __init__(self, most: int, *, idle_limit_s: float) -> None:
        self._most = most
        self._idle_limit_s = idle_limit_s
        self._open: set[OpenStream] = set()

    @contextmanager
    def enter(self) -> Iterator[OpenStream]:
        """Hold a place for the duration of a ``with`` block. When all are taken, the stream that has been idle longest
        is ended.

        Raises:
            OverloadedError: all places are taken, and their senders send.
        """
        if len(self._open) >= self._most:
            self._make_room()
        stream = OpenStream(self._idle_limit_s)
        self._open.add(stream)
        try:
            yield stream
        finally:
            self._open.discard(stream)

    def _make_room(self) -> None:
        now_s = time.monotonic()
        idle_s = {stream: now_s - stream.idle_since_s for stream in self._open if stream.idle_since_s is not None}
        longest = max(idle_s, key=lambda stream: idle_s[stream], default=None)
        if longest is None or idle_s[longest] < _MIN_IDLE_S:
            note_refusal("streams")
            raise OverloadedError(f"{len(self._open)} streams are open and in use, the limit; retry with backoff")
        self._open.discard(longest)
        idle = f"the stream was idle for {idle_s[longest]:.1f} s, longest of {self._most}, the limit"
        longest.end(OverloadedError(f"{idle}; ended for a new one"))


class OpenStream:
    """One stream. Made by :class:`OpenStreams`.

    Attributes:
        idle_since_s: since when nothing has come from its sender, ``time.monotonic`` seconds; None: something is here.
    """

    def __init__(self, idle_limit_s: float) -> None:
        self.idle_since_s: float | None = None
        self._idle_limit_s = idle_limit_s
        self._arrived = asyncio.Queue[Any]()

    def end(self, error: OverloadedError) -> None:
        """End it, once what has arrived is read."""
        self._arrived.put_nowait(StreamEnded(error))

    async def read(self, messages: Iterator[Message]) -> AsyncGenerator[Message, None]:
        """Yield the messages of a call's iterator, which a thread reads. It ends with the iterator, or at ``aclose``.

        Raises:
            concurrent.futures.CancelledError: the sender has left in the middle.
            StreamEnded: it was idle for too long, or for longest of all; or sent a message that is none, or
                that it may not send any more.
        """
        loop, arrived = asyncio.get_running_loop(), self._arrived
        room, left = threading.Semaphore(_BUFFER), threading.Event()

        def pump() -> None:
            end: Exception | None = None
            try:
                for message in messages:
                    room.acquire()
                    if left.is_set():
                        return
                    loop.call_soon_threadsafe(arrived.put_nowait, message)
            except Exception as error:  # gRPC's is a bare one
                end = StreamEnded(error) if isinstance(error, InvalidInputError | AccessError) else error
            if not left.is_set():
                loop.call_soon_threadsafe(arrived.put_nowait, end)

        threading.Thread(target=pump, name="stream", daemon=True).start()
        try:
            while (message := await self._next()) is not None:
                if isinstance(message, StreamEnded):
                    raise message
                if isinstance(message, Exception):
                    raise CancelledError("the sender has left") from message
                room.release()
                yield message
        finally:
            left.set()
            room.release()

    async def _next(self) -> Any:
        if not self._arrived.empty():
            return self._arrived.get_nowait()
        self.idle_since_s = time.monotonic()
        try:
            async with asyncio.timeout(self._idle_limit_s):
                return await self._arrived.get()
        except TimeoutError:
            limit = "the limit (RECSYS_STREAM_IDLE_TIMEOUT_S)"
            return StreamEnded(TimeoutError(f"no message for {self._idle_limit_s:g} s, {limit}"))
        finally:
            self.idle_since_s = None
