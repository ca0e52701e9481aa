"""The two engines that sort logs, behind one Protocol: both run the same Ibis expressions.

An engine reads files, filters and sorts; it decides nothing about values (``prepare.py`` does), so
that its answer does not depend on which engine it is.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data.log.raw_files import RawFiles
from recsys.errors import ConfigError, DataFileError, NoSpaceError, nearest

EngineName = Literal["duckdb", "spark"]
ENGINES = ("duckdb", "spark")

_ENCODER_BYTES = 350 << 20
"""Python, its libraries, and the batch that is being encoded."""

_ENGINE_SHARE = 0.7
"""Of what remains; engines allocate more than they account for."""

_MIN_MEMORY_BYTES = 500_000_000
_LOCAL_SHUFFLE_PARTITIONS = 16


class Engine(Protocol):
    """Reads files as tables, and gives back what an expression makes of them."""

    def read(self, files: RawFiles) -> ir.Table:
        """Files as a lazy table; nothing is read yet."""
        ...

    def batches(self, table: ir.Table, *, rows: int) -> Iterator[pa.RecordBatch]:
        """The rows of a sorted table, in order, up to ``rows`` at a time, never all in memory."""
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
        "preserve_insertion_order": False,  # order_by gives the order; keeping another one costs memory
    }
    if threads:
        settings["threads"] = threads
    connection = ibis.duckdb.connect(**settings)
    connection.raw_sql("SET enable_progress_bar = false")  # it would print to standard output
    try:
        yield _DuckDb(connection)
    finally:
        connection.disconnect()


class _DuckDb:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def read(self, files: RawFiles) -> ir.Table:
        paths = [str(path) for path in files.paths]
        text = dict.fromkeys(files.types, "VARCHAR")
        if files.format == "parquet":
            found = self._connection.read_parquet(paths)
        elif files.format == "csv":
            found = self._connection.read_csv(
                paths, columns=text, auto_detect=False, header=True, delim=",", quote='"', escape='"', nullstr=""
            )
        else:
            found = self._connection.read_json(paths, columns=text, format="newline_delimited")
        return found

    def batches(self, table: ir.Table, *, rows: int) -> Iterator[pa.RecordBatch]:
        # Ibis' own to_pyarrow_batches calls a method that DuckDB deprecates with a warning.
        try:
            yield from self._connection.raw_sql(self._connection.compile(table)).to_arrow_reader(rows)
        except duckdb.OutOfMemoryException as error:
            first = str(error).partition("\n")[0]
            raise NoSpaceError(f"engine 'duckdb': {first}; give it more with --memory-limit or --temp-dir") from error
        except duckdb.Error as error:
            raise DataFileError(f"engine 'duckdb' cannot read the data: {error}") from error


def _spark(folder: Path, memory_limit_bytes: int, threads: int | None) -> Iterator[Engine]:
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise ConfigError("engine 'spark': pyspark is not installed; pip install 'recsys[spark]'") from error
    master = os.environ.get("SPARK_MASTER", f"local[{threads or '*'}]")
    builder = SparkSession.builder.appName("recsys prepare").master(master)
    settings = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false"}
    if master.startswith("local"):
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
        self._connection: Any = ibis.pyspark.connect(session)
        self._folder = folder
        self._tables = 0

    def read(self, files: RawFiles) -> ir.Table:
        paths = [str(path.resolve()) for path in files.paths]
        schema = ", ".join(f"`{name}` STRING" for name in files.types)
        if files.format == "parquet":
            frame = self._session.read.parquet(*paths)
        elif files.format == "csv":
            frame = self._session.read.schema(schema).csv(
                paths, header=True, quote='"', escape='"', multiLine=True, mode="FAILFAST"
            )
        else:
            frame = self._session.read.schema(schema).json(paths, mode="FAILFAST")
        self._tables += 1
        name = f"recsys_{self._tables}"
        frame.createOrReplaceTempView(name)
        return self._connection.table(name)

    def batches(self, table: ir.Table, *, rows: int) -> Iterator[pa.RecordBatch]:
        # Through files: Spark's own way to Arrow collects the whole answer in memory.
        self._tables += 1
        from pyspark.errors import PySparkException

        folder = self._folder / f"sorted-{self._tables}"
        try:
            self._connection.to_parquet_dir(table, folder)
        except PySparkException as error:
            raise DataFileError(f"engine 'spark' cannot read the data: {error}") from error
        for path in sorted(folder.glob("part-*.parquet")):  # a global sort: the parts are in order
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(batch_size=rows)
        shutil.rmtree(folder)
