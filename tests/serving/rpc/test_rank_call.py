"""Rank, through gRPC, on a real store. Expected scores come from the tiny model's definition."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
import redis
from support.tiny_bundle import FEATURES, Event, reference_scores
from support.tiny_server import Start, stalled

from recsys.client import AsyncClient, InvalidArgument, NotFound, Overloaded
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.entities import make_columns


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def test_an_unknown_user_and_unknown_items_get_scores(client: AsyncClient) -> None:
    ranking = await client.rank(user=404, candidates=[1, 2, 10**15])
    np.testing.assert_allclose(ranking.scores, reference_scores(events=[], candidates=[1, 2, 10**15]), atol=1e-6)
    assert (ranking.history_events, ranking.degraded, ranking.model) == (0, (), "tiny")


async def test_an_appended_event_changes_the_next_rank(client: AsyncClient) -> None:
    before = await client.rank(user=1, candidates=[1, 2])
    await client.append_events(user=1, items=[5], timestamps_ms=[now_ms()], attributes={"rating": [3]})
    after = await client.rank(user=1, candidates=[1, 2])
    expected = reference_scores(events=[Event(5, rating=3)], candidates=[1, 2])
    np.testing.assert_allclose(after.scores, expected, atol=1e-6)
    assert not np.allclose(before.scores, after.scores)
    assert after.history_events == 1


async def test_only_the_newest_events_count_whatever_order_they_came_in(client: AsyncClient) -> None:
    start_ms = now_ms()
    late_first = [7, 3, 6, 5, 4, 2]
    await client.append_events(user=1, items=late_first, timestamps_ms=[start_ms - 10 + i for i in late_first])
    ranking = await client.rank(user=1, candidates=[9])
    newest = [Event(i) for i in (4, 5, 6, 7)]
    np.testing.assert_allclose(ranking.scores, reference_scores(events=newest, candidates=[9]), atol=1e-6)
    assert ranking.history_events == 4


async def test_stored_features_count_and_the_requests_override_them(
    client: AsyncClient, store: RedisFeatureStore
) -> None:
    users = make_columns(FEATURES.user, {"age": [1.5]}, length=1)
    items = make_columns(FEATURES.item, {"price": [4.0, 8.0]}, length=2)
    await store.put_entities("user", np.array([1]), users, timeout_s=5.0)
    await store.put_entities("item", np.array([10, 11]), items, timeout_s=5.0)
    stored = await client.rank(user=1, candidates=[10, 11, 12])
    expected = reference_scores(events=[], candidates=[10, 11, 12], age=1.5, prices=[4.0, 8.0, 0.0])
    np.testing.assert_allclose(stored.scores, expected, atol=1e-6)
    overridden = await client.rank(user=1, candidates=[12], features={"age": -2.0, "tags": ["a", "b"], "hour": 7})
    expected = reference_scores(events=[], candidates=[12], age=-2.0)
    np.testing.assert_allclose(overridden.scores, expected, atol=1e-6)


async def test_top_k_gives_distinct_candidates_best_first_and_where_they_stood(client: AsyncClient) -> None:
    candidates = [3, 1, 3, 6, 6, 2, 0]
    ranking = await client.rank(user=1, candidates=candidates, features={"age": 1.0}, top_k=3)
    scores = reference_scores(events=[], candidates=candidates, age=1.0)
    best = sorted({c: -scores[i] for i, c in reversed(list(enumerate(candidates)))}.items(), key=lambda pair: pair[1])
    assert ranking.items == [c for c, _ in best[:3]] == [6, 3, 2]
    assert ranking.positions.tolist() == [3, 0, 5]
    np.testing.assert_allclose(ranking.scores, [-s for _, s in best[:3]], atol=1e-6)


async def test_equally_good_candidates_keep_their_order(client: AsyncClient) -> None:
    ranking = await client.rank(user=1, candidates=[9, 17, 1], features={"age": 1.0}, top_k=3)
    assert ranking.items == [9, 17, 1]


async def test_a_duplicate_gets_exactly_the_score_of_its_first_occurrence(client: AsyncClient) -> None:
    candidates = [4, 2, 4, 4, 2]
    ranking = await client.rank(user=1, candidates=candidates, features={"age": 1.0})
    expected = reference_scores(events=[], candidates=candidates, age=1.0)
    np.testing.assert_allclose(ranking.scores, expected, atol=1e-6)
    assert len(ranking.scores) == 5 and ranking.scores[0] == ranking.scores[2] == ranking.scores[3]


async def test_one_candidate_and_the_most_allowed_are_ranked(start: Start) -> None:
    async with start(max_candidates=3_000) as client:
        assert len((await client.rank(user=1, candidates=[8])).scores) == 1
        assert len((await client.rank(user=1, candidates=np.arange(3_000))).scores) == 3_000
        top = await client.rank(user=1, candidates=[1, 2], top_k=50)
        assert len(top.scores) == 2


async def test_too_many_candidates_are_refused_with_the_limit(client: AsyncClient) -> None:
    with pytest.raises(InvalidArgument, match=r"candidates: got 100,001; allowed: 1 to 10,000"):
        await client.rank(user=1, candidates=np.arange(100_001))


async def test_another_model_is_not_found_and_the_nearest_named(client: AsyncClient) -> None:
    assert (await client.rank(user=1, candidates=[1], model="tiny")).model == "tiny"
    with pytest.raises(NotFound, match="'tinny' is not served here: did you mean 'tiny'"):
        await client.rank(user=1, candidates=[1], model="tinny")


async def test_a_feature_that_does_not_exist_or_fit_is_refused(client: AsyncClient) -> None:
    with pytest.raises(InvalidArgument, match="unknown feature 'agee': did you mean 'age'"):
        await client.rank(user=1, candidates=[1], features={"agee": 1.0})
    with pytest.raises(InvalidArgument, match="'hour' is 'x'; allowed: a 64-bit integer"):
        await client.rank(user=1, candidates=[1], features={"hour": "x"})
    with pytest.raises(InvalidArgument, match="feature 'hour': 2 values; allowed: at most 1"):
        await client.rank(user=1, candidates=[1], features={"hour": [1, 2]})
    with pytest.raises(InvalidArgument, match="'tags' is .*; allowed: at most 3 ids, not 4"):
        await client.rank(user=1, candidates=[1], features={"tags": ["a", "b", "c", "d"]})


async def test_foreign_bytes_under_a_users_key_degrade_only_that_user(
    client: AsyncClient, redis_admin: redis.Redis
) -> None:
    redis_admin.set(b"recsys:v1:{tiny:u:7}:h", b"someone else's value, long enough to look like a header")
    assert (await client.rank(user=7, candidates=[1])).degraded == ("user",)
    assert (await client.rank(user=8, candidates=[1])).degraded == ()


async def test_a_slow_store_costs_the_history_and_not_the_answer(start: Start, redis_admin: redis.Redis) -> None:
    async with start() as client:
        await client.append_events(user=1, items=[5], timestamps_ms=[now_ms()])
        with stalled(redis_admin):
            ranking = await client.rank(user=1, candidates=[1, 2], timeout_s=1.0)
        assert set(ranking.degraded) == {"user", "items"}
        np.testing.assert_allclose(ranking.scores, reference_scores(events=[], candidates=[1, 2]), atol=1e-6)


async def test_a_full_server_refuses_at_once(start: Start, redis_admin: redis.Redis) -> None:
    async with start(max_in_flight=2) as client:
        with stalled(redis_admin) as go_on:
            calls = [asyncio.create_task(client.rank(user=1, candidates=[1])) for _ in range(5)]
            refused, _ = await asyncio.wait(calls, timeout=1.0)
            assert len(refused) == 3
            for call in refused:
                with pytest.raises(Overloaded, match="2 requests are being served, the limit"):
                    await call
            go_on()
            answers = await asyncio.gather(*(call for call in calls if call not in refused))
        assert [a.degraded for a in answers] == [(), ()]
        assert (await client.rank(user=1, candidates=[1])).degraded == ()


async def test_a_caller_that_leaves_frees_its_place(start: Start, redis_admin: redis.Redis) -> None:
    async with start(max_in_flight=1) as client:
        with stalled(redis_admin):
            left = asyncio.create_task(client.rank(user=1, candidates=[1]))
            await asyncio.sleep(0.2)
            left.cancel()
            await asyncio.sleep(0.2)
        for _ in range(500):
            try:
                assert (await client.rank(user=1, candidates=[1])).degraded == ()
                return
            except Overloaded:  # until the store has answered the one who left
                await asyncio.sleep(0.02)
        raise AssertionError("the place is still taken")
