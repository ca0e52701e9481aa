"""A dataset: samples joined with their event table; histories are sliced from it, never copied.

The history of a sample is what a server would have seen at its moment T: the user's events with a
timestamp before T that had arrived by T and are not older than ``max_age_s``, the newest ``recent`` of
them. Events with the sample's own timestamp are left out, because their order is not known.

``B`` samples of a batch, ``E`` events of its histories, ``N`` events of the table, ``M`` samples,
``U`` users, ``I`` items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.arrays import Int32Array, Int64Array
from recsys.data.log.event_table import EventTable
from recsys.data.samples.histories import first_at_or_after, newest, ranges
from recsys.data.samples.stored import Impressions, Samples, sample_columns
from recsys.errors import InvalidInputError, nearest
from recsys.features.columns import Column
from recsys.features.encode import EncodedBatch
from recsys.features.history.records import attribute_keys, require_history


@dataclass(frozen=True, slots=True)
class Dataset:
    """An event table and samples of it, ready to be cut into batches.

    Id columns hold int64 keys; after :func:`~recsys.data.samples.ids.map_ids`, int32 codes (``row_codes.py``).

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
