"""Retrieve and Recommend over gRPC, by a server with one model or both."""

from __future__ import annotations

import urllib.request
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import FEATURES, Event, reference_scores, write_tiny_bundle
from tiny_retrieval import FEATURES as RETRIEVAL_FEATURES
from tiny_retrieval import best_items, tiny_tables, write_tiny_retrieval
from tiny_server import Start, server_process

from recsys.bundle import Manifest
from recsys.client import AsyncClient, Client, InvalidArgument, NotFound
from recsys.errors import BundleError
from recsys.feature_store.redis_store import RedisFeatureStore
from recsys.features.feature_set import Categorical
from recsys.features.history import make_events

TABLES = tiny_tables(items=600)


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("retrieval") / "finder"
    write_tiny_retrieval(path, TABLES)
    return path


@pytest.fixture
async def both(start: Start, finder: Path) -> AsyncIterator[AsyncClient]:
    """A client of a server with both models."""
    async with start(retrieval=finder) as client:
        yield client


async def saw(store: RedisFeatureStore, user: int, items: list[int]) -> None:
    events = make_events(FEATURES, item=items, timestamp_ms=range(1000, 1000 + len(items)))
    await store.append(user, events, timeout_s=5.0)


async def test_retrieve_gives_the_best_items_that_were_not_seen(both: AsyncClient, store: RedisFeatureStore) -> None:
    await saw(store, 3, [2, 9])
    found = await both.retrieve(user=3, top_k=12, exclude=[16, 10**12])
    items, scores = best_items(TABLES, 3, [2, 9, 16], 12)
    assert found.items.tolist() == items.tolist()
    np.testing.assert_array_equal(found.scores, scores)
    assert (found.model, found.user_known, found.history_events, found.degraded) == ("finder", True, 2, ())
    again = await both.retrieve(user=3, top_k=12, include_seen=True)
    assert again.items.tolist() == best_items(TABLES, 3, [], 12)[0].tolist()


async def test_recommend_is_retrieve_then_rank(both: AsyncClient, store: RedisFeatureStore) -> None:
    await saw(store, 2, [5, 6])
    found = await both.recommend(user=2, top_k=7, candidates=40, features={"age": 1.0})
    items, _ = best_items(TABLES, 2, [5, 6], 40)
    logits = reference_scores(events=[Event(5), Event(6)], candidates=items.tolist(), age=1.0)
    order = np.argsort(-logits, kind="stable")[:7]
    np.testing.assert_allclose(found.scores, logits[order], atol=1e-6)
    assert set(found.items.tolist()) <= set(items.tolist())
    ranking = await both.rank(user=2, candidates=items, top_k=7, features={"age": 1.0})
    assert found.items.tolist() == list(ranking.items)
    assert (found.model, found.retrieval_model, found.candidates, found.history_events) == ("tiny", "finder", 40, 2)
    timings = (await both.recommend(user=2, timings=True)).timings_us
    assert timings["retrieve"] > 0 and timings["rank_graph"] > 0 and timings["store"] > 0


async def test_an_unknown_user_gets_the_most_popular_items(both: AsyncClient) -> None:
    found = await both.retrieve(user=10**9, top_k=3)
    assert (found.user_known, found.items.tolist()) == (False, [600, 599, 598])
    best = await both.recommend(user=10**9, top_k=3)
    assert (best.user_known, best.candidates, len(best.items)) == (False, 500, 3)


async def test_numbers_out_of_range_are_named(both: AsyncClient) -> None:
    with pytest.raises(InvalidArgument, match="top_k is 0; allowed: 1 to 10,000"):
        await both.retrieve(user=1, top_k=0)
    with pytest.raises(InvalidArgument, match="candidates is 5; allowed: 10 to 10,000"):
        await both.recommend(user=1, top_k=10, candidates=5)
    with pytest.raises(InvalidArgument, match="exclude: got 10,001; allowed: 1 to 10,000"):
        await both.retrieve(user=1, exclude=range(10_001))
    with pytest.raises(NotFound, match="retrieval model 'findr' is not served here: did you mean 'finder'"):
        await both.retrieve(user=1, model="findr")


async def test_a_server_says_which_model_it_lacks(client: AsyncClient, start: Start, finder: Path) -> None:
    with pytest.raises(NotFound, match="no retrieval model; start it with one"):
        await client.retrieve(user=1)
    with pytest.raises(NotFound, match="no retrieval model; start it with one"):
        await client.recommend(user=1)
    async with start(bundle=finder) as alone:
        assert len((await alone.retrieve(user=1, top_k=5)).items) == 5
        with pytest.raises(NotFound, match="no ranking model"):
            await alone.rank(user=1, candidates=[1])
        with pytest.raises(NotFound, match="no ranking model"):
            await alone.recommend(user=1)


async def test_models_that_cannot_go_together_do_not_start(
    start: Start, tiny_bundle: Path, finder: Path, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="expected a retrieval bundle"):
        async with start(retrieval=tiny_bundle):
            pass
    with pytest.raises(BundleError, match="one of each"):
        async with start(bundle=finder, retrieval=finder):
            pass
    others = write_retrieval_of_texts(tmp_path / "texts")
    with pytest.raises(BundleError, match=f"retrieval model '{others.model}' names users by string ids"):
        async with start(retrieval=tmp_path / "texts"):
            pass


def write_retrieval_of_texts(path: Path) -> Manifest:
    features = replace(RETRIEVAL_FEATURES, user_id=Categorical(name="user_id", id_type="string"))
    return write_tiny_retrieval(path, features=features)


def test_workers_serve_both_models_and_count_together(tmp_path: Path, finder: Path, redis_url: str) -> None:
    write_tiny_bundle(tmp_path / "bundle")
    variables = {
        "RECSYS_BUNDLE": str(tmp_path / "bundle"),
        "RECSYS_RETRIEVAL": str(finder),
        "RECSYS_WORKERS": "2",
        "RECSYS_METRICS_PORT": "0",
        "REDIS_URL": redis_url,
    }
    with server_process(tmp_path, **variables) as server:
        for user in range(12):
            with Client(server.address, timeout_s=10.0) as client:
                assert len(client.recommend(user=user, top_k=4).items) == 4
        page = urllib.request.urlopen(server.facts["metrics"], timeout=10).read().decode()
    assert 'recsys_requests_total{code="OK",method="Recommend"} 12.0' in page
    assert f"recsys_candidates_total {12 * 500}.0" in page
    assert 'recsys_stage_seconds_count{stage="retrieve"} 12.0' in page
