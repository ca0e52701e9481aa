"""The packed event record: what one past event is, in bytes.

A history is a header followed by fixed-width little-endian records, oldest first
(``docs/specs/redis_format.md``). Reading a thousand events is one ``GETRANGE``
and one ``np.frombuffer``: no object per event.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.errors import InvalidInputError, StoreFormatError
from recsys.features.columns import Column, feature_keys
from recsys.features.feature_set import Categorical, FeatureSet, History, fingerprint
from recsys.features.hashing import MISSING, Int64Array

Events = npt.NDArray[np.void]
"""Structured array of :func:`event_dtype`, shape [L], oldest first."""

MAGIC = b"RSH1"
FORMAT_VERSION = 1
MAX_TIMESTAMP_MS = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z: later is a unit mistake (microseconds), not a date."""

HEADER = struct.Struct("<4sHH8sQQ")
"""magic, format version, record width in bytes, layout fingerprint, events ever appended, events trimmed."""

_STORAGE_DTYPES = {"i64": "<i8", "i32": "<i4", "u8": "|u1"}
_STORAGE_MISSING = {"i64": MISSING, "i32": MISSING, "u8": 255}
_STORAGE_LIMIT = {"i64": 1 << 62, "i32": 1 << 31, "u8": 255}


@dataclass(frozen=True)
class HistoryHeader:
    """The counters in front of a user's events.

    ``appended - trimmed`` events are stored; event number ``trimmed`` is the oldest.
    """

    appended: int
    trimmed: int


def require_history(features: FeatureSet) -> History:
    """The FeatureSet's history declaration, or InvalidInputError if it has none."""
    if features.history is None:
        raise InvalidInputError(
            f"FeatureSet {features.name!r} declares no history; training, export and events need one: history=History()"
        )
    return features.history


def event_dtype(features: FeatureSet) -> np.dtype[np.void]:
    """The record: item key i64, timestamp i64 ms, arrival i64 ms, then the attributes in declared order."""
    attributes = require_history(features).attributes
    fields = [("item", "<i8"), ("timestamp", "<i8"), ("arrival", "<i8")]
    fields += [(a.name, _STORAGE_DTYPES[a.storage]) for a in attributes]
    return np.dtype(fields)


def layout_fingerprint(features: FeatureSet) -> bytes:
    """8 bytes that change exactly when the meaning of the record's bytes does.

    It covers the item id's type and the attributes, nothing else: adding a user feature must
    not orphan the histories already stored.
    """
    attributes = [[a.name, a.id_type, a.storage] for a in require_history(features).attributes]
    return bytes.fromhex(fingerprint(json.dumps([features.item_id.id_type, attributes])))


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
    events = np.zeros(len(item_keys), dtype=event_dtype(features))
    events["item"] = item_keys
    events["timestamp"] = _times("timestamp_ms", timestamp_ms, len(events))
    events["arrival"] = events["timestamp"] if arrival_ms is None else _times("arrival_ms", arrival_ms, len(events))
    if (item_keys == MISSING).any():
        raise InvalidInputError(f"event {int(np.argmin(item_keys))}: {features.item_id.name!r} is missing")
    for name, attribute in declared.items():
        if name in given:
            events[name] = _attribute_column(attribute, given[name], len(events))
        else:
            events[name] = _STORAGE_MISSING[attribute.storage]
    return events


def inherited_attributes(features: FeatureSet, *, sent: Container[str]) -> tuple[str, ...]:
    """Attributes that take the item's stored value: those named like an item feature, stored as ``i64``, and not sent.

    The one rule for event logs and appended events, so that a live event has the bytes that
    training saw. ``FeatureSet`` makes sure that such an attribute is of the item feature's kind.
    """
    items = {f.name for f in features.item}
    attributes = require_history(features).attributes
    return tuple(a.name for a in attributes if a.storage == "i64" and a.name in items and a.name not in sent)


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


def pack_header(features: FeatureSet, *, appended: int, trimmed: int) -> bytes:
    """The 32 bytes in front of a user's events."""
    width = event_dtype(features).itemsize
    return HEADER.pack(MAGIC, FORMAT_VERSION, width, layout_fingerprint(features), appended, trimmed)


def unpack_header(features: FeatureSet, data: bytes, *, key: str = "history") -> HistoryHeader:
    """Read and check a header.

    Raises:
        StoreFormatError: the bytes are not a history, of a newer format, or of another layout.
    """
    if len(data) < HEADER.size or data[:4] != MAGIC:
        raise StoreFormatError(
            f"{key}: not a history: expected a {HEADER.size}-byte header that starts with {MAGIC!r}, "
            f"found {len(data)} bytes starting with {data[:4]!r}"
        )
    _, version, width, layout, appended, trimmed = HEADER.unpack_from(data)
    if version > FORMAT_VERSION:
        raise StoreFormatError(
            f"{key}: history format {version}, but this program reads up to {FORMAT_VERSION}: upgrade it"
        )
    if layout != layout_fingerprint(features) or width != event_dtype(features).itemsize:
        raise StoreFormatError(
            f"{key}: events were stored with another layout ({layout.hex()}) than FeatureSet "
            f"{features.name!r} declares ({layout_fingerprint(features).hex()})"
        )
    if trimmed > appended:
        raise StoreFormatError(f"{key}: corrupt header: {trimmed} events trimmed of {appended} appended")
    return HistoryHeader(appended=appended, trimmed=trimmed)


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
    out_of_range = (times < 0) | (times > MAX_TIMESTAMP_MS)
    if out_of_range.any():
        index = int(np.argmax(out_of_range))
        raise InvalidInputError(
            f"{name}[{index}] is {times[index]}; allowed: 0 to {MAX_TIMESTAMP_MS} (milliseconds since 1970)"
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
