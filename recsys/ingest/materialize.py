"""Event tables into the feature store: users, items, texts of ids, histories. Running it again changes nothing.

Each history is put in place of what is stored at once, so that a reader sees the old or the new one; stored
events that arrived after the table was made stay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from recsys.arrays import Int64Array
from recsys.data.log.event_table import EventTable, packed_events
from recsys.data.samples.histories import ranges
from recsys.errors import InvalidInputError
from recsys.feature_store.base import FeatureStore
from recsys.features.columns import Column
from recsys.features.feature_set import ITEM, USER
from recsys.features.history.records import Events, require_history

Progress = Callable[[int], None]
"""Called with the number of events or rows done so far."""

_ROWS_PER_CALL = 5_000
_EVENTS_PER_CALL = 20_000
_TEXTS_PER_CALL = 20_000
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MaterializeResult:
    """Counts of what was loaded.

    Attributes:
        users: histories put in place.
        events: events of the table.
        sent: the newest of them, as many per user as the store keeps.
        kept: stored events that stayed because they arrived after the table was made.
        left: entity -> how many of the table no file described; what the store holds of them stays.
        refused: why histories were left as they are: their keys hold bytes that are not ours.
        elapsed_s: seconds it took.
    """

    users: int
    events: int
    sent: int
    kept: int
    left: dict[str, int]
    refused: tuple[str, ...]
    elapsed_s: float

    @property
    def events_per_s(self) -> float:
        """Events of the table per second."""
        return self.events / max(self.elapsed_s, 1e-9)


async def materialize(
    store: FeatureStore, table: EventTable, *, users: Sequence[int] | None = None, progress: Progress | None = None
) -> MaterializeResult:
    """Put users, items, other entities, histories and the texts of ids of an event table into the store.

    Args:
        store: of a FeatureSet that declares the same history, users and items as the table's.
        table: what to load.
        users: only these, by index; default: all.
        progress: called with the number of events done.

    Raises:
        StoreError: the store cannot be reached, is full, or holds foreign bytes; run it again.
    """
    started_s = time.monotonic()
    await store.ping(timeout_s=_TIMEOUT_S)
    features = table.features
    chosen = np.arange(len(table.user_keys)) if users is None else np.asarray(users, dtype=np.int64)
    left: dict[str, int] = {}
    await _put_texts(store, table)  # before the rows: who is told of an item needs its text
    for name, columns in ((USER, table.users), (ITEM, table.items), *table.entities.items()):
        entity = features.entity(name)
        rows = chosen if name == USER else np.arange(len(columns[entity.id.name]))
        if name in table.given:  # an id alone must not take the place of features that are stored
            described = np.asarray(table.given[name])[rows]
            left[name] = int(len(rows) - described.sum()) if entity.features else 0
            rows = rows[described]
        stored = {f.name: np.asarray(columns[f.name])[rows] for f in entity.features}
        await put_entities(store, name, np.asarray(columns[entity.id.name])[rows], stored)
    arrived_until_ms = int(table.arrival_ms.max()) if len(table) else -1
    # One more than is kept, so that the store learns up to which time events are left out.
    limit = require_history(features).max_events + 1
    ends = np.asarray(table.offsets)[chosen + 1]
    events = ends - np.asarray(table.offsets)[chosen]
    begins = ends - np.minimum(events, limit)
    sent = np.cumsum(ends - begins)
    done, total = np.cumsum(events), len(chosen)
    first = kept = 0
    refused: list[str] = []
    while first < total:
        before = int(sent[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(sent, before + _EVENTS_PER_CALL, side="right")))
        histories = _histories(table, chosen[first:last], begins[first:last], ends[first:last])
        results = await store.replace_many(histories, arrived_until_ms=arrived_until_ms, timeout_s=_TIMEOUT_S)
        kept += sum(result.added for result in results)
        refused += [str(result.refused) for result in results if result.refused is not None]
        first = last
        if progress is not None:
            progress(int(done[first - 1]))
    return MaterializeResult(
        users=total,
        events=int(events.sum()),
        sent=int(np.minimum(events, limit - 1).sum()),
        kept=kept,
        left={name: count for name, count in left.items() if count},
        refused=tuple(refused),
        elapsed_s=time.monotonic() - started_s,
    )


async def put_entities(
    store: FeatureStore,
    entity: str,
    keys: Int64Array,
    columns: Mapping[str, Column],
    *,
    rows_per_call: int = _ROWS_PER_CALL,
    progress: Progress | None = None,
) -> None:
    """``FeatureStore.put_entities`` for any number of entities, some rows at a time.

    Args:
        store: where to.
        entity: ``"user"``, ``"item"`` or another that is declared.
        keys: shape [N].
        columns: encoded features, N rows each.
        rows_per_call: rows per round trip.
        progress: called after each round trip.

    Raises:
        InvalidInputError: a column is missing, or of another length.
        StoreError: as ``put_entities``; the rows before are stored.
    """
    for name, column in columns.items():
        if len(column) != len(keys):
            raise InvalidInputError(f"feature {name!r}: {len(column)} values for {len(keys)} {entity}s")
    for start in range(0, len(keys), rows_per_call):
        part = slice(start, start + rows_per_call)
        rows = {name: column[part] for name, column in columns.items()}
        await store.put_entities(entity, keys[part], rows, timeout_s=_TIMEOUT_S)
        if progress is not None:
            progress(min(start + rows_per_call, len(keys)))


async def _put_texts(store: FeatureStore, table: EventTable) -> None:
    """Store the texts of string ids; but of users' ids, which no answer has."""
    for name, names in table.names.items():
        if table.features.tables().get(name) == (table.features.user_id.name,):
            continue
        for start in range(0, len(names), _TEXTS_PER_CALL):
            keys = np.asarray(names.keys_R[start : start + _TEXTS_PER_CALL])
            texts = dict(zip(keys.tolist(), names.of(keys), strict=True))
            await store.put_names(texts, timeout_s=_TIMEOUT_S)


def _histories(table: EventTable, users: Int64Array, begins: Int64Array, ends: Int64Array) -> list[tuple[int, Events]]:
    """(user key, events begins:ends of the table) of some users."""
    rows, offsets = ranges(begins, ends - begins)
    events = packed_events(table, rows)
    spans = pairwise(offsets.tolist())
    return [(key, events[begin:end]) for key, (begin, end) in zip(table.user_keys[users].tolist(), spans, strict=True)]
