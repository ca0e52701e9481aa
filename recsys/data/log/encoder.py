"""Raw values to the rows of an event table: the one encoder, for logs in memory and for logs of any size.

``N`` events given, ``U`` users, ``I`` items. Rows are encoded in any order (:func:`encode_block`) and
settled user by user (:func:`settled_order`), for which all events of one user and timestamp must be
at hand, and nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.arrays import BoolArray, Int32Array, Int64Array
from recsys.errors import InvalidInputError, nearest
from recsys.features.columns import NO_LABEL, Column, feature_keys
from recsys.features.entities import make_columns
from recsys.features.feature_set import Categorical, Feature, FeatureSet
from recsys.features.hashing import MISSING
from recsys.features.history.records import Events, make_events, require_history
from recsys.features.history.rules import canonical_order, identity_fields, inherited_attributes
from recsys.rows.contract import CONTEXT, LABEL
from recsys.rows.events import packed_events

_BEST_FIRST = np.array([1, 0, NO_LABEL], dtype=np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventBlock:
    """Encoded events, one row each.

    Attributes:
        user, item: row numbers of the entity columns; [N], int64 and int32.
        packed: [N], as in a stored history.
        context: context feature name -> column with N rows.
        label: 0, 1 or ``NO_LABEL``; [N], uint8.
    """

    user: Int64Array
    item: Int32Array
    packed: Events
    context: dict[str, Column]
    label: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        """N."""
        return len(self.user)

    def take(self, rows: Any) -> EventBlock:
        """The rows of an index array or slice."""
        context = {name: column[rows] for name, column in self.context.items()}
        columns = {f.name: getattr(self, f.name)[rows] for f in fields(EventBlock) if f.name != "context"}
        return EventBlock(context=context, **columns)


def joined(blocks: Sequence[EventBlock]) -> EventBlock:
    """At least one block, one after another."""
    if len(blocks) == 1:
        return blocks[0]
    columns = {
        f.name: np.concatenate([getattr(b, f.name) for b in blocks]) for f in fields(EventBlock) if f.name != "context"
    }
    context = {name: np.concatenate([b.context[name] for b in blocks]) for name in blocks[0].context}
    return EventBlock(context=context, **columns)


class EntityIndex:
    """Finds the row numbers of entity keys; 16 bytes per entity, or none where the keys rise.

    Args:
        keys: distinct and none of them missing, any order; [U], int64.
    """

    def __init__(self, keys: Int64Array) -> None:
        self._keys = np.asarray(keys)
        self._order: Int64Array | None = None
        if (self._keys[1:] < self._keys[:-1]).any():
            self._order = np.argsort(self._keys, kind="stable")
            self._keys = self._keys[self._order]

    @property
    def keys(self) -> Int64Array:
        """All keys, rising; [U], int64."""
        return self._keys

    def places(self, keys: Int64Array) -> Int64Array:
        """Row numbers of keys; [N], int64.

        Raises:
            InvalidInputError: a key is unknown.
        """
        if len(keys) == 0:
            return np.zeros(0, dtype=np.int64)
        place = np.minimum(np.searchsorted(self._keys, keys), max(len(self._keys) - 1, 0))
        if len(self._keys) == 0 or (self._keys[place] != keys).any():
            raise InvalidInputError("an id is in no table of entities")
        return self._rows(place)

    def find(self, entity_id: Categorical, raw: Any) -> Int64Array:
        """Raw ids to row numbers; [N], int64.

        Raises:
            InvalidInputError: an id is unknown or missing.
        """
        keys = feature_keys(entity_id, raw)
        if len(self._keys) == 0:
            unknown = np.ones(len(keys), dtype=np.bool_)
        else:
            place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            unknown = (self._keys[place] != keys) | (keys == MISSING)
        if unknown.any():
            event = int(np.argmax(unknown))
            raise InvalidInputError(f"event {event}: unknown {entity_id.name} {raw[event]!r}")
        return self._rows(place) if len(keys) else np.zeros(0, dtype=np.int64)

    def _rows(self, place: Int64Array) -> Int64Array:
        return place.astype(np.int64, copy=False) if self._order is None else self._order[place]


def encode_entities(declared: tuple[Feature, ...], values: Mapping[str, Any]) -> dict[str, Column]:
    """Columns of an entity's id (``declared[0]``) and features, order as given; every id present.

    Raises:
        InvalidInputError: an unknown or missing column, a value that does not fit, or a missing id.
    """
    entity_id = declared[0].name
    if entity_id not in values:
        raise InvalidInputError(f"column {entity_id!r} is missing")
    columns = make_columns(declared, values, length=len(values[entity_id]))
    if (columns[entity_id] == MISSING).any():
        raise InvalidInputError(f"row {int(np.argmin(columns[entity_id]))}: {entity_id!r} is missing")
    return columns


def repeated_row(keys: Int64Array) -> int | None:
    """The first row whose key an earlier row has."""
    order = np.argsort(keys, kind="stable")
    repeats = order[1:][keys[order[1:]] == keys[order[:-1]]]
    return int(repeats.min()) if len(repeats) else None


def encode_block(
    features: FeatureSet,
    users: EntityIndex,
    items: EntityIndex,
    item_columns: Mapping[str, Column],
    events: Mapping[str, Any],
    *,
    label: Any = None,
) -> EventBlock:
    """Encode N events, order kept.

    Args:
        features: declares every column.
        users, items: who is known.
        item_columns: where attributes come from that an event lacks (``inherited_attributes``).
        events: raw columns: the user id and item id by their names, ``timestamp_ms``, optionally
            ``arrival_ms``, history attributes and context features by name.
        label: 0, 1 or ``NO_LABEL`` per event; default: no event has a label.

    Raises:
        InvalidInputError: an unknown column, a value that does not fit its feature, or an unknown
            user or item.
    """
    attributes = tuple(a.name for a in require_history(features).attributes)
    context = tuple(f.name for f in features.context)
    required = (features.user_id.name, features.item_id.name, "timestamp_ms")
    _check_columns(events, required, (*required, "arrival_ms", *attributes, *context))
    user = users.find(features.user_id, events[features.user_id.name])
    item = items.find(features.item_id, events[features.item_id.name])
    packed = make_events(
        features,
        item=events[features.item_id.name],
        timestamp_ms=events["timestamp_ms"],
        arrival_ms=events.get("arrival_ms"),
        attributes={name: events[name] for name in attributes if name in events},
    )
    if len(user) != len(packed):
        raise InvalidInputError(f"{len(user)} {required[0]!r} values for {len(packed)} {required[1]!r} values")
    inherit(features, packed, item, item_columns)
    columns = make_columns(
        features.context, {name: events[name] for name in context if name in events}, length=len(packed)
    )
    labels = np.full(len(packed), NO_LABEL, dtype=np.uint8) if label is None else np.asarray(label, dtype=np.uint8)
    return EventBlock(user=user, item=item.astype(np.int32), packed=packed, context=columns, label=labels)


def event_block(
    features: FeatureSet,
    users: EntityIndex,
    items: EntityIndex,
    item_columns: Mapping[str, Column],
    rows: Mapping[str, npt.NDArray[Any]],
) -> EventBlock:
    """Block of N rows that were encoded by the contract (``rows/contract.py``), order kept.

    Args:
        features, users, items, item_columns: as of :func:`encode_block`.
        rows: encoded columns by field name; of impressions without arrivals and attributes.

    Raises:
        InvalidInputError: an unknown user or item.
    """
    user = users.places(rows[features.user_id.name])
    item = items.places(rows[features.item_id.name])
    packed = packed_events(features, rows)
    inherit(features, packed, item, item_columns)
    context = {f.name: rows[f"{CONTEXT}{f.name}"] for f in features.context}
    return EventBlock(
        user=user, item=item.astype(np.int32), packed=packed, context=context, label=rows[LABEL].astype(np.uint8)
    )


def inherit(features: FeatureSet, packed: Events, item: Int64Array, item_columns: Mapping[str, Column]) -> None:
    """Give events the attributes that they lack and their items have (``inherited_attributes``)."""
    for name in inherited_attributes(features):
        lacks = packed[name] == MISSING
        if lacks.any() and name in item_columns:
            packed[name][lacks] = item_columns[name][item[lacks]]


def with_best_labels(features: FeatureSet, block: EventBlock) -> EventBlock:
    """The same rows; those that are one event have one label: 1 if one of them has it, else 0 if one of them does.

    A view and a click in one millisecond, of which only the label is different, are a click.
    """
    order, tied = _by_moment(block)
    rows = order[tied]
    if len(rows) == 0:
        return block
    among = block.take(rows)
    identity = [among.user, among.packed["timestamp"], *(among.packed[name] for name in identity_fields(features))]
    sort = np.lexsort(identity[::-1])
    begins = np.ones(len(sort), dtype=np.bool_)
    begins[1:] = np.logical_or.reduce([column[sort][1:] != column[sort][:-1] for column in identity])
    event = np.cumsum(begins) - 1
    rank = np.full(256, 2, dtype=np.uint8)
    rank[_BEST_FIRST[:2]] = 0, 1
    best = np.minimum.reduceat(rank[among.label[sort]], np.flatnonzero(begins))
    label = block.label.copy()
    label[rows[sort]] = _BEST_FIRST[best[event]]
    return replace(block, label=label)


def settled_order(features: FeatureSet, block: EventBlock) -> Int64Array:
    """Row numbers of a table in its order: by user, and for each user ``canonical_order``; [<= N].

    Where two events are the same record but differ in context or label, the one with the smaller values
    is kept: the table is a function of the *set* of rows, like a history of its events.
    """
    order, tied = _by_moment(block)
    places = np.flatnonzero(tied)
    if len(places) == 0:
        return order
    # Only events that share user and timestamp with others are left to settle: mostly few.
    rows = order[places]
    among = block.take(rows)
    ranked = _ranked(among)
    kept = ranked[canonical_order(features, among.packed[ranked], among.user[ranked])]
    moment = np.cumsum(~_same_as_before(among, np.arange(len(rows))))
    rank = np.arange(len(kept)) - np.searchsorted(moment[kept], moment[kept])
    slots = np.searchsorted(moment, moment[kept]) + rank  # what is kept of a moment fills its first places
    order[places[slots]] = rows[kept]
    dropped = np.ones(len(places), dtype=np.bool_)
    dropped[slots] = False
    return np.delete(order, places[dropped])


def tie_order(block: EventBlock) -> Int64Array:
    """All rows by user and timestamp, ties by item, context and label; [N]."""
    order, tied = _by_moment(block)
    rows = order[tied]
    order[tied] = rows[_ranked(block.take(rows), block.item[rows])]
    return order


def _by_moment(block: EventBlock) -> tuple[Int64Array, BoolArray]:
    """Rows by user and timestamp; and where, in that order, a row shares both with a neighbour."""
    user, times = block.user, block.packed["timestamp"]
    later = (user[1:] > user[:-1]) | ((user[1:] == user[:-1]) & (times[1:] >= times[:-1]))
    order = np.arange(len(block)) if later.all() else np.lexsort((times, user))
    tied = _same_as_before(block, order)
    tied[:-1] |= tied[1:]
    return order.astype(np.int64), tied


def _same_as_before(block: EventBlock, order: npt.NDArray[Any]) -> BoolArray:
    same = np.zeros(len(order), dtype=np.bool_)
    user, times = block.user[order], block.packed["timestamp"][order]
    same[1:] = (user[1:] == user[:-1]) & (times[1:] == times[:-1])
    return same


def _ranked(block: EventBlock, *first: npt.NDArray[Any]) -> Int64Array:
    keys = [block.user, block.packed["timestamp"], *first, *_sortable(block.context), block.label]
    return np.lexsort(keys[::-1]).astype(np.int64)


def _sortable(columns: Mapping[str, Column]) -> list[npt.NDArray[Any]]:
    """Columns as integers, so that no two different values compare as equal."""
    found: list[npt.NDArray[Any]] = []
    for column in columns.values():
        bits = column.view(np.int32) if column.dtype.kind == "f" else column
        found.extend([bits] if bits.ndim == 1 else list(bits.T))
    return found


def _check_columns(events: Mapping[str, Any], required: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    for name in required:
        if name not in events:
            raise InvalidInputError(f"event column {name!r} is missing")
    for name in events:
        if name not in allowed:
            raise InvalidInputError(f"unknown event column {name!r}: {nearest(name, allowed)}")
