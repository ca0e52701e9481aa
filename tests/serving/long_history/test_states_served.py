"""A served SDIM answers from its state what it answers from the whole history."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import redis
from support.redis_servers import eventually
from support.tiny_retrieval import tiny_tables, write_tiny_retrieval
from support.tiny_sdim import ITEMS, RECENT, fill, random_events, sdim_bundle
from support.tiny_server import Start

from recsys.feature_store.redis.keys import state_key
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.feature_store.redis.values.state import StoredState, unpack_state
from recsys.features.encode import encode_request
from recsys.serving.deadline import Deadline
from recsys.serving.inference.ranking_session import RankingSession, open_ranking_session
from recsys.serving.long_history.precompute import precompute_states

LENGTH = 3_000
CANDIDATES = np.arange(1, ITEMS + 1)


def stored(admin: redis.Redis, user: int) -> StoredState | None:
    bundle = sdim_bundle()
    assert bundle.manifest.state is not None
    rows, width = bundle.manifest.state.rows, bundle.manifest.state.width
    value = admin.get(state_key(bundle.features.name, user, bundle.manifest.state_version))
    return None if value is None else unpack_state(value, version=bundle.manifest.state_version, rows=rows, width=width)


async def whole(store: RedisFeatureStore, session: RankingSession, user: int) -> Any:
    """The scores from all events, without a state."""
    _, events = await store.history(user, timeout_s=5)
    encoded = encode_request(
        session.features,
        user_key=user,
        user_columns={},
        request_values={},
        events=events[-RECENT:],
        item_keys=CANDIDATES,
        item_columns=await store.entities("item", CANDIDATES, timeout_s=5),
    )
    return session.score(encoded, deadline=Deadline.after(60)).scores


async def test_scores_from_states_are_those_from_the_whole_history(
    start: Start, redis_url: str, redis_admin: redis.Redis
) -> None:
    lengths = {1: 0, 2: 3, 3: 132, 4: 140, 5: LENGTH, 6: RECENT + 300}
    await fill(redis_url, {user: length for user, length in lengths.items() if length})
    bundle = sdim_bundle()
    session = open_ranking_session(bundle)
    store = RedisFeatureStore.connect(redis_url, bundle.features)
    async with start(bundle=bundle.path) as client:
        for step in range(6):
            for user, length in lengths.items():
                answer = await client.rank(user=user, candidates=CANDIDATES.tolist())
                assert not answer.degraded
                assert answer.history_events == min(length, RECENT)
                np.testing.assert_allclose(answer.scores, await whole(store, session, user), atol=2e-3)
                more = (0, 5, 40, 200)[step % 4]
                events = random_events(bundle.features, more, seed=100 * step + user, start=length)
                await store.append(user, events, timeout_s=5)
                lengths[user] += more
        await asyncio.to_thread(eventually, lambda: stored(redis_admin, 5))
    state = stored(redis_admin, 5)
    assert state is not None and LENGTH <= state.end <= lengths[5]
    await store.close()


async def test_after_precompute_states_no_request_reads_a_long_history(
    start: Start, redis_url: str, redis_admin: redis.Redis
) -> None:
    await fill(redis_url, {5: LENGTH})
    bundle = sdim_bundle()
    await asyncio.to_thread(precompute_states, bundle, redis_url, ttl_s=1_000)
    async with start(bundle=bundle.path) as client:
        redis_admin.config_resetstat()
        for _ in range(3):
            answer = await client.rank(user=5, candidates=CANDIDATES.tolist())
            assert answer.history_events == LENGTH
        assert redis_admin.info("commandstats")["cmdstat_getrange"]["calls"] == 6
        assert "cmdstat_lrange" not in redis_admin.info("commandstats")


async def test_a_recommendation_looks_at_a_long_history_as_rank_does(
    start: Start, redis_url: str, tmp_path: Path
) -> None:
    lengths = {1: 0, 2: 3, 3: 140, 5: LENGTH}
    await fill(redis_url, {user: length for user, length in lengths.items() if length})
    write_tiny_retrieval(tmp_path / "finder", tiny_tables(ITEMS + 20))  # who has seen all items is left with new ones
    async with start(bundle=sdim_bundle().path, retrieval=tmp_path / "finder") as client:
        for _ in range(3):  # without a state, and with one
            for user, length in lengths.items():
                found = await client.retrieve(user=user, top_k=ITEMS + 20)
                best = await client.recommend(user=user, top_k=10)
                ranked = await client.rank(user=user, candidates=found.items, top_k=10)
                assert best.items.tolist() == ranked.items and not best.degraded
                np.testing.assert_allclose(best.scores, ranked.scores, atol=1e-4)
                assert best.history_events == ranked.history_events == min(length, RECENT)
