"""Where a Ranker runs its model, and how it finds duplicates."""

from __future__ import annotations

import os
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import reference_scores

from recsys.bundle import open_bundle
from recsys.feature_store.redis_store import RedisFeatureStore
from recsys.serving.admission import Deadline
from recsys.serving.ranker import ModelThread, Ranker, RankRequest, RankResult
from recsys.serving.session import MAX_CHUNK, Scores, Session, open_session


async def rank(
    bundle: Path, store: RedisFeatureStore, candidates: list[int], *, model_thread: ModelThread = "auto", top_k: int = 0
) -> RankResult:
    session = open_session(open_bundle(bundle))
    ranker = Ranker(session, store=store, max_in_flight=1, store_timeout_s=5.0, model_thread=model_thread)
    request = RankRequest(user_key=1, candidate_keys=np.array(candidates), features={"age": [1.0]}, top_k=top_k)
    with closing(ranker):
        return await ranker.rank(request, deadline=Deadline.after(60))


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads in which models were run."""
    names: list[str] = []
    score = Session.score

    def noted(self: Session, *arguments: object, **options: object) -> Scores:
        names.append(threading.current_thread().name)
        return score(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Session, "score", noted)
    return names


@pytest.mark.parametrize(
    ("model_thread", "cores", "expected"),
    [
        ("on", 1, "model_0"),
        ("off", 8, "MainThread"),
        ("auto", 1, "MainThread"),
        ("auto", 2, "model_0"),
    ],
)
async def test_the_model_runs_where_it_was_told_to(
    tiny_bundle: Path,
    store: RedisFeatureStore,
    threads: list[str],
    monkeypatch: pytest.MonkeyPatch,
    model_thread: ModelThread,
    cores: int,
    expected: str,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    result = await rank(tiny_bundle, store, [1, 5], model_thread=model_thread)
    np.testing.assert_allclose(result.scores, reference_scores(events=[], candidates=[1, 5], age=1.0), atol=1e-6)
    assert threads == ["MainThread", expected], "the first is the sample at opening"


async def test_a_large_request_never_runs_in_the_event_loop(
    tiny_bundle: Path, store: RedisFeatureStore, threads: list[str]
) -> None:
    await rank(tiny_bundle, store, list(range(MAX_CHUNK + 1)), model_thread="off")
    assert threads[-1] == "model_0"


@pytest.mark.parametrize("candidates", [[6, 2, 7, 0], [6, 2, 6, 7, 2, 0]], ids=["distinct", "with duplicates"])
async def test_positions_are_those_of_the_request(
    tiny_bundle: Path, store: RedisFeatureStore, candidates: list[int]
) -> None:
    scores = reference_scores(events=[], candidates=candidates, age=1.0)
    best = sorted(dict.fromkeys(candidates), key=lambda c: -scores[candidates.index(c)])
    result = await rank(tiny_bundle, store, candidates, top_k=3)
    assert result.positions is not None
    assert result.positions.tolist() == [candidates.index(c) for c in best[:3]]
    result = await rank(tiny_bundle, store, candidates)
    assert result.positions is None
    np.testing.assert_allclose(result.scores, scores, atol=1e-6)
