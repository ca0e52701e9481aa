"""Items that are taken most lately: what Trending asks for, and who answers it from the store's counts.

Knows nothing of gRPC. Calls block, as those of ``ranker.py`` do. Shapes use ``K`` items in an answer, ``T`` items with
counts.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from recsys.arrays import BoolArray, Float64Array, Int64Array
from recsys.errors import NotFoundError, StoreError
from recsys.feature_store.blocking import BlockingFeatureStore
from recsys.features.feature_set import FeatureSet
from recsys.features.trending import Trending
from recsys.rate_limited_log import RateLimitedLog
from recsys.serving.deadline import Deadline
from recsys.serving.filters.language import Filter
from recsys.serving.filters.selection import FilterReport, candidates_pass, found_nothing
from recsys.serving.item_columns.columns import ItemColumns
from recsys.serving.telemetry.stage_timer import StageTimer

REFRESH_S = 1.0
"""Age at which counts are read again."""

_SHARE = 20
"""Counts are read again no sooner than so many times what reading them took: most of a worker's time is for calls."""

_CLOSED_S = 60.0
"""Age at which a part before the last two is read again: only late events change it."""

_log = RateLimitedLog(logging.getLogger("recsys.serving"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrendingQuery:
    """A query for what is trending.

    Attributes:
        top_k: how many items.
        exclude: keys of items to leave out; may hold duplicates and unknown ones.
        timer: the request's clock.
        filter: that items are to pass.
    """

    top_k: int
    exclude: Int64Array
    timer: StageTimer = field(default_factory=StageTimer)
    filter: Filter | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of all items as they were at a moment, the largest first; equal ones by their keys.

    Attributes:
        items: keys, [T].
        scores: decayed weights of their events, [T].
        as_of_ms: the moment, ms since 1970; 0: they were never read.
    """

    items: Int64Array
    scores: Float64Array
    as_of_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrendingResult:
    """Items that are trending.

    Attributes:
        items: keys, best first; [K], K <= top_k.
        scores: decayed weights of their events, [K].
        as_of_ms: when they were read; 0: never.
        declared: what is counted.
        stale: the store could not be read since.
        filter: what became of it, of the items with counts; None: there was none.
        attributes_degraded: the items' values, or which are withdrawn, may be other than what the store has.
    """

    items: Int64Array
    scores: Float64Array
    as_of_ms: int
    declared: Trending
    stale: bool
    filter: FilterReport | None = None
    attributes_degraded: bool = False


_NONE = Counts(np.zeros(0, dtype=np.int64), np.zeros(0))


class TrendingFinder:
    """Answers Trending. Keeps the counts for a second or more. Safe to use from several threads.

    Args:
        store: read at most once in a second.
        features: gives the FeatureSet by which the store is read now.
        store_timeout_s: of a reading.
        columns: values of the items; None: there are none, and none can be withdrawn.
        clock_ms: milliseconds since 1970.
        steady_s: seconds that are never set.
    """

    def __init__(
        self,
        store: BlockingFeatureStore,
        features: Callable[[], FeatureSet],
        *,
        store_timeout_s: float,
        columns: ItemColumns | None = None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        steady_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._features = features
        self._timeout_s = store_timeout_s
        self._columns = columns
        self._clock_ms, self._steady_s = clock_ms, steady_s
        self._lock = threading.Lock()
        self._declared: Trending | None = None
        self._parts: dict[int, tuple[float, Int64Array, Float64Array]] = {}
        self._counts = _NONE
        self._stale = False
        self._next_s = -np.inf

    def find(self, query: TrendingQuery, *, deadline: Deadline) -> TrendingResult:
        """Find the items with the largest counts. A store that is away gives those read last, or none, and says so.

        Raises:
            NotFoundError: the FeatureSet declares no trending.
            TimeoutError: the deadline has passed.
        """
        declared = self.declared()
        counts, stale = self._current(declared, deadline)
        query.timer.lap("store")
        items, scores = counts.items, counts.scores
        left, report = self._left(query.filter, items)
        if len(query.exclude):
            left &= ~np.isin(items, query.exclude)
        items, scores = items[left], scores[left]
        if query.filter is not None and report.passed and not len(items):
            report = found_nothing(report, "all items that pass are excluded")
        query.timer.lap("select")
        return TrendingResult(
            items=items[: query.top_k],
            scores=scores[: query.top_k],
            as_of_ms=counts.as_of_ms,
            declared=declared,
            stale=stale,
            filter=None if query.filter is None else report,
            attributes_degraded=report.degraded,
        )

    def declared(self) -> Trending:
        """The declaration by which events are counted; NotFoundError if there is none."""
        features = self._features()
        declared = None if features.history is None else features.history.trending
        if declared is None:
            raise NotFoundError(
                f"FeatureSet {features.name!r} counts nothing that is trending: declare history.trending "
                "(docs/guides/related.md), and serve a bundle of it"
            )
        return declared

    def counts(self, deadline: Deadline) -> tuple[Counts, bool]:
        """The counts of all items, and if the store could not be read since; raises as :meth:`find`."""
        return self._current(self.declared(), deadline)

    def _left(self, wanted: Filter | None, items: Int64Array) -> tuple[BoolArray, FilterReport]:
        """True for the items that pass and are not withdrawn; a look at all of them only where there is a filter."""
        if wanted is not None or self._columns is None:
            return candidates_pass(self._columns, wanted, items)
        withdrawn, degraded = self._columns.withdrawn_keys()
        left = ~np.isin(items, withdrawn) if len(withdrawn) else np.ones(len(items), dtype=np.bool_)
        return left, FilterReport(passed=len(items), degraded=degraded)

    def _current(self, declared: Trending, deadline: Deadline) -> tuple[Counts, bool]:
        """The counts, read again if they are old; while one thread reads, others take those that there are."""
        if declared == self._declared and not self._due():
            return self._counts, self._stale
        wait_s = 0.0 if self._counts.as_of_ms else max(0.0, deadline.remaining_s())
        if not self._lock.acquire(timeout=wait_s):
            return self._counts, self._stale
        try:
            if declared != self._declared:
                self._declared, self._parts, self._counts = declared, {}, _NONE
                self._next_s = -np.inf
            if self._due():
                self._read(declared, min(self._timeout_s, deadline.remaining_s() / 2))
            return self._counts, self._stale
        finally:
            self._lock.release()

    def _due(self) -> bool:
        return self._steady_s() >= self._next_s

    def _read(self, declared: Trending, timeout_s: float) -> None:
        began_s, now_ms = self._steady_s(), self._clock_ms()
        begins = declared.begins_ms(now_ms)
        old = [
            begin
            for place, begin in enumerate(begins)
            if place < 2 or begin not in self._parts or began_s - self._parts[begin][0] >= _CLOSED_S
        ]
        try:
            found = self._store.trending(old, timeout_s=timeout_s)
        except StoreError as error:
            self._stale, self._next_s = True, self._steady_s() + REFRESH_S
            _log.warning("trending", "trending: counts are as of before: %s", error)
            return
        kept = {begin: part for begin, part in self._parts.items() if begin in begins}
        self._parts = {**kept, **{begin: (began_s, *part) for begin, part in found.items()}}
        self._counts, self._stale = _together(declared, self._parts, now_ms), False
        ended_s = self._steady_s()
        self._next_s = ended_s + max(REFRESH_S, _SHARE * (ended_s - began_s))


def _together(declared: Trending, parts: dict[int, tuple[float, Int64Array, Float64Array]], now_ms: int) -> Counts:
    items, place_T = np.unique(np.concatenate([items for _, items, _ in parts.values()]), return_inverse=True)
    worth = np.concatenate([counts * declared.worth(begin, now_ms) for begin, (_, _, counts) in parts.items()])
    scores: Float64Array = np.bincount(place_T, weights=worth, minlength=len(items)).astype(np.float64)
    order = np.argsort(-scores, kind="stable")
    return Counts(items[order], scores[order], now_ms)
