"""Training samples: a user, an item, a moment, a label; histories are sliced from the event table, never copied.

The history of a sample is what a server would have seen at its moment T: the user's events with a
timestamp before T that had arrived by T and are not older than ``max_age_s``, the newest ``recent`` of
them. Events with the sample's own timestamp are left out, because their order is not known.

A sample is an event of the table (its ``position``), or an impression: something that was shown and labelled,
but is no event, so that no history holds it.

``B`` samples of a batch, ``E`` events of its histories, ``N`` events of the table, ``M`` samples,
``U`` users, ``I`` items.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.arrays import Int32Array, Int64Array
from recsys.data.column_folder import open_columns, write_columns
from recsys.data.log.event_table import EventTable
from recsys.data.samples.histories import first_at_or_after, newest, ranges
from recsys.data.samples.row_codes import RowsOfKeys, encode_ids
from recsys.errors import DataFileError, InvalidInputError, nearest
from recsys.features.columns import Column
from recsys.features.encode import EncodedBatch
from recsys.features.feature_set import Categorical, Feature
from recsys.features.hashing import MISSING
from recsys.features.history.records import attribute_keys, require_history

KIND = "samples"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Impressions:
    """M moments at which a user was shown an item; sorted by (user, time).

    Attributes:
        user, item: row numbers of the table's users and items; [M], int32.
        time_ms: milliseconds since 1970; [M], int64.
        context: context feature name -> column with M rows.
    """

    user: Int32Array
    item: Int32Array
    time_ms: Int64Array
    context: dict[str, Column]


@dataclass(frozen=True, slots=True)
class Samples:
    """M labelled events, or M labelled impressions.

    Attributes:
        position: index of the sample's event in the event table, -1 for an impression; [M], int64.
        label: 0 or 1; [M], uint8.
        splits: ``train``, ``validation``, ``test``: sample indices, int64.
        impressions: what the samples are, unless they are events.
    """

    position: Int64Array
    label: npt.NDArray[np.uint8]
    splits: dict[str, Int64Array]
    impressions: Impressions | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """An event table and samples of it, ready to be cut into batches.

    Id columns hold int64 keys; after :func:`map_ids`, int32 codes (``row_codes.py``).

    Attributes:
        table: where the columns came from; always keys.
        samples: which events are samples, their labels, the splits.
        user, item: columns with N = U and N = I.
        context: columns with one row per event, or per sample where the samples are impressions.
        context_row: each sample's row of ``context``; [M], int64.
        history: ``history.<name>`` columns with one row per event; [N].
        sample_user, sample_item: the samples' user and item indices; [M], int32.
        sample_time_ms: the samples' moments; [M], int64.
        history_begin, history_end: sample m may read events history_begin[m]:history_end[m],
            less those that arrived after its moment; [M], int64.
        has_late_events: whether any event arrived after its timestamp. If none did,
            history_begin already leaves only the newest ``recent`` events.
        rows_of_codes: once the id columns hold codes: table -> rows of each code, [T, K], int64.
    """

    table: EventTable
    samples: Samples
    user: dict[str, Column]
    item: dict[str, Column]
    context: dict[str, Column]
    context_row: Int64Array
    history: dict[str, Column]
    sample_user: Int32Array
    sample_item: Int32Array
    sample_time_ms: Int64Array
    history_begin: Int64Array
    history_end: Int64Array
    has_late_events: bool
    rows_of_codes: dict[str, Int64Array] | None = None

    def __len__(self) -> int:
        """M, the number of samples."""
        return len(self.samples.position)

    def split(self, name: str) -> Int64Array:
        """Sample indices of ``train``, ``validation`` or ``test``; int64.

        Raises:
            InvalidInputError: there is no split of that name.
        """
        if name not in self.samples.splits:
            raise InvalidInputError(f"unknown split {name!r}: {nearest(name, self.samples.splits)}")
        return self.samples.splits[name]


def write_samples(samples: Samples, path: Path) -> None:
    """Write samples to a folder that appears only when complete.

    Raises:
        FileExistsError: ``path`` exists.
    """
    columns = sample_columns(samples.label, position=samples.position, impressions=samples.impressions)
    columns.update({f"split.{name}": indices for name, indices in samples.splits.items()})
    write_columns(path, columns, kind=KIND, version=FORMAT_VERSION, info={"splits": list(samples.splits)})


def sample_columns(
    label: npt.NDArray[np.uint8], *, position: Int64Array, impressions: Impressions | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Samples as columns on disk, without their splits: ``position``, or those of the impressions, and ``label``."""
    columns: dict[str, npt.NDArray[Any]]
    if impressions is None:
        return {"position": position, "label": label}
    columns = {"user": impressions.user, "item": impressions.item, "time_ms": impressions.time_ms, "label": label}
    columns.update({f"context.{name}": column for name, column in impressions.context.items()})
    return columns


def open_samples(path: Path) -> Samples:
    """Memory-map samples.

    Raises:
        DataFileError: not samples, of another format version, or damaged.
    """
    columns, info = open_columns(path, kind=KIND, version=FORMAT_VERSION)
    try:
        splits = {name: columns[f"split.{name}"] for name in info["splits"]}
        label = columns["label"]
        if "time_ms" not in columns:
            return Samples(position=columns["position"], label=label, splits=splits)
        context = {name.removeprefix("context."): c for name, c in columns.items() if name.startswith("context.")}
        impressions = Impressions(
            user=columns["user"], item=columns["item"], time_ms=columns["time_ms"], context=context
        )
        position = np.full(len(label), -1, dtype=np.int64)
        return Samples(position=position, label=label, splits=splits, impressions=impressions)
    except KeyError as error:
        raise DataFileError(f"{path}: column {error} is missing from meta.json") from error


def make_dataset(table: EventTable, samples: Samples) -> Dataset:
    """Join samples with their event table; columns hold keys.

    Raises:
        InvalidInputError: a position, user or item is not in the table, a label is not 0 or 1, or a
            split names a sample that does not exist.
    """
    _check_samples(samples, table)
    features = table.features
    history = {}
    if features.history is not None:
        history[f"history.{features.item_id.name}"] = table.item_keys[table.item_index]
    for attribute in features.event_features()[1:]:
        stored = np.ascontiguousarray(table.attributes[attribute.name])
        packed = stored.view(np.dtype([(attribute.name, stored.dtype)]))
        history[f"history.{attribute.name}"] = attribute_keys(attribute, packed)
    shown = samples.impressions
    if shown is None:
        shown = _events_as_impressions(table, samples.position)
    has_late_events = bool((table.arrival_ms > table.timestamp_ms).any())
    history_begin, history_end = _readable_events(table, shown, has_late_events=has_late_events)
    return Dataset(
        table=table,
        samples=samples,
        user={name: np.asarray(column) for name, column in table.users.items()},
        item={name: np.asarray(column) for name, column in table.items.items()},
        context={name: np.asarray(column) for name, column in shown.context.items()},
        context_row=np.arange(len(samples.label)) if samples.impressions else np.asarray(samples.position),
        history=history,
        sample_user=np.asarray(shown.user),
        sample_item=np.asarray(shown.item),
        sample_time_ms=np.asarray(shown.time_ms),
        history_begin=history_begin,
        history_end=history_end,
        has_late_events=has_late_events,
    )


def make_batch(dataset: Dataset, sample_indices: Int64Array) -> EncodedBatch:
    """Cut B samples out of a dataset; duplicates and any order are fine, B = 0 too.

    Returns:
        Ids are keys, or codes of a mapped dataset. A sample without history has no events.
    """
    user = dataset.sample_user[sample_indices]
    item = dataset.sample_item[sample_indices]
    user_columns = {name: column[user] for name, column in dataset.user.items()}
    if dataset.context:
        rows = dataset.context_row[sample_indices]
        user_columns.update({name: column[rows] for name, column in dataset.context.items()})
    events, offsets = _histories(dataset, sample_indices)
    return EncodedBatch(
        user=user_columns,
        item={name: column[item] for name, column in dataset.item.items()},
        history={name: column[events] for name, column in dataset.history.items()},
        history_offsets=offsets,
        labels=dataset.samples.label[sample_indices].astype(np.float32),
    )


class IdColumn(NamedTuple):
    """A column of ids: of which side it is, and with what name."""

    side: Literal["user", "item", "context", "history"]
    name: str
    feature: Categorical
    ids: Column


def id_columns(dataset: Dataset) -> Iterator[IdColumn]:
    """Every column of ids of a dataset, keys or codes, side by side in the order of declaration."""
    features = dataset.table.features
    sides: tuple[tuple[Literal["user", "item", "context", "history"], tuple[Feature, ...], dict[str, Column]], ...] = (
        ("user", (features.user_id, *features.user), dataset.user),
        ("item", (features.item_id, *features.item), dataset.item),
        ("context", features.context, dataset.context),
        ("history", features.event_features(), dataset.history),
    )
    for side, declared, columns in sides:
        for feature in declared:
            if isinstance(feature, Categorical):
                name = f"history.{feature.name}" if side == "history" else feature.name
                yield IdColumn(side, name, feature, columns[name])


def map_ids(dataset: Dataset, lookups: Mapping[str, RowsOfKeys]) -> Dataset:
    """Look every id up once, so that batches need no hashing.

    Args:
        dataset: with keys.
        lookups: embedding table name -> lookup of its row map. ``MISSING`` is never looked up: it stays -1.

    Returns:
        The same dataset with int32 codes in its id columns, and the rows of the codes.

    Raises:
        InvalidInputError: the dataset is mapped already, a table has no lookup, or a lookup
            returns another shape or negative rows.
    """
    if dataset.rows_of_codes is not None:
        raise InvalidInputError("the dataset holds codes already; map the one that holds keys")
    tables = dataset.table.features.tables()
    for table in tables:
        if table not in lookups:
            raise InvalidInputError(f"no lookup for embedding table {table!r}; given: {', '.join(sorted(lookups))}")
    by_table: dict[str, dict[str, Column]] = {table: {} for table in tables}
    for column in id_columns(dataset):
        by_table[column.feature.table][f"{column.side}/{column.name}"] = column.ids
    mapped: dict[str, dict[str, Column]] = {
        "user": dict(dataset.user),
        "item": dict(dataset.item),
        "context": dict(dataset.context),
        "history": dict(dataset.history),
    }
    rows_of_codes: dict[str, Int64Array] = {}
    for table, ids in by_table.items():
        encoded, rows_of_codes[table] = encode_ids(table, ids, lookups[table])
        for name, codes in encoded.items():
            side, _, column_name = name.partition("/")
            mapped[side][column_name] = codes
    return replace(
        dataset,
        user=mapped["user"],
        item=mapped["item"],
        context=mapped["context"],
        history=mapped["history"],
        rows_of_codes=rows_of_codes,
    )


def rows_of_codes(dataset: Dataset) -> dict[str, Int64Array]:
    """``Dataset.rows_of_codes`` of a dataset that :func:`map_ids` has mapped.

    Raises:
        InvalidInputError: it holds keys.
    """
    if dataset.rows_of_codes is None:
        raise InvalidInputError("the dataset holds keys; map_ids makes them codes")
    return dataset.rows_of_codes


def id_counts(dataset: Dataset, sample_indices: Int64Array) -> dict[str, tuple[Int64Array, Int64Array]]:
    """Count the lookups of each id of each embedding table by these samples and their histories.

    What a vocabulary is built from, and what DIN's regularisation divides by. With late events,
    events that had not arrived in time count too.

    Returns:
        Embedding table -> distinct ids (keys, or codes of a mapped dataset) in ascending order and
        their counts, both [V], int64. ``MISSING`` is not an id.
    """
    edges = np.zeros(len(dataset.table) + 1, dtype=np.int64)
    np.add.at(edges, dataset.history_begin[sample_indices], 1)
    np.add.at(edges, dataset.history_end[sample_indices], -1)
    reads_of_event = np.cumsum(edges[:-1])
    reads_of_user = np.bincount(dataset.sample_user[sample_indices], minlength=len(dataset.table.user_keys))
    reads_of_item = np.bincount(dataset.sample_item[sample_indices], minlength=len(dataset.table.item_keys))
    context_rows = len(dataset.table) if dataset.samples.impressions is None else len(dataset)
    reads_of_context = np.bincount(dataset.context_row[sample_indices], minlength=context_rows)
    reads = {"user": reads_of_user, "item": reads_of_item, "context": reads_of_context, "history": reads_of_event}
    parts: dict[str, list[tuple[Int64Array, Int64Array]]] = {table: [] for table in dataset.table.features.tables()}
    for column in id_columns(dataset):
        parts[column.feature.table].append(_sum_by_id(column.ids, reads[column.side]))
    return {
        table: _sum_by_id(np.concatenate([ids for ids, _ in found]), np.concatenate([n for _, n in found]))
        for table, found in parts.items()
    }


def _histories(dataset: Dataset, sample_indices: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Event positions of B histories, one after another [E], and where each begins [B + 1]."""
    begin = dataset.history_begin[sample_indices]
    lengths = dataset.history_end[sample_indices] - begin
    events, offsets = ranges(begin, lengths)
    if not dataset.has_late_events or not len(events):
        return events, offsets
    table = dataset.table
    arrived = table.arrival_ms[events] <= np.repeat(dataset.sample_time_ms[sample_indices], lengths)
    return newest(events, offsets, wanted=arrived, limit=require_history(table.features).recent)


def _readable_events(table: EventTable, shown: Impressions, *, has_late_events: bool) -> tuple[Int64Array, Int64Array]:
    """The run of events that each sample may read; empty for features without a history."""
    user_begin, user_end = table.offsets[shown.user], table.offsets[shown.user + 1]
    declared = table.features.history
    if declared is None:
        return user_begin, user_begin
    end = first_at_or_after(table.timestamp_ms, shown.time_ms, begin=user_begin, end=user_end)
    begin = user_begin
    if declared.max_age_s:
        oldest_ms = shown.time_ms - 1000 * declared.max_age_s
        begin = first_at_or_after(table.timestamp_ms, oldest_ms, begin=user_begin, end=end)
    if not has_late_events:
        begin = np.maximum(begin, end - declared.recent)
    return begin, end


def _events_as_impressions(table: EventTable, position: Int64Array) -> Impressions:
    """Events as moments; the context is the table's, one row per event."""
    return Impressions(
        user=(np.searchsorted(table.offsets, position, side="right") - 1).astype(np.int32),
        item=table.item_index[position],
        time_ms=table.timestamp_ms[position],
        context=table.context,
    )


def _check_samples(samples: Samples, table: EventTable) -> None:
    count = len(samples.position)
    if samples.position.shape != samples.label.shape:
        raise InvalidInputError(f"{count} positions for {len(samples.label)} labels")
    other = samples.label[(samples.label != 0) & (samples.label != 1)]
    if other.size:
        raise InvalidInputError(f"labels: found {other[0]}; allowed: 0 and 1")
    shown = samples.impressions
    found: list[tuple[str, npt.NDArray[Any], int]] = [("positions", samples.position, len(table))]
    if shown is not None:
        found = [("users", shown.user, len(table.user_keys)), ("items", shown.item, len(table.item_keys))]
        for name, column in sample_columns(samples.label, position=samples.position, impressions=shown).items():
            if len(column) != count:
                raise InvalidInputError(f"impressions: {len(column)} values of {name!r} for {count} labels")
    for what, indices, limit in (*found, *((f"split {n!r}", split, count) for n, split in samples.splits.items())):
        if indices.size and (int(indices.min()) < 0 or int(indices.max()) >= limit):
            raise InvalidInputError(f"{what}: {indices.min()} to {indices.max()}; allowed: 0 to {limit - 1}")


def _sum_by_id(ids: Column, counts: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Distinct ids but MISSING, ascending, and the sum of each one's counts (given per row); zero sums left out."""
    if ids.ndim == 2:
        counts = np.repeat(counts, ids.shape[1])
    flat = ids.reshape(-1)
    used = (flat != MISSING) & (counts > 0)
    distinct, inverse = np.unique(flat[used], return_inverse=True)
    sums = np.bincount(inverse, weights=counts[used], minlength=len(distinct))
    return distinct.astype(np.int64), sums.astype(np.int64)
