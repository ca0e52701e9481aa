"""OpenStreams: streams of messages that callers send, each read by a thread for an event loop.

A stream may be idle for a limited time. When too many are open, a new one ends one of the caller that has most of them
(``fair_share.py``), or one that is idle.
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
from recsys.serving.rpc.streams.fair_share import Holder, giving_way

Message = TypeVar("Message")

_BUFFER = 2
"""Messages received ahead; when so many wait, the sender has to."""

_MIN_IDLE_S = 1.0
"""A stream that has sent something since then is in use."""


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
        self._open: dict[OpenStream, Holder] = {}

    @contextmanager
    def enter(self, holder: Holder) -> Iterator[OpenStream]:
        """Hold a place for the duration of a ``with`` block. When all are taken, another stream is ended, after the
        messages that have come.

        Raises:
            OverloadedError: all places are taken, their senders send, and none has more of them than its share.
        """
        if len(self._open) >= self._most:
            self._make_room(holder)
        stream = OpenStream(self._idle_limit_s)
        self._open[stream] = holder
        try:
            yield stream
        finally:
            self._open.pop(stream, None)

    def _make_room(self, newcomer: Holder) -> None:
        now_s = time.monotonic()
        streams, held, by = giving_way(self._open, newcomer)
        idle_s = {stream: 0.0 if stream.idle_since_s is None else now_s - stream.idle_since_s for stream in streams}
        longest = max(streams, key=lambda stream: idle_s[stream])  # the oldest, if none is idle
        if held:
            why = (
                f"its {by} has {held} of {self._most} streams open, the most of all; it gave way to one that has fewer"
            )
            why += "; to keep it, open fewer"
        elif idle_s[longest] >= _MIN_IDLE_S:
            why = f"the stream was idle for {idle_s[longest]:.1f} s, longest of {self._most}, the limit"
            why += "; ended for a new one"
        else:
            note_refusal("streams")
            raise OverloadedError(f"{len(self._open)} streams are open and in use, the limit; retry with backoff")
        del self._open[longest]
        longest.end(OverloadedError(why))


class OpenStream:
    """A stream. Made by :class:`OpenStreams`.

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
