"""Trending items, from events that are appended, through gRPC."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from support.tiny_retrieval import HISTORY_FEATURES, write_tiny_history_retrieval, write_tiny_retrieval
from support.tiny_server import Start, stalled
from typer.testing import CliRunner

from recsys.cli import app
from recsys.client import AsyncClient, Client, InvalidArgument, NotFound
from recsys.errors import InvalidInputError
from recsys.features.feature_set import FeatureSet
from recsys.features.trending import Trending
from recsys.proto import ranker_pb2
from recsys.serving.process.server import running_server
from recsys.serving.rpc.convert.retrieval import retrieve_query
from recsys.serving.settings import Settings


def counting(trending: Trending) -> FeatureSet:
    assert HISTORY_FEATURES.history is not None
    return replace(HISTORY_FEATURES, history=replace(HISTORY_FEATURES.history, trending=trending))


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trending") / "counter"
    features = counting(Trending(half_life_s=3600, attribute="rating", weights=((5, 4.0),), other=1.0))
    write_tiny_history_retrieval(path, features=features)
    return path


@pytest.fixture
async def client(start: Start, counter: Path) -> AsyncIterator[AsyncClient]:
    async with start(bundle=counter, store_timeout_ms=300) as client:
        yield client


async def took(client: AsyncClient, user: int, item: int, *, rating: int = 1, ago_ms: int = 0) -> None:
    at_ms = time.time_ns() // 1_000_000 - ago_ms
    await client.append_events(user=user, items=[item], timestamps_ms=[at_ms], attributes={"rating": [rating]})


async def test_what_was_taken_most_lately_comes_first_however_often_an_event_is_sent(client: AsyncClient) -> None:
    await took(client, 1, 11, ago_ms=3_600_000)
    await took(client, 2, 12, rating=5)
    at_ms = time.time_ns() // 1_000_000
    for _ in range(3):
        await client.append_events(user=3, items=[13], timestamps_ms=[at_ms], attributes={"rating": [1]})
    now = await client.trending(top_k=5, timings=True)
    assert now.items.tolist() == [12, 13, 11]
    assert now.scores.tolist() == pytest.approx([4.0, 1.0, 0.5], rel=0.01)
    assert (now.half_life_s, now.window_s, now.stale, now.degraded) == (3600, 8 * 3600, False, ())
    assert abs(now.as_of_ms - at_ms) < 60_000 and now.timings_us["store"] > 0
    assert (await client.trending(top_k=1, exclude=[12, 999])).items.tolist() == [13]


async def test_an_event_is_seen_within_seconds(client: AsyncClient) -> None:
    assert (await client.trending()).items.tolist() == []
    await took(client, 1, 11)
    until_s = time.monotonic() + 30
    while not len((await client.trending()).items):
        assert time.monotonic() < until_s
        await asyncio.sleep(0.1)


async def test_a_store_that_is_away_gives_what_was_read_last_and_says_so(
    client: AsyncClient, redis_admin: redis.Redis
) -> None:
    await took(client, 1, 11)
    before = await client.trending()
    with stalled(redis_admin):
        until_s = time.monotonic() + 30
        while not (now := await client.trending(timeout_s=5.0)).stale:
            assert time.monotonic() < until_s
            await asyncio.sleep(0.2)
    assert (now.items.tolist(), now.as_of_ms) == ([11], before.as_of_ms) and now.degraded == ("counts",)


async def test_a_store_that_never_was_there_gives_nothing_and_says_so(
    start: Start, counter: Path, redis_admin: redis.Redis
) -> None:
    async with start(bundle=counter, store_timeout_ms=50) as client:
        with stalled(redis_admin):
            now = await client.trending(timeout_s=5.0)
        assert (now.items.tolist(), now.as_of_ms, now.stale) == ([], 0, True)


async def test_what_is_out_of_range_or_not_counted_is_refused(client: AsyncClient, start: Start) -> None:
    with pytest.raises(InvalidArgument, match="top_k is 0; allowed: 1 to 10,000"):
        await client.trending(top_k=0)
    with pytest.raises(InvalidArgument, match=r"exclude\[0\]: 'item_id' is 'a'"):
        await client.trending(exclude=["a"])


async def test_a_feature_set_that_counts_nothing_says_how_to_count(start: Start, tmp_path: Path) -> None:
    write_tiny_retrieval(tmp_path / "plain")
    async with start(retrieval=tmp_path / "plain") as client:
        with pytest.raises(NotFound, match="'tiny' counts nothing that is trending: declare history.trending"):
            await client.trending()
        with pytest.raises(NotFound, match="'tiny' counts nothing that is trending: declare history.trending"):
            await client.retrieve(user=1, fallback="trending")  # though the model knows the user
        with pytest.raises(InvalidInputError, match="fallback is 'trendy': did you mean 'trending'"):
            await client.retrieve(user=1, fallback="trendy")


def test_the_command_line_prints_it(counter: Path, redis_url: str) -> None:
    with running_server(Settings(bundle=counter, redis_url=redis_url, port=0)) as server:
        with Client(server.address, timeout_s=5.0) as client:
            client.append_events(user=1, items=[11], timestamps_ms=[time.time_ns() // 1_000_000])
        asked = ["trending", "--address", server.address, "--json"]
        facts = json.loads(CliRunner().invoke(app, asked, catch_exceptions=False).stdout)
    assert [each["item"] for each in facts["items"]] == [11] and facts["half_life_s"] == 3600


async def test_a_store_that_is_away_leaves_unknown_users_what_was_trending_last_and_says_so(
    start: Start, tmp_path: Path, redis_admin: redis.Redis
) -> None:
    write_tiny_retrieval(tmp_path / "by_id", features=counting(Trending(half_life_s=3600, other=1.0)))
    async with start(bundle=tmp_path / "by_id", store_timeout_ms=300) as client:
        await took(client, 1, 11)
        first = await client.retrieve(user=99, top_k=3, fallback="trending")
        assert first.items.tolist()[0] == 11 and first.fallback == "trending" and first.degraded == ()
        with stalled(redis_admin):
            await asyncio.sleep(1.1)
            later = await client.retrieve(user=99, top_k=3, fallback="trending", include_seen=True, timeout_s=5.0)
    assert later.items.tolist() == first.items.tolist() and later.degraded == ("user",)


async def test_an_item_that_no_search_could_find_is_not_found_for_its_events(client: AsyncClient) -> None:
    await took(client, 1, 10**9, rating=5)
    await took(client, 2, 11)
    assert (await client.trending()).items.tolist() == [10**9, 11]
    found = await client.retrieve(user=99, top_k=3, fallback="trending")
    assert found.items.tolist()[0] == 11 and 10**9 not in found.items


@pytest.mark.parametrize("number", [2, 7])
def test_a_fallback_that_no_request_can_ask_for_is_refused(number: int) -> None:
    message = ranker_pb2.RetrieveRequest(user=ranker_pb2.Id(integer=1), top_k=1, fallback=number)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=f"fallback is {number}; allowed: FALLBACK_POPULARITY or unset"):
        retrieve_query(message, HISTORY_FEATURES)
