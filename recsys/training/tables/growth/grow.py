"""A run whose tables grow by a new log: another run's folder, ready to evaluate and export.

The grown run keeps configuration, FeatureSet and data of the old one; its row maps and the rows in its checkpoint
differ, and ``growth.json`` says how. It holds no ``metrics.json``: it was not measured.

Legend: ``V`` ids.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys.arrays import Int64Array
from recsys.data.column_folder import new_folder
from recsys.data.samples.dataset import Dataset
from recsys.data.samples.fingerprint import data_fingerprint
from recsys.data.samples.ids import id_columns, id_counts
from recsys.embeddings.row_maps.growth import (
    CLUSTER_ROWS,
    OWN_ROWS,
    Evict,
    Growth,
    SeenIds,
    grow,
    recluster,
    room_for_ids,
)
from recsys.embeddings.row_maps.row_map import RowMap
from recsys.errors import ConfigError, InvalidInputError
from recsys.features.changes import changes
from recsys.files import write_atomically
from recsys.training.run.checkpoint import load, write_index
from recsys.training.run.folder import (
    NUMBERS,
    load_numbers,
    load_row_maps,
    read_run,
    save_numbers,
    save_row_maps,
    weights_file,
)
from recsys.training.tables.checkpoint_rows import with_changes
from recsys.training.tables.growth.clusters import GrowthGraphs

_NEVER = np.iinfo(np.int64).min


@dataclass(frozen=True, kw_only=True)
class GrowthOptions:
    """Rules of admission and eviction, see ``growth.grow``.

    Attributes:
        admit_count: ids that the new log holds so often are admitted.
        evict, evict_count: which ids lose what they have, and how many at most per table.
        recluster: cluster training data and new log together anew, instead of adding to the clusters of training.
    """

    admit_count: int = 5
    evict: Evict = "none"
    evict_count: int | None = None
    recluster: bool = False


@dataclass(frozen=True, kw_only=True)
class TableGrowth:
    """Outcome of a growth for a table's ids.

    Attributes:
        table, kind: the table and the method of its row map.
        known: ids that the map knows exactly, afterwards.
        admitted, evicted, no_room, no_cluster: see ``growth.Growth``.
        room: further ids that could be admitted.
        grows: whether maps of this kind do.
    """

    table: str
    kind: str
    known: int
    admitted: int
    evicted: int
    no_room: int
    no_cluster: int
    room: int
    grows: bool


def grow_run(
    run_dir: Path,
    out: Path,
    log: Dataset,
    *,
    options: GrowthOptions,
    trained_on: Callable[[], Dataset],
    report: Callable[[str], None] = lambda message: None,
) -> list[TableGrowth]:
    """Write a grown run's folder; ``out`` appears only when complete, ``run_dir`` stays as it is.

    Args:
        run_dir: a run with a checkpoint.
        out: folder to make.
        log: with keys; ids of all its samples and their histories count.
        options: what to admit and evict.
        trained_on: the data of ``run_dir``, with keys; asked for only where clusters grow.
        report: called with each step that takes long.

    Raises:
        DataFileError: ``run_dir`` is not a run, or a file of it is damaged.
        ConfigError: ``out`` exists or cannot be written; the log has other features; or the data is not the run's.
        InvalidInputError: the log holds no samples, or an option is out of range.
    """
    config, features, fingerprint = read_run(run_dir)
    if out.exists():
        raise ConfigError(f"{out} exists already: choose another folder")
    if other := [change.what for change in changes(features, log.table.features) if change.model]:
        raise ConfigError(
            f"the new log has other features than {run_dir} was trained on: {other[0]}; prepare it with the run's "
            "features.json"
        )
    if not len(log):
        raise InvalidInputError("the new log holds no samples: prepare it with labels, as the run's own log was")
    row_maps = load_row_maps(run_dir / "row_maps.npz")
    checkpoint = load(weights_file(run_dir))
    seen = seen_ids(log)
    graphs = GrowthGraphs(
        config, row_maps=row_maps, log=log, fingerprint=fingerprint, trained_on=trained_on, report=report
    )
    growths: dict[str, Growth] = {}
    for table, row_map in row_maps.items():
        if row_map.kind not in (*OWN_ROWS, *CLUSTER_ROWS):
            continue
        if options.recluster and row_map.kind in CLUSTER_ROWS:
            growths[table] = recluster(row_map, *graphs.clustered_anew(table), seed=config.rows.seed)
            continue
        growths[table] = grow(
            row_map,
            seen[table],
            admit_count=options.admit_count,
            evict=options.evict,
            evict_count=options.evict_count,
            cluster_of=graphs.finder(table),
            seed=config.rows.seed,
        )
    grown = {table: growths[table].row_map if table in growths else row_map for table, row_map in row_maps.items()}
    about = [_describe(table, row_map, growths.get(table)) for table, row_map in grown.items()]
    facts = {"from": run_dir.name, "log": data_fingerprint(log), **dataclasses.asdict(options)}
    with new_folder(out) as folder:
        for name in ("features.json", "data.json", "config.json"):
            shutil.copyfile(run_dir / name, folder / name)
        save_numbers(load_numbers(run_dir / NUMBERS), folder / NUMBERS)
        save_row_maps(grown, folder / "row_maps.npz")
        changed = with_changes(checkpoint, [change for growth in growths.values() for change in growth.changes])
        write_index(changed, folder / "checkpoint.pt")
        values = {**facts, "tables": [dataclasses.asdict(each) for each in about]}
        write_atomically(folder / "growth.json", json.dumps(values, indent=2).encode() + b"\n")
    return about


def seen_ids(log: Dataset) -> dict[str, SeenIds]:
    """Ids that the samples of a log and their histories hold, how often, and when each was last in the log."""
    last = _last_seen(log)
    seen = {}
    for table, (ids_V, counts_V) in id_counts(log, np.arange(len(log))).items():
        keys, last_ms = last[table]
        seen[table] = SeenIds(ids_V=ids_V, counts_V=counts_V, last_ms_V=last_ms[np.searchsorted(keys, ids_V)])
    return seen


def _last_seen(log: Dataset) -> dict[str, tuple[Int64Array, Int64Array]]:
    """Table -> its keys, ascending, and the newest event or sample of each."""
    table = log.table
    event_ms = np.asarray(table.timestamp_ms)
    user_ms = np.full(len(table.user_keys), _NEVER)
    item_ms = np.full(len(table.item_keys), _NEVER)
    np.maximum.at(user_ms, log.sample_user, log.sample_time_ms)
    np.maximum.at(user_ms, np.repeat(np.arange(len(user_ms)), np.diff(table.offsets)), event_ms)
    np.maximum.at(item_ms, log.sample_item, log.sample_time_ms)
    np.maximum.at(item_ms, table.item_index, event_ms)
    context_ms = event_ms if log.samples.impressions is None else log.sample_time_ms
    row_ms = {"user": user_ms, "item": item_ms, "context": context_ms, "history": event_ms}
    parts: dict[str, list[tuple[Int64Array, Int64Array]]] = {name: [] for name in table.features.tables()}
    for column in id_columns(log):
        times_ms = np.repeat(row_ms[column.side], column.feature.max_values)
        parts[column.feature.table].append(_newest(column.ids.reshape(-1), times_ms))
    return {
        name: _newest(np.concatenate([k for k, _ in found]), np.concatenate([ms for _, ms in found]))
        for name, found in parts.items()
    }


def _newest(keys: Int64Array, times_ms: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Distinct keys, ascending, and the newest time of each."""
    distinct, inverse = np.unique(keys, return_inverse=True)
    newest_ms = np.full(len(distinct), _NEVER)
    np.maximum.at(newest_ms, inverse, times_ms)
    return distinct, newest_ms


def _describe(table: str, row_map: RowMap, growth: Growth | None) -> TableGrowth:
    return TableGrowth(
        table=table,
        kind=row_map.kind,
        known=0 if row_map.ids is None else len(row_map.ids.entries()[0]),
        admitted=0 if growth is None else len(growth.admitted),
        evicted=0 if growth is None else len(growth.evicted),
        no_room=0 if growth is None else growth.no_room,
        no_cluster=0 if growth is None else growth.no_cluster,
        room=0 if growth is None else room_for_ids(row_map),
        grows=growth is not None,
    )
