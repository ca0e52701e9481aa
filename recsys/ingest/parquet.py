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

from recsys.errors import DataFileError
from recsys.ingest.source import RawBatch
from recsys.rows.contract import RowContract
from recsys.rows.read import record_of

_CHECKED_BYTES = 4096

_log = logging.getLogger(__name__)


class ParquetSource:
    """One Parquet file.

    Args:
        path: of the file.
        contract: of an event; says which other columns are refused or left out.
        batch_events: rows per batch. Large: a user's events of one batch are one call of the store.
    """

    def __init__(self, path: Path, contract: RowContract, *, batch_events: int) -> None:
        self._path = path
        self.name = f"file:{path.resolve()}"
        self._contract = contract
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

    def left(self) -> str | None:
        """Nothing: every event is whole."""
        return None

    async def close(self) -> None:
        """Close the file."""
        self._batches = iter(())

    def _start(self, position: str | None) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        from recsys.rows.parquet import check_schema

        self._identity = _identity(self._path)
        try:
            file = pq.ParquetFile(self._path, memory_map=True)
        except pa.ArrowException as error:
            raise DataFileError(f"{self._path}: not a Parquet file: {error}") from error
        names = check_schema(self._contract, file.schema_arrow, where=str(self._path))
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
        except (ValueError, KeyError, TypeError, ArithmeticError, OSError):
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

        columns = {name: table.column(name) for name in table.column_names}

        def locate(index: int) -> tuple[int, Any]:
            return row + index + 1, record_of(columns, index)

        return RawBatch(
            source=self.name,
            contract=self._contract,
            columns=columns,
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
