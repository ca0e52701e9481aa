"""The users of given items: what Audience asks for, and who answers it by the pairs of a release's retrieval bundle.

Knows nothing of gRPC. Calls block, as those of ``ranker.py`` do. Shapes use ``N`` seeds, ``K`` users in an answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from recsys.arrays import BoolArray, Int64Array
from recsys.errors import NotExportedError
from recsys.serving.deadline import Deadline
from recsys.serving.handlers.admission import Admission
from recsys.serving.inference.fair_lock import FairLock
from recsys.serving.inference.pace import Pace, Work
from recsys.serving.inference.related.audience import AudienceIndex
from recsys.serving.telemetry.stage_timer import StageTimer

_SEARCH_S = 0.01
"""Guess of the time that a search takes, until it is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AudienceQuery:
    """A query for the users of some items.

    Attributes:
        seeds: keys of the items, [N], N >= 1; one that comes twice counts once.
        top_k: how many users.
        at_least: seeds that a user must have, 1 or more.
        timer: the request's clock.
    """

    seeds: Int64Array
    top_k: int
    at_least: int = 1
    timer: StageTimer = field(default_factory=StageTimer)


@dataclass(frozen=True, slots=True, kw_only=True)
class AudienceResult:
    """Users of the seeds.

    Attributes:
        users: keys, those with most seeds first; [K], K <= top_k.
        shared: how many of the seeds each has, [K].
        of: how many items each has in the log, [K].
        total: how many users there are in all.
        known: which seeds a user has, [N].
        user_degraded, items_degraded, history_degraded, attributes_degraded: never so.
    """

    users: Int64Array
    shared: Int64Array
    of: Int64Array
    total: int
    known: BoolArray
    model: str
    model_version: str
    release: str
    user_degraded: bool = False
    items_degraded: bool = False
    history_degraded: bool = False
    attributes_degraded: bool = False


class AudienceFinder:
    """Answers Audience by one retrieval bundle. Safe to use from several threads.

    Args:
        index: the users of its items; None: the bundle was exported without them.
        model, model_version, release: who answers.
        admission: the places of requests.
        model_lock: held while a model runs, and here: a search takes as long as one of a model.
    """

    def __init__(
        self,
        index: AudienceIndex | None,
        *,
        model: str,
        model_version: str,
        release: str,
        admission: Admission,
        model_lock: FairLock,
    ) -> None:
        self._index = index
        self._model, self._version, self._release = model, model_version, release
        self._admission, self._model_lock = admission, model_lock
        self._pace = Pace(_SEARCH_S)

    def find(self, query: AudienceQuery, *, deadline: Deadline) -> AudienceResult:
        """Find the users with most of the seeds.

        Raises:
            NotExportedError: the bundle has no users of items.
            OverloadedError: there is no room, or not enough time.
            TimeoutError: the deadline has passed, or nobody waits for the answer any more.
        """
        if self._index is None:
            raise NotExportedError(
                f"the bundle of retrieval model {self._model!r} does not say which users have which items: export it "
                "with `recsys export --audience`"
            )
        expected_s = self._pace.seconds(1)
        with self._admission.enter(Work(expected_s, expected_s), left_s=deadline.remaining_s()):
            seeds, place_N = np.unique(query.seeds, return_inverse=True)
            with self._model_lock.acquire(deadline, pace=self._pace, units=1):
                query.timer.lap("wait")
                deadline.remaining_s()
                found = self._index.find(seeds, query.top_k, at_least=query.at_least)
                query.timer.lap("retrieve")
        return AudienceResult(
            users=found.users,
            shared=found.shared,
            of=found.of,
            total=found.total,
            known=found.known[place_N],
            model=self._model,
            model_version=self._version,
            release=self._release,
        )
