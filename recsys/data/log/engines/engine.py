"""Engine: what encodes files and sorts their rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import pyarrow as pa

from recsys.data.log.row_batches import Reader
from recsys.rows.encode import Told
from recsys.rows.files import RawFile

ENGINES = ("duckdb", "spark")

_ENCODER_BYTES = 390 << 20
"""Python, its libraries, and the batch that is being encoded."""

_ENGINE_SHARE = 0.7
"""Of what remains; engines allocate more than they account for."""


class Engine(Protocol):
    """Encodes files and sorts their rows."""

    def sorted_rows(
        self, files: Sequence[RawFile], reader: Reader, told: Told, *, by: Sequence[str]
    ) -> Iterator[pa.RecordBatch]:
        """Encoded rows of all the files, sorted by columns; never all in memory.

        When the first batch comes, or the end, all rows have been read, and everything has been told.

        Args:
            files: to read.
            reader: encodes them; :func:`row_schema` names the columns.
            told: what is met on the way.
            by: columns to sort by.
        """
        ...


def engine_bytes(memory_limit_bytes: int) -> int:
    """Memory of the engine, as a part of the process' limit."""
    return int((memory_limit_bytes - _ENCODER_BYTES) * _ENGINE_SHARE)
