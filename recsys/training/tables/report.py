"""Report on a run's rows: how full its tables are, which ids share rows, how far rows have moved.

From the definition, for the ids that the training samples and their histories look up:

- two ids *collide* if they have the same rows, in any order where these are summed, so that a model cannot tell them
  apart;
- an id of a shared table *meets* other tables if each of its rows is also a row of an id of another table;
- a row is *used* if one of these ids is looked up in it.

Legend: ``V`` ids of a table, ``K`` lookups, ``R`` rows, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys.arrays import BoolArray, Float32Array, Int64Array
from recsys.data.samples.dataset import Dataset
from recsys.data.samples.fingerprint import data_fingerprint
from recsys.data.samples.ids import id_counts
from recsys.embeddings.row_maps.method import Counts
from recsys.embeddings.row_maps.row_map import UNKNOWN_ROW, RowMap
from recsys.embeddings.tables import ITEM
from recsys.features.feature_set import Categorical, Feature, FeatureSet
from recsys.features.names import Names, shown_ids
from recsys.training.run.checkpoint import Checkpoint, load
from recsys.training.run.folder import compare_data, load_row_maps, read_run, weights_file
from recsys.training.tables.checkpoint_rows import parts_of_tables, rows_of_table, updated_rows

QUANTILES = (0.0, 0.1, 0.5, 0.9, 1.0)
HOTTEST = 10
BINS = 24


@dataclass(frozen=True, kw_only=True)
class HotId:
    """An id that is looked up often.

    Attributes:
        key: the id itself, or of a string its hash.
        id: the id for people: an integer or a text.
        count, share: lookups, and their share of the table's.
        rows: where it is looked up.
    """

    key: int
    id: str
    count: int
    share: float
    rows: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class IdReport:
    """The ids of a table.

    Attributes:
        table: as features name it.
        features: whose ids these are.
        kind: the method of the row map.
        lookups: rows per id, K.
        ids: distinct ids in training.
        id_lookups: how often they were looked up in training.
        known_ids: ids that the map knows exactly.
        unknown_ids: ids that have row 0 and nothing else.
        colliding_ids: ids that collide with another of this table; unknown ones among them.
        colliding_lookups: the share of lookups that are theirs.
        meeting_ids: ids that meet other tables; 0 where no table is shared.
        meeting_lookups: the share of lookups that are theirs.
        map_bytes: memory of the row map.
        hottest: the ids looked up most often, the first first.
    """

    table: str
    features: tuple[str, ...]
    kind: str
    lookups: int
    ids: int
    id_lookups: int
    known_ids: int
    unknown_ids: int
    colliding_ids: int
    colliding_lookups: float
    meeting_ids: int
    meeting_lookups: float
    map_bytes: int
    hottest: tuple[HotId, ...]


@dataclass(frozen=True, kw_only=True)
class RowReport:
    """The rows of a physical table; row 0, for missing ids, is neither spare nor unused.

    Attributes:
        name: the physical table.
        tables: whose ids are looked up in it.
        rows, dim: its shape.
        used: rows that are used.
        spare: rows kept for ids that are admitted later.
        unused: rows that are neither.
        zero: rows of nothing but zeros.
        never_updated: rows that no gradient has reached; None where the optimiser keeps no state.
        norms: lengths of the used rows, at the ``QUANTILES``; empty without such rows.
        norm_edges, norm_counts: their histogram; [BINS + 1], [BINS].
        size_bytes: of the float32 rows.
        optimizer_bytes: of the optimiser's state.
    """

    name: str
    tables: tuple[str, ...]
    rows: int
    dim: int
    used: int
    spare: int
    unused: int
    zero: int
    never_updated: int | None
    norms: tuple[float, ...]
    norm_edges: tuple[float, ...]
    norm_counts: tuple[int, ...]
    size_bytes: int
    optimizer_bytes: int


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """All tables of a run."""

    ids: tuple[IdReport, ...]
    rows: tuple[RowReport, ...]


def report_run(run_dir: Path, dataset: Dataset) -> RunReport:
    """The report of a run, from its row maps, its checkpoint, and the data it was trained on (with keys).

    Raises:
        DataFileError: ``run_dir`` is not a run, or a file of it is damaged.
        ConfigError: it was trained on other data.
    """
    _, features, fingerprint = read_run(run_dir)
    compare_data("the run", fingerprint, data_fingerprint(dataset))
    row_maps = load_row_maps(run_dir / "row_maps.npz")
    checkpoint = load(weights_file(run_dir))
    counts = id_counts(dataset, dataset.split("train"))
    return RunReport(
        ids=report_ids(features, row_maps, counts, dataset.table.names),
        rows=report_rows(row_maps, counts, checkpoint),
    )


def report_ids(
    features: FeatureSet,
    row_maps: Mapping[str, RowMap],
    counts: Mapping[str, Counts],
    names: Mapping[str, Names],
) -> tuple[IdReport, ...]:
    """Rows that each table's ids share.

    Args:
        features: declares the tables.
        row_maps: of each table.
        counts: each table's ids in training and how often each was looked up.
        names: each table's texts of string ids, where there are some.
    """
    rows = {table: row_map.lookup(counts[table][0]) for table, row_map in row_maps.items()}
    reports = []
    for table, row_map in row_maps.items():
        ids_V, counts_V = counts[table]
        declared = _features_of(features, table)
        lookups = int(counts_V.sum())
        collides_V, meets_V = _collides(row_map, rows[table]), _meets(table, row_maps, rows)
        hottest = np.lexsort((ids_V, -counts_V))[:HOTTEST]
        shown = shown_ids(next(iter(declared.values())), ids_V[hottest], names.get(table))
        reports.append(
            IdReport(
                table=table,
                features=tuple(declared),
                kind=row_map.kind,
                lookups=len(row_map.lookups),
                ids=len(ids_V),
                id_lookups=lookups,
                known_ids=0 if row_map.ids is None else int((row_map.ids.lookup(ids_V) > 0).sum()),
                unknown_ids=int((rows[table] == UNKNOWN_ROW).all(axis=1).sum()),
                colliding_ids=int(collides_V.sum()),
                colliding_lookups=_share(counts_V[collides_V], lookups),
                meeting_ids=int(meets_V.sum()),
                meeting_lookups=_share(counts_V[meets_V], lookups),
                map_bytes=row_map.size_bytes,
                hottest=tuple(
                    HotId(
                        key=int(ids_V[v]),
                        id=str(own),
                        count=int(counts_V[v]),
                        share=_share(counts_V[v : v + 1], lookups),
                        rows=tuple(rows[table][v].tolist()),
                    )
                    for v, own in zip(hottest, shown, strict=True)
                ),
            )
        )
    return tuple(reports)


def report_rows(
    row_maps: Mapping[str, RowMap], counts: Mapping[str, Counts], checkpoint: Checkpoint
) -> tuple[RowReport, ...]:
    """Fill of each physical table.

    Raises:
        DataFileError: a file of the checkpoint is damaged.
    """
    is_used = {name: np.zeros(rows, dtype=bool) for name, (rows, _) in checkpoint.tables.items()}
    spare: dict[str, Int64Array] = {}
    users: dict[str, list[str]] = {name: [] for name in checkpoint.tables}
    for table, row_map in row_maps.items():
        rows_VK = row_map.lookup(counts[table][0])
        for k, lookup in enumerate(row_map.lookups):
            is_used[lookup.table][rows_VK[:, k]] = True
            spare[lookup.table] = row_map.spare_rows
            if table not in users[lookup.table]:
                users[lookup.table].append(table)
    reports = []
    for name, parts in parts_of_tables(checkpoint).items():
        rows, dim = checkpoint.tables[name]
        norms_R = rows_of_table(parts, np.arange(rows), dim=dim).norm(dim=1).numpy()
        used_R, taken_R = is_used[name], is_used[name].copy()
        taken_R[UNKNOWN_ROW] = True
        taken_R[spare[name]] = True
        updated_R = updated_rows(parts, rows=rows)
        edges, bins = _histogram(norms_R[used_R])
        reports.append(
            RowReport(
                name=name,
                tables=tuple(users[name]),
                rows=rows,
                dim=dim,
                used=int(used_R.sum()),
                spare=len(spare[name]),
                unused=int((~taken_R).sum()),
                zero=int((norms_R == 0).sum()),
                never_updated=None if updated_R is None else int((~updated_R).sum()),
                norms=tuple(float(q) for q in np.quantile(norms_R[used_R], QUANTILES)) if used_R.any() else (),
                norm_edges=edges,
                norm_counts=bins,
                size_bytes=rows * dim * 4,
                optimizer_bytes=sum(s.numel() * s.element_size() for part in parts for s in part["state"].values()),
            )
        )
    return tuple(reports)


def _collides(row_map: RowMap, rows_VK: Int64Array) -> BoolArray:
    """Mask of the ids that share all rows with another id, [V]."""
    if not len(rows_VK):
        return np.zeros(0, dtype=bool)
    if row_map.combine == "sum":  # all of one table
        rows_VK = np.sort(rows_VK, axis=1)
    _, group_V, sizes = np.unique(rows_VK, axis=0, return_inverse=True, return_counts=True)
    collides: BoolArray = sizes[group_V.reshape(-1)] > 1
    return collides


def _meets(table: str, row_maps: Mapping[str, RowMap], rows: Mapping[str, Int64Array]) -> BoolArray:
    """Mask of the ids of which each row is also a row of an id of another table, [V]."""
    meets_V = np.ones(len(rows[table]), dtype=bool)
    for k, lookup in enumerate(row_maps[table].lookups):
        foreign = [
            rows[other][:, j]
            for other, row_map in row_maps.items()
            for j, its in enumerate(row_map.lookups)
            if other != table and its.table == lookup.table
        ]
        if not foreign:
            return np.zeros(len(rows[table]), dtype=bool)
        is_foreign = np.zeros(lookup.num_rows, dtype=bool)
        is_foreign[np.concatenate(foreign)] = True
        meets_V &= is_foreign[rows[table][:, k]]
    return meets_V


def _features_of(features: FeatureSet, table: str) -> dict[str, Categorical]:
    """The features whose ids are a table's, by name."""
    sides: dict[str, Feature] = {f.name: f for f in (features.user_id, *features.user, *features.context)}
    sides |= {f"{ITEM}{f.name}": f for f in (features.item_id, *features.item)}
    sides |= {f"history.{f.name}": f for f in features.event_features()}
    return {name: f for name, f in sides.items() if isinstance(f, Categorical) and f.table == table}


def _histogram(norms: Float32Array) -> tuple[tuple[float, ...], tuple[int, ...]]:
    counts, edges = np.histogram(norms, bins=BINS, range=(0.0, float(norms.max(initial=0.0)) or 1.0))
    return tuple(edges.tolist()), tuple(counts.tolist())


def _share(counts: Int64Array, total: int) -> float:
    return float(counts.sum()) / total if total else 0.0
