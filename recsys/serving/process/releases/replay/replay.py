"""Replay: put recorded requests to a release before it answers any, and compare it with the live one.

A run begins when no call is in flight, where there is such a moment soon, and has the core only while nothing else
wants it: it holds no lock that a call waits for. Pauses keep it to a small share. Shapes use ``C`` candidates.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recsys.errors import InvalidInputError, ModelError, ReleaseError
from recsys.serving.handlers.ranker import Ranker
from recsys.serving.handlers.recorder import Recorded, RecordedRequest
from recsys.serving.handlers.routes import LoadedRelease
from recsys.serving.process.releases.replay.cases import Case, Run, ranking_cases, ranking_run, retrieval_cases
from recsys.serving.process.releases.replay.slowdown import median_ratio, side_of_bound
from recsys.serving.scheduling import lower_priority
from recsys.serving.settings import Settings

_SHARE = 0.05
"""Of a core, at most: at 0.1, a tenth of the calls took up to twice as long meanwhile."""

_TOUCH_SHARE = 0.2
"""Of a core, while pages are touched: that is waiting for the disk more than work."""

_MOST_S = 30.0
"""Of a replay of one kind of model, and of touching pages."""

_QUIET_S, _LOOK_S = 0.25, 0.0005
"""Longest wait for a moment without calls, and the time between two looks for one."""

_FEW_PAIRS = 5
"""Fewer say nothing of a slowdown, however long they took."""

_TICK_S = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A model of a release, put to requests.

    Attributes:
        requests: that it answered, with finite scores.
        compared: of these, those that the live release's model answered, too; 0: nothing was compared, only looked at.
        drift_mean: mean over the compared requests of the mean absolute difference of a candidate's scores; None: none
            were compared, or the scores of such models are on no scale.
        drift_max: largest difference of a candidate's scores.
        slowdown: median over pairs of runs of the new model's time over the live one's; None: none were compared.
    """

    requests: int
    compared: int = 0
    drift_mean: float | None = None
    drift_max: float | None = None
    slowdown: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """A replay that found nothing wrong.

    Attributes:
        route: the model's name that the release is to answer.
        release: the new one.
        live: that it was compared with; empty: there was none.
        ranking, retrieval: of its models; None: it has no such model.
        notes: what the figures do not cover.
        seconds: it took.
    """

    route: str
    release: str
    live: str
    ranking: Comparison | None
    retrieval: Comparison | None
    notes: tuple[str, ...]
    seconds: float

    def text(self) -> str:
        """The report as a sentence."""
        parts = [_words(kind, found) for kind, found in (("ranking", self.ranking), ("retrieval", self.retrieval))]
        compared = f" beside {self.live!r}" if self.live else ""
        notes = "".join(f"; {note}" for note in self.notes)
        return (
            f"release {self.release!r} for {self.route!r}{compared}, in {self.seconds:.1f} s: "
            f"{'; '.join(part for part in parts if part)}{notes}"
        )


def replay(
    new: LoadedRelease,
    live: LoadedRelease | None,
    recorded: Recorded,
    settings: Settings,
    *,
    route: str,
    stop: threading.Event | None = None,
    quiet: Callable[[], bool] = lambda: True,
) -> ReplayReport:
    """Put requests to a release and to the live one, in turns, and hold the first to the bounds of the settings.

    Without a live release, or without recorded requests, sample requests of the release's own are put to it alone.

    Args:
        new: the release that is to answer.
        live: that answers now; None: none does.
        recorded: requests that asked for ``route``.
        settings: with the bounds ``release_max_drift`` and ``release_max_slowdown``.
        route: the model's name.
        stop: once set, the replay ends within a run.
        quiet: tells if no call is in flight; a run waits for such a moment, but not for long.

    Raises:
        ReleaseError: the release is refused, with the figure and the bound; or ``stop`` was set.
    """
    began_s = time.monotonic()
    with ThreadPoolExecutor(1, "replay", initializer=lower_priority) as runner:
        turns = _Turns(new.name, settings, stop or threading.Event(), quiet, runner, _SHARE)
        notes: list[str] = []
        ranking = retrieval = None
        if new.ranker is not None:
            beside = None if live is None else live.ranker
            cases = ranking_cases(new.ranker, beside, recorded.requests, notes)
            ranking = _compare(cases, turns, "ranking", live=live, drift=True)
            notes.extend(_uncompared("ranking", cases, ranking))
        if new.recommender is not None:
            index = None if live is None else live.recommender
            cases = retrieval_cases(new, new.recommender, index, recorded.queries, notes)
            retrieval = _compare(cases, turns, "retrieval", live=live, drift=False)
            notes.extend(_uncompared("retrieval", cases, retrieval))
    return ReplayReport(
        route=route,
        release=new.name,
        live="" if live is None else live.name,
        ranking=ranking,
        retrieval=retrieval,
        notes=tuple(dict.fromkeys(notes)),
        seconds=round(time.monotonic() - began_s, 3),
    )


def touch_pages(
    ranker: Ranker,
    recorded: Sequence[RecordedRequest],
    settings: Settings,
    *,
    stop: threading.Event,
    quiet: Callable[[], bool],
) -> None:
    """Score requests, so that the pages of tables that such requests read are in memory when the first one comes.

    For a release whose tables have no room in memory beside those of the live one: none was read ahead.

    Raises:
        ReleaseError: ``stop`` was set.
    """
    until_s = time.monotonic() + _MOST_S
    with ThreadPoolExecutor(1, "replay", initializer=lower_priority) as runner:
        turns = _Turns(ranker.release, settings, stop, quiet, runner, _TOUCH_SHARE)
        for request in recorded:
            with suppress(ModelError, InvalidInputError), turns.pausing():
                turns.run(ranking_run(ranker, request)())
            if time.monotonic() > until_s:
                return


class _GivenUp(ReleaseError):
    """A replay that came to no end."""


@dataclass(slots=True)
class _Turns:
    """Runs of models between those of served calls."""

    release: str
    settings: Settings
    stop: threading.Event
    quiet: Callable[[], bool]
    runner: Executor
    share: float
    clock: Callable[[], float] = field(init=False)
    spent_s: float = 0.0

    def __post_init__(self) -> None:
        # The thread's own time leaves out what other processes took; threads that a run hands work to, too.
        self.clock = time.thread_time if self.settings.intra_op_threads == 1 else time.perf_counter

    def run(self, work: Run) -> tuple[Any, float]:
        """Run a model beside those of calls; its result, and the time it took in seconds."""
        self.check()
        until_s = time.monotonic() + _QUIET_S
        while not self.quiet() and time.monotonic() < until_s:
            self.stop.wait(_LOOK_S)
        return self.runner.submit(self._timed, work).result()

    def _timed(self, work: Run) -> tuple[Any, float]:
        began_s = self.clock()
        result = work()
        took_s = self.clock() - began_s
        self.spent_s += took_s
        return result, took_s

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Leave the core to others after the block, for as long as keeps to the share."""
        before_s = self.spent_s
        yield
        self.stop.wait((self.spent_s - before_s) * (1 / self.share - 1))
        self.check()

    def check(self) -> None:
        if self.stop.is_set():
            raise _GivenUp(f"the replay of release {self.release!r} was given up")

    def refuse(self, why: str) -> ReleaseError:
        return ReleaseError(f"release {self.release!r} is refused: {why}")


def _compare(cases: Sequence[Case], turns: _Turns, kind: str, *, live: LoadedRelease | None, drift: bool) -> Comparison:
    """Run all cases once, then again until it is clear on which side of the bound the slowdown is."""
    bound, until_s = turns.settings.release_max_slowdown, time.monotonic() + _MOST_S
    means, faults, ratios = list[float](), list[str](), list[float]()
    largest, done, compared, side = 0.0, 0, 0, 0
    for number in itertools.count():
        place = number % len(cases)
        case, where = cases[place], f"request {place + 1} of {len(cases)}"
        # Once the time is clear, what is left is run for its scores.
        found = _pair(case, turns, f"its {kind} model, {where}", new_first=number % 2 == 0, timed=side >= 0)
        if found.fault:
            faults.append(found.fault)
        elif number < len(cases):
            done += 1
        if found.live is not None:
            if side >= 0:
                ratios.append(found.ratio)
            compared += number < len(cases)
            if number < len(cases) and drift:
                difference = np.abs(found.new - found.live)
                means.append(float(difference.mean()))
                largest = max(largest, float(difference.max()))
        side = side_of_bound(ratios, bound)
        # Of cases that the live release cannot answer there is nothing to repeat.
        if side > 0 or (number + 1 >= len(cases) and (side < 0 or not ratios)) or time.monotonic() > until_s:
            break
    if faults and not ratios:
        raise turns.refuse(f"{faults[0]}; that the live release fails, too, is no excuse")
    slowdown = median_ratio(ratios) if ratios else None
    if live is not None and means and float(np.mean(means)) > turns.settings.release_max_drift:
        raise turns.refuse(
            f"its scores differ from those of live release {live.name!r} by {np.mean(means):.3g} in the mean of "
            f"{len(means)} recorded requests (at most by {largest:.3g}); allowed: {turns.settings.release_max_drift:g} "
            "(RECSYS_RELEASE_MAX_DRIFT)"
        )
    if live is not None and slowdown is not None and slowdown > bound and side >= 0 and len(ratios) >= _FEW_PAIRS:
        raise turns.refuse(
            f"its {kind} model takes {slowdown:.2f} times as long as that of live release {live.name!r} (median of "
            f"{len(ratios)} pairs of runs on recorded requests); allowed: {bound:g} (RECSYS_RELEASE_MAX_SLOWDOWN)"
        )
    return Comparison(
        requests=done,
        compared=compared,
        drift_mean=float(np.mean(means)) if means else None,
        drift_max=largest if means else None,
        slowdown=slowdown,
    )


@dataclass(frozen=True, slots=True)
class _Pair:
    """Scores by both, and the ratio of the times that they took; of a release that failed, None.

    Attributes:
        fault: of the new release, where the live one failed, too.
    """

    new: Any
    live: Any
    ratio: float = 0.0
    fault: str = ""


def _pair(case: Case, turns: _Turns, where: str, *, new_first: bool, timed: bool) -> _Pair:
    """Put a request to both releases; raises ReleaseError if the new one fails where it must not."""

    def by_live() -> tuple[Any, float] | None:
        try:
            return None if case.live is None else _timed(case.live, turns, twice=timed)
        except _GivenUp:
            raise
        except Exception:  # a live release that fails is a reason to change it, not to keep it
            return None

    def by_new() -> tuple[Any, float] | Exception:
        try:
            return _timed(case.new, turns, twice=timed and case.live is not None)
        except _GivenUp:
            raise
        except Exception as error:  # of ONNX Runtime, too, whose classes are not public
            return error

    if new_first:
        new, live = by_new(), by_live()
    else:
        live, new = by_live(), by_new()
    if isinstance(new, Exception):
        if case.live is not None and live is None:
            # A value that no model was trained on, or recorded when another release took such requests
            return _Pair(None, None, fault=f"{where}: {new}")
        raise turns.refuse(f"{where}: {new}") from new
    scores, new_s = new
    if live is None:
        return _Pair(scores, None)
    if len(live[0]) and not len(scores):
        raise turns.refuse(f"{where}: it found nothing, where the live release found {len(live[0])} items")
    return _Pair(scores, live[0], ratio=new_s / max(live[1], _TICK_S))


def _timed(prepare: Callable[[], Run], turns: _Turns, *, twice: bool) -> tuple[Any, float]:
    """Run once, or twice in a row for the shorter time: the first run finds in the cache what others left there."""
    with turns.pausing():
        run = prepare()
        result, took_s = turns.run(run)
        if twice:
            took_s = min(took_s, turns.run(run)[1])
    return result, took_s


def _uncompared(kind: str, cases: Sequence[Case], found: Comparison) -> Iterator[str]:
    if cases[0].live is None:
        return
    if missed := found.requests - found.compared:
        yield f"{kind}: the live release itself failed on {missed} of {found.requests} requests"
    if left := len(cases) - found.requests:
        yield f"{kind}: {left} of {len(cases)} recorded requests failed by both, or there was no time for them"


def _words(kind: str, found: Comparison | None) -> str:
    if found is None:
        return ""
    text = f"{kind}: {found.requests} requests"
    if found.drift_mean is not None:
        text += f", scores differ by {found.drift_mean:.3g} in the mean, at most by {found.drift_max:.3g}"
    if found.slowdown is not None:
        text += f", time x {found.slowdown:.2f}"
    return text
