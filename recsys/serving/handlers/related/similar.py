"""Items like given ones: what Similar asks for, and who answers it by a release's retrieval model.

Knows nothing of gRPC. Calls block, as those of ``ranker.py`` do. Shapes use ``N`` seeds, ``K`` items in an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from recsys.arrays import BoolArray, Float32Array, Int64Array
from recsys.errors import NotFoundError
from recsys.serving.deadline import Deadline
from recsys.serving.filters.language import Filter
from recsys.serving.filters.selection import FilterReport, IndexFilter, found_nothing
from recsys.serving.handlers.admission import Admission
from recsys.serving.inference.candidate_index import AddedItems
from recsys.serving.inference.fair_lock import FairLock
from recsys.serving.inference.pace import Pace, Work
from recsys.serving.inference.related.similar import SimilarItems
from recsys.serving.telemetry.stage_timer import StageTimer

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
    """

    seeds: Int64Array
    top_k: int
    exclude: Int64Array
    timer: StageTimer = field(default_factory=StageTimer)
    filter: Filter | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarResult:
    """Items like the seeds.

    Attributes:
        items: keys, most alike first; [K], K <= top_k; none if nothing is known of any seed.
        scores: mean cosines, [K].
        known: of which seeds something is known, [N].
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
    added: AddedItems | None = None
    filter: FilterReport | None = None
    user_degraded: bool = False
    items_degraded: bool = False
    history_degraded: bool = False
    attributes_degraded: bool = False


class SimilarFinder:
    """Answers Similar by one retrieval model. Safe to use from several threads.

    Args:
        index: the search; None: the bundle was exported before there was one.
        model, model_version, release: who answers.
        admission: the places of requests.
        model_lock: held while a model runs.
        added: gives the items that came after training and take part in a search.
        items: finds the rows of the index that pass a filter and are not withdrawn; None: all do.
    """

    def __init__(
        self,
        index: SimilarItems | None,
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
        self._index = index
        self._model, self._version, self._release = model, model_version, release
        self._admission = admission
        self._model_lock = model_lock
        self._added = added
        self._pace = Pace(_SEARCH_S)

    def find(self, query: SimilarQuery, *, deadline: Deadline) -> SimilarResult:
        """Find the items most like the seeds.

        Raises:
            NotFoundError: the bundle has no graph for it.
            OverloadedError: there is no room, or not enough time.
            TimeoutError: the deadline has passed, or nobody waits for the answer any more.
        """
        if self._index is None:
            raise NotFoundError(
                f"the bundle of retrieval model {self._model!r} finds no similar items: it was exported by an earlier "
                "version; export it again"
            )
        expected_s = self._pace.seconds(1)
        with self._admission.enter(Work(expected_s, expected_s), left_s=deadline.remaining_s()):
            seeds, place_N = np.unique(query.seeds, return_inverse=True)
            added = self._added()
            selection = self._items.select(query.filter, added)
            query.timer.lap("filter")
            with self._model_lock.acquire(deadline, pace=self._pace, units=1):
                query.timer.lap("wait")
                deadline.remaining_s()
                found = self._index.find(
                    seeds, query.top_k, left_out=query.exclude, added=added, allowed=selection.allowed
                )
                query.timer.lap("retrieve")
        report = selection.report
        if query.filter is not None and report.passed and not len(found.items) and found.known.any():
            report = found_nothing(report, "all items that pass are seeds, or excluded")
        return SimilarResult(
            items=found.items,
            scores=found.scores,
            known=found.known[place_N],
            model=self._model,
            model_version=self._version,
            release=self._release,
            added=added,
            filter=None if query.filter is None else report,
            attributes_degraded=report.degraded,
        )
