"""EventTable: every event of every user, sorted by user and time, as memory-mapped columns.

It is written once and read by training (``samples/dataset.py``) and by the bulk load of the online store
(:func:`user_events`), so both see the same events in the same order.

Columns on disk (``column_folder.py``; U users, I items, N events):

======================= ================== ==========================================================
``user.<name>``         [U] or [U, K]      the user id's and user features' columns, order as given
``item.<name>``         [I] or [I, K]      likewise for items
``entity.<e>.<name>``   [E] or [E, K]      likewise for other declared entities, where they were given
``offsets``             [U + 1] int64      user u's events are offsets[u]:offsets[u + 1]
``event.item``          [N] int32          index into the item columns
``event.timestamp``     [N] int64          milliseconds since 1970
``event.arrival``       [N] int64          milliseconds since 1970
``event.<attribute>``   [N]                as stored in a packed event (``features/history/records.py``)
``context.<name>``      [N]                context features at the time of the event
======================= ================== ==========================================================

Beside them the folder ``names`` has the texts of string ids (``names.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.arrays import BoolArray, Int32Array, Int64Array
from recsys.data.column_folder import folder_writer, open_columns
from recsys.data.log.encoder import (
    EntityIndex,
    EventBlock,
    encode_block,
    encode_entities,
    repeated_row,
    settled_order,
)
from recsys.data.log.names import NAMES, NamesWriter, open_table_names
from recsys.errors import DataFileError, InvalidInputError
from recsys.features.columns import Column, missing_column
from recsys.features.feature_set import ITEM, USER, Categorical, Feature, FeatureSet
from recsys.features.hashing import string_keys
from recsys.features.history.records import Events, event_dtype, require_history
from recsys.features.names import Names
from recsys.rows.contract import ReadOptions
from recsys.rows.label_rule import LabelRule, parse_label

KIND = "event table"
FORMAT_VERSION = 1
GIVEN = "given"
"""Columns ``given.user``, ``given.item``: which rows a file of users or items had. [U], [I], bool. In a table that was
made in memory all were given."""


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
        entities: name of another declared entity -> its columns, its id included, where they were given.
        given: entity -> which of its rows a file had; others have an id alone. None of an entity: all.
        read: how its log was read (:func:`read_options`); empty for a table that was made in memory.
        names: embedding table -> the texts of its string ids; none in a folder of an earlier version.
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
    entities: dict[str, dict[str, Column]] = field(default_factory=dict)
    names: dict[str, Names] = field(default_factory=dict)
    read: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, BoolArray] = field(default_factory=dict)

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
        texts: embedding table -> the distinct texts of its string ids.
    """

    features: FeatureSet
    columns: dict[str, npt.NDArray[Any]]
    rows: Int64Array
    repeated: int
    texts: Mapping[str, Set[str]]


def encode_event_table(
    features: FeatureSet, users: Mapping[str, Any], items: Mapping[str, Any], events: Mapping[str, Any]
) -> EncodedTable:
    """Encode raw columns in memory; the events of each user are what a history holds of them (``rules.py``).

    Args:
        features: declares every column.
        users: raw values by feature name, the user id included; absent features are missing.
        items: likewise for items.
        events: raw columns of N events: the user id and item id by their names, ``timestamp_ms``,
            optionally ``arrival_ms`` (default: the timestamp), history attributes and context
            features by name. An absent attribute that has the name of an item feature takes the
            item's value (``inherited_attributes``). Without a declared history: none.

    Raises:
        InvalidInputError: an unknown column, a value that does not fit its feature, an id that
            is missing or given twice, an event of an unknown user or item, or events where no
            history is declared.
    """
    found: dict[str, dict[str, Column]] = {}
    for side, declared, values in (
        (USER, (features.user_id, *features.user), users), (ITEM, (features.item_id, *features.item), items)
    ):  # fmt: skip
        found[side] = encode_entities(declared, values)
        name = declared[0].name
        if (row := repeated_row(found[side][name])) is not None:
            raise InvalidInputError(f"row {row}: {name!r} {values[name][row]!r} was already given")
    user_keys = found[USER][features.user_id.name]
    columns: dict[str, npt.NDArray[Any]] = {f"user.{name}": c for name, c in found[USER].items()}
    columns.update({f"item.{name}": c for name, c in found[ITEM].items()})
    attributes = features.history.attributes if features.history else ()
    texts = _texts(
        ((features.user_id, *features.user), users),
        ((features.item_id, *features.item), items),
        ((*attributes, *features.context), events),
    )
    if features.history is None and not events:
        columns.update(_no_events(features, users=len(user_keys)))
        none = np.zeros(0, dtype=np.int64)
        return EncodedTable(features=features, columns=columns, rows=none, repeated=0, texts=texts)
    item_index = EntityIndex(found[ITEM][features.item_id.name])
    block = encode_block(features, EntityIndex(user_keys), item_index, found[ITEM], events)
    order = settled_order(features, block)
    settled = block.take(order)
    columns["offsets"] = offsets_of(np.bincount(settled.user, minlength=len(user_keys)))
    columns.update(event_columns(features, settled))
    repeated = len(block) - len(order)
    return EncodedTable(features=features, columns=columns, rows=order, repeated=repeated, texts=texts)


def event_columns(features: FeatureSet, block: EventBlock) -> dict[str, npt.NDArray[Any]]:
    """Settled events as columns on disk."""
    columns: dict[str, npt.NDArray[Any]] = {"event.item": block.item}
    names = ("timestamp", "arrival", *(a.name for a in require_history(features).attributes))
    columns.update({f"event.{name}": block.packed[name] for name in names})
    columns.update({f"context.{name}": column for name, column in block.context.items()})
    return columns


def _no_events(features: FeatureSet, *, users: int) -> dict[str, npt.NDArray[Any]]:
    """Columns on disk of a table without events: its samples are impressions, and nothing has a history."""
    columns: dict[str, npt.NDArray[Any]] = {
        "offsets": np.zeros(users + 1, dtype=np.int64),
        "event.item": np.zeros(0, dtype=np.int32),
        "event.timestamp": np.zeros(0, dtype=np.int64),
        "event.arrival": np.zeros(0, dtype=np.int64),
    }
    columns.update({f"context.{f.name}": missing_column(f, 0) for f in features.context})
    return columns


def offsets_of(counts: npt.NDArray[Any]) -> Int64Array:
    """Events per user [U] to where each user's events begin [U + 1], int64."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _texts(*sides: tuple[Sequence[Feature], Mapping[str, Any]]) -> dict[str, Set[str]]:
    """The distinct texts in raw columns of users, items and events, by embedding table; all have been encoded."""
    found: dict[str, set[str]] = {}
    for declared, values in sides:
        for feature in declared:
            if not isinstance(feature, Categorical) or feature.id_type == "int" or feature.name not in values:
                continue
            rows = values[feature.name]
            if feature.max_values > 1:
                rows = (text for row in rows if row is not None for text in row)
            found.setdefault(feature.table, set()).update(str(text) for text in rows if text)
    return dict(found)


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
        InvalidInputError: two texts of a table have one key.
    """
    info = table_info(encoded.features, repeated=encoded.repeated)
    with folder_writer(path) as writer:
        for name, column in encoded.columns.items():
            writer.append(name, np.asarray(column))
        names = NamesWriter(writer.folder / NAMES)
        for table, texts in encoded.texts.items():
            distinct = sorted(texts)
            names.add(table, string_keys(distinct), distinct)
        for collision in names.finish():
            raise InvalidInputError(str(collision))
        writer.finish(kind=KIND, version=FORMAT_VERSION, info=info)


def table_info(features: FeatureSet, *, repeated: int) -> dict[str, Any]:
    """Contents of ``meta.json`` about a table."""
    return {"features": features.to_json(), "repeated_events": repeated}


def open_event_table(path: Path) -> EventTable:
    """Memory-map a table.

    Raises:
        DataFileError: not an event table, of another format version, or with a column that is
            missing, cut short, or of the wrong length.
    """
    columns, info = open_columns(path, kind=KIND, version=FORMAT_VERSION)
    try:
        features = FeatureSet.from_json(info["features"])
        attributes = features.history.attributes if features.history else ()
        table = EventTable(
            features=features,
            read=info.get("read", {}),
            given={
                name: columns[f"{GIVEN}.{name}"] for name in features.entity_names() if f"{GIVEN}.{name}" in columns
            },
            users={f.name: columns[f"user.{f.name}"] for f in (features.user_id, *features.user)},
            items={f.name: columns[f"item.{f.name}"] for f in (features.item_id, *features.item)},
            offsets=columns["offsets"],
            item_index=columns["event.item"],
            timestamp_ms=columns["event.timestamp"],
            arrival_ms=columns["event.arrival"],
            attributes={a.name: columns[f"event.{a.name}"] for a in attributes},
            context={f.name: columns[f"context.{f.name}"] for f in features.context},
            entities={
                e.name: {f.name: columns[f"entity.{e.name}.{f.name}"] for f in (e.id, *e.features)}
                for e in features.entities
                if f"entity.{e.name}.{e.id.name}" in columns
            },
            names=open_table_names(path / NAMES, features),
        )
    except KeyError as error:
        raise DataFileError(f"{path}: column {error} is missing from meta.json") from error
    if len(table.offsets) != len(table.user_keys) + 1 or int(table.offsets[-1]) != len(table):
        raise DataFileError(
            f"{path / 'offsets.npy'}: expected {len(table.user_keys) + 1} offsets that end at {len(table)} events"
        )
    return table


def read_options(table: EventTable) -> tuple[ReadOptions, LabelRule | None, bool]:
    """Options and label rule that the table's log was read with, and whether it was held to known users and items."""
    read = dict(table.read)
    known_only, label = read.pop("unknown", "keep") == "reject", read.pop("label", None)
    options = ReadOptions(**{**read, "ignored": tuple(read.get("ignored", ()))}) if read else ReadOptions()
    return options, None if label is None else parse_label(label), known_only


def user_events(table: EventTable, user_index: int) -> Events:
    """One user's events, oldest first, packed for the online store; shape [L]."""
    begin, end = (int(offset) for offset in table.offsets[user_index : user_index + 2])
    return packed_events(table, slice(begin, end))


def packed_events(table: EventTable, rows: slice | Int64Array) -> Events:
    """Some events of a table, by their positions, packed for the online store; shape [L]."""
    items = table.item_index[rows]
    events = np.empty(len(items), dtype=event_dtype(table.features))
    events["item"] = table.item_keys[items]
    events["timestamp"] = table.timestamp_ms[rows]
    events["arrival"] = table.arrival_ms[rows]
    for name, column in table.attributes.items():
        events[name] = column[rows]
    return events
