"""EventTable: every event of every user, sorted by user and time, as memory-mapped columns.

It is written once and read by training (``samples.py``) and by the bulk load of the online store
(:func:`user_events`), so both see the same events in the same order.

Columns on disk (``column_folder.py``; U users, I items, N events):

======================= ================== ==========================================================
``user.<name>``         [U] or [U, K]      the user id's and user features' columns, order as given
``item.<name>``         [I] or [I, K]      likewise for items
``offsets``             [U + 1] int64      user u's events are offsets[u]:offsets[u + 1]
``event.item``          [N] int32          index into the item columns
``event.timestamp``     [N] int64          milliseconds since 1970
``event.arrival``       [N] int64          milliseconds since 1970
``event.<attribute>``   [N]                as stored in a packed event (``features/history.py``)
``context.<name>``      [N]                context features at the time of the event
======================= ================== ==========================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.data.column_folder import open_columns, write_columns
from recsys.errors import DataFileError, InvalidInputError, nearest
from recsys.features.columns import Column, feature_keys
from recsys.features.entities import make_columns
from recsys.features.feature_set import Categorical, Feature, FeatureSet
from recsys.features.hashing import MISSING, Int64Array
from recsys.features.history import Events, event_dtype, inherited_attributes, make_events, require_history

KIND = "event table"
FORMAT_VERSION = 1

Int32Array = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class EventTable:
    """U users, I items and N events, sorted by (user, timestamp); read-only, memory-mapped.

    Attributes:
        features: the FeatureSet that declares the columns.
        users: feature name -> column with N = U; the user id's keys included.
        items: feature name -> column with N = I; the item id's keys included.
        offsets: user u's events are offsets[u]:offsets[u + 1]; [U + 1], int64.
        item_index: the events' items as indices into ``items``; [N], int32.
        timestamp_ms, arrival_ms: when each event happened and became known; [N], int64.
        attributes: history attribute name -> values as stored in a packed event; [N].
        context: context feature name -> column with one row per event.
    """

    features: FeatureSet
    users: dict[str, Column]
    items: dict[str, Column]
    offsets: Int64Array
    item_index: Int32Array
    timestamp_ms: Int64Array
    arrival_ms: Int64Array
    attributes: dict[str, npt.NDArray[Any]]
    context: dict[str, Column]

    @property
    def user_keys(self) -> Int64Array:
        """[U], int64."""
        return self.users[self.features.user_id.name]

    @property
    def item_keys(self) -> Int64Array:
        """[I], int64."""
        return self.items[self.features.item_id.name]

    def __len__(self) -> int:
        """N, the number of events."""
        return len(self.item_index)


@dataclass(frozen=True, slots=True)
class EncodedTable:
    """A table that is about to be written.

    Attributes:
        features: what declares the columns.
        columns: as on disk.
        rows: the row of the given events that became event i of the table; [N], int64.
        repeated: given events that were left out, because they repeat others.
    """

    features: FeatureSet
    columns: dict[str, npt.NDArray[Any]]
    rows: Int64Array
    repeated: int


def encode_event_table(
    features: FeatureSet, users: Mapping[str, Any], items: Mapping[str, Any], events: Mapping[str, Any]
) -> EncodedTable:
    """Encode raw columns and sort the events by (user, timestamp).

    Events of one user with equal timestamps keep the order they are given in. Of events that
    have the same user, item, timestamp and attributes only the one that arrived first is kept, the
    first given of those: the store does the same (``FeatureStore.append``), and training must not
    see a history that the store cannot hold.

    Args:
        features: declares every column.
        users: raw values by feature name, the user id included; absent features are missing.
        items: likewise for items.
        events: raw columns of N events: the user id and item id by their names, ``timestamp_ms``,
            optionally ``arrival_ms`` (default: the timestamp), history attributes and context
            features by name. An absent attribute that has the name of an item feature takes the
            item's value (``features.history.inherited_attributes``).
        path: folder to make; appears only when complete.

    Raises:
        InvalidInputError: an unknown column, a value that does not fit its feature, an id that
            is missing or given twice, or an event of an unknown user or item.
    """
    user_columns = _entity_columns((features.user_id, *features.user), users)
    item_columns = _entity_columns((features.item_id, *features.item), items)
    attributes = {a.name: a for a in require_history(features).attributes}
    context = {f.name: f for f in features.context}
    required = (features.user_id.name, features.item_id.name, "timestamp_ms")
    _check_event_columns(events, required, (*required, "arrival_ms", *attributes, *context))

    user_index = _entity_index(features.user_id, user_columns, events)
    item_index = _entity_index(features.item_id, item_columns, events)
    packed = make_events(
        features,
        item=events[features.item_id.name],
        timestamp_ms=events["timestamp_ms"],
        arrival_ms=events.get("arrival_ms"),
        attributes={name: events[name] for name in attributes if name in events},
    )
    if len(user_index) != len(packed):
        raise InvalidInputError(f"{len(user_index)} {required[0]!r} values for {len(packed)} {required[1]!r} values")
    for name in inherited_attributes(features, sent=events):
        packed[name] = item_columns[name][item_index]
    context_columns = make_columns(
        features.context, {name: events[name] for name in context if name in events}, length=len(packed)
    )

    order = np.lexsort((packed["timestamp"], user_index))  # a stable sort
    order = order[~_repeats(user_index, packed)[order]]
    counts = np.bincount(user_index[order], minlength=len(user_columns[features.user_id.name]))
    columns: dict[str, npt.NDArray[Any]] = {f"user.{name}": c for name, c in user_columns.items()}
    columns.update({f"item.{name}": c for name, c in item_columns.items()})
    columns["offsets"] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    columns["event.item"] = item_index[order].astype(np.int32)
    columns.update({f"event.{name}": packed[name][order] for name in ("timestamp", "arrival", *attributes)})
    columns.update({f"context.{name}": c[order] for name, c in context_columns.items()})
    return EncodedTable(features=features, columns=columns, rows=order, repeated=len(packed) - len(order))


def write_event_table(
    features: FeatureSet,
    users: Mapping[str, Any],
    items: Mapping[str, Any],
    events: Mapping[str, Any],
    path: Path,
) -> EncodedTable:
    """:func:`encode_event_table` and :func:`save_event_table`."""
    encoded = encode_event_table(features, users, items, events)
    save_event_table(encoded, path)
    return encoded


def save_event_table(encoded: EncodedTable, path: Path) -> None:
    """Write a table to a folder that appears only when complete.

    Raises:
        FileExistsError: ``path`` exists.
        ConfigError: the folder cannot be written.
    """
    info = {"features": encoded.features.to_json(), "repeated_events": encoded.repeated}
    write_columns(path, encoded.columns, kind=KIND, version=FORMAT_VERSION, info=info)


def open_event_table(path: Path) -> EventTable:
    """Memory-map a table.

    Raises:
        DataFileError: not an event table, of another format version, or with a column that is
            missing, cut short, or of the wrong length.
    """
    columns, info = open_columns(path, kind=KIND, version=FORMAT_VERSION)
    try:
        features = FeatureSet.from_json(info["features"])
        history = require_history(features)
        table = EventTable(
            features=features,
            users={f.name: columns[f"user.{f.name}"] for f in (features.user_id, *features.user)},
            items={f.name: columns[f"item.{f.name}"] for f in (features.item_id, *features.item)},
            offsets=columns["offsets"],
            item_index=columns["event.item"],
            timestamp_ms=columns["event.timestamp"],
            arrival_ms=columns["event.arrival"],
            attributes={a.name: columns[f"event.{a.name}"] for a in history.attributes},
            context={f.name: columns[f"context.{f.name}"] for f in features.context},
        )
    except KeyError as error:
        raise DataFileError(f"{path}: column {error} is missing from meta.json") from error
    if len(table.offsets) != len(table.user_keys) + 1 or int(table.offsets[-1]) != len(table):
        raise DataFileError(
            f"{path / 'offsets.npy'}: expected {len(table.user_keys) + 1} offsets that end at {len(table)} events"
        )
    return table


def user_events(table: EventTable, user_index: int) -> Events:
    """One user's events, oldest first, packed for the online store; shape [L]."""
    begin, end = (int(offset) for offset in table.offsets[user_index : user_index + 2])
    events = np.empty(end - begin, dtype=event_dtype(table.features))
    events["item"] = table.item_keys[table.item_index[begin:end]]
    events["timestamp"] = table.timestamp_ms[begin:end]
    events["arrival"] = table.arrival_ms[begin:end]
    for name, column in table.attributes.items():
        events[name] = column[begin:end]
    return events


def _repeats(user_index: Int64Array, events: Events) -> npt.NDArray[np.bool_]:
    """Which events equal another of their user in all but arrival, and came after it; [N]."""
    identity = [user_index, *(events[name] for name in events.dtype.names or () if name != "arrival")]
    order = np.lexsort((events["arrival"], *identity))  # stable: of equal arrivals the first given comes first
    same = np.ones(max(0, len(order) - 1), dtype=np.bool_)
    for column in identity:
        same &= column[order[1:]] == column[order[:-1]]
    repeats = np.zeros(len(order), dtype=np.bool_)
    repeats[order[1:][same]] = True
    return repeats


def _entity_columns(declared: tuple[Feature, ...], values: Mapping[str, Any]) -> dict[str, Column]:
    entity_id = declared[0].name
    if entity_id not in values:
        raise InvalidInputError(f"column {entity_id!r} is missing")
    columns = make_columns(declared, values, length=len(values[entity_id]))
    keys, counts = np.unique(columns[entity_id], return_counts=True)
    if MISSING in keys:
        raise InvalidInputError(f"row {int(np.argmin(columns[entity_id]))}: {entity_id!r} is missing")
    if (counts > 1).any():
        row = int(np.flatnonzero(columns[entity_id] == keys[np.argmax(counts > 1)])[1])
        raise InvalidInputError(f"row {row}: {entity_id!r} {values[entity_id][row]!r} was already given")
    return columns


def _entity_index(entity_id: Categorical, columns: Mapping[str, Column], events: Mapping[str, Any]) -> Int64Array:
    """Events' ids to row numbers of the entity columns; [N], int64."""
    event_keys = feature_keys(entity_id, events[entity_id.name])
    order = np.argsort(columns[entity_id.name])
    known = columns[entity_id.name][order]
    if len(known) == 0:
        known, order = np.array([MISSING]), np.array([0])
    place = np.minimum(np.searchsorted(known, event_keys), len(known) - 1)
    unknown = (known[place] != event_keys) | (event_keys == MISSING)
    if unknown.any():
        event = int(np.argmax(unknown))
        raise InvalidInputError(f"event {event}: unknown {entity_id.name} {events[entity_id.name][event]!r}")
    index: Int64Array = order[place]
    return index


def _check_event_columns(events: Mapping[str, Any], required: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    for name in required:
        if name not in events:
            raise InvalidInputError(f"event column {name!r} is missing")
    for name in events:
        if name not in allowed:
            raise InvalidInputError(f"unknown event column {name!r}: {nearest(name, allowed)}")
