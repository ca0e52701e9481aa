"""Retrieve and Recommend of a model that knows users by their history, through gRPC, on a real store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from support.plan_server import plan_server
from support.tiny_bundle import FEATURES, write_tiny_bundle
from support.tiny_retrieval import (
    HISTORY_FEATURES,
    best_by_history,
    tiny_history_tables,
    write_tiny_history_retrieval,
)
from support.tiny_server import Start, stalled

from recsys.client import AsyncClient, Client
from recsys.errors import BundleError
from recsys.features.feature_set import Categorical, History
from recsys.models.retrieval.history_weights import HistoryWeights
from recsys.releases.served import ServedModel
from recsys.serving.process.releases.plan import Plan, PlannedRelease
from recsys.serving.settings import Settings
from recsys.serving.telemetry.totals import read_totals

TABLES = tiny_history_tables(items=300)
NOW_MS = 1_700_000_000_000


@pytest.fixture(scope="module")
def knower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("retrieval") / "knower"
    write_tiny_history_retrieval(path, TABLES)
    return path


@pytest.fixture
async def client(start: Start, knower: Path) -> AsyncIterator[AsyncClient]:
    """A client of a server with both models and an empty store."""
    async with start(retrieval=knower) as client:
        yield client


async def saw(client: AsyncClient, user: int, *items: int, time_ms: int = NOW_MS) -> None:
    times = [time_ms + place for place in range(len(items))]
    await client.append_events(user=user, items=items, timestamps_ms=times, arrivals_ms=times)


def best(*items: int, k: int = 9, left_out: tuple[int, ...] | None = None) -> list[int]:
    return best_by_history(TABLES, dict.fromkeys(items, 1.0), items if left_out is None else left_out, k)[0].tolist()


async def test_an_event_changes_the_next_answer_and_no_user_is_new_to_the_model(client: AsyncClient) -> None:
    first = await client.retrieve(user=10**12, top_k=9)
    assert first.items.tolist() == list(range(300, 291, -1)) and not first.user_known
    await saw(client, 10**12, 5)
    second = await client.retrieve(user=10**12, top_k=9)
    assert second.items.tolist() == best(5) and second.user_known and second.history_events == 1
    await saw(client, 10**12, 77, time_ms=NOW_MS + 5)
    third = await client.retrieve(user=10**12, top_k=9, timings=True)
    assert third.items.tolist() == best(5, 77) != second.items.tolist()
    assert (third.model, third.history_events, third.degraded) == ("knower", 2, ())
    before = await client.retrieve(user=10**12, top_k=9, time_ms=NOW_MS + 5)
    assert before.items.tolist() == second.items.tolist(), "as of a time, it knows what had happened by then"
    kept = await client.retrieve(user=10**12, top_k=9, include_seen=True)
    assert kept.items.tolist() == best(5, 77, left_out=()) and kept.history_events == 0 and kept.user_known


async def test_recommend_reads_the_user_once_for_both_models(client: AsyncClient, redis_admin: redis.Redis) -> None:
    await saw(client, 4, 5, 77)
    await client.put_entities(entity="item", ids=list(TABLES.item_keys), features={"price": [1.0] * 300})
    await client.recommend(user=4, top_k=5, candidates=20)
    reads = redis_admin.info("stats")["total_reads_processed"]
    found = await client.recommend(user=4, top_k=20, candidates=20)
    assert redis_admin.info("stats")["total_reads_processed"] - reads - 1 == 1, "one is for asking"
    assert set(found.items.tolist()) == set(best(5, 77, k=20)) and found.user_known and found.history_events == 2


async def test_a_store_that_is_away_leaves_what_is_popular_and_says_so(
    start: Start, knower: Path, redis_admin: redis.Redis
) -> None:
    async with start(retrieval=knower, store_timeout_ms=50) as client:
        await saw(client, 4, 5)
        with stalled(redis_admin):
            found = await client.retrieve(user=4, top_k=3)
        assert found.items.tolist() == [300, 299, 298] and not found.user_known and found.degraded


def test_events_of_items_that_the_model_has_not_are_counted(
    knower: Path, tiny_bundle: Path, tmp_path: Path, redis_url: str
) -> None:
    release = PlannedRelease(name="r", ranking=tiny_bundle, retrieval=knower, slot=0)
    plan = Plan(number=1, models={"m": ServedModel(live="r")}, default="m", releases={"r": release})
    settings = Settings(port=0, redis_url=redis_url, store_timeout_ms=5_000)
    with plan_server(plan, settings, tmp_path) as served, Client(served.address) as client:
        client.append_events(user=4, items=[5, 10**9, 5 + 10**9], timestamps_ms=[NOW_MS, NOW_MS + 1, NOW_MS + 2])
        assert client.retrieve(user=4, top_k=3).items.tolist() == best(5, k=3)
        client.recommend(user=4, top_k=3)
        counters = read_totals(served.counts).counters
    assert counters["retrieve_history_events", "known"] == 2
    assert counters["retrieve_history_events", "unknown"] == 4


async def test_a_ranking_model_of_another_history_does_not_start(start: Start, knower: Path, tmp_path: Path) -> None:
    rated = tiny_history_tables(items=30, weights=HistoryWeights(attribute="action", actions=((1, 2.0),)))
    features = replace(HISTORY_FEATURES, history=History(attributes=(Categorical(name="action", storage="u8"),)))
    write_tiny_history_retrieval(tmp_path / "actions", rated, features=features)
    write_tiny_bundle(tmp_path / "ranking", features=FEATURES)
    with pytest.raises(
        BundleError,
        match="'knower' knows users by their history, but .* of ranking model 'tiny' has no attribute 'action' of the",
    ):
        async with start(bundle=tmp_path / "ranking", retrieval=tmp_path / "actions"):
            pass
