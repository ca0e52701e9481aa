"""Shadow: a share of the answered requests is scored by other releases, too, and compared; nobody waits for that.

One thread does it, at the lowest priority, and only while no call is in flight: what finds no such moment in time is
dropped and counted. A comparison reads the store by itself, as of the time that the answer was made for, and writes
the states of long histories that belong to its release: without them each comparison would sum a whole history anew.
It is never logged as a request. ``C`` candidates.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from recsys.arrays import Float32Array, Int64Array
from recsys.rate_limited_log import RateLimitedLog
from recsys.serving.deadline import Deadline
from recsys.serving.handlers.admission import Admission
from recsys.serving.handlers.candidates import best_of
from recsys.serving.handlers.model_slot import ModelSlot
from recsys.serving.handlers.queries import RetrieveQuery
from recsys.serving.handlers.ranker import Ranked, Ranker
from recsys.serving.handlers.recommender import Recommender
from recsys.serving.handlers.routes import LoadedRelease, Route, Routes, ranker_of, recommender_of
from recsys.serving.inference.fair_lock import FairLock
from recsys.serving.inference.pace import Pace
from recsys.serving.scheduling import short_turns
from recsys.serving.telemetry.counters import Telemetry
from recsys.serving.telemetry.stage_timer import StageTimer

_log = logging.getLogger("recsys.serving")

BEST = 10
"""Best candidates that are compared, unless the request asked for another number of them."""

_WAITING = 64
_AGE_S = 1.0
_QUIET_S = 0.001
_CLOSE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved:
    """Items that a query of Retrieve was answered with."""

    query: RetrieveQuery
    items: Int64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """A request to compare.

    Attributes:
        model, release: the name that was asked for, and the shadow's: no reference, which would outlast a switch.
        slot: the shadow's.
        answered: by another release, and in what way.
        until_s: when it is dropped, ``time.monotonic`` seconds.
    """

    model: str
    release: str
    slot: int
    answered: Ranked | Retrieved
    until_s: float


class Shadow:
    """Compares answers with those of shadow releases, until :meth:`close`. Safe to use from several threads.

    Args:
        models: where the releases are; one that is no shadow any more when its turn comes is not run.
        admission: says how many calls are in flight; no place is taken.
        model_lock: of the calls; never held here, for the lowest priority gives way by itself.
        telemetry: counts.
        max_age_s: a request that has waited so long is dropped.
    """

    def __init__(
        self,
        models: ModelSlot,
        *,
        admission: Admission,
        model_lock: FairLock,
        telemetry: Telemetry,
        max_age_s: float = _AGE_S,
    ) -> None:
        self._models = models
        self._admission = admission
        self._model_lock = model_lock
        self._telemetry = telemetry
        self._max_age_s = max_age_s
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._trouble = RateLimitedLog(_log)

    def offer(
        self, route: Route, release: LoadedRelease, answered: Ranked | Retrieved | None, *, degraded: bool
    ) -> None:
        """Offer an answered request to the shadows of its route, each with its percentage; returns at once.

        Args:
            route: that answered.
            release: that answered: it is not compared with itself.
            answered: candidates, or items; None: there were none.
            degraded: the answer lacks a part: then it is not offered, for a difference would not be the models'.
        """
        for shadow, percent in route.shadow:
            if answered is None or degraded or shadow is release or random.random() * 100.0 >= percent:
                continue
            self._telemetry.shadow_offered(shadow.slot)
            if isinstance(answered, Ranked):
                # Copies: an answer of a graph lies in memory that could not be given back while it is held.
                answered = replace(answered, logits=answered.logits.copy(), scores=answered.scores.copy())
            until_s = time.monotonic() + self._max_age_s
            job = _Job(model=route.name, release=shadow.name, slot=shadow.slot, answered=answered, until_s=until_s)
            if not self._put(job):
                self._telemetry.shadow_dropped(shadow.slot)

    def close(self) -> None:
        """Drop what waits, and stop."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)
        while self._waiting:
            self._telemetry.shadow_dropped(self._waiting.popleft().slot)

    def _put(self, job: _Job) -> bool:
        with self._changed:
            if self._closing or len(self._waiting) >= _WAITING:
                return False
            self._waiting.append(job)
            if self._thread is None:  # most servers never have a shadow
                self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return True

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                deadline = Deadline(job.until_s, abandoned=lambda: self._closing)
                self._wait_for_quiet(deadline)
                with short_turns():
                    compared = self._compare(job, deadline)
                if not compared:
                    self._telemetry.shadow_dropped(job.slot)
            except TimeoutError:
                self._telemetry.shadow_dropped(job.slot)
            except Exception as error:  # whatever a release runs into: the thread serves the others
                self._telemetry.shadow_failed(job.slot)
                what = f"{type(error).__name__}: {error}"
                self._trouble.warning(job.release, "shadow: release %s failed: %s", job.release, what)

    def _next(self) -> _Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            return None if self._closing else self._waiting.popleft()

    def _wait_for_quiet(self, deadline: Deadline) -> None:
        """Wait until no call is in flight, and none was a moment ago: its answer may still be on its way out."""
        moments = 0
        while moments < 2:
            moments = moments + 1 if self._is_quiet() else 0
            deadline.remaining_s()
            time.sleep(_QUIET_S)

    def _is_quiet(self) -> bool:
        return not self._admission.in_flight and not self._model_lock.waiting

    @contextmanager
    def acquire(
        self, deadline: Deadline, *, pace: Pace | None = None, units: float = 0.0, more: float = 0.0
    ) -> Iterator[None]:
        """Let all calls pass, in place of the models' lock; raises TimeoutError as that does. No pace is measured."""
        while not self._is_quiet():
            deadline.remaining_s()
            time.sleep(_QUIET_S)
        yield

    def _compare(self, job: _Job, deadline: Deadline) -> bool:
        """Answer a request by its shadow, and count the differences; False if there is nothing to be said."""
        with self._models.current() as routes:  # which keeps the release open, as a call does
            shadow = _shadow_of(routes, job)
            if shadow is None:
                return False
            if isinstance(job.answered, Ranked):
                return self._compare_ranked(job.slot, ranker_of(shadow), job.answered, deadline)
            return self._compare_items(job.slot, recommender_of(shadow), job.answered, deadline)

    def _compare_ranked(self, slot: int, ranker: Ranker, answered: Ranked, deadline: Deadline) -> bool:
        timer, asked = StageTimer(), answered.request
        top_k = 0 if asked.rules is None else asked.top_k
        request = replace(
            asked, candidate_keys=answered.keys, top_k=top_k, time_ms=answered.time_ms, timer=timer, filter=None
        )
        result = ranker.rank_unseen(request, deadline=deadline, model_lock=self)
        if result.user_degraded or result.items_degraded or result.history_degraded:
            return False
        assert result.ranked is not None
        self._telemetry.shadow_scored(
            slot,
            _worked_us(timer),
            candidates=len(answered.keys),
            difference_sum=difference_sum(answered, result.ranked),
            overlap=_overlap(answered, result.ranked),
        )
        return True

    def _compare_items(self, slot: int, recommender: Recommender, answered: Retrieved, deadline: Deadline) -> bool:
        timer = StageTimer()
        query = replace(answered.query, timer=timer)
        result = recommender.retrieve_unseen(query, deadline=deadline, model_lock=self)
        if result.user_degraded:
            return False
        most = max(len(answered.items), len(result.items))
        common = np.intersect1d(answered.items, result.items, assume_unique=True)
        self._telemetry.shadow_retrieved(slot, _worked_us(timer), overlap=len(common) / most if most else 1.0)
        return True


def _worked_us(timer: StageTimer) -> int:
    """Time of the work alone: not that in which calls went first."""
    timer.finish()
    return (timer.total - timer.wait + 500) // 1000


def difference_sum(ours: Ranked, others: Ranked) -> float:
    """Sum the absolute differences of two releases' scores of the same candidates."""
    return float(np.abs(ours.scores.astype(np.float64) - others.scores).sum())


def _overlap(ours: Ranked, others: Ranked) -> float:
    """Share that two releases' lists have in common: of the best candidates, or of what the rules make of them."""
    if ours.listed is None or others.listed is None:
        return share_in_common(ours.logits, others.logits, wanted=ours.request.top_k)
    most = max(len(ours.listed), len(others.listed))
    return len(np.intersect1d(ours.listed, others.listed, assume_unique=True)) / most if most else 1.0


def share_in_common(ours: Float32Array, others: Float32Array, *, wanted: int) -> float:
    """Share of the best candidates that two releases have in common, by their logits; [C].

    The best are as many as ``wanted``, or of 0 :data:`BEST`; at most half of all, for all are always the same.
    """
    best = max(1, min(wanted or BEST, len(ours) // 2))
    return len(np.intersect1d(best_of(ours, best), best_of(others, best), assume_unique=True)) / best


def _shadow_of(routes: Routes, job: _Job) -> LoadedRelease | None:
    route = routes.models.get(job.model)
    shadows = () if route is None else route.shadow
    return next((shadow for shadow, _ in shadows if (shadow.name, shadow.slot) == (job.release, job.slot)), None)
