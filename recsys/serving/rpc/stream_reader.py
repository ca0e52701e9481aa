"""Stream reader: messages that a thread receives, read on an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import CancelledError
from typing import TypeVar

Message = TypeVar("Message")

_BUFFER = 2
"""Messages received ahead; when so many wait, the sender has to."""


async def read_stream(messages: Iterator[Message]) -> AsyncGenerator[Message, None]:
    """Yield the messages of a call's iterator, which a thread reads. It ends with the iterator, or at ``aclose``.

    Raises:
        concurrent.futures.CancelledError: the sender has left in the middle.
    """
    loop, arrived = asyncio.get_running_loop(), asyncio.Queue[Message | Exception | None]()
    room, left = threading.Semaphore(_BUFFER), threading.Event()

    def pump() -> None:
        end = None
        try:
            for message in messages:
                room.acquire()
                if left.is_set():
                    return
                loop.call_soon_threadsafe(arrived.put_nowait, message)
        except Exception as error:  # gRPC's is a bare one
            end = error
        if not left.is_set():
            loop.call_soon_threadsafe(arrived.put_nowait, end)

    threading.Thread(target=pump, name="stream", daemon=True).start()
    try:
        while (message := await arrived.get()) is not None:
            if isinstance(message, Exception):
                raise CancelledError("the sender has left") from message
            room.release()
            yield message
    finally:
        left.set()
        room.release()
