"""Attributes of items and users that stand in the rows of a log, taken out of it: the whole log, once.

What held for the sample is held against every row that fits. Values are written as they came, so that `recsys prepare`
gives them the verdict that it would give them in the log. Memory: the values of every item and user.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.arrays import BoolArray, Int64Array
from recsys.features.feature_set import Categorical, Feature
from recsys.features.hashing import MISSING
from recsys.files import atomic_file
from recsys.rows.contract import TIMESTAMP, ReadOptions, RowContract
from recsys.rows.fields import Field
from recsys.rows.files import RawFile
from recsys.rows.read import read_rows


@dataclass(slots=True, kw_only=True)
class Attribute:
    """One attribute of E entities, in the order in which they were met.

    Attributes:
        feature: that declares it.
        raw: the newest value of each, as it came; None where it has none. [E].
        value: the same, encoded; [E] or [E, max_values].
        known: where there is one; [E].
        changed: where two rows differ; [E].
        newest: time of ``value``, ms; [E].
    """

    feature: Feature
    raw: list[Any] = field(default_factory=list)
    value: npt.NDArray[Any]
    known: BoolArray
    changed: BoolArray
    newest: Int64Array

    def changes(self) -> tuple[int, int]:
        """Entities with different values, and entities with any."""
        return int(self.changed.sum()), int(self.known.sum())


@dataclass(slots=True, kw_only=True)
class Entities:
    """Users or items of a log, and their attributes.

    Attributes:
        id: declares their ids.
        attributes: by column.
        ids: raw id of each; [E].
        slots: key -> place in ``ids``.
    """

    id: Categorical
    attributes: dict[str, Attribute]
    ids: list[Any] = field(default_factory=list)
    slots: dict[int, int] = field(default_factory=dict)

    def write(self, path: Path, names: Sequence[str]) -> None:
        """Write a JSON line for each with these attributes, those without a value left out.

        Raises:
            ConfigError, NoSpaceError: it cannot be written.
        """
        with atomic_file(path) as stream:
            for place, one in enumerate(self.ids):
                found = {name: self.attributes[name].raw[place] for name in names}
                row = {self.id.name: one, **{name: value for name, value in found.items() if value is not None}}
                stream.write(json.dumps(row, ensure_ascii=False, default=_plain).encode() + b"\n")


def take_out(
    files: Sequence[RawFile],
    sides: Sequence[tuple[Categorical, Sequence[Feature]]],
    reading: ReadOptions,
    report: Callable[[int], None] = lambda rows: None,
) -> list[Entities]:
    """Read a log once, for attributes of its users, its items, or both.

    Args:
        files: of the log.
        sides: the id and the attributes of each kind of entity.
        reading: column of the time, and its unit.
        report: called with the rows read so far.

    Raises:
        DataFileError: a file cannot be read, or lacks a column.
    """
    contract = _contract(sides, reading)
    found = [Entities(id=id, attributes={f.name: _empty(f) for f in features}) for id, features in sides]
    rows = 0
    for file in files:
        for raw in read_rows(file, contract):
            encoded = contract.encode(raw.columns, raw.length)
            for entities in found:
                _take(entities, encoded.columns, encoded.kept, raw.columns)
            rows += raw.length
            report(rows)
    return found


def _contract(sides: Sequence[tuple[Categorical, Sequence[Feature]]], reading: ReadOptions) -> RowContract:
    ids = [Field(name=id.name, column=id.name, kind="feature", feature=id, required=True) for id, _ in sides]
    others = [Field(name=f.name, column=f.name, kind="feature", feature=f) for _, features in sides for f in features]
    time = Field(name=TIMESTAMP, column=reading.timestamp, kind="time", required=True)
    return RowContract(
        fields=(*ids, time, *others),
        what="events",
        ignore_unknown=True,
        unit=reading.unit,
        latest_ms=reading.latest_ms(),
    )


def _empty(feature: Feature) -> Attribute:
    number = not isinstance(feature, Categorical)
    shape = (0,) if number or feature.max_values == 1 else (0, feature.max_values)  # type: ignore[union-attr]
    return Attribute(
        feature=feature,
        value=np.zeros(shape, dtype=np.float64 if number else np.int64),
        known=np.zeros(0, dtype=np.bool_),
        changed=np.zeros(0, dtype=np.bool_),
        newest=np.zeros(0, dtype=np.int64),
    )


def _take(entities: Entities, columns: dict[str, npt.NDArray[Any]], kept: Int64Array, raw: dict[str, Any]) -> None:
    """Take N rows in: new entities, values that are newer, values that differ."""
    keys, first, inverse = np.unique(columns[entities.id.name], return_index=True, return_inverse=True)
    slot_of_key = np.empty(len(keys), dtype=np.int64)
    for place in np.argsort(first).tolist():
        key = int(keys[place])
        slot = entities.slots.setdefault(key, len(entities.ids))
        if slot == len(entities.ids):
            entities.ids.append(_raw(raw[entities.id.name], int(kept[first[place]])))
        slot_of_key[place] = slot
    slots = slot_of_key[inverse]
    for name, attribute in entities.attributes.items():
        _grow(attribute, len(entities.ids))
        if name in raw:
            _compare(attribute, slots, columns[name], columns[TIMESTAMP], kept, raw[name])


def _grow(attribute: Attribute, size: int) -> None:
    more = size - len(attribute.raw)
    attribute.raw += [None] * more
    attribute.value = np.concatenate(
        [attribute.value, np.zeros((more, *attribute.value.shape[1:]), attribute.value.dtype)]
    )
    attribute.known = np.concatenate([attribute.known, np.zeros(more, dtype=np.bool_)])
    attribute.changed = np.concatenate([attribute.changed, np.zeros(more, dtype=np.bool_)])
    attribute.newest = np.concatenate([attribute.newest, np.full(more, -1, dtype=np.int64)])


def _compare(
    attribute: Attribute, slots: Int64Array, column: npt.NDArray[Any], times: Int64Array, kept: Int64Array, raw: Any
) -> None:
    if column.ndim == 2:
        column = np.sort(column, axis=1)  # the order of tags says nothing
    missing = np.isnan(column) if column.dtype.kind == "f" else column == MISSING
    present = np.flatnonzero(~(missing.all(axis=1) if column.ndim == 2 else missing))
    if len(present) == 0:
        return
    slots, column, times, kept = slots[present], column[present], times[present], kept[present]
    some, first = np.unique(slots, return_index=True)
    new = ~attribute.known[some]
    attribute.value[some[new]] = column[first[new]]  # something to compare with; replaced below
    attribute.known[some] = True
    differs = column != attribute.value[slots]
    attribute.changed[slots[differs.any(axis=1) if column.ndim == 2 else differs]] = True
    order = np.lexsort((np.arange(len(slots))[::-1], times, slots))  # of equal times the first row
    last = order[np.append(slots[order][1:] != slots[order][:-1], True)]
    newer = last[times[last] > attribute.newest[slots[last]]]
    attribute.value[slots[newer]] = column[newer]
    attribute.newest[slots[newer]] = times[newer]
    for place in newer.tolist():
        attribute.raw[slots[place]] = _raw(raw, int(kept[place]))


def _raw(column: Any, place: int) -> Any:
    value = column[place]
    value = value.as_py() if hasattr(value, "as_py") else value
    return value.item() if isinstance(value, np.generic) else value


def _plain(value: Any) -> Any:
    """A decimal, or bytes that are none of ours, as JSON takes it."""
    return float(value) if hasattr(value, "as_tuple") else str(value)
