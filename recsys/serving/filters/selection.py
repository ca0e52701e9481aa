"""IndexFilter: the rows of an index that pass a filter now; and which of some candidates do."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from recsys.arrays import BoolArray, Int64Array
from recsys.serving.filters.clauses import UnknownColumnError, unknown_values
from recsys.serving.filters.contradiction import contradiction
from recsys.serving.filters.language import Filter
from recsys.serving.filters.planner import passes_at, passing
from recsys.serving.filters.rows import RowMap, allowed_of
from recsys.serving.inference.candidate_index import AddedItems, Allowed
from recsys.serving.item_columns.columns import ItemColumns
from recsys.serving.item_columns.generation import Generation
from recsys.serving.telemetry.label_counts import LabelCounts

Reason = Literal["", "contradiction", "no_item", "left_out", "not_ready"]
"""Reasons of an empty list: no item can pass; none does; all that do were left out; items' values are not known yet."""

_CACHE_BYTES = 16 << 20
_CACHED = 32
_TOLD_VALUES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterReport:
    """The outcome of a filter.

    Attributes:
        passed: items that pass: of all that a search could find, or of the candidates.
        reason: why there are none.
        detail: the same in words.
        unknown_values: values of its sets that no item has had, as ``attribute=value``, the first 20.
        age_ms: of the values that it was asked of; 0 where there are none.
        degraded: they may be other than what the store has.
    """

    passed: int
    reason: Reason = ""
    detail: str = ""
    unknown_values: tuple[str, ...] = ()
    age_ms: int = 0
    degraded: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """Rows that a search may find.

    Attributes:
        allowed: None: all.
        report: of the filter.
        version: of the columns; -1: there are none.
    """

    allowed: Allowed | None
    report: FilterReport
    version: int = -1


@dataclass(frozen=True, slots=True)
class _Kept:
    key: tuple[object, ...]
    added: AddedItems | None
    selection: Selection


class IndexFilter:
    """Finds the rows of one index that pass. Safe to use from several threads.

    Args:
        columns: values of the items; None: the FeatureSet declares none, and no item can be withdrawn.
        keys_M: of the index's items, ascending.
        counts: outcomes: ``rows``, ``mask``, ``cached``, ``empty``, ``not_ready``.
    """

    def __init__(self, columns: ItemColumns | None, keys_M: Int64Array, *, counts: LabelCounts | None = None) -> None:
        self.columns = columns
        self._rows = RowMap(keys_M)
        self._counts = LabelCounts() if counts is None else counts
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()

    def select(self, wanted: Filter | None, added: AddedItems | None) -> Selection:
        """Find the rows that pass a filter and are not withdrawn.

        Args:
            wanted: the filter; None: all pass.
            added: items that take part beside those of the index.
        """
        if self.columns is None or not self.columns.enabled():
            return Selection(None, FilterReport(passed=0))
        if wanted is not None and (why := contradiction(wanted)):
            self._counts.add("empty")
            return Selection(_NO_ROWS, FilterReport(passed=0, reason="contradiction", detail=why))
        reading = self.columns.read(lambda generation, version: self._selected(wanted, generation, version, added))
        if reading.found is None:
            if wanted is None:
                return Selection(None, FilterReport(passed=0, degraded=True))
            self._counts.add("not_ready")
            return Selection(_NO_ROWS, _NOT_READY)
        report = replace(reading.found.report, age_ms=_ms(reading.age_s), degraded=reading.degraded)
        return Selection(reading.found.allowed, report, reading.found.version)

    def passing_still(self, selection: Selection, wanted: Filter | None, items: Int64Array) -> BoolArray | None:
        """Say which of the items that a selection let a search find pass now; None: all, for nothing has changed."""
        if self.columns is None or selection.version < 0 or self.columns.state.version == selection.version:
            return None
        return candidates_pass(self.columns, wanted, items)[0]

    def _selected(
        self, wanted: Filter | None, generation: Generation, version: int, added: AddedItems | None
    ) -> Selection | None:
        if wanted is None and not generation.withdrawn:
            return Selection(None, FilterReport(passed=0), version)
        digest = b"" if wanted is None else wanted.digest
        key = (version, id(generation))
        with self._lock:
            kept = self._kept.get(digest)
            if kept is not None and kept.key == key and kept.added is added:
                self._kept.move_to_end(digest)
                self._counts.add("cached")
                return kept.selection
        try:
            allowed, count = allowed_of(passing(wanted, generation), generation, self._rows, added)
            unknown = () if wanted is None else _told(wanted, generation)
        except UnknownColumnError:
            return None
        report = FilterReport(passed=count, unknown_values=unknown)
        if not count:
            report = replace(report, reason="no_item", detail=_no_item(unknown))
        selection = Selection(allowed, report, version)
        self._counts.add("empty" if not count else "mask" if allowed.rows_L is None else "rows")
        with self._lock:
            self._kept[digest] = _Kept(key, added, selection)
            self._kept.move_to_end(digest)
            while len(self._kept) > _CACHED or (len(self._kept) > 1 and self._size_bytes() > _CACHE_BYTES):
                self._kept.popitem(last=False)
        return selection

    def _size_bytes(self) -> int:
        every = [kept.selection.allowed for kept in self._kept.values()]
        arrays = [array for allowed in every if allowed is not None for array in (allowed.rows_L, allowed.mask)]
        return sum(array.nbytes for array in arrays if array is not None)


def candidates_pass(
    columns: ItemColumns | None, wanted: Filter | None, keys: Int64Array
) -> tuple[BoolArray, FilterReport]:
    """Say which candidates pass a filter and are not withdrawn; none does while the items' values are not known.

    Args:
        columns: values of the items; None: there are none, and all pass.
        wanted: the filter; None: all pass.
        keys: of the candidates, int64, [C].

    Returns:
        bool, [C], and what became of the filter.
    """
    if columns is None or not columns.enabled():
        return np.ones(len(keys), dtype=np.bool_), FilterReport(passed=len(keys))
    nothing = np.zeros(len(keys), dtype=np.bool_)
    if wanted is not None and (why := contradiction(wanted)):
        return nothing, FilterReport(passed=0, reason="contradiction", detail=why)

    def passes(generation: Generation, version: int) -> tuple[BoolArray, tuple[str, ...]] | None:
        try:
            found = passes_at(wanted, generation, generation.items.find(keys))
            return found, () if wanted is None else _told(wanted, generation)
        except UnknownColumnError:
            return None

    reading = columns.read(passes)
    if reading.found is None:
        if wanted is None:
            return np.ones(len(keys), dtype=np.bool_), FilterReport(passed=len(keys), degraded=True)
        return nothing, _NOT_READY
    found, unknown = reading.found
    report = FilterReport(
        passed=int(np.count_nonzero(found)),
        unknown_values=unknown,
        age_ms=_ms(reading.age_s),
        degraded=reading.degraded,
    )
    if not report.passed:
        report = replace(report, reason="no_item", detail=_no_item(unknown))
    return found, report


def found_nothing(report: FilterReport, why: str) -> FilterReport:
    """The same of a list that is empty though items pass."""
    return replace(report, reason="left_out", detail=why)


_NO_ROWS = Allowed(rows_L=np.empty(0, dtype=np.int64))

_NOT_READY = FilterReport(
    passed=0,
    reason="not_ready",
    detail="the values of the items were not read from the feature store yet: nothing passes",
    degraded=True,
)


def _told(wanted: Filter, generation: Generation) -> tuple[str, ...]:
    unknown = (f"{attribute}={value}" for attribute, value in unknown_values(wanted, generation))
    return tuple(text for text, _ in zip(unknown, range(_TOLD_VALUES), strict=False))


def _no_item(unknown: tuple[str, ...]) -> str:
    known = f"; no item has had {', '.join(unknown)}" if unknown else ""
    return f"no item passes{known}"


def _ms(age_s: float) -> int:
    return int(min(age_s, 1e6) * 1000)
