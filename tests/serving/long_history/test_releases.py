"""Long histories outlive a release: states that fit are gone on with, and no others are used."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import pytest
import redis
from support.redis_servers import eventually
from support.tiny_sdim import ITEMS, RECENT, fill, other_network, other_table, random_events, sdim_bundle

from recsys.arrays import Float32Array
from recsys.bundle import Bundle
from recsys.client import Client
from recsys.feature_store.blocking import BlockingFeatureStore, run_sync
from recsys.feature_store.item_cache import ItemCache
from recsys.feature_store.loop_thread import loop_in_thread
from recsys.feature_store.redis.keys import state_key
from recsys.features.encode import encode_request
from recsys.serving.deadline import Deadline
from recsys.serving.inference.ranking_session import RankingSession, open_ranking_session
from recsys.serving.long_history.precompute import precompute_states
from recsys.serving.process.releases.plan import bundle_plan
from recsys.serving.process.server import RunningServer, running_server
from recsys.serving.settings import Settings

LENGTHS = {5: 3_000, 6: RECENT + 300, 7: 1_500}
CANDIDATES = np.arange(1, ITEMS + 1)
BUNDLES: dict[str, Callable[[], Bundle]] = {"base": sdim_bundle, "network": other_network, "table": other_table}


@cache
def session_of(name: str) -> RankingSession:
    return open_ranking_session(BUNDLES[name]())


class Shop:
    """A server of releases over users with long histories, and what its answers are by definition."""

    def __init__(self, server: RunningServer, client: Client, store: BlockingFeatureStore, url: str) -> None:
        self.client = client
        self.url = url
        self.lengths = dict(LENGTHS)
        self._server = server
        self._store = store
        self._name = "base"

    def switch_to(self, name: str) -> None:
        plan = bundle_plan(_settings(name, self.url))
        number = self._server.switch.plan.number + 1
        self._server.switch.prepare(dataclasses.replace(plan, number=number))
        self._server.switch.commit(number).join(20)
        self._name = name

    def counts(self) -> dict[str, int]:
        """Counts of states so far."""
        read = self._server.switch._shared.state_counts.read()
        return {name: read.get(name, 0) for name in ("used", "computed", "written")}

    def append(self, user: int, count: int) -> None:
        events = random_events(sdim_bundle().features, count, seed=self.lengths[user], start=self.lengths[user])
        self.client.append_events(
            user=user,
            items=events["item"].tolist(),
            timestamps_ms=events["timestamp"].tolist(),
            attributes={"rating": events["rating"].tolist()} if "rating" in events.dtype.names else {},
        )
        self.lengths[user] += count

    def rank(self, user: int) -> Float32Array:
        """Ask for a user, and see that the answer is what the release that serves makes of the whole history."""
        answer = self.client.rank(user=user, candidates=CANDIDATES.tolist(), timeout_s=20.0)
        assert not answer.degraded and answer.model_version == BUNDLES[self._name]().manifest.version
        assert answer.history_events == min(self.lengths[user], RECENT)
        np.testing.assert_allclose(answer.scores, self.whole(self._name, user), atol=2e-3)
        return np.asarray(answer.scores)

    def whole(self, name: str, user: int) -> Float32Array:
        """Scores from all events, without a state."""
        session = session_of(name)
        _, events = self._store.history(user, timeout_s=5)
        encoded = encode_request(
            session.features,
            user_key=user,
            user_columns={},
            request_values={},
            events=events[-RECENT:],
            item_keys=CANDIDATES,
            item_columns=run_sync(self._store._store.entities("item", CANDIDATES, timeout_s=5)),
        )
        return session.score(encoded, deadline=Deadline.after(60)).scores


def _settings(name: str, url: str) -> Settings:
    return Settings(bundle=BUNDLES[name]().path, port=0, redis_url=url, store_timeout_ms=5_000, release_replay=0)


@pytest.fixture
def shop(redis_url: str) -> Iterator[Shop]:
    with opened(redis_url) as made:
        yield made


@contextmanager
def opened(url: str) -> Iterator[Shop]:
    asyncio.run(fill(url, LENGTHS))
    features = sdim_bundle().features
    with (
        running_server(_settings("base", url)) as server,
        Client(server.address, timeout_s=20.0) as client,
        loop_in_thread("test") as loop,
    ):
        cache = ItemCache(features.item, capacity=0)
        store = BlockingFeatureStore.connect(url, features, loop=loop, cache=cache)
        try:
            yield Shop(server, client, store, url)
        finally:
            store.close()


def written(shop: Shop, count: int) -> None:
    eventually(lambda: shop.counts()["written"] >= count)


def rank_all(shop: Shop) -> list[Float32Array]:
    return [shop.rank(user) for user in LENGTHS]


def test_a_release_of_which_only_the_network_is_another_goes_on_with_the_states(shop: Shop) -> None:
    before = rank_all(shop)
    written(shop, 3)
    first = shop.counts()
    assert (first["used"], first["computed"]) == (0, 3)
    shop.switch_to("network")
    after = rank_all(shop)
    assert shop.counts() == {**first, "used": 3}
    assert min(np.abs(new - old).max() for new, old in zip(after, before, strict=True)) > 0.02
    for user in LENGTHS:
        shop.append(user, 40)
    rank_all(shop)
    written(shop, 6)
    shop.switch_to("base")
    rank_all(shop)
    # Once more than used: with its new events user 6 has more than count, so that the oldest are read and taken off.
    assert shop.counts() == {"used": 8, "computed": 3, "written": 6}


def test_a_release_with_other_tables_has_states_of_its_own_and_the_older_ones_stay(
    shop: Shop, redis_admin: redis.Redis
) -> None:
    before = rank_all(shop)
    written(shop, 3)
    precompute_states(other_table(), shop.url, ttl_s=1_000)
    shop.switch_to("table")
    after = rank_all(shop)
    assert shop.counts() == {"used": 3, "computed": 3, "written": 3}
    assert min(np.abs(new - old).max() for new, old in zip(after, before, strict=True)) > 0.02
    shop.switch_to("base")
    rank_all(shop)
    assert shop.counts() == {"used": 6, "computed": 3, "written": 3}
    for user in LENGTHS:
        for bundle in (sdim_bundle(), other_table()):
            key = state_key(bundle.features.name, user, bundle.manifest.state_version)
            assert 0 < redis_admin.ttl(key) <= Settings().state_ttl_s


def test_without_precomputed_states_a_release_with_other_tables_computes_each_once(shop: Shop) -> None:
    rank_all(shop)
    written(shop, 3)
    shop.switch_to("table")
    rank_all(shop)
    written(shop, 6)
    rank_all(shop)
    assert shop.counts() == {"used": 3, "computed": 6, "written": 6}


@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_order_releases_and_events_come_in_answers_are_those_from_the_whole_history(
    shop: Shop, seed: int
) -> None:
    random = np.random.Generator(np.random.PCG64(seed))
    for _ in range(12):
        shop.switch_to(str(random.choice([*BUNDLES])))
        for _ in range(4):
            user = int(random.choice([*LENGTHS]))
            if random.random() < 0.5:
                shop.append(user, int(random.choice([1, 35, 200])))
            shop.rank(user)
