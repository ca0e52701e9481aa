"""Events from lines of text: JSON lines or CSV, in files (which may grow) or from standard input."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import select
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO

from recsys.errors import DataFileError
from recsys.ingest.source import Pace, RawBatch, Refusal
from recsys.rows.contract import RowContract
from recsys.rows.files import BOM, RawFile, check_start, open_bytes, unpack_errors
from recsys.rows.read import DELIMITERS
from recsys.rows.text import MAX_LINE_BYTES, Block, CsvLines, JsonLines, LineParser, csv_header, shown_line, too_long

_BLOCK_BYTES = 32 << 20
_READ_BYTES = 1 << 20
_CHECKED_BYTES = 4096
_POLL_S = 0.02
_QUIET_S = 1.0

_log = logging.getLogger(__name__)


class LineSource:
    """A file of lines, or standard input (a file descriptor).

    A last line without an end may still be under way: it is left for the next time, unless the file is packed or said
    to be complete. Standard input that ended is. With it a CSV row is left that began on a line before, in quotes.

    Args:
        file: to read, or a descriptor to read JSON lines from; that one cannot be read again by another process.
        contract: of an event.
        pace: counts where input may pause: with ``follow``, and for a descriptor.
        complete: whether a last line without an end is whole.
    """

    def __init__(self, file: RawFile | int, contract: RowContract, *, pace: Pace, complete: bool = False) -> None:
        self._file = file if isinstance(file, RawFile) else None
        self.name = "stdin" if self._file is None else f"file:{self._file.path.resolve()}"
        self._descriptor = file if isinstance(file, int) else -1
        self._stream: IO[bytes] | None = None
        self._contract = contract
        self._pace = pace
        self._paced = pace.follow or self._file is None
        self._whole = complete or self._file is None or not self._file.may_grow
        self._parser: LineParser = JsonLines(contract)
        self._buffer = bytearray()
        self._offset = 0
        self._rows = 0
        self._skipping = False
        self._ended = False
        self._left = False
        self._unapplied: deque[RawBatch] = deque()
        self._again: deque[RawBatch] = deque()

    async def start(self, positions: Mapping[str, str]) -> None:
        """As the protocol says: where the file is still the one that was read up to the position, there."""
        if self._file is None:
            self._again = deque(self._unapplied)
            return
        await self.close()
        await asyncio.to_thread(self._start, self._file, positions.get(self.name))

    async def read(self) -> RawBatch | None:
        """As the protocol says."""
        if self._again:
            return self._again.popleft()
        batch = await asyncio.to_thread(self._read)
        if batch is not None and self._file is None:
            self._unapplied.append(batch)
        return batch

    async def applied(self, batch: RawBatch) -> None:
        """As the protocol says."""
        if self._file is None:
            self._unapplied.popleft()

    def behind(self) -> int | None:
        """Not known: lines have no numbers."""
        return None

    def left(self) -> str | None:
        """As the protocol says."""
        where = self.name if self._file is None else self._file.path
        return (
            f"{where}: the last line has no end yet; it is read once it has one, or with --complete"
            if self._left
            else None
        )

    async def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _start(self, file: RawFile, position: str | None) -> None:
        self._buffer, self._ended, self._skipping, self._left = bytearray(), False, False, False
        self._offset, self._rows = self._resume_at(file, position)
        self._stream = open_bytes(file)
        with self._told():
            head = _head(self._stream)
        self._stream.close()
        check_start(head, str(file.path))
        begin = len(BOM) if head.startswith(BOM) else 0
        if file.format in DELIMITERS:
            line, newline, _ = head.partition(b"\n")
            if not newline and not self._whole:
                raise DataFileError(
                    f"{file.path}: its header has no end yet; if the file is complete, say so: --complete"
                )
            header = csv_header(line, DELIMITERS[file.format], where=str(file.path))
            wanted = self._contract.check_header(header, where=str(file.path))
            self._parser = CsvLines(header, wanted, delimiter=DELIMITERS[file.format])
            begin = len(line) + len(newline)
        self._offset = max(self._offset, begin)
        self._stream = open_bytes(file)
        with self._told():
            _skip(self._stream, self._offset, packed=bool(file.packed))

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors in reading as those of the file; a packed one may be damaged."""
        try:
            yield
        except unpack_errors() as error:
            where = self.name if self._file is None else self._file.path
            raise DataFileError(f"{where}: cannot be read after row {self._rows:,}: {error}") from error

    def _read(self) -> RawBatch | None:
        started_s, due_s, end = time.monotonic(), None, -1
        while not self._ended:
            data = self._some()
            now_s = time.monotonic()
            if data == b"":
                self._ended = not self._pace.follow or self._file is None
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
        if self._ended:
            end = len(self._buffer) - 1 if self._whole else self._buffer.rfind(b"\n")
            self._left = bool(self._buffer[end + 1 :].strip())
            if end < 0:
                return None
        elif end < 0 and len(self._buffer) > MAX_LINE_BYTES:
            return self._too_long()
        return self._batch(bytes(self._buffer[: end + 1]))

    def _some(self) -> bytes | None:
        """Read the next bytes; None if nothing comes soon; empty at the end."""
        if self._file is None:
            if not select.select([self._descriptor], [], [], _POLL_S)[0]:
                return None
            return os.read(self._descriptor, _READ_BYTES)
        assert self._stream is not None
        with self._told():
            data = self._stream.read(_READ_BYTES)
        if not data and self._pace.follow:
            if self._file.path.stat().st_size < self._offset + len(self._buffer):
                raise DataFileError(
                    f"{self._file.path}: became shorter while it was read; run again to read the new file"
                )
            time.sleep(_POLL_S)
            return None
        return data

    def _too_long(self) -> RawBatch:
        """A line that does not end: refuse it once, and drop it as far as it goes."""
        refused = []
        if not self._skipping:
            self._rows += 1
            shown = shown_line(bytes(self._buffer[:MAX_LINE_BYTES]))
            refused.append(Refusal(too_long(), self._rows, shown))
        self._skipping = True
        self._offset += len(self._buffer)
        self._buffer.clear()
        # The middle of a line is no place to go on from, so this batch has no position.
        return self._made(None, b"", refused, position="")

    def _batch(self, data: bytes) -> RawBatch | None:
        if self._skipping:
            rest = data.find(b"\n") + 1 or len(data)
            self._skipping = rest == len(data) and not data.endswith(b"\n")
            self._take(rest)
            data = data[rest:]
        # A quote that is open at the end of a file that may grow is closed by what follows.
        block = self._parser.parse(data, last=self._ended and self._whole)
        if self._ended and block.used < len(data):
            self._left = True
            if not block.used:
                return None
        refused = [Refusal(one.error, self._rows + 1 + one.number, one.text) for one in block.malformed]
        numbers = block.numbers + (self._rows + 1)
        self._rows += block.rows
        self._take(block.used)
        block.numbers = numbers
        return self._made(block, data, refused, position=self._position())

    def _take(self, count: int) -> None:
        del self._buffer[:count]
        self._offset += count

    def _made(self, block: Block | None, data: bytes, refused: list[Refusal], *, position: str) -> RawBatch:
        def locate(index: int) -> tuple[int, str]:
            assert block is not None
            begin, end = block.spans[index].tolist()
            return int(block.numbers[index]), data[begin:end].decode(errors="replace").rstrip("\r")

        return RawBatch(
            source=self.name,
            contract=self._contract,
            columns={} if block is None else block.columns,
            length=0 if block is None else block.length,
            read_ms=time.time_ns() // 1_000_000,
            locate=locate,
            refused=refused,
            position=position,
        )

    def _position(self) -> str:
        if self._file is None:
            return ""
        position = {"offset": self._offset, "row": self._rows, "bytes": _bytes_before(self._file, self._offset)}
        return json.dumps(position)

    def _resume_at(self, file: RawFile, position: str | None) -> tuple[int, int]:
        if position is None:
            return 0, 0
        try:
            found = json.loads(position)
            offset = int(found["offset"])
            if _bytes_before(file, offset) == found["bytes"]:
                return offset, int(found.get("row", 0))
        except (ValueError, KeyError, TypeError, ArithmeticError, OSError):
            pass
        _log.warning("%s: not the file that was read before: read from its start", file.path)
        return 0, 0


def _bytes_before(file: RawFile, offset: int) -> str:
    """Tells whether a file, which may have grown, is still the same up to an offset: its first bytes and those
    before the offset. A packed file does not grow: its size, time and first bytes."""
    size = min(offset, _CHECKED_BYTES)
    with open(file.path, "rb") as stream:
        if file.packed:
            stat = os.fstat(stream.fileno())
            checked = f"{stat.st_size} {stat.st_mtime_ns} ".encode() + stream.read(_CHECKED_BYTES)
        else:
            checked = os.pread(stream.fileno(), size, 0) + os.pread(stream.fileno(), size, offset - size)
            if len(checked) < 2 * size:
                return ""  # it is shorter than that
    return hashlib.sha256(checked).hexdigest()[:16]


def _skip(stream: IO[bytes], count: int, *, packed: bool) -> None:
    """Go on by so many bytes; a packed file is read."""
    if not packed:
        stream.seek(count, os.SEEK_CUR)
        return
    while count > 0 and (data := stream.read(min(count, _READ_BYTES))):
        count -= len(data)


def _head(stream: IO[bytes]) -> bytes:
    """The first bytes, or all there are."""
    found = bytearray()
    while len(found) < MAX_LINE_BYTES and (data := stream.read(MAX_LINE_BYTES - len(found))):
        found += data
    return bytes(found)
