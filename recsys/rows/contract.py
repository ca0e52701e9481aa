"""The contract for a row: its fields, their types, and which are required; derived from a FeatureSet.

A row is an event, a labelled impression, or an entity with its features. Every way in reads it by this contract and
nothing else; no type is ever guessed from data. ``features/values.py`` has the verdict on each value. N rows.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from shlex import quote
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.arrays import Int64Array
from recsys.errors import ConfigError, DataFileError, nearest
from recsys.features.columns import (
    NO_LABEL,
    NO_TIME,
    Refusals,
    checked_column,
    float_column,
    label_column,
    missing_column,
    text_column,
    time_column,
)
from recsys.features.feature_set import ITEM, USER, Categorical, FeatureSet
from recsys.features.hashing import MISSING, string_keys
from recsys.features.history.records import require_history, storage_limit
from recsys.features.values import (
    MAX_TIME_MS,
    TIME_UNITS,
    RefusedValueError,
    TimeUnit,
    is_missing,
    listed,
    missing_field,
)
from recsys.rows.fields import Coded, Field, FieldKind, Moments, as_it_came
from recsys.rows.label_rule import LabelRule

TIMESTAMP, ARRIVAL, LABEL = "timestamp_ms", "arrival_ms", "label"
"""Names of encoded columns, and of the columns they are read from unless told otherwise."""

CONTEXT = "context."
"""Encoded context features have this before their name: a history attribute may have the same one."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Options for reading the rows of a log, which no FeatureSet says.

    Attributes:
        timestamp: column of the time.
        unit: of times that are numbers.
        ignored: columns to leave out.
        ignore_unknown: whether to leave out every column that nothing declares.
        complete: whether a last line without an end is whole.
        future_tolerance_s: seconds that a time may be in the future (clock skew).
    """

    timestamp: str = TIMESTAMP
    unit: TimeUnit = "ms"
    ignored: tuple[str, ...] = ()
    ignore_unknown: bool = False
    complete: bool = False
    future_tolerance_s: int = 300

    def __post_init__(self) -> None:
        if self.unit not in TIME_UNITS:
            raise ConfigError(f"--time-unit {self.unit}: {nearest(self.unit, TIME_UNITS)}")

    def latest_ms(self) -> int:
        """The latest plausible time, as of now."""
        return min(time.time_ns() // 1_000_000 + 1000 * self.future_tolerance_s, MAX_TIME_MS)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedRows:
    """Rows that fit, encoded.

    Attributes:
        columns: field name -> keys, numbers, milliseconds or labels of the M rows that fit; all fields.
        kept: their places among the N given; [M], rising.
        refused: place -> why the others do not.
        texts: name of a feature with text ids -> distinct keys, and the text of each.
    """

    columns: dict[str, npt.NDArray[Any]]
    kept: Int64Array
    refused: Refusals
    texts: dict[str, tuple[Int64Array, Sequence[str]]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RowContract:
    """Fields that a row has, and what to do about others.

    Attributes:
        fields: in the order in which a row's faults are looked for.
        ignored: columns to leave out.
        ignore_unknown: whether every column that is no field is left out rather than refused.
        unit: of numbers that are times.
        latest_ms: the latest plausible time.
        rule: makes the label of another column.
        elsewhere: features that are another entity's -> which; for messages.
        what: ``events``, ``labels`` or an entity's name and ``s``; for messages.
    """

    fields: tuple[Field, ...]
    what: str
    ignored: Collection[str] = ()
    ignore_unknown: bool = False
    unit: TimeUnit = "ms"
    latest_ms: int = MAX_TIME_MS
    rule: LabelRule | None = None
    elsewhere: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Columns to read."""
        return tuple(dict.fromkeys(f.column for f in self.fields if f.column not in self.ignored))

    @cached_property
    def required(self) -> tuple[str, ...]:
        """Columns that must be there."""
        return tuple(dict.fromkeys(f.column for f in self.fields if f.required or f.needed))

    def fields_of(self, column: str) -> tuple[Field, ...]:
        """Fields that are read from a column."""
        return tuple(f for f in self.fields if f.column == column)

    def check_header(self, columns: Sequence[str], *, where: str) -> tuple[str, ...]:
        """Columns of a file that has a header or a schema, those to read.

        Raises:
            DataFileError: one is there twice, is missing, or is unknown.
        """
        if len(set(columns)) < len(columns):
            twice = next(name for name in columns if columns.count(name) > 1)
            raise DataFileError(f"{where}: column {twice!r} is there twice; found {', '.join(columns)}")
        for name in self.required:
            if name not in columns:
                raise DataFileError(f"{where}: {self._missing_column(name, columns)}")
        for name in columns:
            if name not in self.columns and not self._left_out(name):
                raise DataFileError(f"{where}: column {self._not_declared(name)}")
        return tuple(name for name in columns if name in self.columns)

    def check_names(self, row: Collection[str]) -> None:
        """Refuse a row with a field that nothing declares.

        Raises:
            RefusedValueError: names it.
        """
        if self._names.issuperset(row) or self.ignore_unknown:
            return
        for name in row:
            if name not in self._names:
                error = RefusedValueError(
                    str(name)[:80], None, f"declared fields; --ignore {str(name)[:80]} leaves it out"
                )
                error.args = (f"field {self._not_declared(str(name)[:80])}",)
                raise error

    def raw_columns(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
        """Raw columns of N rows that came one by one; those that no row has are left out, unless they are required."""
        columns = {name: [row.get(name) for row in rows] for name in self.columns}
        return {n: v for n, v in columns.items() if n in self.required or v.count(None) < len(v)}

    def encode(self, raw: Mapping[str, Any], length: int) -> EncodedRows:
        """Encode N rows, given as columns: arrays, sequences, or :class:`Coded`. A column that is not given is missing.

        The first field at fault, in the order of ``fields``, gives the reason why a row is refused.
        """
        refused: Refusals = {}
        columns: dict[str, npt.NDArray[Any]] = {}
        texts: dict[str, tuple[Int64Array, Sequence[str]]] = {}
        for one in self.fields:
            values = None if one.column in self.ignored else raw.get(one.column)
            column, wrong = self._nothing(one, length) if values is None else self._encoded(one, values, texts)
            for place, error in wrong.items():
                refused.setdefault(place, error)
            columns[one.name] = column
        kept = np.arange(length, dtype=np.int64)
        for place, error in refused.items():
            refused[place] = _as_it_came(error, raw, place)
        if refused:
            kept = np.delete(kept, list(refused))
            columns = {name: column[kept] for name, column in columns.items()}
        return EncodedRows(columns=columns, kept=kept, refused=refused, texts=texts)

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset((*self.columns, *self.ignored))

    def _not_declared(self, name: str) -> str:
        if name in self.elsewhere:
            entity = self.elsewhere[name]
            return (
                f"{name!r} is a feature of the {entity}: it belongs in --{entity}s; --ignore {quote(name)} leaves it "
                "out here"
            )
        return (
            f"{name!r} is not declared: {nearest(name, self.columns)}. Rename it, declare it, or leave it out with "
            f"--ignore {quote(name)}"
        )

    def _left_out(self, name: str) -> bool:
        return self.ignore_unknown or name in self.ignored

    def _missing_column(self, name: str, columns: Sequence[str]) -> str:
        found = f"found {', '.join(columns)}" if columns else "the file has no columns"
        if any(f.kind == "time" for f in self.fields_of(name)):
            return f"the time is read from column {name!r}, which is missing; --timestamp NAME names another: {found}"
        close = difflib.get_close_matches(name, columns, n=1, cutoff=0.5)
        hint = f"; is it {close[0]!r}? Rename that column, or declare that name" if close else ""
        return f"column {name!r} is missing{hint}; {found}"

    def _nothing(self, one: Field, length: int) -> tuple[npt.NDArray[Any], Refusals]:
        refused = {i: missing_field(one.column) for i in range(length)} if one.required else {}
        if one.feature is not None:
            return missing_column(one.feature, length), refused
        if one.kind == "time":
            return np.full(length, NO_TIME, dtype=np.int64), refused
        return np.full(length, NO_LABEL, dtype=np.uint8), refused

    def _encoded(
        self, one: Field, values: Any, texts: dict[str, tuple[Int64Array, Sequence[str]]]
    ) -> tuple[npt.NDArray[Any], Refusals]:
        values = _plain(values, one)
        if isinstance(values, Moments):
            column, refused = time_column(one.column, values.ms, latest_ms=self.latest_ms)
            missing = np.flatnonzero(~values.valid)
            column[missing] = NO_TIME
            refused = {i: error for i, error in refused.items() if values.valid[i]}
            self._require(one, column, refused)
            return column, refused
        if not isinstance(values, Coded):
            column, refused = self._checked(one, values)
            if isinstance(one.feature, Categorical) and one.feature.id_type == "string":
                texts[one.name] = _texts_of(one.feature, values, column, refused)
            return column, refused
        distinct, wrong = self._checked(one, values.values, required=False)
        if isinstance(one.feature, Categorical) and one.feature.id_type == "string":
            texts[one.name] = _texts_of(one.feature, values.values, distinct, wrong)
        nothing, _ = self._nothing(one, 1)
        column = np.concatenate([distinct, nothing.astype(distinct.dtype)])[values.indices]
        refused = {}
        if wrong:
            bad = np.isin(values.indices, list(wrong))
            refused = {i: wrong[int(values.indices[i])] for i in np.flatnonzero(bad).tolist()}
        self._require(one, column, refused)
        return column, refused

    def _checked(self, one: Field, values: Any, *, required: bool = True) -> tuple[npt.NDArray[Any], Refusals]:
        if one.feature is not None:
            column, refused = checked_column(one.feature, values)
            if one.limit < 1 << 62 and (column >= one.limit).any():
                for i in np.flatnonzero(column >= one.limit).tolist():
                    allowed = f"0 to {one.limit - 1}, which is what its storage holds"
                    refused.setdefault(i, RefusedValueError(one.column, values[i], allowed))
        elif one.kind == "time":
            column, refused = time_column(one.column, values, unit=self.unit, latest_ms=self.latest_ms)
        elif one.kind == "label":
            column, refused = label_column(one.column, values)
        else:
            assert self.rule is not None
            found, refused = (float_column if one.kind == "number" else text_column)(one.column, values)
            column = self.rule.labels(found)
        if required:
            self._require(one, column, refused)
        return column, refused

    def _require(self, one: Field, column: npt.NDArray[Any], refused: Refusals) -> None:
        if not one.required:
            return
        nothing = NO_LABEL if one.kind in ("label", "number", "text") else NO_TIME if one.kind == "time" else MISSING
        for i in np.flatnonzero(column == nothing).tolist():
            refused.setdefault(i, missing_field(one.column))


def _texts_of(
    feature: Categorical, values: Sequence[Any], keys: npt.NDArray[Any], refused: Refusals
) -> tuple[Int64Array, list[str]]:
    """Keys of string ids and their texts: of a multi-valued feature each once, of another one for each value."""
    if keys.ndim == 1:
        known = np.flatnonzero(keys != MISSING)
        return keys[known], [values[i] for i in known.tolist()]
    rows = (listed(feature, value) for place, value in enumerate(values) if place not in refused)
    found = list({text for row in rows for text in row if not is_missing(text)})
    return string_keys(found), found


def _as_it_came(error: RefusedValueError, raw: Mapping[str, Any], place: int) -> RefusedValueError:
    """The error with the raw value, where a fast path had made a number of it."""
    column = raw.get(error.field)
    if error.value is None or column is None:
        return error
    value = as_it_came(column[place])
    return error if value == error.value else RefusedValueError(error.field, value, error.allowed)


def _plain(values: Any, one: Field) -> Any:
    """Columns as the contract encodes them: distinct texts are looked at once, Arrow's are unpacked."""
    if isinstance(values, list):
        texts = isinstance(one.feature, Categorical) and one.feature.id_type == "string" and one.feature.max_values == 1
        if texts and set(map(type, values)) <= {str, type(None)}:
            codes: dict[Any, int] = {}
            indices = [codes.setdefault(value, len(codes)) for value in values]
            return Coded(list(codes), np.array(indices, dtype=np.int64))
        return values
    if isinstance(values, np.ndarray | Coded | Moments):
        return values
    from recsys.rows import arrow  # pyarrow is no part of the serving install

    return arrow.plain(values, one)


def event_rows(
    features: FeatureSet, options: ReadOptions | None = None, *, rule: LabelRule | None = None
) -> RowContract:
    """Contract for events: user, item, time; optionally arrival, history attributes, context features and a label.

    Args:
        features: declares them.
        options: how they are read.
        rule: makes the label of a column; default: the column ``label``.

    Raises:
        ConfigError: the column of the time holds an id.
    """
    options = options or ReadOptions()
    attributes = tuple(
        Field(name=a.name, column=a.name, kind="feature", feature=a, limit=storage_limit(a))
        for a in require_history(features).attributes
    )
    arrival = Field(name=ARRIVAL, column=ARRIVAL, kind="time")
    label = _label_field(rule, required=False)
    return RowContract(
        fields=(*_whose(features, options), arrival, *attributes, *_context(features), label),
        what="events",
        rule=rule,
        elsewhere=_elsewhere(features),
        ignored=options.ignored,
        ignore_unknown=options.ignore_unknown,
        unit=options.unit,
        latest_ms=options.latest_ms(),
    )


def impression_rows(
    features: FeatureSet, options: ReadOptions | None = None, *, rule: LabelRule | None = None
) -> RowContract:
    """Contract for labelled impressions: user, item, time, label, context features; see :func:`event_rows`."""
    options = options or ReadOptions()
    return RowContract(
        fields=(*_whose(features, options), *_context(features), _label_field(rule, required=True)),
        what="labels",
        rule=rule,
        elsewhere=_elsewhere(features),
        ignored=options.ignored,
        ignore_unknown=options.ignore_unknown,
        unit=options.unit,
        latest_ms=options.latest_ms(),
    )


def has_value(one: Field, column: npt.NDArray[Any]) -> bool:
    """True if an encoded column has a value in some row."""
    if one.kind == "time":
        return bool((column != NO_TIME).any())
    if one.feature is None:
        return bool((column != NO_LABEL).any())
    missing = missing_column(one.feature, 1)[0]
    if column.dtype.kind == "f" and np.isnan(missing):
        return not bool(np.isnan(column).all())
    return bool((column != missing).any())


def entity_rows(features: FeatureSet, name: str, options: ReadOptions | None = None) -> RowContract:
    """Contract for an entity: its id, and its features where they are known.

    A column that is ignored in the log is read here if the entity declares it: where rows of a log repeat an item's
    price, the price of its own file counts.

    Raises:
        InvalidInputError: there is no such entity.
    """
    options = options or ReadOptions()
    entity = features.entity(name)
    whose = Field(name=entity.id.name, column=entity.id.name, kind="feature", feature=entity.id, required=True)
    others = tuple(Field(name=f.name, column=f.name, kind="feature", feature=f) for f in entity.features)
    declared = {whose.column, *(f.column for f in others)}
    return RowContract(
        fields=(whose, *others),
        what=f"{name}s",
        ignored=tuple(column for column in options.ignored if column not in declared),
        ignore_unknown=options.ignore_unknown,
    )


def _whose(features: FeatureSet, options: ReadOptions) -> tuple[Field, Field, Field]:
    user, item = features.user_id, features.item_id
    if options.timestamp in (user.name, item.name):
        raise ConfigError(f"--timestamp {options.timestamp}: that column holds an id; name the one with the times")
    return (
        Field(name=user.name, column=user.name, kind="feature", feature=user, required=True),
        Field(name=item.name, column=item.name, kind="feature", feature=item, required=True),
        Field(name=TIMESTAMP, column=options.timestamp, kind="time", required=True),
    )


def _elsewhere(features: FeatureSet) -> dict[str, str]:
    return {f.name: entity for entity in (USER, ITEM) for f in features.entity(entity).features}


def _context(features: FeatureSet) -> tuple[Field, ...]:
    return tuple(Field(name=f"{CONTEXT}{f.name}", column=f.name, kind="feature", feature=f) for f in features.context)


def _label_field(rule: LabelRule | None, *, required: bool) -> Field:
    if rule is None:
        return Field(name=LABEL, column=LABEL, kind="label", required=required, limit=NO_LABEL + 1)
    kind: FieldKind = "text" if isinstance(rule.value, str) else "number"
    return Field(name=LABEL, column=rule.column, kind=kind, required=required, needed=True, limit=NO_LABEL + 1)
