"""The two engines that encode and sort logs, behind one Protocol: DuckDB in this process, Spark on a cluster.

An engine decides nothing about values: both read files with the same reader (``recsys/rows``), and sort what comes out,
which is keys, numbers and times, so that the answer does not depend on which engine it is.
"""

from __future__ import annotations

import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.data.log.row_batches import NOTE, ROW, EncodeTask, Reader, encoded_batches, from_batch, row_schema
from recsys.errors import ConfigError, DataFileError, NoSpaceError, nearest
from recsys.rows.encode import Told
from recsys.rows.files import RawFile
from recsys.rows.read import BATCH_ROWS

EngineName = Literal["duckdb", "spark"]
ENGINES = ("duckdb", "spark")

_ENCODER_BYTES = 390 << 20
"""Python, its libraries, and the batch that is being encoded."""

_ENGINE_SHARE = 0.7
"""Of what remains; engines allocate more than they account for."""

_MIN_MEMORY_BYTES = 500_000_000
_LOCAL_SHUFFLE_PARTITIONS = 16


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


@contextmanager
def open_engine(
    name: str, *, work_dir: Path, memory_limit_bytes: int = 4 << 30, threads: int | None = None
) -> Iterator[Engine]:
    """An engine until the end of the block.

    Args:
        name: ``duckdb``, in this process; or ``spark``: the master that SPARK_MASTER names, else all cores here.
        work_dir: where it puts what does not fit in memory; with a Spark cluster, a folder all workers share.
        memory_limit_bytes: of the whole process, at least 500 MB. Spark obeys it only where it starts its own JVM.
        threads: default: all cores.

    Raises:
        ConfigError: an unknown engine, a limit that is too small, or Spark or Java is not installed.
    """
    if name not in ENGINES:
        raise ConfigError(f"engine {name!r}: {nearest(name, ENGINES)}")
    if memory_limit_bytes < _MIN_MEMORY_BYTES:
        raise ConfigError(f"memory limit {memory_limit_bytes} bytes; allowed: 500MB or more")
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}; allowed: 1 or more")
    work_dir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=work_dir))
    try:
        if name == "duckdb":
            yield from _duckdb(folder, memory_limit_bytes, threads)
        else:
            yield from _spark(folder, memory_limit_bytes, threads)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def engine_bytes(memory_limit_bytes: int) -> int:
    """Memory of the engine, as a part of the process' limit."""
    return int((memory_limit_bytes - _ENCODER_BYTES) * _ENGINE_SHARE)


def _duckdb(folder: Path, memory_limit_bytes: int, threads: int | None) -> Iterator[Engine]:
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


def _spark(folder: Path, memory_limit_bytes: int, threads: int | None) -> Iterator[Engine]:
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise ConfigError("engine 'spark': pyspark is not installed; pip install 'recsys[spark]'") from error
    master = os.environ.get("SPARK_MASTER", f"local[{threads or '*'}]")
    builder = SparkSession.builder.appName("recsys prepare").master(master)
    settings = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false"}
    if master.startswith("local"):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # workers need what this process has
        settings |= {
            "spark.driver.memory": f"{max(512, engine_bytes(memory_limit_bytes) >> 20)}m",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.local.dir": str(folder),
            "spark.sql.shuffle.partitions": str(_LOCAL_SHUFFLE_PARTITIONS),
            "spark.sql.warehouse.dir": str(folder / "warehouse"),
        }
    for key, value in settings.items():
        builder = builder.config(key, value)
    try:
        session = builder.getOrCreate()
    except Exception as error:  # whatever keeps a JVM from starting
        raise ConfigError(f"engine 'spark': cannot start with master {master!r} (it needs Java 17): {error}") from error
    session.sparkContext.setLogLevel("ERROR")
    try:
        yield _Spark(session, folder)
    finally:
        session.stop()


class _Spark:
    def __init__(self, session: Any, folder: Path) -> None:
        self._session = session
        self._folder = folder
        self._sorts = 0

    def sorted_rows(
        self, files: Sequence[RawFile], reader: Reader, told: Told, *, by: Sequence[str]
    ) -> Iterator[pa.RecordBatch]:
        """As the protocol says. Workers read the files, one each at a time, with the same reader."""
        from pyspark.errors import PySparkException

        self._sorts += 1
        folder = self._folder / f"sort-{self._sorts}"
        schema = row_schema(reader.contract, numbered=ROW in by)
        given = [(place, str(file.path.resolve()), file.format, file.packed) for place, file in enumerate(files)]
        shown = {str(file.path.resolve()): str(file.path) for file in files}
        try:
            spread = self._session.createDataFrame(given, "place long, path string, format string, packed string")
            spread = spread.repartition(len(given), "place")
            encoded = spread.mapInArrow(EncodeTask(reader, schema), _spark_schema(schema))
            encoded.write.parquet(str(folder / "encoded"))  # once: what follows would read the files again
            stored = self._session.read.parquet(str(folder / "encoded"))
            for path in sorted((folder / "encoded").glob("part-*.parquet")):
                with pq.ParquetFile(path) as file:
                    for batch in file.iter_batches(batch_size=BATCH_ROWS):
                        for note in batch[NOTE].drop_null().to_pylist():
                            _tell(pickle.loads(note), told, shown)
                        rows = batch.filter(pc.is_null(batch[NOTE])).select(schema.names).cast(schema)
                        told.rows(from_batch(rows, reader.contract), rows.num_rows)
            found = stored.filter(f"{NOTE} IS NULL").drop(NOTE).orderBy(*(f"`{name}`" for name in by))
            found.write.parquet(str(folder / "sorted"))
        except PySparkException as error:
            raise DataFileError(f"engine 'spark' cannot read the data: {error}") from error
        shutil.rmtree(folder / "encoded")
        for path in sorted((folder / "sorted").glob("part-*.parquet")):  # a global sort: the parts are in order
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=BATCH_ROWS):
                    yield batch.select(schema.names).cast(schema)
        shutil.rmtree(folder)


def _tell(note: tuple[str, Any], told: Told, shown: Mapping[str, str]) -> None:
    kind, what = note
    if kind == "rejected":
        told.rejected(replace(what, file=shown.get(what.file, what.file)))
    elif kind == "unended":
        told.unended(shown.get(what, what))
    else:
        told.texts(what)


def _spark_schema(schema: pa.Schema) -> str:
    names = {pa.int64(): "long", pa.int32(): "int", pa.int16(): "short", pa.float32(): "float"}
    return ", ".join([*(f"`{f.name}` {names[f.type]}" for f in schema), f"{NOTE} binary"])
