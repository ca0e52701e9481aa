"""Training on the newest part of a log only (``data.since``), and the row maps of such a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from recsys.arrays import Int64Array
from recsys.data.samples.dataset import Dataset
from recsys.data.samples.ids import id_counts
from recsys.data.samples.since import newest_since
from recsys.embeddings.row_maps.growth import CLUSTER_ROWS, OWN_ROWS, SeenIds, grow
from recsys.embeddings.row_maps.id_table import build_id_table
from recsys.embeddings.row_maps.row_map import RowMap
from recsys.errors import ConfigError
from recsys.training.config import RunConfig

HASHES_UNKNOWN = "hashes unknown"
"""Kind of a map of which only the ids with rows of their own are known, as from a bundle (``warm_start/source.py``)."""

HELD_OUT = 0.1
"""Share of the samples, the newest, that becomes the validation split where the data declares neither it nor a test;
less where many are of one moment, because a moment is not parted."""


def samples_since(dataset: Dataset, when: str) -> Dataset:
    """The dataset with only the newest of its training samples; their histories still read older events.

    Validation and test splits stay as declared. If there is neither, the newest tenth of the samples that are left is
    held out as the validation split: those later than the newest that is trained on. If they are all of one label,
    nothing could be measured on them, and they are trained on.

    Args:
        dataset: with keys.
        when: see :func:`recsys.data.samples.since.since_ms`; empty: all of it.

    Raises:
        ConfigError: ``when`` is no time.
        InvalidInputError: no training sample is left.
    """
    training = dataset.split("train")
    if not when or not len(training):
        return dataset
    kept = training[newest_since(dataset.sample_time_ms[training], when, what="training samples")]
    splits = {**dataset.samples.splits, "train": kept}
    if not len(dataset.split("validation")) and not len(dataset.split("test")):
        splits |= _newest_held_out(dataset, kept)
    return replace(dataset, samples=replace(dataset.samples, splits=splits))


def _newest_held_out(dataset: Dataset, indices: Int64Array) -> dict[str, Int64Array]:
    times_ms = dataset.sample_time_ms[indices]
    newest_trained_ms = np.sort(times_ms)[len(indices) - int(len(indices) * HELD_OUT) - 1]
    later = times_ms > newest_trained_ms
    labels = dataset.samples.label[indices[later]]
    if len(labels) and labels.min() == labels.max():
        later[:] = False
    return {"train": indices[~later], "validation": indices[later]}


def grown_row_maps(config: RunConfig, row_maps: Mapping[str, RowMap], dataset: Dataset) -> dict[str, RowMap]:
    """The row maps of an older run, with rows for ids that only the new samples hold.

    Ids seen ``rows.min_count`` times are admitted: in a vocabulary all of them, and ``rows.spare_rows`` are added for
    later ones; in the other maps with a row per id as many as there are spare rows. Clusters and hashes stay.

    Args:
        config: its ``rows`` are read.
        row_maps: of the older run.
        dataset: with keys; its training samples and their histories count.

    Raises:
        ConfigError: the dataset has a table that the older model has not, or of whose ids a bundle does not tell all.
    """
    counts = id_counts(dataset, dataset.split("train"))
    if missing := sorted(set(counts) - set(row_maps)):
        raise ConfigError(
            f"train.warm_start has no id map of table {missing[0]!r}, and data.since goes on with the older model's id "
            "maps; train on all data, as after features changed"
        )
    if hashed := sorted(table for table in counts if row_maps[table].kind == HASHES_UNKNOWN):
        raise ConfigError(
            f"train.warm_start is a bundle, of which it cannot be told how ids of table {hashed[0]!r} are hashed, and "
            "data.since goes on with the older model's id maps; give its run's folder, or train on all data"
        )
    grown = {}
    for table, (ids_V, counts_V) in counts.items():
        row_map = row_maps[table]
        if row_map.kind in OWN_ROWS and row_map.ids is not None:
            seen = SeenIds(ids_V=ids_V, counts_V=counts_V, last_ms_V=np.zeros(len(ids_V), dtype=np.int64))
            if row_map.kind == "vocabulary":
                new = (counts_V >= config.rows.min_count) & ~np.isin(ids_V, row_map.ids.entries()[0])
                room = int(new.sum()) + int(np.ceil(config.rows.spare_rows * len(ids_V)))
                row_map = _with_room(row_map, rows=max(0, room - len(row_map.spare_rows)), seed=config.rows.seed)
            row_map = grow(row_map, seen, admit_count=config.rows.min_count, seed=config.rows.seed).row_map
        grown[table] = row_map
    return grown


def ids_without_room(config: RunConfig, row_maps: Mapping[str, RowMap], dataset: Dataset) -> list[str]:
    """A sentence for each table where ids of the new samples have no row, and what to do.

    Args:
        config: of the run, which goes on with an older run's row maps.
        row_maps: as they have grown.
        dataset: with keys; its training samples and their histories count.
    """
    least, found = config.rows.min_count, []
    for table, (ids_V, counts_V) in id_counts(dataset, dataset.split("train")).items():
        row_map = row_maps[table]
        if row_map.ids is None or row_map.kind not in (*OWN_ROWS, *CLUSTER_ROWS):
            continue  # a hash has a row for every id
        unknown = ~np.isin(ids_V, row_map.ids.entries()[0])
        lacking, rare = int((unknown & (counts_V >= least)).sum()), int((unknown & (counts_V < least)).sum())
        what = "row of their own" if row_map.kind in OWN_ROWS else "cluster"
        if lacking:
            remedy = "`recsys rows grow --evict rarest` makes room, or train on all data, without data.since"
            if row_map.kind in CLUSTER_ROWS:
                remedy = "`recsys rows grow` gives them one, or train on all data, without data.since"
            found.append(f"table {table}: {lacking:,} ids of the new samples found no {what}; {remedy}")
        if rare and row_map.kind in OWN_ROWS:
            found.append(
                f"table {table}: {rare:,} new ids were seen fewer than rows.min_count={least} times, and have no {what}"
            )
    return found


def _with_room(row_map: RowMap, *, rows: int, seed: int) -> RowMap:
    """A vocabulary with so many more spare rows, at the end of its table."""
    if not rows or row_map.ids is None:
        return row_map
    (lookup,) = row_map.lookups
    keys, numbers = row_map.ids.entries()
    return replace(
        row_map,
        lookups=(replace(lookup, num_rows=lookup.num_rows + rows),),
        ids=build_id_table(keys, numbers, capacity=len(keys) + len(row_map.spare_rows) + rows, seed=seed),
        spare_rows=np.concatenate([row_map.spare_rows, np.arange(lookup.num_rows, lookup.num_rows + rows)]),
    )
