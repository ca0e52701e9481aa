"""Dead letters: refused events, kept so that somebody can mend and send them again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from recsys.feature_store.redis.link.protocol import Command, Link
from recsys.feature_store.redis.link.replies import value_of
from recsys.files import writing
from recsys.ingest.source import Refusal
from recsys.rows.rejects import Rejection

STREAM_EVENTS = 100_000
"""A stream of dead letters keeps about the newest so many."""


class DeadLetters(Protocol):
    """Takes refused events; one that is refused again after a crash is written again."""

    async def write(self, source: str, refused: Sequence[Refusal]) -> None:
        """Keep them: on return they survive the end of this process."""
        ...


class DeadLetterFile:
    """JSON lines of rejected rows (``rows/rejects.py``) with ``time_ms``; made when needed.

    On a full disk no part of a write stays: half a line would spoil the next one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    async def write(self, source: str, refused: Sequence[Refusal]) -> None:
        """As the protocol says."""
        await asyncio.to_thread(self._write, [_json(source, refusal) for refusal in refused])

    def _write(self, lines: Sequence[str]) -> None:
        with writing(self._path), self._path.open("ab", buffering=0) as file:
            before = os.fstat(file.fileno()).st_size
            rest = memoryview("".join(f"{line}\n" for line in lines).encode())
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError:
                with contextlib.suppress(OSError):  # no file but a pipe or a device
                    file.truncate(before)
                raise


class DeadLetterStream:
    """A Redis Stream; an entry's field ``dead_letter`` holds the JSON of :class:`DeadLetterFile`."""

    def __init__(self, stream: str, link: Link, *, timeout_s: float = 30.0) -> None:
        self._stream = stream
        self._link = link
        self._timeout_s = timeout_s

    async def write(self, source: str, refused: Sequence[Refusal]) -> None:
        """As the protocol says.

        Raises:
            StoreError: Redis is unreachable or out of memory.
        """
        add: Command = (b"XADD", self._stream, b"MAXLEN", b"~", STREAM_EVENTS, b"*", b"dead_letter")
        commands = [(*add, _json(source, refusal)) for refusal in refused]
        for reply in await self._link.round_trip(commands, timeout_s=self._timeout_s):
            value_of(self._stream, reply)


def _json(source: str, refusal: Refusal) -> str:
    return rejection(source, refusal).json(time_ms=time.time_ns() // 1_000_000)


def rejection(source: str, refusal: Refusal) -> Rejection:
    """Rejected row of a source; of a file its path."""
    return Rejection(file=source.removeprefix("file:"), row=refusal.row, error=refusal.error, record=refusal.event)
