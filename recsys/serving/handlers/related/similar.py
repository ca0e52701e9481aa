"""Items like given ones: what Similar asks for, and who answers it by a release's retrieval model.

Knows nothing of gRPC. Calls block, as those of ``ranker.py`` do. Shapes use ``N`` seeds, ``K`` items in an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from recsys.arrays import BoolArray, Float32Array, Int64Array
from recsys.errors import NotExportedError
from recsys.serving.deadline import Deadline
from recsys.serving.filters.language import Filter
from recsys.serving.filters.selection import FilterReport, IndexFilter, candidates_pass, found_nothing
from recsys.serving.handlers.admission import Admission
from recsys.serving.inference.candidate_index import AddedItems
from recsys.serving.inference.fair_lock import FairLock
from recsys.serving.inference.pace import Pace, Work
from recsys.serving.inference.related.neighbours import UserNeighbours
from recsys.serving.inference.related.similar import Neighbours, SimilarItems
from recsys.serving.telemetry.stage_timer import StageTimer

By = Literal["vectors", "users"]
"""Kinds of likeness of items."""

_SEARCH_S = 0.01
"""Guess of the time that a search takes, until it is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarQuery:
    """A query for items like others.

    Attributes:
        seeds: keys of the others, shape [N], N >= 1; one that comes twice counts once.
        top_k: how many items.
        exclude: keys of items to leave out besides the seeds; may hold duplicates and unknown ones.
        timer: the request's clock.
        filter: that items are to pass; the seeds need not.
        by: what makes items alike; None: their vectors, and their users where no seed has a vector.
    """

    seeds: Int64Array
    top_k: int
    exclude: Int64Array
    timer: StageTimer = field(default_factory=StageTimer)
    filter: Filter | None = None
    by: By | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarResult:
    """Items like the seeds.

    Attributes:
        items: keys, most alike first; [K], K <= top_k; none if nothing is known of any seed.
        scores: by vectors mean cosines, by users mean Jaccard similarities, [K].
        known: of which seeds something is known, [N].
        by: what made them alike.
        added: items that took part beside those of the bundle.
        filter: what became of it; None: there was none.
        user_degraded, items_degraded, history_degraded: never so.
        attributes_degraded: the items' values, or which are withdrawn, may be other than what the store has.
    """

    items: Int64Array
    scores: Float32Array
    known: BoolArray
    model: str
    model_version: str
    release: str
    by: By = "vectors"
    added: AddedItems | None = None
    filter: FilterReport | None = None
    user_degraded: bool = False
    items_degraded: bool = False
    history_degraded: bool = False
    attributes_degraded: bool = False


class SimilarFinder:
    """Answers Similar by one retrieval model. Safe to use from several threads.

    Args:
        index: the search by vectors; None: the bundle was exported before there was one.
        neighbours: lists by shared users; None: the bundle was exported without them.
        model, model_version, release: who answers.
        admission: the places of requests.
        model_lock: held while a model runs.
        added: gives the items that came after training and take part in a search by vectors.
        items: finds the rows of the index that pass a filter and are not withdrawn; None: all do.
    """

    def __init__(
        self,
        index: SimilarItems | None,
        neighbours: UserNeighbours | None = None,
        *,
        model: str,
        model_version: str,
        release: str,
        admission: Admission,
        model_lock: FairLock,
        added: Callable[[], AddedItems | None] = lambda: None,
        items: IndexFilter | None = None,
    ) -> None:
        self._items = IndexFilter(None, np.empty(0, dtype=np.int64)) if items is None else items
        self._index, self._neighbours = index, neighbours
        self._model, self._version, self._release = model, model_version, release
        self._admission = admission
        self._model_lock = model_lock
        self._added = added
        self._pace = Pace(_SEARCH_S)

    def find(self, query: SimilarQuery, *, deadline: Deadline) -> SimilarResult:
        """Find the items most like the seeds.

        Raises:
            NotExportedError: the bundle has not what the query asks for.
            OverloadedError: there is no room, or not enough time.
            TimeoutError: the deadline has passed, or nobody waits for the answer any more.
        """
        self._check(query.by)
        expected_s = self._pace.seconds(1)
        with self._admission.enter(Work(expected_s, expected_s), left_s=deadline.remaining_s()):
            seeds, place_N = np.unique(query.seeds, return_inverse=True)
            by: By = "users"
            added = None
            if query.by != "users" and self._index is not None:
                by, added = "vectors", self._added()
                found, report = self._by_vectors(self._index, seeds, query, added, deadline)
            if self._neighbours is not None and (by == "users" or (query.by is None and not found.known.any())):
                other = self._by_users(self._neighbours, seeds, query)
                if by == "users" or other[0].known.any():
                    by, added = "users", None
                    found, report = other
        if query.filter is not None and report.passed and not len(found.items) and found.known.any():
            report = found_nothing(report, "all items that pass are seeds, or excluded")
        return SimilarResult(
            items=found.items,
            scores=found.scores,
            known=found.known[place_N],
            model=self._model,
            model_version=self._version,
            release=self._release,
            by=by,
            added=added,
            filter=None if query.filter is None else report,
            attributes_degraded=report.degraded,
        )

    def _check(self, by: By | None) -> None:
        """Refuse what the bundle has not."""
        who = f"the bundle of retrieval model {self._model!r}"
        if by == "users" and self._neighbours is None:
            raise NotExportedError(
                f"by: {who} has no lists of items by shared users: export it with `recsys export --neighbours 50`"
            )
        if self._index is None and (by == "vectors" or self._neighbours is None):
            raise NotExportedError(
                f"{who} finds no similar items: it was exported by an earlier version; export it again"
            )

    def _by_vectors(
        self,
        index: SimilarItems,
        seeds: Int64Array,
        query: SimilarQuery,
        added: AddedItems | None,
        deadline: Deadline,
    ) -> tuple[Neighbours, FilterReport]:
        selection = self._items.select(query.filter, added)
        query.timer.lap("filter")
        with self._model_lock.acquire(deadline, pace=self._pace, units=1):
            query.timer.lap("wait")
            deadline.remaining_s()
            found = index.find(seeds, query.top_k, left_out=query.exclude, added=added, allowed=selection.allowed)
            query.timer.lap("retrieve")
        return found, selection.report

    def _by_users(
        self, neighbours: UserNeighbours, seeds: Int64Array, query: SimilarQuery
    ) -> tuple[Neighbours, FilterReport]:
        """Look lists up, without the lock: it takes no time of a model."""
        found = neighbours.find(seeds)
        query.timer.lap("retrieve")
        passes, report = candidates_pass(self._items.columns, query.filter, found.items)
        if not len(found.items) and report.reason == "no_item":
            report = replace(report, detail="there is nothing on the seeds' lists by shared users")
        kept = np.flatnonzero(passes & ~np.isin(found.items, query.exclude))[: query.top_k]
        query.timer.lap("filter")
        return Neighbours(found.items[kept], found.scores[kept], found.known), report
