"""RankBatch, and the timings of answers, over gRPC."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import redis
from support.tiny_bundle import FEATURES, Event, reference_scores
from support.tiny_server import Start, stalled

from recsys.client import AsyncClient, InvalidArgument, NotFound, Overloaded, RankQuery
from recsys.errors import InvalidInputError
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.history.records import make_events
from recsys.serving.rpc.convert.rank import MAX_BATCH


async def append(store: RedisFeatureStore, user: int, items: list[int]) -> None:
    events = make_events(FEATURES, item=items, timestamp_ms=range(1000, 1000 + len(items)))
    await store.append(user, events, timeout_s=5.0)


async def test_each_request_of_a_batch_is_answered_as_rank_would(client: AsyncClient, store: RedisFeatureStore) -> None:
    await append(store, 1, [1, 2])
    await append(store, 2, [3])
    queries = [
        RankQuery(user=1, candidates=[4, 5, 6], features={"age": 2.0}),
        RankQuery(user=2, candidates=[7, 1, 7], top_k=2),
        RankQuery(user=3, candidates=[2]),
    ]
    alone = [
        await client.rank(user=q.user, candidates=q.candidates, features=q.features, top_k=q.top_k) for q in queries
    ]
    together = await client.rank_batch(queries)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)
        assert (one.items, one.history_events, one.degraded) == (other.items, other.history_events, other.degraded)
    expected = reference_scores(events=[Event(1), Event(2)], candidates=[4, 5, 6], age=2.0)
    np.testing.assert_allclose(together[0].scores, expected, atol=1e-6)


async def test_a_batch_is_read_in_one_round_trip(
    client: AsyncClient, store: RedisFeatureStore, redis_admin: redis.Redis
) -> None:
    queries = [RankQuery(user=user, candidates=[1, 2]) for user in range(1, 6)]
    await client.rank_batch(queries)  # the connection is made, and the items are in the cache
    before = redis_admin.info("stats")["total_reads_processed"]
    await client.rank_batch(queries)
    after = redis_admin.info("stats")["total_reads_processed"]
    assert after - before == 2, "one for the batch, one for asking"


async def test_what_is_wrong_in_a_batch_is_named_by_its_place(client: AsyncClient) -> None:
    good = RankQuery(user=1, candidates=[1])
    with pytest.raises(InvalidArgument, match=r"requests\[1\].candidates: got 0; allowed: 1 to 10,000 per request"):
        await client.rank_batch([good, RankQuery(user=1, candidates=[])])
    with pytest.raises(InvalidArgument, match=f"requests: got 0; allowed: 1 to {MAX_BATCH} per call"):
        await client.rank_batch([])
    with pytest.raises(InvalidArgument, match=f"requests: got {MAX_BATCH + 1}; allowed: up to {MAX_BATCH}$"):
        await client.rank_batch([good] * (MAX_BATCH + 1))
    with pytest.raises(InvalidArgument, match="requests: got 12,000 candidates; allowed: 10,000 in all of a call"):
        await client.rank_batch([RankQuery(user=1, candidates=range(6_000))] * 2)
    with pytest.raises(InvalidArgument, match=r"requests\[1\]: .*unknown feature 'agee': did you mean 'age'"):
        await client.rank_batch([good, RankQuery(user=1, candidates=[1], features={"agee": 1.0})])
    with pytest.raises(NotFound, match=r"requests\[1\]: model 'tinny' is not served here"):
        await client.rank_batch([good, RankQuery(user=1, candidates=[1], model="tinny")])
    with pytest.raises(InvalidInputError, match=r"requests\[1\].user: "):
        await client.rank_batch([good, RankQuery(user=1.5, candidates=[1])])  # type: ignore[arg-type]


async def test_a_batch_takes_one_place(start: Start, redis_admin: redis.Redis) -> None:
    async with start(max_in_flight=1) as client:
        answers = await client.rank_batch([RankQuery(user=user, candidates=[1]) for user in range(20)])
        assert len(answers) == 20
        with stalled(redis_admin) as go_on:
            waiting = asyncio.create_task(client.rank_batch([RankQuery(user=1, candidates=[1])] * 3))
            await asyncio.sleep(0.2)
            with pytest.raises(Overloaded):
                await client.rank(user=1, candidates=[1])
            go_on()
            assert len(await waiting) == 3


async def test_timings_come_when_asked_for_and_add_up(client: AsyncClient) -> None:
    assert (await client.rank(user=1, candidates=[1])).timings_us == {}
    timings = dict((await client.rank(user=1, candidates=list(range(1000)), timings=True)).timings_us)
    total = timings.pop("total")
    assert timings["retrieve"] == timings["state"] == 0
    assert all(timings[stage] > 0 for stage in ("convert", "store", "encode", "user_graph", "rank_graph"))
    assert sum(timings.values()) <= total + len(timings), "each is rounded"
    (answer,) = await client.rank_batch([RankQuery(user=1, candidates=[1])], timings=True)
    assert answer.timings_us["total"] > 0
