"""Explanations of a model with a state: what lies in the sums is taken out of them, and nothing is written."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest
import redis
from support.tiny_sdim import fill, random_events, sdim_bundle
from support.tiny_server import Start

from recsys.client import AsyncClient
from recsys.feature_store.redis.keys import state_key
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.serving.long_history import window
from recsys.serving.long_history.precompute import precompute_states

LENGTH = 1_500
ITEM = 9


async def logit(client: AsyncClient, user: int) -> float:
    score = float((await client.rank(user=user, candidates=[ITEM])).scores[0])
    return float(np.log(score / (1 - score)))


def has_state(admin: redis.Redis, user: int) -> bool:
    bundle = sdim_bundle()
    return bool(admin.exists(state_key(bundle.features.name, user, bundle.manifest.state_version)))


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("length", [3, 30, 140, LENGTH])
async def test_an_event_is_left_out_of_the_sums_or_of_the_newest_events(
    length: int, stored: bool, start: Start, redis_url: str, redis_admin: redis.Redis
) -> None:
    bundle, user = sdim_bundle(), 5
    await fill(redis_url, {user: length})
    if stored:
        await asyncio.to_thread(precompute_states, bundle, redis_url, ttl_s=1_000)
    store = RedisFeatureStore.connect(redis_url, bundle.features)
    events = random_events(bundle.features, length, seed=user)
    before = has_state(redis_admin, user)
    async with start(bundle=bundle.path) as client:
        found = await client.explain(user=user, item=ITEM, max_events=40, timeout_s=60)
        assert has_state(redis_admin, user) == before, "nothing is written"
        assert not found.degraded and found.history_events == length
        assert found.base_logit + sum(p.contribution for p in found.contributions) == pytest.approx(
            found.logit, abs=1e-9
        )
        assert found.logit == pytest.approx(await logit(client, user), abs=1e-5)
        shown = min(length, 40)
        assert found.events is not None and len(found.events.items) == shown
        assert found.older_events == length - shown
        assert found.events.shared_signatures is not None and found.signatures == 16
        places = {0, shown // 2, int(np.abs(found.events.leave_out).argmax()), shown - 1}
        assert np.abs(found.events.leave_out).max() > 3e-5, "three times what is let pass below"
        for place in places:
            redis_admin.flushall()
            await fill(redis_url, {})
            kept = np.delete(events, length - shown + place)
            await store.append(user, kept, timeout_s=30)
            less = found.logit - await logit(client, user)
            assert found.events.leave_out[place] == pytest.approx(less, abs=1e-5), place
            # Rank writes a state of these events in the background: it must not outlive them
            until_s = time.monotonic() + 20
            while len(kept) > 128 and not has_state(redis_admin, user):
                assert time.monotonic() < until_s, "no state was written"
                await asyncio.sleep(0.01)
        if found.older_events:
            redis_admin.flushall()
            await fill(redis_url, {})
            await store.append(user, events[-shown:], timeout_s=30)
            assert found.older_leave_out == pytest.approx(found.logit - await logit(client, user), abs=1e-5)
    await store.close()


async def test_a_history_that_is_not_read_whole_in_time_is_said_to_be_partial_and_not_written(
    start: Start, redis_url: str, redis_admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(redis_url, {5: LENGTH})
    read = window.Reader.read

    def too_late(self: window.Reader, first: int, end: int) -> window.EventSpan:
        """As for a request; what works in the background has all the time."""
        if threading.current_thread().name != "states":
            raise window.OutOfTime
        return read(self, first, end)

    monkeypatch.setattr(window.Reader, "read", too_late)
    async with start(bundle=sdim_bundle().path) as client:
        found = await client.explain(user=5, item=ITEM, timeout_s=60)
    assert found.degraded == ("history",) and 0 < found.history_events < LENGTH
    time.sleep(0.2)  # what would be written in the background is there by now
    assert not has_state(redis_admin, 5)
