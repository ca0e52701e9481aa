"""DuckDB, which sorts within this process and spills to a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from recsys.data.log.engines.engine import Engine, engine_bytes
from recsys.data.log.row_batches import ROW, Reader, encoded_batches, row_schema
from recsys.errors import DataFileError, NoSpaceError
from recsys.rows.encode import Told
from recsys.rows.files import RawFile
from recsys.rows.read import BATCH_ROWS


def open_duckdb(folder: Path, memory_limit_bytes: int, threads: int | None) -> Iterator[Engine]:
    """The engine, once; arguments as of ``open_engine``."""
    settings: dict[str, Any] = {
        "memory_limit": f"{engine_bytes(memory_limit_bytes)}B",
        "temp_directory": str(folder),
        "preserve_insertion_order": False,  # ORDER BY gives the order; keeping another one costs memory
    }
    if threads:
        settings["threads"] = threads
    connection = duckdb.connect(config=settings)
    connection.execute("SET enable_progress_bar = false")  # it would print to standard output
    try:
        yield _DuckDb(connection)
    finally:
        connection.close()


class _DuckDb:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def sorted_rows(
        self, files: Sequence[RawFile], reader: Reader, told: Told, *, by: Sequence[str]
    ) -> Iterator[pa.RecordBatch]:
        """As the protocol says."""
        failed: list[BaseException] = []

        def batches() -> Iterator[pa.RecordBatch]:
            try:
                yield from encoded_batches(list(enumerate(files)), reader, told, schema)
            except BaseException as error:  # DuckDB would make text of it
                failed.append(error)
                raise

        schema = row_schema(reader.contract, numbered=ROW in by)
        cursor = self._connection.cursor()  # one's answer ends when another question is asked
        try:
            cursor.register("encoded", pa.RecordBatchReader.from_batches(schema, batches()))
            order = ", ".join(f'"{name}"' for name in by)
            yield from cursor.execute(f"SELECT * FROM encoded ORDER BY {order}").to_arrow_reader(BATCH_ROWS)
        except duckdb.OutOfMemoryException as error:
            first = str(error).partition("\n")[0]
            raise NoSpaceError(f"engine 'duckdb': {first}; give it more with --memory-limit or --temp-dir") from error
        except (duckdb.Error, pa.ArrowException) as error:
            if failed:
                raise failed[0] from None
            raise DataFileError(f"engine 'duckdb' cannot sort the rows: {error}") from error
        finally:
            cursor.close()
