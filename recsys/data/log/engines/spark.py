"""Spark: the cores of this machine, or a cluster whose workers read the files."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.data.log.engines.cluster import (
    UNSHARED,
    check_workers,
    is_local,
    reach_master,
    spark_master,
    spark_words,
    wait_s,
)
from recsys.data.log.engines.engine import Engine, engine_bytes
from recsys.data.log.row_batches import NOTE, ROW, EncodeTask, Reader, from_batch, row_schema
from recsys.errors import ConfigError, DataFileError
from recsys.rows.encode import Told
from recsys.rows.files import RawFile
from recsys.rows.read import BATCH_ROWS

_LOCAL_SHUFFLE_PARTITIONS = 16


def open_spark(folder: Path, memory_limit_bytes: int, threads: int | None) -> Iterator[Engine]:
    """The engine, once; arguments and errors as of ``open_engine``."""
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise ConfigError("engine 'spark': pyspark is not installed; pip install 'recsys[spark]'") from error
    running = SparkSession.getActiveSession()
    if running is not None:  # of a program that calls this: it goes on after it
        yield _Spark(running, folder)
        return
    master, limit_s = spark_master(os.environ, threads), wait_s(os.environ)
    reach_master(master)
    session = _session(SparkSession.builder, master, folder, memory_limit_bytes)
    try:
        if not is_local(master):
            check_workers(session, master, folder, limit_s)
        yield _Spark(session, folder)
    finally:
        session.stop()


def _session(builder: Any, master: str, folder: Path, memory_limit_bytes: int) -> Any:
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
    builder = builder.appName("recsys prepare").master(master)
    for key, value in settings.items():
        builder = builder.config(key, value)
    try:
        session = builder.getOrCreate()
        session.sparkContext.setLogLevel("ERROR")
    except Exception as error:  # whatever keeps a JVM from starting, or a master from taking it
        words = spark_words(error)
        raise ConfigError(f"engine 'spark': cannot start with master {master!r} (it needs Java 17): {words}") from error
    return session


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
        given = [replace(file, path=file.path.resolve()) for file in files]
        shown = {str(found.path): str(file.path) for found, file in zip(given, files, strict=True)}
        read: dict[int, int] = {}
        encoded, found = folder / "encoded", folder / "sorted"
        try:
            spread = self._session.range(0, len(given), 1, len(given))  # a task a file
            rows = spread.mapInArrow(EncodeTask(given, reader, schema), _spark_schema(schema))
            rows.write.parquet(_url(encoded))  # once: what follows would read the files again
            came = 0
            for batch in _batches(encoded):
                for note in batch[NOTE].drop_null().to_pylist():
                    _tell(pickle.loads(note), told, shown, read)
                whole = batch.filter(pc.is_null(batch[NOTE])).select(schema.names).cast(schema)
                came += whole.num_rows
                told.rows(from_batch(whole, reader.contract), whole.num_rows)
            self._check(len(read), len(given), "files")
            self._check(came, sum(read.values()), "rows")
            stored = self._session.read.schema(_spark_schema(schema)).parquet(_pattern(encoded))
            in_order = stored.filter(f"{NOTE} IS NULL").drop(NOTE).orderBy(*(f"`{name}`" for name in by))
            in_order.write.parquet(_url(found))
        except PySparkException as error:
            raise DataFileError(f"engine 'spark' cannot read the data: {spark_words(error)}") from error
        shutil.rmtree(encoded)
        self._check(sum(_rows(path) for path in found.glob("part-*.parquet")), came, "sorted rows")
        for batch in _batches(found):  # a global sort: the parts are in order
            yield batch.select(schema.names).cast(schema)
        shutil.rmtree(folder)

    def _check(self, came: int, sent: int, what: str) -> None:
        """Hold what arrived against what workers say: Spark takes it for success if another machine has the rest."""
        if came != sent:
            raise ConfigError(f"engine 'spark': workers wrote {sent:,} {what} below {self._folder}, {UNSHARED}")


def _batches(folder: Path) -> Iterator[pa.RecordBatch]:
    for path in sorted(folder.glob("part-*.parquet")):
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=BATCH_ROWS)


def _rows(path: Path) -> int:
    with pq.ParquetFile(path) as file:
        return int(file.metadata.num_rows)


def _url(folder: Path) -> str:
    """The folder as Spark takes it, whatever file system its configuration makes the default."""
    return f"file://{folder}"


def _pattern(folder: Path) -> str:
    """The same where Spark would take brackets and stars for patterns."""
    return _url(Path(re.sub(r"([\[\]{}*?\\])", r"\\\1", str(folder))))


def _tell(note: tuple[str, Any], told: Told, shown: Mapping[str, str], read: dict[int, int]) -> None:
    kind, what = note
    if kind == "read":
        read.update([what])
    elif kind == "rejected":
        told.rejected(replace(what, file=shown.get(what.file, what.file)))
    elif kind == "unended":
        told.unended(shown.get(what, what))
    else:
        told.texts(what)


def _spark_schema(schema: pa.Schema) -> str:
    names = {pa.int64(): "long", pa.int32(): "int", pa.int16(): "short", pa.float32(): "float"}
    return ", ".join([*(f"`{f.name}` {names[f.type]}" for f in schema), f"{NOTE} binary"])
