"""Retrieve and Recommend for users of whom only a feature is stored, through gRPC, on a real store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis
from support.plan_server import plan_server
from support.tiny_bundle import FEATURES, write_tiny_bundle
from support.tiny_retrieval import FEATURES as RETRIEVAL_FEATURES
from support.tiny_retrieval import tiny_tables, write_tiny_retrieval
from support.tiny_server import Start, stalled

from recsys.client import AsyncClient, Client
from recsys.errors import BundleError, InvalidInputError
from recsys.export.retrieval.segments import Segments
from recsys.features.feature_set import Categorical
from recsys.releases.served import ServedModel
from recsys.serving.process.releases.plan import Plan, PlannedRelease
from recsys.serving.process.server import running_server
from recsys.serving.settings import Settings
from recsys.serving.telemetry.totals import read_totals

TABLES = tiny_tables(items=300)
COUNTRY = Categorical(name="country")
RANKED = replace(FEATURES, user=(*FEATURES.user, COUNTRY))
FOUND = replace(RETRIEVAL_FEATURES, user=(COUNTRY,), history=FEATURES.history)
STRANGER, NOW_MS = 10**12, 1_700_000_000_000


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A ranking model, and one that finds items 1, 2, 3 and so on for strangers of country 49; else the last first."""
    folder = tmp_path_factory.mktemp("segments")
    own_1M = -np.arange(1, 301, dtype=np.float32)[None] + 301
    segments = Segments(feature="country", keys_V=np.array([49]), popularity_VM=own_1M, note="")
    write_tiny_bundle(folder / "ranker", features=RANKED, also_read=("country",))
    write_tiny_retrieval(folder / "finder", TABLES, features=FOUND, segments=segments)
    return folder / "ranker", folder / "finder"


@pytest.fixture
async def client(start: Start, bundles: tuple[Path, Path]) -> AsyncIterator[AsyncClient]:
    async with start(bundle=bundles[0], retrieval=bundles[1]) as client:
        yield client


async def test_a_stored_value_decides_what_a_stranger_gets_and_the_answer_says_so(
    client: AsyncClient, redis_admin: redis.Redis
) -> None:
    nobody = await client.retrieve(user=STRANGER, top_k=3)
    assert (nobody.items.tolist(), nobody.fallback) == ([300, 299, 298], "popularity")
    await client.put_entities(entity="user", ids=[STRANGER, STRANGER + 1], features={"country": [49, 50]})
    await client.put_entities(entity="item", ids=list(TABLES.item_keys), features={"price": [1.0] * 300})
    own = await client.retrieve(user=STRANGER, top_k=3)
    assert (own.items.tolist(), own.fallback, own.user_known) == ([1, 2, 3], "segment", False)
    other = await client.retrieve(user=STRANGER + 1, top_k=3)
    assert (other.items.tolist(), other.fallback) == ([300, 299, 298], "popularity")
    await client.append_events(user=STRANGER, items=[2], timestamps_ms=[NOW_MS], arrivals_ms=[NOW_MS])
    reads = redis_admin.info("stats")["total_reads_processed"]
    unseen = await client.retrieve(user=STRANGER, top_k=3)
    assert redis_admin.info("stats")["total_reads_processed"] - reads - 1 == 1, "one is for asking"
    assert (unseen.items.tolist(), unseen.history_events) == ([1, 3, 4], 1)
    known = await client.retrieve(user=4, top_k=3)
    assert known.user_known and known.fallback == ""
    ranked = await client.recommend(user=STRANGER, top_k=3, candidates=3)
    assert set(ranked.items.tolist()) == {1, 3, 4} and ranked.fallback == "segment" and not ranked.user_known
    assert (await client.recommend(user=STRANGER, top_k=3, candidates=3, include_seen=True)).fallback == "segment"
    assert (await client.recommend(user=4, top_k=3, candidates=3)).fallback == ""


async def test_a_value_in_the_request_stands_in_place_of_the_stored_one(client: AsyncClient) -> None:
    async def found(**features: object) -> tuple[set[int], str]:
        ranked = await client.recommend(user=STRANGER, top_k=3, candidates=3, features=features)
        return set(ranked.items.tolist()), ranked.fallback

    own, everyone = ({1, 2, 3}, "segment"), ({300, 299, 298}, "popularity")
    assert await found() == everyone and await found(country=49) == own
    await client.put_entities(entity="user", ids=[STRANGER], features={"country": [49]})
    assert await found() == own and await found(country=50) == everyone
    assert await found(country=-1) == everyone, "missing is a value, too"
    with pytest.raises(InvalidInputError, match="'country': 2 values; allowed: at most 1"):
        await found(country=[49, 50])
    with pytest.raises(InvalidInputError, match="unknown feature 'county'.*country"):
        await found(county=49)


async def test_a_value_in_the_request_needs_no_store(
    start: Start, bundles: tuple[Path, Path], redis_admin: redis.Redis
) -> None:
    async with start(bundle=bundles[0], retrieval=bundles[1], store_timeout_ms=100) as client:
        with stalled(redis_admin):
            ranked = await client.recommend(user=STRANGER, top_k=3, candidates=3, features={"country": 49})
        assert set(ranked.items.tolist()) == {1, 2, 3} and ranked.fallback == "segment" and "user" in ranked.degraded


async def test_without_the_store_a_stranger_gets_what_is_popular_with_all(
    start: Start, bundles: tuple[Path, Path], redis_admin: redis.Redis
) -> None:
    async with start(bundle=bundles[0], retrieval=bundles[1], store_timeout_ms=100) as client:
        await client.put_entities(entity="user", ids=[STRANGER], features={"country": [49]})
        with stalled(redis_admin):
            found = await client.retrieve(user=STRANGER, top_k=3)
        assert (found.items.tolist(), found.fallback, found.degraded) == ([300, 299, 298], "popularity", ("user",))


def test_what_strangers_get_is_counted(bundles: tuple[Path, Path], tmp_path: Path, redis_url: str) -> None:
    release = PlannedRelease(name="r", ranking=bundles[0], retrieval=bundles[1], slot=0)
    plan = Plan(number=1, models={"m": ServedModel(live="r")}, default="m", releases={"r": release})
    settings = Settings(port=0, redis_url=redis_url, store_timeout_ms=5_000)
    with plan_server(plan, settings, tmp_path) as served, Client(served.address) as client:
        client.put_entities(entity="user", ids=[STRANGER], features={"country": [49]})
        for user in (STRANGER, STRANGER, STRANGER + 1, 4):
            client.retrieve(user=user, top_k=3)
        client.recommend(user=STRANGER + 1, top_k=3)
        counters = read_totals(served.counts).counters
    assert (counters["fallbacks", "segment"], counters["fallbacks", "popularity"]) == (2, 2)


def test_a_ranking_model_of_a_log_without_the_feature_is_refused(tiny_bundle: Path, bundles: tuple[Path, Path]) -> None:
    with (
        pytest.raises(BundleError, match="knows users by their feature 'country', .* has none of that name"),
        running_server(Settings(bundle=tiny_bundle, retrieval=bundles[1], port=0)),
    ):
        pass
