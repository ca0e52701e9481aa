"""Events from a Parquet file, a batch of rows at a time."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recsys.arrays import Int64Array
from recsys.errors import DataFileError
from recsys.features.feature_set import FeatureSet
from recsys.features.hashing import MISSING
from recsys.features.history.records import require_history
from recsys.ingest.records import Fields
from recsys.ingest.source import Column, RawBatch

_CHECKED_BYTES = 4096

_log = logging.getLogger(__name__)


class ParquetSource:
    """One Parquet file.

    Args:
        path: of the file.
        fields: of an event; other columns are refused or left out, as they say.
        batch_events: rows per batch. Large: a user's events of one batch are one call of the store.
    """

    def __init__(self, path: Path, fields: Fields, *, batch_events: int) -> None:
        self._path = path
        self.name = f"file:{path.resolve()}"
        self._fields = fields
        self._batch_events = batch_events
        self._identity = ""
        self._batches: Iterator[tuple[int, Any]] = iter(())
        self._rows = 0
        self._next = 0

    async def start(self, positions: Mapping[str, str]) -> None:
        """As the protocol says: where the file is the one that was read before, behind the rows stored then."""
        await asyncio.to_thread(self._start, positions.get(self.name))

    async def read(self) -> RawBatch | None:
        """As the protocol says."""
        return await asyncio.to_thread(self._read)

    async def applied(self, batch: RawBatch) -> None:
        """Nothing to do: the position says it."""

    def behind(self) -> int | None:
        """Rows not read yet."""
        return self._rows - self._next

    async def close(self) -> None:
        """Close the file."""
        self._batches = iter(())

    def _start(self, position: str | None) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._identity = _identity(self._path)
        try:
            file = pq.ParquetFile(self._path, memory_map=True)
        except pa.ArrowException as error:
            raise DataFileError(f"{self._path}: not a Parquet file: {error}") from error
        schema = file.schema_arrow
        names = self._fields.check_columns(schema.names, where=str(self._path))
        for name in names:
            _check_type(self._fields.features, name, schema.field(name).type, where=str(self._path))
        self._rows = file.metadata.num_rows
        self._next = self._resume_at(position)
        self._batches = _batches(file, names, self._next, self._batch_events)

    def _resume_at(self, position: str | None) -> int:
        if position is None:
            return 0
        try:
            found = json.loads(position)
            if found["file"] == self._identity:
                return int(found["row"])
        except (ValueError, KeyError, TypeError):
            pass
        _log.warning("%s: not the file that was read before: read from its start", self._path)
        return 0

    def _read(self) -> RawBatch | None:
        import pyarrow as pa

        try:
            row, table = next(self._batches, (0, None))
        except (pa.ArrowException, OSError) as error:
            raise DataFileError(f"{self._path}: cannot be read after row {self._next}: {error}") from error
        if table is None:
            return None
        self._next = row + table.num_rows

        def locate(index: int) -> tuple[int, Any]:
            return row + index, table.slice(index, 1).to_pylist()[0]

        return RawBatch(
            source=self.name,
            columns={name: _values(table.column(name)) for name in table.column_names},
            length=table.num_rows,
            read_ms=time.time_ns() // 1_000_000,
            locate=locate,
            position=json.dumps({"file": self._identity, "row": self._next}),
        )


def _identity(path: Path) -> str:
    stat = path.stat()
    with path.open("rb") as file:
        checked = file.read(_CHECKED_BYTES)
    return hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns} ".encode() + checked).hexdigest()[:16]


def _batches(file: Any, names: tuple[str, ...], begin: int, size: int) -> Iterator[tuple[int, Any]]:
    """(number of the first row, table) of at most ``size`` rows each, from row ``begin``."""
    import pyarrow as pa

    group_rows = [file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)]
    first, group = 0, 0
    while group < len(group_rows) and first + group_rows[group] <= begin:
        first, group = first + group_rows[group], group + 1
    groups = list(range(group, len(group_rows)))
    if not groups:
        return
    waiting: list[Any] = []
    count, row = 0, begin
    for part in file.iter_batches(batch_size=min(size, 65_536), row_groups=groups, columns=list(names)):
        skipped = min(max(begin - first, 0), part.num_rows)
        first += part.num_rows
        part = part.slice(skipped)
        while part.num_rows:
            waiting.append(part.slice(0, size - count))
            part = part.slice(waiting[-1].num_rows)
            count += waiting[-1].num_rows
            if count == size:
                yield row, pa.Table.from_batches(waiting)
                waiting, row, count = [], row + count, 0
    if waiting:
        yield row, pa.Table.from_batches(waiting)


def _check_type(features: FeatureSet, name: str, kind: Any, *, where: str) -> None:
    """Raise DataFileError unless a column's type can hold the field's values."""
    import pyarrow.types as types

    value = kind.value_type if types.is_dictionary(kind) else kind
    declared = (features.user_id, features.item_id, *require_history(features).attributes)
    id_type = next((f.id_type for f in declared if f.name == name), "time")
    if id_type == "string":
        good, allowed = types.is_string(value) or types.is_large_string(value), "a string type"
    elif id_type == "int":
        good, allowed = types.is_integer(value), "an integer type"
    else:
        good, allowed = types.is_integer(value) or types.is_timestamp(value), "milliseconds as int64, or a timestamp"
    if not good:
        raise DataFileError(f"{where}: column {name!r} is of type {kind}; allowed: {allowed}")


def _values(column: Any) -> Column:
    """An Arrow column as raw values: integers with MISSING for null, or a list of texts."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ms", column.type.tz), safe=False).cast(pa.int64())
    if not types.is_integer(column.type) or (column.null_count and types.is_uint64(column.type)):
        return column.to_pylist()  # type: ignore[no-any-return]
    if column.null_count:
        column = pc.fill_null(column if types.is_int64(column.type) else column.cast(pa.int64()), MISSING)
    values: Int64Array = column.to_numpy()
    return values
