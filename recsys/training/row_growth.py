"""A run whose tables grow by a new log (``embeddings/growth.py``): another run's folder, ready to evaluate and export.

The grown run keeps configuration, FeatureSet and data of the old one; its row maps and the rows in its checkpoint
differ, and ``growth.json`` says how. It holds no ``metrics.json``: it was not measured.

Legend: ``V`` ids, ``A`` ids to admit, ``E`` edges.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys.data.column_folder import new_folder
from recsys.data.fingerprint import data_fingerprint
from recsys.data.id_pairs import id_pairs
from recsys.data.samples import Dataset, id_counts
from recsys.embeddings.graph_clusters import (
    NO_CLUSTER,
    TOLERANCE,
    Clusters,
    Side,
    Try,
    assign_unseen,
    cluster,
    cluster_to_rows,
    index_keys,
)
from recsys.embeddings.growth import (
    CLUSTER_ROWS,
    OWN_ROWS,
    Evict,
    Growth,
    SeenIds,
    cluster_count,
    grow,
    most_common,
    recluster,
    room_for_ids,
)
from recsys.embeddings.row_maps import RowMap
from recsys.errors import ConfigError, InvalidInputError
from recsys.features.changes import changes
from recsys.features.columns import Column
from recsys.features.feature_set import Categorical, Feature
from recsys.features.hashing import Int64Array
from recsys.files import write_atomically
from recsys.training.checkpoint import load, write_index
from recsys.training.checkpoint_rows import with_changes
from recsys.training.config import RunConfig
from recsys.training.run_folder import compare_data, load_row_maps, read_run, save_row_maps
from recsys.training.table_plan import Counts, _budgeted_rows, graph_partner

_NEVER = np.iinfo(np.int64).min


@dataclass(frozen=True, kw_only=True)
class GrowthOptions:
    """What to admit and evict, see ``growth.grow``.

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
    """What became of a table's ids.

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
        report: told what takes long.

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
    checkpoint = load(run_dir / "checkpoint.pt")
    seen = seen_ids(log)
    graphs = _Graphs(config, row_maps, log, fingerprint, trained_on, report)
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
        save_row_maps(grown, folder / "row_maps.npz")
        changed = with_changes(checkpoint, [change for growth in growths.values() for change in growth.changes])
        write_index(changed, folder / "checkpoint.pt")
        told = {**facts, "tables": [dataclasses.asdict(each) for each in about]}
        write_atomically(folder / "growth.json", json.dumps(told, indent=2).encode() + b"\n")
    return about


def seen_ids(log: Dataset) -> dict[str, SeenIds]:
    """Which ids the samples of a log and their histories hold, how often, and when each was last in the log."""
    last = _last_seen(log)
    seen = {}
    for table, (ids_V, counts_V) in id_counts(log, np.arange(len(log))).items():
        keys, last_ms = last[table]
        seen[table] = SeenIds(ids_V=ids_V, counts_V=counts_V, last_ms_V=last_ms[np.searchsorted(keys, ids_V)])
    return seen


def _last_seen(log: Dataset) -> dict[str, tuple[Int64Array, Int64Array]]:
    """Table -> its keys, ascending, and the newest event or sample of each."""
    table, features = log.table, log.table.features
    event_ms = np.asarray(table.timestamp_ms)
    user_ms = np.full(len(table.user_keys), _NEVER)
    item_ms = np.full(len(table.item_keys), _NEVER)
    np.maximum.at(user_ms, log.sample_user, log.sample_time_ms)
    np.maximum.at(user_ms, np.repeat(np.arange(len(user_ms)), np.diff(table.offsets)), event_ms)
    np.maximum.at(item_ms, log.sample_item, log.sample_time_ms)
    np.maximum.at(item_ms, table.item_index, event_ms)
    context_ms = event_ms if log.samples.impressions is None else log.sample_time_ms
    sides: list[tuple[str, tuple[Feature, ...], dict[str, Column], Int64Array]] = [
        ("", (features.user_id, *features.user), log.user, user_ms),
        ("", (features.item_id, *features.item), log.item, item_ms),
        ("", features.context, log.context, context_ms),
        ("history.", features.event_features(), log.history, event_ms),
    ]
    parts: dict[str, list[tuple[Int64Array, Int64Array]]] = {name: [] for name in features.tables()}
    for prefix, declared, columns, row_ms in sides:
        for feature in declared:
            if isinstance(feature, Categorical):
                column = columns[prefix + feature.name]
                parts[feature.table].append(_newest(column.reshape(-1), np.repeat(row_ms, column[:1].size or 1)))
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


class _Graphs:
    """Clusters of training, made again as ``table_plan.py`` made them, and of training and new log together."""

    def __init__(
        self,
        config: RunConfig,
        row_maps: Mapping[str, RowMap],
        log: Dataset,
        fingerprint: str,
        trained_on: Callable[[], Dataset],
        report: Callable[[str], None],
    ) -> None:
        self._config, self._row_maps, self._log, self._report = config, row_maps, log, report
        self._fingerprint, self._trained_on = fingerprint, trained_on
        self._training: Dataset | None = None
        self._counts: dict[str, Counts] = {}
        self._of_training: dict[str, tuple[Clusters, Int64Array, Int64Array]] = {}
        self._anew: dict[str, tuple[Int64Array, Int64Array]] = {}

    def finder(self, table: str) -> Callable[[Int64Array], Int64Array]:
        """Keys to the clusters of those they met in the new log, by ``assign_unseen``."""

        def find(keys_A: Int64Array) -> Int64Array:
            found_A = np.full(len(keys_A), NO_CLUSTER, dtype=np.int64)
            if not len(keys_A):
                return found_A
            left, right, side = self._sides(table)
            clusters, left_V, right_V = self._clusters(left, right)
            own_V, other_V = (left_V, right_V) if side == "left" else (right_V, left_V)
            labels_V = clusters.left_labels if side == "left" else clusters.right_labels
            everything = np.arange(len(self._log))
            own_E, other_E = id_pairs(self._log, everything, left=table, right=right if side == "left" else left)
            used_E = np.isin(own_E, keys_A) & np.isin(other_E, other_V)
            keys, order = np.sort(keys_A), np.argsort(keys_A)
            new_E, known_E = np.searchsorted(keys, own_E[used_E]), np.searchsorted(other_V, other_E[used_E])
            found_A[order] = assign_unseen(clusters, new_E, known_E, num_new=len(keys_A), side=side)
            return self._rows_now(table, own_V, labels_V)[found_A]

        return find

    def clustered_anew(self, table: str) -> tuple[Int64Array, Int64Array]:
        """Keys of training and new log, and their clusters; about as many as the map has rows for."""
        if table not in self._anew:
            left, right, _ = self._sides(table)
            training = self._data()
            pairs = [
                id_pairs(training, training.split("train"), left=left, right=right),
                id_pairs(self._log, np.arange(len(self._log)), left=left, right=right),
            ]
            left_E, left_V = index_keys(np.concatenate([keys for keys, _ in pairs]))
            right_E, right_V = index_keys(np.concatenate([keys for _, keys in pairs]))
            both = self._both(left, right)
            rows = sum(cluster_count(self._row_maps[t]) for t in ((left, right) if both else (left,)))
            found = cluster_to_rows(
                left_E,
                right_E,
                num_left=len(left_V),
                num_right=len(right_V),
                rows=max(1, int(rows * (1 - TOLERANCE))),  # what it finds is at most so much above
                side="both" if both else "left",
                seed=self._config.rows.seed,
                report=self._tell,
            )
            self._anew[left] = left_V, found.left_labels
            if both:
                self._anew[right] = right_V, found.right_labels
        return self._anew[table]

    def _sides(self, table: str) -> tuple[str, str, Side]:
        """Left and right table of the clustering that a table's map came from, and the table's side."""
        other = graph_partner(self._config.rows, self._log.table.features, table)
        order = list(self._row_maps)
        if self._both(table, other) and order.index(other) < order.index(table):
            return other, table, "right"
        return table, other, "left"

    def _both(self, left: str, right: str) -> bool:
        return self._row_maps[right].kind in CLUSTER_ROWS and (
            graph_partner(self._config.rows, self._log.table.features, right) == left
        )

    def _clusters(self, left: str, right: str) -> tuple[Clusters, Int64Array, Int64Array]:
        if left not in self._of_training:
            training, rows = self._data(), self._config.rows
            self._report(f"graph of {left} and {right}, as in training")
            left_keys, right_keys = id_pairs(training, training.split("train"), left=left, right=right)
            left_E, left_V = index_keys(left_keys)
            right_E, right_V = index_keys(right_keys)
            if rows.resolution:
                found = cluster(
                    left_E,
                    right_E,
                    num_left=len(left_V),
                    num_right=len(right_V),
                    resolution=rows.resolution,
                    seed=rows.seed,
                )
            else:
                both = self._both(left, right)
                found = cluster_to_rows(
                    left_E,
                    right_E,
                    num_left=len(left_V),
                    num_right=len(right_V),
                    rows=sum(
                        _budgeted_rows(rows, t, len(self._counts[t][0])) - 1 - rows.unknown_rows
                        for t in ((left, right) if both else (left,))
                    ),
                    side="both" if both else "left",
                    seed=rows.seed,
                    report=self._tell,
                )
            self._of_training[left] = found, left_V, right_V
        return self._of_training[left]

    def _rows_now(self, table: str, keys_V: Int64Array, labels_V: Int64Array) -> Int64Array:
        """Label of each cluster of training in the map as it is: growths may have renumbered and evicted since."""
        ids = self._row_maps[table].ids
        assert ids is not None, "maps of clusters know their ids"
        numbers_V = ids.lookup(keys_V)
        known_V = (numbers_V > 0) & (labels_V != NO_CLUSTER)
        labels, numbers = most_common(labels_V[known_V], numbers_V[known_V])
        now_K = np.full(int(labels_V.max()) + 2, NO_CLUSTER, dtype=np.int64)  # the last is that of NO_CLUSTER
        now_K[labels] = numbers - 1
        return now_K

    def _tell(self, tried: Try) -> None:
        self._report(f"clustering, try {tried.number}: {tried.rows:,} rows, wanted {tried.wanted:,}")

    def _data(self) -> Dataset:
        if self._training is None:
            self._training = self._trained_on()
            compare_data("the run", self._fingerprint, data_fingerprint(self._training))
            self._counts = id_counts(self._training, self._training.split("train"))
        return self._training


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
