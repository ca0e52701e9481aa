"""Sorting a log that is larger than memory: `recsys prepare` against DuckDB's own sort of the same log to Parquet.

A generated Parquet log (user, item, time, action, price; random order) becomes an event table in a child
process with a memory limit; its peak memory is read from the kernel when it ends. DuckDB's own sort gets
what `prepare` gives its engine of the same limit. Sizes count the log in memory: 37 bytes an event.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from harness import common

from recsys.data.log.engines.engine import engine_bytes

EVENT_BYTES = 37
"""user i64, item i64, timestamp i64, arrival i64, action u8, price f32: what an event is, uncompressed."""

# size -> GB of log, GB of memory limit
SIZES = {"tiny": (0.02, 0.5), "quick": (0.4, 0.5), "full": (5.0, 1.0)}
CHUNK_EVENTS = 1_000_000
USERS, ITEMS = 2_000_000, 500_000

FEATURES = {
    "name": "sort_log",
    "user_id": {"name": "user"},
    "item_id": {"name": "item_id"},
    "context": [{"kind": "numeric", "name": "price"}],
    "history": {"attributes": [{"name": "action", "storage": "u8"}]},
}

PREPARE = """
import json, sys
from pathlib import Path
from recsys.data.log.prepare import RawInputs, prepare_log
from recsys.features.feature_set import FeatureSet
log, features, out, limit = sys.argv[1:5]
summary = prepare_log(
    FeatureSet.from_json(features), RawInputs(log=(log,)), Path(out), memory_limit_bytes=int(limit)
)
print(json.dumps({"events": summary.events, "repeated": summary.repeated}))
"""

DUCKDB = """
import json, sys
import duckdb
log, folder, out, limit = sys.argv[1:5]
settings = {"memory_limit": limit + "B", "temp_directory": folder, "preserve_insertion_order": False}
connection = duckdb.connect(config=settings)
connection.execute("SET enable_progress_bar = false")
connection.execute(f"COPY (FROM '{log}/*.parquet' ORDER BY user, timestamp_ms) TO '{out}' (FORMAT parquet)")
print(json.dumps({}))
"""


def run(given: argparse.Namespace) -> Iterator[common.Line]:
    log_gb, limit_gb = SIZES[given.size]
    log_gb, limit_gb = given.gb or log_gb, given.memory_gb or limit_gb
    events = int(log_gb * 1e9 / EVENT_BYTES)
    limit = int(limit_gb * 1e9)
    with tempfile.TemporaryDirectory(prefix="sort-log-", dir=given.folder) as name:
        folder = Path(name)
        common.say(f"generating {events:,} events")
        write_log(folder / "log", events)
        log_bytes = sum(p.stat().st_size for p in (folder / "log").iterdir())
        common.say(f"recsys prepare, {limit_gb:g} GB of memory")
        prepare = child(PREPARE, folder / "log", json.dumps(FEATURES), folder / "out", limit)
        assert prepare["events"] + prepare["repeated"] == events
        shutil.rmtree(folder / "out")
        common.say("DuckDB's own sort")
        sort = child(DUCKDB, folder / "log", folder / "spill", folder / "sorted.parquet", engine_bytes(limit))
    on = common.machine(
        ["duckdb", "numpy", "pyarrow"],
        events=events, log_gb=log_gb, parquet_gb=common.rounded(log_bytes / 1e9), memory_limit_gb=limit_gb,
    )  # fmt: skip
    rate, bound = log_bytes_per_s(events, prepare), log_bytes_per_s(events, sort)
    yield common.line(
        "sort_log.prepare_over_duckdb_sort", rate / bound, "ratio", higher_is_better=True, target=0.4,
        compared_with="DuckDB sorting the same log to one Parquet file", on=on,
    )  # fmt: skip
    yield common.line(
        "sort_log.prepare_mb_per_s", rate / 1e6, "MB/s", higher_is_better=True,
        compared_with="sort_log.duckdb_sort_mb_per_s", elapsed_s=common.rounded(prepare["elapsed_s"]), on=on,
    )  # fmt: skip
    yield common.line(
        "sort_log.duckdb_sort_mb_per_s", bound / 1e6, "MB/s", higher_is_better=True,
        compared_with="sort_log.prepare_mb_per_s", elapsed_s=common.rounded(sort["elapsed_s"]), on=on,
    )  # fmt: skip
    yield common.line(
        "sort_log.prepare_peak_over_limit", prepare["peak_bytes"] / limit, "ratio", higher_is_better=False, target=1.0,
        compared_with="the memory limit given", peak_mb=common.rounded(prepare["peak_bytes"] / 1e6),
        duckdb_sort_peak_mb=common.rounded(sort["peak_bytes"] / 1e6), on=on,
    )  # fmt: skip


def log_bytes_per_s(events: int, measured: dict[str, Any]) -> float:
    """Uncompressed bytes of log per second."""
    return events * EVENT_BYTES / float(measured["elapsed_s"])


def child(program: str, *arguments: object) -> dict[str, Any]:
    """Run a program in a process of its own: what it printed, its time, and its peak of resident memory."""
    started_s = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            printed = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            process.kill()
            raise
    elapsed_s = time.perf_counter() - started_s
    if process.returncode:
        raise SystemExit(f"a measured process ended with {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return {**json.loads(printed), "elapsed_s": elapsed_s, "peak_bytes": usage.ru_maxrss * unit}


def write_log(folder: Path, events: int) -> None:
    """Events in random order, a few late, in files of one chunk."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    random = np.random.Generator(np.random.PCG64(0))
    for number, begin in enumerate(range(0, events, CHUNK_EVENTS)):
        size = min(CHUNK_EVENTS, events - begin)
        timestamp_ms = random.integers(1_700_000_000_000, 1_730_000_000_000, size=size)
        late_ms = np.where(random.random(size) < 0.01, random.integers(0, 3_600_000, size=size), 0)
        columns = {
            "user": (USERS * random.random(size) ** 2).astype(np.int64),  # some users are far busier than others
            "item_id": (ITEMS * random.random(size) ** 3).astype(np.int64),
            "timestamp_ms": timestamp_ms,
            "arrival_ms": timestamp_ms + late_ms,
            "action": random.integers(0, 4, size=size).astype(np.uint8),
            "price": random.random(size).astype(np.float32),
        }
        pq.write_table(pa.table(columns), folder / f"{number:05d}.parquet", compression="snappy")


if __name__ == "__main__":
    options = common.parser(__doc__ or "")
    options.add_argument("--gb", type=float, help="GB of log, uncompressed; default: 5, with --quick 0.4")
    options.add_argument("--memory-gb", type=float, help="memory limit in GB; default: 1, with --quick 0.5")
    options.add_argument("--folder", type=Path, help="where log and spill go; default: the system's temporary folder")
    common.main("sort_log", run, options)
