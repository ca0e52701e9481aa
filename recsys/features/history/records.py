"""The packed event record: what one past event is, in bytes.

A history is fixed-width little-endian records, oldest first, behind a header
(``docs/specs/redis_format.md``). Bytes become a structured array by one ``np.frombuffer``: no
object per event. What a history holds, and what a model may see of it, is in ``rules.py``.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.arrays import Int64Array
from recsys.errors import InvalidInputError, StoreFormatError
from recsys.features.columns import Column, feature_keys
from recsys.features.feature_set import Categorical, FeatureSet, History, fingerprint
from recsys.features.hashing import MISSING
from recsys.features.values import MAX_TIME_MS

Events = npt.NDArray[np.void]
"""Structured array of :func:`event_dtype`, shape [L], oldest first."""

MAGIC = b"RSH1"
FORMAT_VERSION = 1

HEADER = struct.Struct("<4sHH8sIIQQqq")
"""magic, format version, record width in bytes, layout fingerprint, then the fields of :class:`HistoryHeader`."""

_STORAGE_DTYPES = {"i64": "<i8", "i32": "<i4", "u8": "|u1"}
_STORAGE_MISSING = {"i64": MISSING, "i32": MISSING, "u8": 255}
_STORAGE_LIMIT = {"i64": 1 << 62, "i32": 1 << 31, "u8": 255}


class HistoryHeader(NamedTuple):
    """Header in front of a user's newest events.

    Attributes:
        chunk: records per sealed chunk (``docs/specs/redis_format.md``).
        rewritten: changes of anything but the end (late events, replacements), modulo 2^32. While it stays the
            same, event number n stays event number n.
        appended, trimmed: events ever appended and since dropped. ``appended - trimmed`` are stored; event
            number ``trimmed`` is the oldest.
        trimmed_until_ms: no event with a timestamp up to this is accepted any more: it may have been
            trimmed; -1 if none was.
        newest_ms: timestamp of the newest event; -1 if there is none.
    """

    chunk: int
    rewritten: int = 0
    appended: int = 0
    trimmed: int = 0
    trimmed_until_ms: int = -1
    newest_ms: int = -1

    @property
    def stored(self) -> int:
        """Events stored."""
        return self.appended - self.trimmed


def require_history(features: FeatureSet) -> History:
    """The FeatureSet's history declaration, or InvalidInputError if it has none."""
    if features.history is None:
        raise InvalidInputError(
            f'FeatureSet {features.name!r} declares no history; events need one: add "history": {{}} to the '
            "FeatureSet's file (in Python: history=History())"
        )
    return features.history


def event_dtype(features: FeatureSet) -> np.dtype[np.void]:
    """The record: item key i64, timestamp i64 ms, arrival i64 ms, then the attributes in declared order."""
    attributes = require_history(features).attributes
    fields = [("item", "<i8"), ("timestamp", "<i8"), ("arrival", "<i8")]
    fields += [(a.name, _STORAGE_DTYPES[a.storage]) for a in attributes]
    return np.dtype(fields)


def layout_fingerprint(features: FeatureSet, *, attributes: int | None = None) -> bytes:
    """8 bytes that change exactly when the meaning of the record's bytes does.

    It covers the item id's type and the attributes, nothing else: adding a user feature must
    not orphan the histories already stored.

    Args:
        features: declares the history.
        attributes: only the first so many attributes, as before the others were added; default: all.
    """
    declared = [[a.name, a.id_type, a.storage] for a in require_history(features).attributes[:attributes]]
    return bytes.fromhex(fingerprint(json.dumps([features.item_id.id_type, declared])))


def older_layouts(features: FeatureSet) -> dict[bytes, np.dtype[np.void]]:
    """Layouts this FeatureSet may have had before its last attributes were added: fingerprint -> record."""
    history = require_history(features)
    return {
        layout_fingerprint(features, attributes=count): event_dtype(
            replace(
                features, history=replace(history, attributes=history.attributes[:count], identity=None, trending=None)
            )
        )
        for count in range(len(history.attributes))
    }


def upgrade_events(features: FeatureSet, events: Events) -> Events:
    """Events of an older layout as events of this one; the attributes they lack are missing."""
    upgraded = missing_events(features, len(events))
    for name in events.dtype.names or ():
        upgraded[name] = events[name]
    return upgraded


def missing_events(features: FeatureSet, length: int) -> Events:
    """Events at time 0 of item 0 without attributes, to be filled; shape [length]."""
    events = np.zeros(length, dtype=event_dtype(features))
    for attribute in require_history(features).attributes:
        events[attribute.name] = _STORAGE_MISSING[attribute.storage]
    return events


def make_events(
    features: FeatureSet,
    *,
    item: Any,
    timestamp_ms: Any,
    arrival_ms: Any = None,
    attributes: Mapping[str, Any] | None = None,
) -> Events:
    """Build packed events from columns of raw values; the order is kept.

    Args:
        features: declares the history.
        item: raw item ids, length L.
        timestamp_ms: event times, milliseconds since 1970, length L.
        arrival_ms: when each event became known; default: its timestamp.
        attributes: raw ids per attribute name, each of length L; absent attributes are missing.

    Raises:
        InvalidInputError: an unknown attribute, a length or type that does not fit, an id out of
            its storage range, or a time that is negative or past the year 9999.
    """
    declared = {a.name: a for a in require_history(features).attributes}
    given = dict(attributes or {})
    if unknown := sorted(set(given) - set(declared)):
        raise InvalidInputError(
            f"history attribute {unknown[0]!r} is not declared; allowed: {', '.join(sorted(declared)) or 'none'}"
        )
    item_keys = feature_keys(features.item_id, item)
    events = missing_events(features, len(item_keys))
    events["item"] = item_keys
    events["timestamp"] = _times("timestamp_ms", timestamp_ms, len(events))
    events["arrival"] = events["timestamp"] if arrival_ms is None else _times("arrival_ms", arrival_ms, len(events))
    if (item_keys == MISSING).any():
        raise InvalidInputError(f"event {int(np.argmin(item_keys))}: {features.item_id.name!r} is missing")
    for name, attribute in declared.items():
        if name in given:
            events[name] = _attribute_column(attribute, given[name], len(events))
    return events


def storage_limit(attribute: Categorical) -> int:
    """Keys of a history attribute must be smaller, to fit its field of an event."""
    return _STORAGE_LIMIT[attribute.storage]


def stored_attribute(attribute: Categorical, keys: Int64Array) -> Int64Array:
    """Keys below :func:`storage_limit`, or ``MISSING``, as an event's field holds them; shape [L]."""
    return np.where(keys == MISSING, _STORAGE_MISSING[attribute.storage], keys)


def attribute_keys(attribute: Categorical, events: Events) -> Int64Array:
    """One attribute of packed events as int64 keys, ``MISSING`` where it has no value; shape [L]."""
    keys = events[attribute.name].astype(np.int64)
    missing = _STORAGE_MISSING[attribute.storage]
    if missing != MISSING:
        keys[keys == missing] = MISSING
    return keys


def encode_history(features: FeatureSet, events: Events | None) -> dict[str, Column]:
    """``history.<name>`` columns of packed events: keys, shape [S]; one missing event where there is none."""
    attributes = require_history(features).attributes
    item_name = f"history.{features.item_id.name}"
    if events is None or len(events) == 0:
        names = (item_name, *(f"history.{a.name}" for a in attributes))
        return {name: np.full(1, MISSING, dtype=np.int64) for name in names}
    columns: dict[str, Column] = {item_name: events["item"].astype(np.int64)}
    for attribute in attributes:
        columns[f"history.{attribute.name}"] = attribute_keys(attribute, events)
    return columns


def pack_header(features: FeatureSet, header: HistoryHeader) -> bytes:
    """The bytes in front of a user's newest events."""
    width = event_dtype(features).itemsize
    return HEADER.pack(MAGIC, FORMAT_VERSION, width, layout_fingerprint(features), *header)


def unpack_header(
    features: FeatureSet, data: bytes, *, key: str = "history"
) -> tuple[HistoryHeader, np.dtype[np.void]]:
    """Read and check a header; also the layout of the records behind it, which may be an older one.

    Raises:
        StoreFormatError: the bytes are not a history, of a newer format, or of an unknown layout.
    """
    if len(data) < HEADER.size or data[:4] != MAGIC:
        raise StoreFormatError(
            f"{key}: not a history: expected a {HEADER.size}-byte header that starts with {MAGIC!r}, "
            f"found {len(data)} bytes starting with {data[:4]!r}"
        )
    _, version, width, layout, *counters = HEADER.unpack_from(data)
    if version > FORMAT_VERSION:
        raise StoreFormatError(
            f"{key}: history format {version}, but this program reads up to {FORMAT_VERSION}: upgrade it"
        )
    ours = layout_fingerprint(features)
    dtype = event_dtype(features) if layout == ours else older_layouts(features).get(layout)
    if dtype is None or width != dtype.itemsize:
        raise StoreFormatError(
            f"{key}: events were stored with another layout ({layout.hex()}) than FeatureSet "
            f"{features.name!r} declares ({ours.hex()}), or had before its last attributes were added"
        )
    header = HistoryHeader(*counters)
    if header.trimmed > header.appended or not header.chunk:
        raise StoreFormatError(
            f"{key}: corrupt header: {header.trimmed} events trimmed of {header.appended} appended, "
            f"{header.chunk} events in a chunk"
        )
    return header, dtype


def unpack_events(features: FeatureSet, data: bytes, *, key: str = "history") -> Events:
    """View packed records as a structured array, without copying; shape [L], read-only.

    Raises:
        StoreFormatError: the length is not a whole number of records.
    """
    dtype = event_dtype(features)
    if len(data) % dtype.itemsize:
        raise StoreFormatError(
            f"{key}: {len(data)} bytes of events are not a multiple of the {dtype.itemsize}-byte record"
        )
    return np.frombuffer(data, dtype=dtype)


def _times(name: str, values: Any, length: int) -> Int64Array:
    try:
        times = np.asarray(values)
    except ValueError as error:
        raise InvalidInputError(f"{name}: expected {length} integers: {error}") from error
    if times.shape != (length,) or (times.size and times.dtype.kind not in "iu"):
        raise InvalidInputError(
            f"{name}: expected {length} integers (milliseconds since 1970), "
            f"got shape {list(times.shape)} of {times.dtype}"
        )
    out_of_range = (times < 0) | (times > MAX_TIME_MS)
    if out_of_range.any():
        index = int(np.argmax(out_of_range))
        raise InvalidInputError(
            f"{name}[{index}] is {times[index]}; allowed: 0 to {MAX_TIME_MS} (milliseconds since 1970)"
        )
    return times.astype(np.int64)


def _attribute_column(attribute: Categorical, values: Any, length: int) -> Int64Array:
    keys = feature_keys(attribute, values)
    if len(keys) != length:
        raise InvalidInputError(f"history attribute {attribute.name!r}: {len(keys)} values for {length} events")
    limit = _STORAGE_LIMIT[attribute.storage]
    too_large = keys >= limit
    if too_large.any():
        raise InvalidInputError(
            f"history attribute {attribute.name!r}: value {values[int(np.argmax(too_large))]} does not fit its "
            f"storage {attribute.storage!r}; allowed: 0 to {limit - 1}"
        )
    return np.where(keys == MISSING, _STORAGE_MISSING[attribute.storage], keys)
