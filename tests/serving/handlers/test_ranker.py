"""A Ranker among threads, and how it finds duplicates."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support.tiny_bundle import reference_scores

from recsys.bundle import open_bundle
from recsys.feature_store.blocking import BlockingFeatureStore
from recsys.serving.deadline import Deadline
from recsys.serving.handlers.admission import Admission
from recsys.serving.handlers.ranker import Ranker, RankRequest, RankResult
from recsys.serving.inference.fair_lock import FairLock
from recsys.serving.inference.ranking_session import open_ranking_session


def ranker_on(bundle: Path, store: BlockingFeatureStore, *, max_in_flight: int = 1) -> Ranker:
    session = open_ranking_session(open_bundle(bundle))
    admission = Admission(max_in_flight)
    return Ranker(
        session, release="tiny-1", store=store, admission=admission, model_lock=FairLock(1), store_timeout_s=5.0
    )


def asked(candidates: list[int], *, age: float = 1.0, top_k: int = 0) -> RankRequest:
    return RankRequest(user_key=1, candidate_keys=np.array(candidates), features={"age": [age]}, top_k=top_k)


def rank(bundle: Path, store: BlockingFeatureStore, candidates: list[int], *, top_k: int = 0) -> RankResult:
    request = asked(candidates, top_k=top_k)
    return ranker_on(bundle, store).rank(request, deadline=Deadline.after(60))


def test_threads_that_rank_at_a_time_get_their_own_answers(
    tiny_bundle: Path, blocking_store: BlockingFeatureStore
) -> None:
    ranker = ranker_on(tiny_bundle, blocking_store, max_in_flight=4)

    def check(thread: int) -> None:
        for number in range(50):
            candidates, age = list(range(thread, thread + 1 + number)), thread + number / 7
            answer = ranker.rank(asked(candidates, age=age), deadline=Deadline.after(60))
            expected = reference_scores(events=[], candidates=candidates, age=age)
            np.testing.assert_allclose(answer.scores, expected, atol=1e-6)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(check, range(4)))


@pytest.mark.parametrize("candidates", [[6, 2, 7, 0], [6, 2, 6, 7, 2, 0]], ids=["distinct", "with duplicates"])
def test_positions_are_those_of_the_request(
    tiny_bundle: Path, blocking_store: BlockingFeatureStore, candidates: list[int]
) -> None:
    scores = reference_scores(events=[], candidates=candidates, age=1.0)
    best = sorted(dict.fromkeys(candidates), key=lambda c: -scores[candidates.index(c)])
    result = rank(tiny_bundle, blocking_store, candidates, top_k=3)
    assert result.positions is not None
    assert result.positions.tolist() == [candidates.index(c) for c in best[:3]]
    result = rank(tiny_bundle, blocking_store, candidates)
    assert result.positions is None
    np.testing.assert_allclose(result.scores, scores, atol=1e-6)
