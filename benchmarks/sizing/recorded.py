"""Constants of a plan: each is a recorded figure of ``results/*.jsonl``, or one of its details, by name.

Nothing has a default: a figure that is missing or was renamed ends the run with its name, before anything is printed.
Another folder of results, say of your own machine, takes this one's place (``--results``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sizing.amounts import Amount


class MissingFigureError(ValueError):
    """A constant has no recorded figure."""


@dataclass(frozen=True)
class Source:
    """Place of a constant among the recorded figures.

    Attributes:
        figure: name of the line.
        key: its number: ``value``, or the path of a detail, dots between.
        unit: of the number.
        meaning: what it stands for here.
    """

    figure: str
    key: str
    unit: str
    meaning: str


_RANK = "rank.candidates_per_s_core"
_STEP = "sdim.step_ms_"
_MATMUL = "train.sdim_1000_step_over_matmul"
_APPEND = "store.append_over_raw.1_events"

SOURCES: dict[str, Source] = {
    "int8_row": Source("int8.size_ratio", "bytes_per_row", "B", "a row of the width below as int8"),
    "int4_row": Source("int4.size_ratio", "bytes_per_row", "B", "the same as int4"),
    "fp16_row": Source("fp16.size_ratio", "bytes_per_row", "B", "the same as fp16"),
    "row_width": Source("int8.size_ratio", "on.sizes.width", "numbers", "width of these rows"),
    "map_kib": Source("rowmap.opened_kib_10M", "table_kib", "KiB", "an exact id map of the ids below"),
    "map_ids": Source("rowmap.opened_kib_10M", "on.sizes.ids", "ids", "ids of that map"),
    "workers_gb": Source("rank.pss_gb_4_workers", "value", "GB", "a server of four workers and a table"),
    "workers_table_gb": Source("rank.pss_gb_4_workers", "table_gb", "GB", "that table"),
    "supervisor_gb": Source("rank.pss_gb_4_workers", "supervisor_gb", "GB", "its supervisor"),
    "switch_limit": Source(
        "release.failed_calls_under_limit", "limit_over_table", "ratio", "memory over tables: a switch fails no call"
    ),
    "record_bytes": Source("store.gib_per_million_users", "record_bytes", "B", "an event's record"),
    "user_bytes_200": Source(
        "store.gib_per_million_users", "bytes_per_user", "B", "a user of 200 events in Redis, to compare"
    ),
    "event_bytes_1000": Source(
        "store.memory_over_record", "bytes_per_event", "B", "an event of 1,000 in Redis, to compare"
    ),
    "append_us": Source("store.append_growth", "short_us", "us", "a call that appends an event, client and Redis"),
    "commands_per_s": Source(_APPEND, "bare_protocol_events_per_s", "commands/s", "bare commands of one connection"),
    "ingest_per_s": Source("ingest.events_per_s", "value", "events/s", "`recsys ingest` on one core"),
    **{
        f"{name}{suffix}": Source(f"{figure}{suffix}", key, unit, f"{meaning}, {compute} products")
        for suffix, compute in (("", "float32"), (".int8", "int8"))
        for name, figure, key, unit, meaning in (
            ("rank_per_core", _RANK, "value", "candidates/s", "scored by one core"),
            ("rank_candidates", _RANK, "on.sizes.candidates", "candidates", "of such a request"),
            ("rank_other_idle", _RANK, "other_core_idle", "share", "left of the core of callers and Redis"),
            ("rank_bare", "rank.grpc_over_ort", "bare_candidates_per_s", "candidates/s", "the graphs alone"),
            ("rank_p99_even", "rank.p99_over_ort", "p99_ms", "ms", "p99 at the load below, even calls"),
            ("rank_p99_poisson", "rank.p99_over_ort_poisson", "p99_ms", "ms", "p99 at it, random calls"),
            ("rank_load", "rank.p99_over_ort", "load", "share", "load at which p99 was taken"),
        )
    },
    "two_workers": Source("rank.two_workers_over_one", "value", "ratio", "calls/s of two workers on two cores"),
    "retrieve_ms": Source("retrieve.ms.large", "value", "ms", "exact search of the items below"),
    "retrieve_items": Source("retrieve.ms.large", "on.sizes.large_items", "items", "items searched"),
    "precompute_s": Source("release.store_reads_after_precomputed", "precompute_s", "s", "states of the users below"),
    "precompute_users": Source("release.store_reads_after_precomputed", "on.sizes.users", "users", "users"),
    "precompute_events": Source("release.store_reads_after_precomputed", "on.sizes.events", "events", "events of each"),
    **{
        f"step_ms_{length}": Source(f"{_STEP}{length}", "value", "ms", f"training step, {length:,} events a sample")
        for length in (50, 200, 1000, 2000)
    },
    "step_batch": Source(f"{_STEP}1000", "on.sizes.batch_size", "samples", "samples of a step"),
    "step_threads": Source(f"{_STEP}1000", "on.sizes.threads", "cores", "cores of a step"),
    "matmul_ms": Source(_MATMUL, "matmul_ms", "ms", "its matrix products at a large one's speed"),
    "step_over_matmul": Source(_MATMUL, "value", "ratio", "the whole step over that"),
    "matmul_batch": Source(_MATMUL, "on.sizes.batch_size", "samples", "samples of that step"),
    "matmul_threads": Source(_MATMUL, "on.sizes.threads", "cores", "cores of that step"),
    "gflops_core": Source("rank.arithmetic_bound", "gflops", "GFLOP/s", "speed of a large product on one core"),
    "prepare_mb_per_s": Source("sort_log.prepare_mb_per_s", "value", "MB/s", "`recsys prepare`, two cores"),
    "prepare_log_gb": Source("sort_log.prepare_mb_per_s", "on.sizes.log_gb", "GB", "the log it sorted"),
    "prepare_parquet_gb": Source("sort_log.prepare_mb_per_s", "on.sizes.parquet_gb", "GB", "that log as Parquet"),
    "prepare_events": Source("sort_log.prepare_mb_per_s", "on.sizes.events", "events", "events of that log"),
}


@dataclass(frozen=True)
class Recorded:
    """The constants.

    Attributes:
        values: by name, with their range where the figure has a spread.
        machines: where each was measured.
    """

    values: Mapping[str, Amount]
    machines: Mapping[str, str]

    def __getitem__(self, name: str) -> Amount:
        return self.values[name]

    def number(self, name: str) -> float:
        """A constant without its range."""
        return self.values[name].value


def read_recorded(folder: Path) -> Recorded:
    """The constants from a folder of ``*.jsonl``.

    Raises:
        MissingFigureError: figures or details are not there or no positive numbers; all are named.
    """
    lines: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("*.jsonl")):
        for number, row in enumerate(file.read_text().splitlines(), 1):
            try:
                line = json.loads(row)
                lines[line["figure"]] = line
            except (ValueError, TypeError, KeyError):
                raise MissingFigureError(
                    f"{file}, line {number}: no line of a figure; run its benchmark again"
                ) from None
    values, lacking = {}, []
    for name, source in SOURCES.items():
        try:
            values[name] = _amount(lines, source)
        except MissingFigureError as error:
            lacking.append(str(error))
    if lacking:
        found = "\n  ".join(sorted(set(lacking)))
        raise MissingFigureError(f"{folder}: constants of the plan are not recorded there:\n  {found}")
    return Recorded(values, {name: _machine(lines[source.figure].get("on", {})) for name, source in SOURCES.items()})


def _machine(on: Mapping[str, Any]) -> str:
    cores = f"CPU, {on.get('cores', '?')} cores"
    return f"{on['gpu']}; {cores}" if on.get("gpu") else cores


def _amount(lines: Mapping[str, Mapping[str, Any]], source: Source) -> Amount:
    if source.figure not in lines:
        raise MissingFigureError(f"figure {source.figure!r} is missing or has another name")
    found: Any = lines[source.figure]
    for part in source.key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    if isinstance(found, bool) or not isinstance(found, int | float) or not (math.isfinite(found) and found > 0):
        raise MissingFigureError(f"figure {source.figure!r}: {source.key} is {found!r}; allowed: a positive number")
    spread = lines[source.figure].get("spread")
    if source.key == "value" and spread:
        return Amount(found, min(found, spread[0]), max(found, spread[1]))
    return Amount(found)
