"""Raw events to packed ones: checked column by column, and event by event only where a column fails."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from recsys.arrays import BoolArray, Int64Array
from recsys.errors import InvalidInputError, nearest
from recsys.features.columns import feature_keys
from recsys.features.feature_set import FeatureSet
from recsys.features.hashing import MISSING
from recsys.features.history.records import MAX_TIMESTAMP_MS, Events, make_events, require_history
from recsys.features.history.rules import inherited_attributes
from recsys.ingest.source import Column, RawBatch

TIMESTAMP, ARRIVAL = "timestamp_ms", "arrival_ms"
_PARTS = 16


@dataclass(frozen=True, kw_only=True)
class Fields:
    """The fields that an event of ``features`` has.

    Attributes:
        features: declares them.
        ignore_unknown: whether other fields are left out rather than refused.
    """

    features: FeatureSet
    ignore_unknown: bool = False

    @cached_property
    def required(self) -> tuple[str, str, str]:
        """User, item, time."""
        return (self.features.user_id.name, self.features.item_id.name, TIMESTAMP)

    @cached_property
    def attributes(self) -> tuple[str, ...]:
        """Names of the history attributes."""
        return tuple(a.name for a in require_history(self.features).attributes)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.required, ARRIVAL, *self.attributes)

    def check_columns(self, columns: Sequence[str], *, where: str) -> tuple[str, ...]:
        """Of a file's columns those to read.

        Raises:
            InvalidInputError: one is missing, or unknown.
        """
        for name in self.required:
            if name not in columns:
                raise InvalidInputError(f"{where}: column {name!r} is missing; found {', '.join(columns) or 'none'}")
        for name in columns:
            if name not in self.names and not self.ignore_unknown:
                raise InvalidInputError(
                    f"{where}: unknown column {name!r}: {nearest(name, self.names)}; --ignore-unknown leaves it out"
                )
        return tuple(name for name in columns if name in self.names)

    def parse(self, text: bytes) -> dict[str, Any]:
        """One event in JSON.

        Raises:
            InvalidInputError: it is none.
        """
        try:
            event = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(f"not JSON: {error}") from None
        if not isinstance(event, dict):
            raise InvalidInputError(f"expected a JSON object with fields {', '.join(self.names)}, got {event!r:.80}")
        return event

    def from_texts(self, texts: Mapping[str, str | None]) -> dict[str, Any]:
        """One event whose values are all text, as in CSV: integers where the field takes them, empty for missing."""
        return {name: self.from_text(name, text) for name, text in texts.items()}

    def from_text(self, name: str, text: str | None) -> Any:
        """One value of :meth:`from_texts`."""
        if not text:
            return None
        strings = name not in (TIMESTAMP, ARRIVAL) and self._id_types.get(name, "string") == "string"
        if strings or not (text.isascii() and (text[1:] if text[0] == "-" else text).isdecimal()) or len(text) > 40:
            return text
        return int(text)

    def check_event(self, event: Mapping[str, Any]) -> None:
        """Raise InvalidInputError for a field that is missing or unknown."""
        for name in self.required:
            if name not in event:
                raise InvalidInputError(f"field {name!r} is missing")
        if self.ignore_unknown or event.keys() <= self._allowed:
            return
        for name in event:
            if name not in self._allowed:
                raise InvalidInputError(f"unknown field {name!r}: {nearest(name, self.names)}")

    def columns_of(self, events: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Column], dict[str, BoolArray]]:
        """Columns of N checked events, and where an inheritable attribute was not sent."""
        columns: dict[str, Column] = {}
        unsent: dict[str, BoolArray] = {}
        inherited = inherited_attributes(self.features, sent=())
        for name in self.names:
            values = [event.get(name) for event in events]
            if name in inherited:
                absent = np.fromiter((name not in event for event in events), dtype=np.bool_, count=len(events))
                if absent.any():
                    unsent[name] = absent
            elif name not in self.required and values.count(None) == len(values):
                continue
            columns[name] = values
        return columns, unsent

    @cached_property
    def _allowed(self) -> frozenset[str]:
        return frozenset(self.names)

    @cached_property
    def _id_types(self) -> dict[str, str]:
        features = self.features
        return {f.name: f.id_type for f in (features.user_id, features.item_id, *require_history(features).attributes)}


class Decoded(NamedTuple):
    """Of N raw events the M that may be stored.

    Attributes:
        kept: their indices; [M], rising.
        user_keys: their users; [M].
        events: packed; [M].
        refused: (index, reason) of the others, in order.
    """

    kept: Int64Array
    user_keys: Int64Array
    events: Events
    refused: list[tuple[int, str]]


def decode(features: FeatureSet, batch: RawBatch, *, future_tolerance_s: int) -> Decoded:
    """Check and pack a batch. Attributes that were not sent are missing.

    Args:
        features: declares the history.
        batch: N events.
        future_tolerance_s: how far after ``batch.read_ms`` an event's times may be.
    """
    latest_ms = min(batch.read_ms + 1000 * future_tolerance_s, MAX_TIMESTAMP_MS)
    refused: dict[int, str] = {}
    columns = {name: _integers_if_all(column) for name, column in batch.columns.items()}
    for name, default in ((TIMESTAMP, None), (ARRIVAL, batch.read_ms)):
        if name in columns:
            columns[name] = _times(name, columns[name], default, latest_ms, refused)
    if ARRIVAL not in columns:
        columns[ARRIVAL] = np.full(batch.length, batch.read_ms, dtype=np.int64)
    for name in (features.user_id.name, features.item_id.name):
        column = columns[name]
        if isinstance(column, np.ndarray):
            missing = np.flatnonzero(column == MISSING).tolist()
        else:
            missing = [i for i, value in enumerate(column) if value is None or value == ""]
        for i in missing:
            refused.setdefault(i, f"{name!r} is missing")
    kept = np.arange(batch.length, dtype=np.int64)
    if refused:
        kept = np.delete(kept, list(refused))
        columns = {name: _take(column, kept) for name, column in columns.items()}
    parts: list[tuple[int, int, Int64Array, Events]] = []
    later: dict[int, str] = {}
    _pack(features, columns, 0, len(kept), parts, later)
    refused.update((int(kept[i]), reason) for i, reason in later.items())
    if len(parts) == 1 and not later:
        return Decoded(kept, parts[0][2], parts[0][3], sorted(refused.items()))
    none = make_events(features, item=np.empty(0, dtype=np.int64), timestamp_ms=np.empty(0, dtype=np.int64))
    users = [np.empty(0, dtype=np.int64), *(keys for _, _, keys, _ in parts)]
    kept = np.delete(kept, list(later)) if later else kept
    return Decoded(kept, np.concatenate(users), np.concatenate([none, *(p[3] for p in parts)]), sorted(refused.items()))


def unsent_attributes(features: FeatureSet, batch: RawBatch, kept: Int64Array) -> dict[str, BoolArray]:
    """Attributes to be taken from the items -> which of the kept events did not send them; [M]."""
    unsent = {name: mask[kept] for name, mask in batch.unsent.items()}
    for name in inherited_attributes(features, sent=batch.columns):
        unsent[name] = np.ones(len(kept), dtype=np.bool_)
    return unsent


def _pack(
    features: FeatureSet,
    columns: Mapping[str, Column],
    begin: int,
    end: int,
    parts: list[tuple[int, int, Int64Array, Events]],
    refused: dict[int, str],
) -> None:
    """Pack rows begin:end into ``parts``; where they fail, part by part, down to the rows that are wrong."""
    if begin == end:
        return
    cut = {name: column[begin:end] for name, column in columns.items()}
    try:
        keys = feature_keys(features.user_id, cut[features.user_id.name])
        events = make_events(
            features,
            item=cut[features.item_id.name],
            timestamp_ms=cut[TIMESTAMP],
            arrival_ms=cut[ARRIVAL],
            attributes={a.name: cut[a.name] for a in require_history(features).attributes if a.name in cut},
        )
        parts.append((begin, end, keys, events))
    except InvalidInputError as error:
        if end - begin == 1:
            refused[begin] = str(error)
            return
        step = max(1, (end - begin) // _PARTS)
        for start in range(begin, end, step):
            _pack(features, columns, start, min(start + step, end), parts, refused)


def _times(name: str, column: Column, default: int | None, latest_ms: int, refused: dict[int, str]) -> Int64Array:
    """A column of times as int64, 0 where it is refused; ``default`` where there is none."""
    if isinstance(column, np.ndarray):
        times = column.astype(np.int64)
        if default is not None:
            times[times == MISSING] = default
        for i in np.flatnonzero((times < 0) | (times > latest_ms)).tolist():
            refused.setdefault(i, _bad_time(name, int(column[i]), latest_ms))
        return times
    times = np.zeros(len(column), dtype=np.int64)
    for i, value in enumerate(column):
        if value is None and default is not None:
            times[i] = default
        elif type(value) is int and 0 <= value <= latest_ms:
            times[i] = value
        else:
            refused.setdefault(i, _bad_time(name, value, latest_ms))
    return times


def _bad_time(name: str, value: Any, latest_ms: int) -> str:
    return (
        f"{name} is {value!r:.80}; allowed: an integer, 0 to {latest_ms} (milliseconds since 1970, up to now and "
        "--future-tolerance-s)"
    )


def _integers_if_all(column: Column) -> Column:
    """A list of nothing but integers as an array: those are checked without a loop."""
    if isinstance(column, list) and set(map(type, column)) == {int}:
        try:
            return np.array(column, dtype=np.int64)
        except OverflowError:
            return column
    return column


def _take(column: Column, indices: Int64Array) -> Column:
    return column[indices] if isinstance(column, np.ndarray) else [column[i] for i in indices.tolist()]
