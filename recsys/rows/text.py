"""Rows in lines of text, JSON or CSV: blocks of bytes to raw columns, row by row only where they must be.

A block ends where a line does. A line that is no row is malformed: it is set aside with the reason, and the next line
is read. A quoted CSV value may hold line breaks; where a quote does not end, its line alone is malformed.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from recsys.arrays import Int64Array
from recsys.errors import DataFileError, InvalidInputError
from recsys.rows.contract import RowContract
from recsys.rows.files import BOM

MAX_LINE_BYTES = 1 << 20
_MAX_JOINED_LINES = 1_000
_SHOWN_BYTES = 2_000


class Malformed(NamedTuple):
    """A line that is no row: its place among the rows of the block, where it begins, the line, and why."""

    number: int
    begin: int
    text: str
    error: InvalidInputError


@dataclass(slots=True, kw_only=True)
class Block:
    """Rows of a block of bytes.

    Attributes:
        columns: column -> N raw values.
        length: N.
        numbers: each row's place among all rows of the block, malformed ones counted; [N].
        spans: where each row begins and ends, in bytes; [N, 2].
        malformed: what is no row.
        rows: N, and those that are malformed.
        used: bytes that were read; the rest is a row that does not end in this block.
    """

    columns: dict[str, Any]
    length: int
    numbers: Int64Array
    spans: Int64Array
    malformed: list[Malformed] = field(default_factory=list)
    rows: int
    used: int


class LineParser(Protocol):
    """Parser of blocks of whole lines."""

    def parse(self, block: bytes, *, last: bool) -> Block:
        """Rows of a block.

        Args:
            block: whole lines; if it is the last, the end of the last one may be missing.
            last: whether nothing follows.
        """
        ...


class JsonLines:
    """Parser of JSON lines: an object each."""

    def __init__(self, contract: RowContract) -> None:
        self._contract = contract

    def parse(self, block: bytes, *, last: bool) -> Block:
        """As the protocol says."""
        rows: list[dict[str, Any]] = []
        numbers: list[int] = []
        spans: list[tuple[int, int]] = []
        malformed: list[Malformed] = []
        number = end = 0
        # Text is read a third faster than bytes; ASCII, so that places in it are places in the block.
        lines: Sequence[Any] = block.decode().split("\n") if block.isascii() else block.split(b"\n")
        blank: Any = " \t\r" if block.isascii() else b" \t\r"
        for line in lines:
            begin, end = end, end + len(line) + 1
            if not line.strip(blank):
                continue
            try:
                row = parse_json(line)
                self._contract.check_names(row)
            except InvalidInputError as error:
                malformed.append(Malformed(number, begin, shown_line(line), error))
            else:
                rows.append(row)
                numbers.append(number)
                spans.append((begin, end - 1))
            number += 1
        return Block(
            columns=self._contract.raw_columns(rows),
            length=len(rows),
            numbers=np.array(numbers, dtype=np.int64),
            spans=np.array(spans, dtype=np.int64).reshape(-1, 2),
            malformed=malformed,
            rows=number,
            used=len(block),
        )


class CsvLines:
    """Parser of CSV whose header was read.

    Args:
        header: of the file.
        wanted: columns to keep.
        delimiter: between values.
    """

    def __init__(self, header: Sequence[str], wanted: Sequence[str], *, delimiter: str = ",") -> None:
        self._header = tuple(header)
        self._wanted = [(name, self._header.index(name)) for name in wanted]
        self._delimiter = delimiter

    def parse(self, block: bytes, *, last: bool) -> Block:
        """As the protocol says. Without quotes and faults Arrow reads the block, if it is installed."""
        return self._fast(block) or self._slow(block, last=last)

    def _fast(self, block: bytes) -> Block | None:
        if b'"' in block or not block or not _is_utf8(block):
            return None
        try:
            import pyarrow as pa
            import pyarrow.csv as reader
        except ImportError:
            return None
        data = np.frombuffer(block, dtype=np.uint8)
        ends = np.flatnonzero(data == 10)
        if len(ends) == 0 or ends[-1] != len(block) - 1:
            ends = np.append(ends, len(block))
        begins = np.concatenate([[0], ends[:-1] + 1])
        if (ends - begins > MAX_LINE_BYTES).any() or _lone_returns(data, ends):
            return None
        blank = (ends == begins) | ((ends == begins + 1) & (data[begins] == 13))
        if blank.any():
            begins, ends = begins[~blank], ends[~blank]
        try:
            table = reader.read_csv(
                pa.BufferReader(block),
                read_options=reader.ReadOptions(
                    column_names=list(self._header), use_threads=False, block_size=len(block) + 1
                ),
                parse_options=reader.ParseOptions(delimiter=self._delimiter, quote_char=False),
                convert_options=reader.ConvertOptions(
                    column_types=dict.fromkeys(self._header, pa.string()),
                    include_columns=[name for name, _ in self._wanted],
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
        except pa.ArrowInvalid:  # a row of another length, or no UTF-8
            return None
        if table.num_rows != len(begins):
            return None
        return Block(
            columns={name: table.column(name) for name, _ in self._wanted},
            length=len(begins),
            numbers=np.arange(len(begins)),
            spans=np.stack([begins, ends], axis=1).astype(np.int64),
            rows=len(begins),
            used=len(block),
        )

    def _slow(self, block: bytes, *, last: bool) -> Block:
        lines = block.split(b"\n")
        if lines[-1] == b"":
            lines.pop()
        rows: list[list[str]] = []
        numbers: list[int] = []
        spans: list[tuple[int, int]] = []
        malformed: list[Malformed] = []
        number = begin = at = 0
        while at < len(lines):
            line = lines[at]
            if line in (b"", b"\r"):
                at, begin = at + 1, begin + len(line) + 1
                continue
            count, found = 1, self._values(line)
            if found is None:
                count, found = self._joined(lines, at)
                if count == 0:
                    if not last and at + _MAX_JOINED_LINES > len(lines) and len(block) - begin < MAX_LINE_BYTES:
                        break  # it may end in the next block
                    count, found = 1, InvalidInputError("a quoted value does not end")
            size = sum(map(len, lines[at : at + count])) + count
            if isinstance(found, InvalidInputError):
                malformed.append(Malformed(number, begin, shown_line(line), found))
            else:
                assert found is not None
                rows.append(found)
                numbers.append(number)
                spans.append((begin, begin + size - 1))
            number, at, begin = number + 1, at + count, begin + size
        return Block(
            columns={name: [row[place] or None for row in rows] for name, place in self._wanted},
            length=len(rows),
            numbers=np.array(numbers, dtype=np.int64),
            spans=np.array(spans, dtype=np.int64).reshape(-1, 2),
            malformed=malformed,
            rows=number,
            used=min(begin, len(block)),
        )

    def _values(self, raw: bytes) -> list[str] | InvalidInputError | None:
        """Values of a row, why it is none, or None if a quoted value does not end in it."""
        if len(raw) > MAX_LINE_BYTES:
            return too_long()
        try:
            text = raw.removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            return InvalidInputError(f"not UTF-8: byte {error.object[error.start]:#04x} at {error.start}")
        try:
            found = text.split(self._delimiter) if '"' not in text else _quoted(text, self._delimiter)
        except csv.Error as error:
            return None if "unexpected end of data" in str(error) else InvalidInputError(f"malformed CSV: {error}")
        if len(found) != len(self._header):
            return InvalidInputError(f"{len(found)} values for {len(self._header)} columns ({', '.join(self._header)})")
        return found

    def _joined(self, lines: Sequence[bytes], at: int) -> tuple[int, Any]:
        """The fewest lines from ``at`` on that are a row, and its values; 0 if there are none."""
        joined = lines[at]
        for count, line in enumerate(lines[at + 1 : at + _MAX_JOINED_LINES], start=2):
            joined += b"\n" + line
            if len(joined) > MAX_LINE_BYTES:
                break
            if b'"' in line:
                found = self._values(joined)
                if isinstance(found, list):
                    return count, found
                if found is not None:
                    break
        return 0, None


def too_long() -> InvalidInputError:
    """Error for a line that is longer than any row."""
    return InvalidInputError(f"the line is longer than {MAX_LINE_BYTES:,} bytes")


def csv_header(line: bytes, delimiter: str, *, where: str) -> tuple[str, ...]:
    """Column names of the first line of a file.

    Raises:
        DataFileError: it is none.
    """
    try:
        text = line.removeprefix(BOM).rstrip(b"\r\n").decode()
        names = tuple(_quoted(text, delimiter)) if text else ()
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataFileError(f"{where}: the header cannot be read: {error}") from error
    for other in (";", "\t", "|", ","):
        if other != delimiter and len(names) == 1 and other in names[0]:
            shown = "tabs" if other == "\t" else f"{other!r}"
            advice = "name it .tsv" if other == "\t" else "write it with commas"
            raise DataFileError(f"{where}: the header has {shown} between names, not {delimiter!r}: {advice}")
    return names


def parse_json(text: bytes | str) -> dict[str, Any]:
    """One row in JSON.

    Raises:
        InvalidInputError: it is none.
    """
    if len(text) > MAX_LINE_BYTES:
        raise too_long()
    try:
        row = json.loads(text if isinstance(text, str) else text.removeprefix(BOM).decode())  # never UTF-16
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"not JSON: {error}") from None
    if not isinstance(row, dict):
        raise InvalidInputError(f"expected a JSON object, got {str(row)[:80]}")
    return row


def _quoted(text: str, delimiter: str) -> list[str]:
    return next(csv.reader([text], delimiter=delimiter, strict=True), [])


def _is_utf8(block: bytes) -> bool:
    """True if all of it is UTF-8, columns that are left out too."""
    try:
        return block.isascii() or bool(block.decode())
    except UnicodeDecodeError:
        return False


def _lone_returns(data: Any, ends: Any) -> bool:
    """True if there is a carriage return that no line feed follows: Arrow would take it for a line's end."""
    returns = np.flatnonzero(data == 13)
    return len(returns) > 0 and not np.isin(returns + 1, ends, assume_unique=True).all()


def shown_line(line: bytes | str) -> str:
    """The beginning of a line, for a reject."""
    if isinstance(line, str):
        return line[:_SHOWN_BYTES].rstrip("\r")
    return line[:_SHOWN_BYTES].decode(errors="replace").rstrip("\r")
