"""Training on the newest part of a log only (``data.since``), and the row maps of such a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from recsys.arrays import Int64Array
from recsys.data.samples.dataset import Dataset
from recsys.data.samples.ids import id_counts
from recsys.embeddings.row_maps.growth import CLUSTER_ROWS, OWN_ROWS, SeenIds, grow
from recsys.embeddings.row_maps.id_table import build_id_table
from recsys.embeddings.row_maps.row_map import RowMap
from recsys.errors import ConfigError, InvalidInputError
from recsys.training.config import RunConfig

UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
HASHES_UNKNOWN = "hashes unknown"
"""Kind of a map of which only the ids with rows of their own are known, as from a bundle (``warm_start/source.py``)."""

HELD_OUT = 0.1
"""Share of the samples, the newest, that becomes the validation split where the data declares neither it nor a test;
less where many are of one moment, because a moment is not parted."""


def since_ms(when: str, *, newest_ms: int) -> int:
    """The first moment that a run trains on, milliseconds since 1970.

    Args:
        when: an ISO 8601 time (UTC unless it says otherwise), or a duration such as ``36h`` that counts back from the
            newest training sample.
        newest_ms: of that sample.

    Raises:
        ConfigError: it is neither.

    >>> since_ms("2001-02-03T00:00:00+01:00", newest_ms=0), since_ms("1d", newest_ms=100_000_000)
    (981154800000, 13600000)
    """
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", when):
        return newest_ms - round(float(match[1]) * UNITS_MS[match[2]])
    try:
        moment = datetime.fromisoformat(when)
    except ValueError:
        raise ConfigError(
            f"data.since is {when!r}; allowed: a time such as 2001-02-03T04:05:06Z, or a duration such as 36h or 1d "
            "before the newest training sample"
        ) from None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def samples_since(dataset: Dataset, when: str) -> Dataset:
    """The dataset with only the newest of its training samples; their histories still read older events.

    Validation and test splits stay as declared. If there is neither, the newest tenth of the samples that are left is
    held out as the validation split: those later than the newest that is trained on. If they are all of one label,
    nothing could be measured on them, and they are trained on.

    Args:
        dataset: with keys.
        when: see :func:`since_ms`; empty: all of it.

    Raises:
        ConfigError: ``when`` is no time.
        InvalidInputError: no training sample is left.
    """
    training = dataset.split("train")
    if not when or not len(training):
        return dataset
    times_ms = dataset.sample_time_ms[training]
    newest_ms = int(times_ms.max())
    first_ms = since_ms(when, newest_ms=newest_ms)
    kept = training[times_ms >= first_ms]
    if not len(kept):
        raise InvalidInputError(
            f"data.since {when}: none of the {len(training):,} training samples is as new as {_iso(first_ms)}, the "
            f"newest is of {_iso(newest_ms)}: there is nothing to train on"
        )
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


def _iso(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, tz=UTC).isoformat(timespec="seconds")
