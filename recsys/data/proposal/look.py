"""A bounded sample of a log's raw rows: the beginning of each file, and of large ones the middle and the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from recsys.errors import DataFileError, InvalidInputError
from recsys.rows.contract import RowContract
from recsys.rows.files import BOM, RawFile, check_start, find_files, open_bytes, unpack_errors
from recsys.rows.read import DELIMITERS, unended_header
from recsys.rows.text import CsvLines, csv_header, parse_json

ROWS, FILES = 40_000, 8
"""Most rows and files that are looked at."""

_HEAD_BYTES, _PART_BYTES = 8 << 20, 1 << 20
_BATCH_ROWS = 10_000
_ANY = RowContract(fields=(), what="events", ignore_unknown=True)

Columns = dict[str, list[Any]]


@dataclass(frozen=True, kw_only=True)
class LogSample:
    """N raw rows of a log.

    Attributes:
        files: all of the log.
        looked_at: how many of them.
        matched: what patterns stood for, in words.
        columns: column -> N raw values, None where a row has none; in the order of the first file.
        rows: N.
        malformed: lines between them that are no rows.
        written: whether values are text because the format knows nothing else (CSV).
    """

    files: tuple[RawFile, ...]
    looked_at: int
    matched: tuple[str, ...]
    columns: Columns
    rows: int
    malformed: int
    written: bool


def look(given: Sequence[str]) -> LogSample:
    """Sample of the log in files, folders or patterns.

    Raises:
        DataFileError: there is none, a file cannot be read, or formats are mixed.
    """
    files, matched = find_files(given)
    formats = {file.format for file in files}
    if len(formats) > 1:
        raise DataFileError(f"{', '.join(given)}: files of several formats ({', '.join(sorted(formats))}); give one")
    step = max(1, (len(files) - 1) // (FILES - 1)) if len(files) > FILES else 1
    chosen = files[::step][:FILES]
    columns: Columns = {}
    rows = malformed = 0
    for file in chosen:
        for part, wrong in _parts(file, max(100, ROWS // len(chosen))):
            count = len(next(iter(part.values()), []))
            for name in part:
                columns.setdefault(name, [None] * rows)
            for name, values in columns.items():
                values += part.get(name, [None] * count)
            rows, malformed = rows + count, malformed + wrong
    if not rows:
        raise DataFileError(f"{', '.join(given)}: no row to look at; a line without an end is none yet")
    return LogSample(
        files=tuple(files),
        looked_at=len(chosen),
        matched=tuple(matched),
        columns=columns,
        rows=rows,
        malformed=malformed,
        written=formats <= set(DELIMITERS),
    )


def _parts(file: RawFile, rows: int) -> Iterator[tuple[Columns, int]]:
    """Columns of up to ``rows`` rows, and the malformed lines among them: half from the beginning, if there is more."""
    if file.format == "parquet":
        yield from _parquet_parts(file, rows)
        return
    header: tuple[str, ...] = ()
    for place, (block, share) in enumerate(_blocks(file)):
        limit = rows // share
        if file.format in DELIMITERS:
            if place == 0:
                line, newline, block = block.partition(b"\n")
                if not newline and file.may_grow:
                    raise unended_header(str(file.path))
                header = csv_header(line, DELIMITERS[file.format], where=str(file.path))
                _ANY.check_header(header, where=str(file.path))
            parsed = CsvLines(header, header, delimiter=DELIMITERS[file.format]).parse(block, last=False)
            if place and parsed.malformed:
                continue  # it may begin in the middle of a value in quotes
            yield {name: _listed(values[:limit]) for name, values in parsed.columns.items()}, len(parsed.malformed)
        else:
            yield _json_part(block, limit)


def _blocks(file: RawFile) -> Iterator[tuple[bytes, int]]:
    """Blocks of whole lines, and into how many parts the rows are to be shared for each."""
    where = str(file.path)
    try:
        with open_bytes(file) as stream:
            head = stream.read(_HEAD_BYTES)
            check_start(head, where)
            whole = len(head) < _HEAD_BYTES
            size = file.path.stat().st_size
            others = (size // 2, size - _PART_BYTES) if not file.packed and size > 2 * _HEAD_BYTES else ()
            ended = whole and not file.may_grow
            yield head.removeprefix(BOM) if ended else _to_last_end(head.removeprefix(BOM)), 2 if others else 1
            for begin in others:
                stream.seek(begin)
                yield _to_last_end(stream.read(_PART_BYTES).partition(b"\n")[2]), 4
    except unpack_errors() as error:
        if isinstance(error, InvalidInputError):
            raise
        raise DataFileError(f"{where}: cannot be read: {error}") from error


def _to_last_end(block: bytes) -> bytes:
    return block[: block.rfind(b"\n") + 1]


def _json_part(block: bytes, limit: int) -> tuple[Columns, int]:
    columns: Columns = {}
    count = malformed = 0
    for line in block.split(b"\n"):
        if count == limit:
            break
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except InvalidInputError:
            malformed += 1
            continue
        for name, value in row.items():
            columns.setdefault(name, [None] * count).append(value)
        count += 1
        for values in columns.values():
            if len(values) < count:
                values.append(None)
    return columns, malformed


def _parquet_parts(file: RawFile, rows: int) -> Iterator[tuple[Columns, int]]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import pyarrow.types as types

    try:
        with pq.ParquetFile(file.path) as opened:
            _ANY.check_header(opened.schema_arrow.names, where=str(file.path))
            groups = opened.num_row_groups
            if opened.metadata.num_rows <= rows:
                parts = [(list(range(groups)), rows)]
            else:
                parts = [(list(range(groups)), rows // 2), ([groups // 2], rows // 4), ([groups - 1], rows // 4)]
            for chosen, limit in parts:
                for batch in opened.iter_batches(batch_size=_BATCH_ROWS, row_groups=chosen):
                    batch, limit = batch.slice(0, limit), limit - batch.num_rows
                    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
                    for name, column in columns.items():
                        if types.is_timestamp(column.type):  # Python's times have no nanoseconds
                            columns[name] = column.cast(pa.timestamp("us", column.type.tz), safe=False)
                    yield {name: column.to_pylist() for name, column in columns.items()}, 0
                    if limit <= 0:
                        break
    except (pa.ArrowException, OSError) as error:
        raise DataFileError(f"{file.path}: cannot be read as Parquet: {error}") from error


def _listed(values: Any) -> list[Any]:
    return values.to_pylist() if hasattr(values, "to_pylist") else list(values)
