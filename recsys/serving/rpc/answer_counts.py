"""AnswerCounts: each call of Ranker and Related is counted, in all and to the release that was to answer it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from recsys.errors import NotExportedError
from recsys.serving.current_call import CURRENT
from recsys.serving.deadline import Deadline
from recsys.serving.handlers.ranker import Ranked
from recsys.serving.handlers.routes import LoadedRelease
from recsys.serving.rpc.convert.answers import Degradable, degraded_parts
from recsys.serving.rpc.statuses import NOT_THE_CALLERS, code_of
from recsys.serving.telemetry.counters import Telemetry
from recsys.serving.telemetry.missing import lookups
from recsys.serving.telemetry.stage_timer import StageTimer


class Answer(NamedTuple):
    """A result, whose it is, the candidates that were ranked for it, and the events that its user was known by.

    Attributes:
        history: how many are of items that the retrieval model has, and of items that it has not.
        fallback: one of ``FALLBACKS`` of a user whom that does not know; empty for others.
    """

    release: LoadedRelease
    result: Degradable
    ranked: Ranked | None = None
    history: tuple[int, int] = (0, 0)
    fallback: str = ""


class AnswerCounts:
    """Counts calls. Safe to use from several threads.

    Args:
        telemetry: counts; None for none.
    """

    def __init__(self, telemetry: Telemetry | None) -> None:
        self._telemetry = telemetry

    def answered(self, timer: StageTimer, answers: Sequence[Answer]) -> None:
        """Count a call that is answered, once for each release that answered a part of it; some 20 us.

        Args:
            timer: the call's; finished here.
            answers: of its requests, at least one.
        """
        if self._telemetry is None:
            _tell(answers)
            return
        timer.lap("convert")
        timer.finish()
        stages_us, candidates = timer.in_us(), 0
        sums: dict[int, tuple[bool, int, float]] = {}
        for release, result, ranked, history, fallback in answers:
            for item, events in zip(("known", "unknown"), history, strict=True):
                if events:
                    self._telemetry.count("retrieve_history_events", item, by=events)
            if fallback:
                self._telemetry.count("fallbacks", fallback)
            parts = degraded_parts(result)
            for part in parts:
                self._telemetry.count("degraded", part)
                self._telemetry.count_slot(release.slot, "release_degraded_parts", part)
            degraded, scores, score_sum = sums.get(release.slot, (False, 0, 0.0))
            if ranked is not None:
                candidates += len(ranked.request.candidate_keys)
                scores += len(ranked.scores)
                score_sum += float(np.add.reduce(ranked.scores))
            sums[release.slot] = degraded or bool(parts), scores, score_sum
        call = CURRENT.get()
        if call is not None:
            self._telemetry.observe(call.method, stages_us)
        self._telemetry.count("candidates", by=candidates)
        for slot, (degraded, scores, score_sum) in sums.items():
            self._telemetry.answered(slot, stages_us[-1], degraded=degraded, scores=scores, score_sum=score_sum)
        self._ended(sums, "OK")
        if self._telemetry.looks():
            self._look(answers[0])
        _tell(answers)

    def _look(self, answer: Answer) -> None:
        """Look into a request: ids that the store does not know, missing values, scores."""
        release, result, ranked, *_ = answer
        if self._telemetry is None or ranked is None or ranked.inputs is None:
            return
        inputs = ranked.inputs
        events = max(len(inputs.events), len(inputs.tail), inputs.header.stored)
        counts = lookups(
            release.features,
            user_columns=None if result.user_degraded else inputs.user_columns,
            item_columns=None if result.items_degraded else inputs.item_columns,
            events=None if result.user_degraded else events,
        )
        self._telemetry.look(release.slot, counts, ranked.scores)

    def _ended(self, slots: Iterable[int], code: str) -> None:
        call = CURRENT.get()
        if call is not None and self._telemetry is not None:
            for slot in slots:
                self._telemetry.count_slot(slot, "release_requests", call.method, code)

    @contextmanager
    def failures(
        self, deadline: Deadline, releases: Sequence[LoadedRelease], *, at: Sequence[LoadedRelease] = ()
    ) -> Iterator[None]:
        """Count what a ``with`` block raises to the releases that are at work in it.

        As a failure counts neither what is the caller's fault, such as a call that the bundle was not exported for, nor
        a caller that leaves before its deadline. What is
        made when nobody waits for it any more is no answer: callers that saw time-outs would find them counted as OK.

        Args:
            deadline: the call's.
            releases: that are to answer it.
            at: filled in the block: those that raised; empty: all of them.
        """
        try:
            yield
            deadline.check_caller()
        except Exception as error:
            slots, code = {release.slot for release in at or releases}, code_of(error)
            self._ended(slots, code.name)
            if self._telemetry is not None and code in NOT_THE_CALLERS and not isinstance(error, NotExportedError):
                for slot in slots:
                    self._telemetry.failed(slot)
            raise


def _tell(answers: Sequence[Answer]) -> None:
    """Note in the record of the call who answered it, for its span."""
    call = CURRENT.get()
    if call is None or not call.trace_id:
        return
    release, result, *_ = answers[0]
    call.release, call.degraded = release.name, tuple(degraded_parts(result))
    call.model = getattr(result, "model", "")
    call.candidates = sum(len(each.ranked.request.candidate_keys) for each in answers if each.ranked is not None)
