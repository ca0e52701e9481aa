"""Parts of a request that can be left out, and the logits of the request with only some of them.

Left out, a feature is missing, as the encoder encodes a missing one; the history is one without events. An item's or
a user's id counts as a feature. Parts of the user's side come first: each coalition of them is a run of the ``user``
graph, and all coalitions of the item's parts that go with it are candidates of one run of the ``rank`` graph.

Legend: ``P`` parts that have a value, ``K`` coalitions of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recsys.arrays import BoolArray, Float64Array
from recsys.features.columns import Column, missing_column
from recsys.features.encode import EncodedRequest
from recsys.features.feature_set import Feature, FeatureSet
from recsys.serving.deadline import CallerLeftError, Deadline
from recsys.serving.handlers.explain.past import Past, Pasts
from recsys.serving.handlers.explain.queries import Side
from recsys.serving.inference.fair_lock import ModelLock
from recsys.serving.inference.ranking_session import RankingSession

HISTORY = "history"
"""Name of the part that is all past events."""

_STEP_S = 0.0005
"""Pause before each run. A thread that computes all the time is taken off the core only after milliseconds
(``scheduling.use_batch_scheduling``), which each thread that a call wakes would wait for."""

_LONGEST_PAUSE_S = 0.01
"""The same while others are being answered without end: some tenth of a core is left for the explanation."""


def give_way(
    others: Callable[[], bool],
    *,
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Pause until no other call is being answered, but not for long.

    Args:
        others: asks if any is.
        sleep: takes seconds.
        clock: seconds.
    """
    end_s = clock() + _LONGEST_PAUSE_S
    sleep(_STEP_S)
    while others() and clock() < end_s:
        sleep(_STEP_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a request.

    Attributes:
        name, side, feature, value, missing: as of a Contribution.
        nothing: the column in place of ``value`` when it is left out; None for the history.
    """

    name: str
    side: Side
    feature: Feature | None = None
    value: Column | None = None
    nothing: Column | None = None
    missing: bool = False


def parts_of(features: FeatureSet, encoded: EncodedRequest, *, past_events: int) -> list[Part]:
    """List the parts of a request with one candidate and so many past events, the user's first, the item's last."""
    parts = [
        *(_part(f, "user", encoded.user[f.name]) for f in (features.user_id, *features.user)),
        *(_part(f, "context", encoded.user[f.name]) for f in features.context),
    ]
    if features.history is not None:
        parts.append(Part(name=HISTORY, side="history", missing=not past_events))
    return [*parts, *(_part(f, "item", encoded.candidates[f.name]) for f in (features.item_id, *features.item))]


def _part(feature: Feature, side: Side, value: Column) -> Part:
    nothing = missing_column(feature, 1)
    missing = np.array_equal(value, nothing, equal_nan=value.dtype.kind == "f")
    return Part(name=feature.name, side=side, feature=feature, value=value, nothing=nothing, missing=missing)


class Runs:
    """Runs of a model's graphs for one explanation: before each of them other calls go first (:func:`give_way`).

    Args:
        session: the model.
        model_lock: held while a graph runs.
        deadline: of the explanation.
        others: asks if other calls are being answered.
    """

    def __init__(
        self, session: RankingSession, *, model_lock: ModelLock, deadline: Deadline, others: Callable[[], bool]
    ) -> None:
        self.session = session
        self._model_lock = model_lock
        self._deadline = deadline
        self._others = others
        self.count = 0
        """Runs so far."""

    def logits(self, user: Mapping[str, Column], past: Past, candidates: Mapping[str, Column]) -> Float64Array:
        """Logits of candidates for a user with that past; as many as ``candidates`` has rows.

        Raises:
            TimeoutError: the deadline has passed, or nobody waits for the answer any more.
            ModelError: one is not finite, or the bundle's tables were changed.
        """
        give_way(self._others)
        try:
            answer = self.session.score(
                _request(user, past, candidates),
                deadline=self._deadline,
                sums=past.sums,
                fresh=past.fresh,
                model_lock=self._model_lock,
            )
        except TimeoutError as error:
            raise self._late(error) from error
        self.count += 1
        return answer.logits.astype(np.float64)

    def user_side(self, user: Mapping[str, Column], past: Past) -> Mapping[str, Column]:
        """The tensors that the ``rank`` graph reads of a user with that past; raises as :meth:`logits`."""
        give_way(self._others)
        try:
            side = self.session.user_side(
                _request(user, past, {}),
                deadline=self._deadline,
                sums=past.sums,
                fresh=past.fresh,
                model_lock=self._model_lock,
            )
        except TimeoutError as error:
            raise self._late(error) from error
        self.count += 1
        return side

    def _late(self, error: TimeoutError) -> TimeoutError:
        if isinstance(error, CallerLeftError):
            return error
        return TimeoutError(
            f"{error}, after {self.count} runs of the model for an explanation: give it more time, or ask for fewer "
            "events (max_events)"
        )


def _request(user: Mapping[str, Column], past: Past, candidates: Mapping[str, Column]) -> EncodedRequest:
    return EncodedRequest(user={**user, **past.columns}, candidates=dict(candidates), history_events=past.events)


class PartScores:
    """Logits of a request with only some of its parts: the worth of coalitions. Each is computed once.

    Args:
        parts: those that have a value, the user's side first; P.
        encoded: the request, with one candidate.
        pasts: of the user.
        runs: that are made.
    """

    def __init__(self, parts: Sequence[Part], encoded: EncodedRequest, pasts: Pasts, runs: Runs) -> None:
        self._runs = runs
        self._of_user = [part for part in parts if part.side != "item"]
        self._of_item = [part for part in parts if part.side == "item"]
        self._user = {name: column for name, column in encoded.user.items() if not name.startswith(f"{HISTORY}.")}
        self._item = encoded.candidates
        self._pasts = pasts
        self._known: dict[bytes, float] = {}

    @property
    def user_parts(self) -> int:
        """Number of the parts of the user's side."""
        return len(self._of_user)

    def __call__(self, coalitions: BoolArray) -> Float64Array:
        """Logits of coalitions, [K, P], True where a part is in, to [K]; raises as :meth:`Runs.logits`."""
        keys = [row.tobytes() for row in coalitions]
        places = {key: place for place, key in enumerate(keys) if key not in self._known}
        new = coalitions[list(places.values())]
        if len(new):
            sides, side_of = np.unique(new[:, : self.user_parts], axis=0, return_inverse=True)
            side_of = side_of.reshape(-1)
            names = list(places)
            for number, side in enumerate(sides):
                with_side = np.flatnonzero(side_of == number)
                found = self._logits(side, new[with_side, self.user_parts :])
                self._known.update(zip((names[place] for place in with_side.tolist()), found.tolist(), strict=True))
        return np.array([self._known[key] for key in keys])

    def _logits(self, has: BoolArray, items_has: BoolArray) -> Float64Array:
        user, past = dict(self._user), self._pasts.whole()
        for part, there in zip(self._of_user, has.tolist(), strict=True):
            if there:
                continue
            if part.nothing is None:
                past = self._pasts.nothing()
            else:
                user[part.name] = part.nothing
        count = len(items_has)
        candidates = {name: np.repeat(column, count, axis=0) for name, column in self._item.items()}
        for number, part in enumerate(self._of_item):
            assert part.nothing is not None
            candidates[part.name][~items_has[:, number]] = part.nothing
        return self._runs.logits(user, past, candidates)
