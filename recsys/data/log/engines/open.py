"""An engine by its name."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys.data.log.engines.duckdb import open_duckdb
from recsys.data.log.engines.engine import ENGINES, Engine
from recsys.data.log.engines.spark import open_spark
from recsys.errors import ConfigError, nearest

_MIN_MEMORY_BYTES = 500_000_000


@contextmanager
def open_engine(
    name: str, *, work_dir: Path, memory_limit_bytes: int = 4 << 30, threads: int | None = None
) -> Iterator[Engine]:
    """An engine until the end of the block.

    Args:
        name: ``duckdb``, in this process; or ``spark``: the master that SPARK_MASTER names, else all cores here.
        work_dir: where it puts what does not fit in memory; with a Spark cluster, a folder all workers share.
        memory_limit_bytes: of the whole process, at least 500 MB. Spark obeys it only where it starts its own JVM.
        threads: default: all cores. A master that SPARK_MASTER names has its own.

    Raises:
        ConfigError: an unknown engine, a limit that is too small, Spark or Java is not installed, or the master or its
            workers do not answer or lack something.
    """
    if name not in ENGINES:
        raise ConfigError(f"engine {name!r}: {nearest(name, ENGINES)}")
    if memory_limit_bytes < _MIN_MEMORY_BYTES:
        raise ConfigError(f"memory limit {memory_limit_bytes} bytes; allowed: 500MB or more")
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}; allowed: 1 or more")
    work_dir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=work_dir)).resolve()
    try:
        if name == "duckdb":
            yield from open_duckdb(folder, memory_limit_bytes, threads)
        else:
            yield from open_spark(folder, memory_limit_bytes, threads)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
