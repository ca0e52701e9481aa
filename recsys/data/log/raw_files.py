"""Raw data as files: Parquet, CSV or JSON lines; which files there are, which columns they have, where a row is.

In CSV and JSON lines every value is text until it is encoded, so that no engine guesses types. In CSV an
empty field is a missing value, and a multi-valued feature is separated by ``|``.
"""

from __future__ import annotations

import csv
import glob
import gzip
import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.errors import DataFileError, nearest

FileFormat = Literal["parquet", "csv", "json"]

_SUFFIXES: dict[str, FileFormat] = {
    ".parquet": "parquet", ".csv": "csv", ".csv.gz": "csv",
    ".jsonl": "json", ".jsonl.gz": "json", ".ndjson": "json",
}  # fmt: skip
_JSON_LINES_LOOKED_AT = 1000


@dataclass(frozen=True, kw_only=True)
class RawFiles:
    """Files of one format and with the same columns.

    Attributes:
        paths: in the order of their names.
        format: ``parquet``, ``csv`` or ``json`` (lines).
        types: column name -> type; text, but in Parquet. JSON lines may have further columns, all text.
        ignored: columns to leave out.
    """

    paths: tuple[Path, ...]
    format: FileFormat
    types: Mapping[str, pa.DataType]
    ignored: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Columns that are not ignored."""
        return tuple(name for name in self.types if name not in self.ignored)

    @property
    def is_text(self) -> bool:
        """True if every value is text."""
        return self.format != "parquet"


def find_files(given: Sequence[str], *, ignored: tuple[str, ...] = ()) -> RawFiles:
    """Files, folders and globs to their files; folders are searched for known endings, not recursively.

    Raises:
        DataFileError: nothing is there, the formats or columns of two files differ, or a file cannot be read.
    """
    endings = ", ".join(_SUFFIXES)
    paths: list[Path] = []
    for name in given:
        path = Path(name)
        found = [path] if path.is_file() else [Path(p) for p in glob.glob(name) if Path(p).is_file()]
        if path.is_dir():
            found = [p for p in path.iterdir() if _format(p) and p.is_file() and not p.name.startswith((".", "_"))]
        if not found:
            raise DataFileError(f"{name}: no such file, or no file in it; allowed: a file, folder or glob of {endings}")
        paths.extend(sorted(found))
    formats: dict[FileFormat, Path] = {}
    for path in paths:
        kind = _format(path)
        if kind is None:
            raise DataFileError(f"{path}: unknown format; allowed endings: {endings}")
        formats.setdefault(kind, path)
    if len(formats) > 1:
        first, second = list(formats.values())[:2]
        raise DataFileError(f"{first} and {second} have different formats; give files of one format")
    (kind,) = formats
    types = _columns(paths[0], kind)
    for path in paths[1:]:
        other = _columns(path, kind)
        if kind == "json":
            types = {**types, **other}
        elif other != types:
            name = next(n for n in [*types, *other] if types.get(n) != other.get(n))
            here, there = other.get(name, "absent"), types.get(name, "absent")
            raise DataFileError(
                f"{path}: column {name!r} is {here}, but {there} in {paths[0]}; every file needs the same columns"
            )
        elif kind == "csv" and list(other) != list(types):
            raise DataFileError(
                f"{path}: columns in another order than in {paths[0]}; every file needs the same header"
            )
    return RawFiles(paths=tuple(paths), format=kind, types=types, ignored=ignored)


def check_names(files: RawFiles, *, required: Sequence[str], optional: Sequence[str]) -> None:
    """Refuse a column that is missing, or that nothing declares.

    Raises:
        DataFileError: names the column, the file, and the nearest column there is.
    """
    where = files.paths[0]
    for name in required:
        if name not in files.names:
            raise DataFileError(f"{where}: column {name!r} is missing: {nearest(name, files.names)}")
    allowed = (*required, *optional)
    for name in files.names:
        if name not in allowed:
            raise DataFileError(
                f"{where}: unknown column {name!r}: {nearest(name, allowed)}. Rename it, declare it, or leave it out"
                f" with --ignore {name}"
            )


def locate(files: RawFiles, row: Mapping[str, Any]) -> str:
    """``FILE: row N`` of the first row with these values, counted from 1 without a CSV header; else the first file."""
    for path in files.paths:
        for number, found in enumerate(_rows(path, files.format, tuple(row)), start=1):
            if found == dict(row):
                return f"{path}: row {number}"
    return str(files.paths[0])


def _format(path: Path) -> FileFormat | None:
    return next((kind for suffix, kind in _SUFFIXES.items() if path.name.endswith(suffix)), None)


def _columns(path: Path, kind: FileFormat) -> dict[str, pa.DataType]:
    try:
        if kind == "parquet":
            schema = pq.read_schema(path)
            return dict(zip(schema.names, schema.types, strict=True))
        with _text(path) as lines:
            if kind == "csv":
                names: list[str] = next(csv.reader(lines), [])
            else:
                rows = [json.loads(line) for line in itertools.islice(lines, _JSON_LINES_LOOKED_AT) if line.strip()]
                names = list(dict.fromkeys(name for row in rows for name in row))
    except (OSError, ValueError, TypeError, csv.Error, pa.ArrowException) as error:
        raise DataFileError(f"{path}: cannot be read as {kind}: {error}") from error
    if len(set(names)) < len(names):
        raise DataFileError(f"{path}: the header has a column twice: {', '.join(names)}")
    return dict.fromkeys(names, pa.string())


def _rows(path: Path, kind: FileFormat, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    if kind == "parquet":
        for batch in pq.ParquetFile(path).iter_batches(columns=list(names)):
            yield from batch.to_pylist()
        return
    with _text(path) as lines:
        if kind == "csv":
            for row in csv.DictReader(lines):
                yield {name: row.get(name) or None for name in names}
        else:
            for line in lines:
                found = json.loads(line) if line.strip() else {}
                yield {name: _as_text(found.get(name)) for name in names}


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _text(path: Path) -> io.TextIOWrapper:
    raw = gzip.open(path) if path.suffix == ".gz" else open(path, "rb")
    return io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
