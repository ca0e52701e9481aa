"""Events from lines of text: JSON lines or CSV, in files (which may grow) or from standard input."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import json
import logging
import os
import select
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from recsys.errors import DataFileError, InvalidInputError
from recsys.ingest.records import Fields
from recsys.ingest.source import Pace, RawBatch, Refusal

MAX_LINE_BYTES = 1 << 20
_BLOCK_BYTES = 32 << 20
_READ_BYTES = 1 << 20
_CHECKED_BYTES = 4096
_POLL_S = 0.02
_QUIET_S = 1.0
_SHOWN_BYTES = 2000

_log = logging.getLogger(__name__)

Kind = Literal["jsonl", "csv"]


class LineSource:
    """A file of lines, or standard input (a file descriptor).

    Args:
        file: path, or a descriptor to read JSON lines from; that one cannot be read again by another process.
        fields: of an event.
        kind: of lines; a CSV file begins with a line of column names, and no value holds a line break.
        pace: counts where input may pause: with ``follow``, and for a descriptor.
    """

    def __init__(self, file: Path | int, fields: Fields, *, kind: Kind, pace: Pace) -> None:
        self._path = file if isinstance(file, Path) else None
        self.name = f"file:{file.resolve()}" if isinstance(file, Path) else "stdin"
        self._descriptor = file if isinstance(file, int) else -1
        self._fields = fields
        self._kind = kind
        self._pace = pace
        self._paced = pace.follow or self._path is None
        self._buffer = bytearray()
        self._offset = 0
        self._skipping = False
        self._ended = False
        self._header: tuple[str, ...] = ()
        self._unapplied: deque[RawBatch] = deque()
        self._again: deque[RawBatch] = deque()

    async def start(self, positions: Mapping[str, str]) -> None:
        """As the protocol says: where the file is still the one that was read up to the position, there."""
        if self._path is None:
            self._again = deque(self._unapplied)
            return
        await self.close()
        self._descriptor = os.open(self._path, os.O_RDONLY)
        self._buffer, self._ended, self._skipping = bytearray(), False, False
        self._offset = self._resume_at(positions.get(self.name))
        if self._kind == "csv":
            self._read_header()
        os.lseek(self._descriptor, self._offset, os.SEEK_SET)

    async def read(self) -> RawBatch | None:
        """As the protocol says."""
        if self._again:
            return self._again.popleft()
        batch = await asyncio.to_thread(self._read)
        if batch is not None and self._path is None:
            self._unapplied.append(batch)
        return batch

    async def applied(self, batch: RawBatch) -> None:
        """As the protocol says."""
        if self._path is None:
            self._unapplied.popleft()

    def behind(self) -> int | None:
        """Not known: lines have no numbers."""
        return None

    async def close(self) -> None:
        """Close the file."""
        if self._path is not None and self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _read(self) -> RawBatch | None:
        started_s, due_s, end = time.monotonic(), None, -1
        while not self._ended:
            data = self._some()
            now_s = time.monotonic()
            if data == b"":
                self._ended = not self._pace.follow or self._path is None
            elif data is not None:
                self._buffer += data
                end = self._buffer.rfind(b"\n", max(0, len(self._buffer) - len(data)))  # keeps this linear
                if len(self._buffer) > MAX_LINE_BYTES and b"\n" not in self._buffer:
                    break
            if end < 0:
                end = self._buffer.rfind(b"\n")
            if len(self._buffer) >= _BLOCK_BYTES:
                break
            if self._paced:
                if end >= 0:
                    due_s = due_s or now_s + self._pace.flush_s
                    if now_s >= due_s or self._buffer.count(b"\n") >= self._pace.flush_events:
                        break
                elif now_s - started_s > _QUIET_S:
                    break
        if self._ended and not self._buffer:
            return None
        if self._ended:
            end = len(self._buffer) - 1
        elif end < 0 and len(self._buffer) > MAX_LINE_BYTES:
            return self._too_long()
        block = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        return self._batch(block)

    def _some(self) -> bytes | None:
        """Read the next bytes; None if nothing comes soon; empty at the end."""
        if self._path is None and not select.select([self._descriptor], [], [], _POLL_S)[0]:
            return None
        data = os.read(self._descriptor, _READ_BYTES)
        if not data and self._path is not None and self._pace.follow:
            if os.fstat(self._descriptor).st_size < self._offset + len(self._buffer):
                raise DataFileError(f"{self._path}: became shorter while it was read; run again to read the new file")
            time.sleep(_POLL_S)
            return None
        return data

    def _too_long(self) -> RawBatch:
        """A line that does not end: refuse it once, and drop it as far as it goes."""
        refused = [] if self._skipping else [self._refusal_of_long(self._offset, bytes(self._buffer[:_SHOWN_BYTES]))]
        self._skipping = True
        self._offset += len(self._buffer)
        self._buffer.clear()
        # The middle of a line is no place to go on from, so this batch has no position.
        return self._made([], [], refused, position="")

    def _batch(self, block: bytes) -> RawBatch:
        events: list[dict[str, Any]] = []
        places: list[tuple[int, bytes]] = []
        refused: list[Refusal] = []
        parse: Callable[[bytes], dict[str, Any]] = self._fields.parse if self._kind == "jsonl" else self._parse_csv
        offset = self._offset
        for line in block.split(b"\n"):
            begin, offset = offset, offset + len(line) + 1
            if self._skipping:
                self._skipping = False
                continue
            if not line or line.isspace():
                continue
            if len(line) > MAX_LINE_BYTES:
                refused.append(self._refusal_of_long(begin, line[:_SHOWN_BYTES]))
                continue
            try:
                event = parse(line)
                self._fields.check_event(event)
            except InvalidInputError as error:
                refused.append(Refusal(str(error), begin, line.decode(errors="replace")))
                continue
            events.append(event)
            places.append((begin, line))
        self._offset += len(block)
        return self._made(events, places, refused, position=self._position())

    def _made(
        self, events: list[dict[str, Any]], places: list[tuple[int, bytes]], refused: list[Refusal], *, position: str
    ) -> RawBatch:
        columns, unsent = self._fields.columns_of(events)

        def locate(index: int) -> tuple[int, str]:
            begin, line = places[index]
            return begin, line.decode(errors="replace")

        return RawBatch(
            source=self.name,
            columns=columns,
            length=len(events),
            read_ms=time.time_ns() // 1_000_000,
            locate=locate,
            unsent=unsent,
            refused=refused,
            position=position,
        )

    def _refusal_of_long(self, offset: int, begins: bytes) -> Refusal:
        return Refusal(f"the line is longer than {MAX_LINE_BYTES:,} bytes", offset, begins.decode(errors="replace"))

    def _parse_csv(self, line: bytes) -> dict[str, Any]:
        values = _csv_values(line)
        if len(values) != len(self._header):
            raise InvalidInputError(f"{len(values)} values for {len(self._header)} columns ({', '.join(self._header)})")
        return self._fields.from_texts(
            {n: v for n, v in zip(self._header, values, strict=True) if n in self._fields.names}
        )

    def _read_header(self) -> None:
        head = os.pread(self._descriptor, MAX_LINE_BYTES, 0)
        line, newline, _ = head.partition(b"\n")
        self._header = tuple(_csv_values(line.removeprefix(b"\xef\xbb\xbf")))
        self._fields.check_columns(self._header, where=str(self._path))
        self._offset = max(self._offset, len(line) + len(newline))

    def _position(self) -> str:
        if self._path is None:
            return ""
        return json.dumps({"offset": self._offset, "bytes": self._bytes_before(self._offset)})

    def _resume_at(self, position: str | None) -> int:
        if position is None:
            return 0
        try:
            found = json.loads(position)
            offset = int(found["offset"])
            if os.fstat(self._descriptor).st_size >= offset and self._bytes_before(offset) == found["bytes"]:
                return offset
        except (ValueError, KeyError, TypeError):
            pass
        _log.warning("%s: not the file that was read before: read from its start", self._path)
        return 0

    def _bytes_before(self, offset: int) -> str:
        """Tells whether a file, which may have grown, is still the same up to an offset: its first bytes and those
        before the offset."""
        size = min(offset, _CHECKED_BYTES)
        checked = os.pread(self._descriptor, size, 0) + os.pread(self._descriptor, size, offset - size)
        return hashlib.sha256(checked).hexdigest()[:16]


def _csv_values(line: bytes) -> list[str]:
    try:
        rows = list(csv.reader([line.decode().rstrip("\r")], strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise InvalidInputError(f"not CSV: {error}") from None
    return rows[0] if rows else []
