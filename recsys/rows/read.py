"""Files to raw rows, a batch at a time: what every batch command reads with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recsys.arrays import Int64Array
from recsys.errors import DataFileError, InvalidInputError, RecsysError
from recsys.rows.contract import RowContract
from recsys.rows.fields import as_it_came
from recsys.rows.files import BOM, RawFile, check_start, open_bytes, unpack_errors
from recsys.rows.text import MAX_LINE_BYTES, Block, CsvLines, JsonLines, LineParser, csv_header, shown_line, too_long

DELIMITERS = {"csv": ",", "tsv": "\t"}
BATCH_ROWS = 1 << 16
_BLOCK_BYTES = 16 << 20
_EMPTY = Block(
    columns={}, length=0, numbers=np.zeros(0, dtype=np.int64), spans=np.zeros((0, 2), dtype=np.int64), rows=0, used=0
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRows:
    """N rows of a file as they came.

    Attributes:
        file: the file's path.
        columns: column -> N raw values.
        length: N.
        numbers: the rows' numbers in the file, from 1; a CSV header is no row. [N].
        record: index of a row -> the row, for a reject.
        malformed: lines between them that are no rows: number, text, reason.
    """

    file: str
    columns: dict[str, Any]
    length: int
    numbers: Int64Array
    record: Callable[[int], Any]
    malformed: list[tuple[int, str, InvalidInputError]] = field(default_factory=list)


def read_rows(
    file: RawFile,
    contract: RowContract,
    *,
    complete: bool = False,
    unended: Callable[[str], None] | None = None,
    batch_rows: int = BATCH_ROWS,
) -> Iterator[RawRows]:
    """Rows of a file.

    Args:
        file: to read.
        contract: names the columns.
        complete: whether a last line without an end is whole. Otherwise more of it may follow, and it is left; so is a
            CSV row that began on a line before, in quotes.
        unended: called with the file's path if such a line was left.
        batch_rows: rows of a Parquet file at a time.

    Raises:
        DataFileError: the file cannot be read, or its columns are not those of the contract.
    """
    if file.format == "parquet":
        yield from _parquet_rows(file, contract, batch_rows)
        return
    where, rows_before = str(file.path), 0
    parser: LineParser | None = None if file.format in DELIMITERS else JsonLines(contract)
    whole = complete or not file.may_grow
    pending, started, skipping = b"", False, False
    try:
        with open_bytes(file) as stream:
            last = False
            while not last:
                data = stream.read(_BLOCK_BYTES)
                last, pending = not data, pending + data
                if not started and (last or len(pending) >= _BLOCK_BYTES or b"\n" in pending):
                    check_start(pending, where)
                    pending, started = pending.removeprefix(BOM), True
                    if parser is None:
                        parser, pending = _csv_parser(file, contract, pending, whole=whole)
                end = pending.rfind(b"\n") + 1
                if skipping and (end or last):
                    pending, skipping = pending[pending.find(b"\n") + 1 if end else len(pending) :], False
                    end = pending.rfind(b"\n") + 1
                if last and whole:
                    end = len(pending)
                if not end and len(pending) > MAX_LINE_BYTES:  # not to hold a line without an end in memory
                    found = () if skipping else ((rows_before + 1, shown_line(pending), too_long()),)
                    rows_before += len(found)
                    pending, skipping = b"", True
                    yield _made(where, _EMPTY, b"", rows_before, list(found))
                    continue
                if end and parser is not None:
                    # A quote that is open at the end of a file that may grow is closed by what follows.
                    block = parser.parse(pending[:end], last=last and whole)
                    yield _made(where, block, pending, rows_before, [])
                    rows_before += block.rows
                    pending = pending[block.used :]
                if last and pending.strip() and unended is not None:
                    unended(where)
    except unpack_errors() as error:
        if isinstance(error, RecsysError):
            raise
        raise DataFileError(f"{where}: cannot be read after row {rows_before:,}: {error}") from error


def unended_header(where: str) -> DataFileError:
    """Error for a CSV file of one line that does not end."""
    return DataFileError(f"{where}: its header has no end yet; if the file is complete, say so: --complete")


def _csv_parser(file: RawFile, contract: RowContract, start: bytes, *, whole: bool) -> tuple[CsvLines, bytes]:
    """Parser of a CSV file that begins so, and what follows its header."""
    line, newline, rest = start.partition(b"\n")
    if not start:
        raise DataFileError(f"{file.path}: is empty; expected a header with the names of columns")
    if not newline and not whole:
        raise unended_header(str(file.path))
    delimiter = DELIMITERS[file.format]
    header = csv_header(line, delimiter, where=str(file.path))
    return CsvLines(header, contract.check_header(header, where=str(file.path)), delimiter=delimiter), rest


def _made(
    where: str, block: Block, data: bytes, rows_before: int, malformed: list[tuple[int, str, InvalidInputError]]
) -> RawRows:
    def record(index: int) -> str:
        begin, end = block.spans[index].tolist()
        return shown_line(data[begin:end])

    malformed += [(rows_before + 1 + one.number, one.text, one.error) for one in block.malformed]
    return RawRows(
        file=where,
        columns=block.columns,
        length=block.length,
        numbers=block.numbers + (rows_before + 1),
        record=record,
        malformed=malformed,
    )


def _parquet_rows(file: RawFile, contract: RowContract, batch_rows: int) -> Iterator[RawRows]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from recsys.rows.parquet import check_schema

    where, rows_before = str(file.path), 0
    try:
        with pq.ParquetFile(file.path) as opened:
            names = check_schema(contract, opened.schema_arrow, where=where)
            for batch in opened.iter_batches(batch_size=batch_rows, columns=list(names)):
                columns = {name: batch.column(name) for name in batch.schema.names}
                yield RawRows(
                    file=where,
                    columns=columns,
                    length=batch.num_rows,
                    numbers=np.arange(rows_before + 1, rows_before + 1 + batch.num_rows),
                    record=lambda index, columns=columns: record_of(columns, index),  # type: ignore[misc]
                )
                rows_before += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataFileError(f"{where}: cannot be read as Parquet after row {rows_before:,}: {error}") from error


def record_of(columns: Mapping[str, Any], index: int) -> dict[str, Any]:
    """One row of columns, as it came."""
    return {name: as_it_came(column[index]) for name, column in columns.items()}
