"""Retrieve and recommend on a real Redis, below gRPC: what is left out, what the ranker makes of it, what degrades."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import redis
from support.tiny_bundle import FEATURES, Event, reference_scores
from support.tiny_retrieval import FEATURES as RETRIEVAL_FEATURES
from support.tiny_retrieval import best_items, tiny_tables, write_tiny_retrieval
from support.tiny_server import stalled

from recsys.arrays import BoolArray, Int64Array
from recsys.bundle import open_bundle
from recsys.errors import BundleError, InvalidInputError, NotFoundError, OverloadedError
from recsys.feature_store.blocking import BlockingFeatureStore
from recsys.feature_store.redis.keys import history_keys
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.columns import Column
from recsys.features.entities import make_columns
from recsys.features.feature_set import Categorical
from recsys.features.history.records import Events, make_events
from recsys.serving.deadline import Deadline
from recsys.serving.handlers.admission import Admission
from recsys.serving.handlers.queries import RecommendQuery, RecommendResult, RetrieveQuery, RetrieveResult
from recsys.serving.handlers.ranker import Ranker
from recsys.serving.handlers.recommender import Recommender
from recsys.serving.inference.candidate_index import AddedItems, Allowed, ItemRows, Retrieved
from recsys.serving.inference.fair_lock import FairLock
from recsys.serving.inference.ranking_session import open_ranking_session
from recsys.serving.inference.retrieval_session import open_retrieval

TABLES = tiny_tables(items=600)
HOUR_MS = 3_600_000
NOW_MS = 1_700_000_000_000
NOTHING = np.empty(0, dtype=np.int64)


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("retrieval") / "finder"
    write_tiny_retrieval(path, TABLES)
    return path


@pytest.fixture
def recommender(finder: Path, tiny_bundle: Path, blocking_store: BlockingFeatureStore) -> Recommender:
    ranker = Ranker(
        open_ranking_session(open_bundle(tiny_bundle)),
        release="r-1",
        store=blocking_store,
        admission=Admission(2),
        model_lock=FairLock(1),
        store_timeout_s=5.0,
    )
    return Recommender(
        open_retrieval(open_bundle(finder)),
        release="r-1",
        ranker=ranker,
        store=blocking_store,
        admission=ranker.admission,
        model_lock=ranker.model_lock,
        store_timeout_s=5.0,
    )


async def saw(store: RedisFeatureStore, user: int, items: Sequence[int], *, time_ms: int = NOW_MS) -> None:
    """One event an hour, the last at ``time_ms``; each arrived when it happened."""
    times = [time_ms - HOUR_MS * (len(items) - 1 - i) for i in range(len(items))]
    events = make_events(
        FEATURES, item=items, timestamp_ms=times, arrival_ms=times, attributes={"rating": [1] * len(items)}
    )
    await store.append(user, events, timeout_s=10)


def retrieve(recommender: Recommender, user: int, top_k: int = 10, **query: object) -> RetrieveResult:
    given = {"exclude": NOTHING, **query}
    asked = RetrieveQuery(user_key=user, top_k=top_k, **given)  # type: ignore[arg-type]
    return recommender.retrieve(asked, deadline=Deadline.after(60))


def recommend(recommender: Recommender, user: int, top_k: int = 10, **query: object) -> RecommendResult:
    given = {"exclude": NOTHING, "candidates": 20, **query}
    asked = RecommendQuery(user_key=user, top_k=top_k, **given)  # type: ignore[arg-type]
    return recommender.recommend(asked, deadline=Deadline.after(60))


async def test_items_of_the_whole_history_are_left_out_also_those_the_ranker_no_longer_reads(
    recommender: Recommender, store: RedisFeatureStore
) -> None:
    seen = best_items(TABLES, 2, [], 12)[0].tolist()
    await saw(store, 2, [*seen, seen[0]])
    got = retrieve(recommender, 2)
    expected, scores = best_items(TABLES, 2, seen, 10)
    assert got.items.tolist() == expected.tolist() and got.scores.tolist() == scores.tolist()
    assert (got.history_events, got.user_known, got.user_degraded) == (13, True, False)
    assert (got.model, got.model_version) == ("finder", recommender.index.version)


async def test_seen_items_stay_in_if_asked_and_excluded_ones_never(
    recommender: Recommender, store: RedisFeatureStore
) -> None:
    best = best_items(TABLES, 2, [], 12)[0].tolist()
    await saw(store, 2, best[:4])
    exclude = np.array([best[1], best[6], best[6], 10**12])
    assert (
        retrieve(recommender, 2, exclude=exclude).items.tolist()
        == best_items(TABLES, 2, best[:4] + [best[6]], 10)[0].tolist()
    )
    everything = retrieve(recommender, 2, exclude=exclude, include_seen=True)
    assert everything.items.tolist() == best_items(TABLES, 2, [best[1], best[6]], 10)[0].tolist()
    assert everything.history_events == 0
    ranked = recommend(recommender, 2, candidates=10, exclude=exclude, include_seen=True)
    assert sorted(ranked.items.tolist()) == sorted(everything.items.tolist())


async def test_an_earlier_time_sees_what_had_happened_and_arrived_by_then(
    recommender: Recommender, store: RedisFeatureStore
) -> None:
    best = best_items(TABLES, 2, [], 3)[0].tolist()
    await saw(store, 2, best[:2])  # at NOW_MS - HOUR_MS and NOW_MS
    late = make_events(
        FEATURES, item=[best[2]], timestamp_ms=[NOW_MS - HOUR_MS], arrival_ms=[NOW_MS], attributes={"rating": [1]}
    )
    await store.append(2, late, timeout_s=10)
    moments = {-HOUR_MS: set(), -HOUR_MS // 2: {best[0]}, 0: {best[0], best[2]}, 1: set(best)}
    for since_ms, gone in moments.items():
        found = retrieve(recommender, 2, 3, time_ms=NOW_MS + since_ms)
        ranked = recommend(recommender, 2, 3, candidates=3, time_ms=NOW_MS + since_ms)
        assert set(best) - set(found.items.tolist()) == set(best) - set(ranked.items.tolist()) == gone
        assert found.history_events == ranked.history_events == len(gone)


async def test_recommendations_are_the_rankers_best_of_the_retrieved(
    recommender: Recommender, store: RedisFeatureStore
) -> None:
    await saw(store, 3, [5, 6, 7])
    got = recommend(recommender, 3, 7, candidates=40, features={"age": [1.0]})
    candidates, _ = best_items(TABLES, 3, [5, 6, 7], 40)
    events = [Event(5), Event(6), Event(7)]
    scores = reference_scores(events=events, candidates=candidates.tolist(), age=1.0)
    best = np.argsort(-scores.astype(np.float32), kind="stable")[:7]
    np.testing.assert_allclose(got.scores, scores[best], atol=1e-6)
    assert got.items.tolist() == candidates[best].tolist()
    assert (got.candidates, got.history_events, got.user_known) == (40, 3, True)
    assert (got.model, got.retrieval_model) == ("tiny", "finder")
    assert not (got.user_degraded or got.items_degraded or got.history_degraded)


def test_an_unknown_user_gets_popular_items_ranked(recommender: Recommender) -> None:
    got = recommend(recommender, 77, 3, candidates=20)
    assert not got.user_known and len(got.items) == 3
    assert set(got.items.tolist()) <= set(range(581, 601)), "the 20 most popular"


async def test_who_has_seen_everything_gets_nothing(recommender: Recommender) -> None:
    got = recommend(recommender, 1, exclude=TABLES.item_keys)
    assert got.items.shape == got.scores.shape == (0,)
    assert (got.candidates, got.model, got.retrieval_model) == (0, "tiny", "finder")


async def test_a_store_that_does_not_answer_degrades_and_never_fails(
    recommender: Recommender, store: RedisFeatureStore, redis_admin: redis.Redis
) -> None:
    best = best_items(TABLES, 2, [], 10)[0].tolist()
    await saw(store, 2, best[:4])
    assert recommender._ranker is not None
    recommender._store_timeout_s = recommender._ranker.store_timeout_s = 0.05
    with stalled(redis_admin):
        found = retrieve(recommender, 2)
        assert found.items.tolist() == best and found.user_degraded and found.history_events == 0
        assert not retrieve(recommender, 2, include_seen=True).user_degraded, "nothing was needed of the store"
        ranked = recommend(recommender, 2, candidates=10)
        assert sorted(ranked.items.tolist()) == sorted(best) and ranked.user_degraded and ranked.items_degraded


def test_a_retrieval_model_alone_retrieves_and_does_not_recommend(
    finder: Path, blocking_store: BlockingFeatureStore
) -> None:
    alone = Recommender(
        open_retrieval(open_bundle(finder)),
        release="r-1",
        ranker=None,
        store=blocking_store,
        admission=Admission(1),
        model_lock=FairLock(1),
        store_timeout_s=5.0,
    )
    assert retrieve(alone, 1, 3).items.tolist() == best_items(TABLES, 1, [], 3)[0].tolist()
    with pytest.raises(NotFoundError, match="no ranking model is served here, only a retrieval model; ask it by Retr"):
        recommend(alone, 1)


def test_room_time_and_range_are_looked_at(recommender: Recommender) -> None:
    with recommender._admission.enter(), recommender._admission.enter():
        with pytest.raises(OverloadedError, match="2 requests are being served, the limit"):
            retrieve(recommender, 1)
        with pytest.raises(OverloadedError):
            recommend(recommender, 1)
    asked = RetrieveQuery(user_key=1, top_k=1, exclude=NOTHING, include_seen=True)
    with recommender.model_lock.acquire(Deadline.after(60)), pytest.raises((OverloadedError, TimeoutError)):
        recommender.retrieve(asked, deadline=Deadline.after(0.01))
    with pytest.raises(InvalidInputError, match="10,001 items were asked for; allowed: 1 to 10,000"):
        retrieve(recommender, 1, 10_001)
    assert recommender._admission.in_flight == 0


def test_models_of_different_ids_are_not_served_together(tmp_path: Path, recommender: Recommender) -> None:
    features = dataclasses.replace(RETRIEVAL_FEATURES, user_id=Categorical(name="uid", id_type="string"))
    write_tiny_retrieval(tmp_path / "strings", TABLES, features=features)
    with pytest.raises(
        BundleError,
        match="retrieval model 'finder' names users by string ids .'uid'., ranking model 'tiny' by int ids .'user_id'."
        "; serve two models of the same ids",
    ):
        Recommender(
            open_retrieval(open_bundle(tmp_path / "strings")),
            release="r-1",
            ranker=recommender._ranker,
            store=recommender._store,
            admission=Admission(1),
            model_lock=FairLock(1),
            store_timeout_s=5.0,
        )


async def test_an_answer_is_degraded_when_only_what_was_seen_could_not_be_read(
    recommender: Recommender, redis_admin: redis.Redis
) -> None:
    assert not recommend(recommender, 2).user_degraded
    redis_admin.set(history_keys(FEATURES.name, 2).open, b"foreign")
    best = best_items(TABLES, 2, [], 10)[0].tolist()
    found, ranked = retrieve(recommender, 2), recommend(recommender, 2, candidates=10)
    assert found.user_degraded and found.items.tolist() == best
    assert ranked.user_degraded and not ranked.items_degraded and sorted(ranked.items.tolist()) == sorted(best)


@pytest.mark.parametrize("events", [0, 3, 21])
async def test_the_user_is_read_in_one_round_trip_and_items_in_another_unless_they_are_cached(
    recommender: Recommender, store: RedisFeatureStore, redis_admin: redis.Redis, events: int
) -> None:
    await saw(store, 2, list(range(1, events + 1)))
    prices = make_columns(FEATURES.item, {"price": [1.0] * len(TABLES.item_keys)}, length=len(TABLES.item_keys))
    await store.put_entities("item", TABLES.item_keys, prices, timeout_s=10)  # what is known is cached for long
    retrieve(recommender, 2)  # the connection is made

    def trips(**query: object) -> int:
        """Requests to Redis that a recommendation made."""
        before = redis_admin.info("stats")["total_reads_processed"]
        recommend(recommender, 2, **query)
        return int(redis_admin.info("stats")["total_reads_processed"]) - before - 1  # one is for asking

    assert trips() == 2
    assert trips() == 1
    assert trips(time_ms=NOW_MS + 1) == 1
    assert trips(include_seen=True, candidates=30) == 1, "rank's own read, of new candidates too"


class BruteForce:
    """A CandidateIndex without a bundle: the definition itself."""

    model, version, features, names = "brute", "0", RETRIEVAL_FEATURES, None
    history_fields, user_inputs, item_inputs = (), (), ()
    keys = TABLES.item_keys

    def has_items(self, keys: Int64Array) -> BoolArray:
        return np.isin(keys, TABLES.item_keys)

    def rows(self, columns: Mapping[str, Column]) -> ItemRows:
        raise NotImplementedError

    def retrieve(
        self,
        user_key: int,
        seen: Int64Array,
        k: int,
        events: Events | None = None,
        added: AddedItems | None = None,
        user: Mapping[str, Column] | None = None,
        allowed: Allowed | None = None,
    ) -> Retrieved:
        return Retrieved(*best_items(TABLES, user_key, seen.tolist(), k), known=user_key in TABLES.user_keys)


async def test_any_index_may_find_the_candidates(recommender: Recommender, store: RedisFeatureStore) -> None:
    await saw(store, 2, [7, 14, 21])
    other = Recommender(
        BruteForce(),
        release="r-1",
        ranker=recommender._ranker,
        store=recommender._store,
        admission=recommender._admission,
        model_lock=recommender.model_lock,
        store_timeout_s=5.0,
    )
    found, expected = retrieve(other, 2), retrieve(recommender, 2)
    assert found.items.tolist() == expected.items.tolist() and found.scores.tolist() == expected.scores.tolist()
    assert (found.model, found.model_version) == ("brute", "0")
    ranked, expected_ranked = recommend(other, 2), recommend(recommender, 2)
    assert ranked.items.tolist() == expected_ranked.items.tolist() and ranked.retrieval_model == "brute"
