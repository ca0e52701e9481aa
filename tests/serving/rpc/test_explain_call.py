"""Explain, through gRPC, on a real store. Expected numbers come from the tiny model's definition."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import grpc
import numpy as np
import pytest
import redis
from support.plan_server import plan_of, plan_server
from support.tiny_bundle import FEATURES, ITEMS, V, write_tiny_bundle
from support.tiny_server import Start, stalled
from support.tiny_workers import until

from recsys.client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    Explanation,
    InvalidArgument,
    NotFound,
    Overloaded,
    UnknownText,
)
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.entities import make_columns
from recsys.features.feature_set import Categorical, History
from recsys.features.hashing import string_key
from recsys.features.history.records import make_events
from recsys.proto.ranker_pb2 import ExplainRequest, Id
from recsys.releases.served import ServedModel
from recsys.serving.handlers.explain import explainer, parts
from recsys.serving.handlers.routes import user_point
from recsys.serving.inference.ranking_session import RankingSession
from recsys.serving.settings import Settings
from recsys.serving.telemetry.totals import read_totals

PAST = ((5, 3), (2, 1), (7, 2))
"""Items and ratings of user 1, oldest first."""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def fill(client: AsyncClient, store: RedisFeatureStore) -> None:
    """User 1 of age 1.5 with a past; item 10 of price 4."""
    await store.put_entities("user", np.array([1]), make_columns(FEATURES.user, {"age": [1.5]}, length=1), timeout_s=5)
    await store.put_entities("item", np.array([10]), make_columns(FEATURES.item, {"price": [4]}, length=1), timeout_s=5)
    start_ms, items = now_ms() - 1_000, [item for item, _ in PAST]
    ratings = {"rating": [rating for _, rating in PAST]}
    times = [start_ms + n for n in range(len(items))]
    await client.append_events(user=1, items=items, timestamps_ms=times, arrivals_ms=times, attributes=ratings)


def logit_of(
    has: frozenset[str],
    *,
    item: int = 10,
    age: float = 1.5,
    price: float = 4.0,
    past: tuple[tuple[int, int], ...] = PAST,
    items: np.ndarray = ITEMS,  # type: ignore[type-arg]
) -> float:
    """The tiny model's logit of the parts that are there; a missing id is -1, which it takes modulo V."""
    vector = np.full(4, age if "age" in has else 0.0)
    if "history" in has:
        vector += sum(rating * items[event % V].astype(np.float64) for event, rating in past)
    row = items[(item if "item_id" in has else -1) % V].astype(np.float64)
    return float(vector @ row + (0.1 * price if "price" in has else 0.0))


PARTS = ("age", "history", "item_id", "price")


def shapley(logit: Callable[[frozenset[str]], float]) -> dict[str, float]:
    """Values of the parts by definition: means over all orders of what each adds."""
    values = dict.fromkeys(PARTS, 0.0)
    orders = list(permutations(PARTS))
    for order in orders:
        for place, part in enumerate(order):
            values[part] += logit(frozenset(order[: place + 1])) - logit(frozenset(order[:place]))
    return {part: value / len(orders) for part, value in values.items()}


def contributions(found: Explanation) -> Mapping[str, float]:
    return {part.name: part.contribution for part in found.contributions}


def check_sum(found: Explanation) -> None:
    """The parts that are claimed to be additive are."""
    total = found.base_logit + sum(part.contribution for part in found.contributions)
    assert total == pytest.approx(found.logit, abs=1e-9)
    assert found.score == pytest.approx(1 / (1 + np.exp(-found.logit)), abs=1e-12)


async def test_contributions_are_shapley_values_of_the_served_model(
    client: AsyncClient, store: RedisFeatureStore
) -> None:
    await fill(client, store)
    found = await client.explain(user=1, item=10, features={"hour": 7})
    check_sum(found)
    assert found.base_logit == pytest.approx(logit_of(frozenset()), abs=1e-6)
    assert found.logit == pytest.approx(logit_of(frozenset(PARTS)), abs=1e-6)
    for name, value in shapley(logit_of).items():
        assert contributions(found)[name] == pytest.approx(value, abs=1e-6), name
    for part in found.contributions:
        if part.name in PARTS:
            without = logit_of(frozenset(PARTS) - {part.name})
            assert part.leave_out == pytest.approx(found.logit - without, abs=1e-6), part.name
    assert found.exact and found.orders == 0 and not any(part.standard_error for part in found.contributions)
    ranked = await client.rank(user=1, candidates=[10])
    assert found.score == pytest.approx(float(ranked.scores[0]), abs=1e-6)
    assert (found.model, found.model_version, found.release) == (ranked.model, ranked.model_version, ranked.release)
    assert (found.history_events, found.degraded) == (3, ())


async def test_a_feature_that_the_model_ignores_contributes_nothing_at_all(
    client: AsyncClient, store: RedisFeatureStore
) -> None:
    await fill(client, store)
    found = await client.explain(user=1, item=10, features={"hour": 7, "tags": ["a", "b"]})
    ignored = {part.name: part for part in found.contributions if part.name in ("user_id", "hour", "tags")}
    assert {name: part.value for name, part in ignored.items()} == {"user_id": 1, "hour": 7, "tags": ["a", "b"]}
    assert all(part.contribution == part.leave_out == 0.0 and not part.missing for part in ignored.values())


async def test_parts_without_a_value_are_named_and_contribute_nothing(client: AsyncClient) -> None:
    found = await client.explain(user=404, item=3)
    missing = {part.name for part in found.contributions if part.missing}
    assert missing == {"age", "tags", "hour", "history", "price"}
    assert all(part.contribution == 0.0 for part in found.contributions if part.missing)
    assert [(part.name, part.side) for part in found.contributions] == [
        ("user_id", "user"), ("age", "user"), ("tags", "user"), ("hour", "context"), ("history", "history"),
        ("item_id", "item"), ("price", "item"),
    ]  # fmt: skip
    assert found.events is not None and len(found.events.items) == found.history_events == 0
    check_sum(found)


async def test_an_event_is_left_out_as_if_it_had_not_been(client: AsyncClient, store: RedisFeatureStore) -> None:
    await fill(client, store)
    found = await client.explain(user=1, item=10)
    assert found.events is not None
    assert found.events.items.tolist() == [item for item, _ in PAST]
    assert found.events.attributes["rating"].tolist() == [rating for _, rating in PAST]
    for place in range(len(PAST)):
        without = logit_of(frozenset(PARTS), past=PAST[:place] + PAST[place + 1 :])
        assert found.events.leave_out[place] == pytest.approx(found.logit - without, abs=1e-6)
    assert found.events.attention is None and found.events.shared_signatures is None and not found.signatures


async def test_only_events_that_the_model_looks_at_are_explained_and_older_ones_together(client: AsyncClient) -> None:
    start_ms = now_ms() - 100
    await client.append_events(user=1, items=[1, 2, 3, 4, 5, 6], timestamps_ms=[start_ms + n for n in range(6)])
    recent = ((3, 1), (4, 1), (5, 1), (6, 1))  # the FeatureSet's recent is 4
    has = frozenset({"history", "item_id"})
    for most in (1, 3, 4, 200):
        found = await client.explain(user=1, item=10, max_events=most)
        shown = recent[-most:]
        assert found.events is not None and found.events.items.tolist() == [item for item, _ in shown]
        assert (found.history_events, found.older_events) == (4, 4 - len(shown))
        less = logit_of(has, past=recent) - logit_of(has, past=shown)
        assert found.older_leave_out == pytest.approx(less, abs=1e-6)
        for place, event in enumerate(shown):
            rest = tuple(e for e in recent if e != event)  # no older event takes its place
            assert found.events.leave_out[place] == pytest.approx(
                logit_of(has, past=recent) - logit_of(has, past=rest), abs=1e-6
            )


async def test_an_explanation_as_of_a_time_sees_what_had_happened_then(client: AsyncClient) -> None:
    start_ms = now_ms() - 60_000
    times = [start_ms, start_ms + 10_000]
    await client.append_events(user=1, items=[5, 6], timestamps_ms=times, arrivals_ms=times)
    found = await client.explain(user=1, item=10, time_ms=start_ms + 10_000)
    assert found.history_events == 1 and found.time_ms == start_ms + 10_000
    assert found.events is not None and found.events.timestamps_ms.tolist() == [start_ms]


async def test_the_same_request_has_the_same_explanation(client: AsyncClient, store: RedisFeatureStore) -> None:
    await fill(client, store)
    moment = now_ms()
    first, second = [await client.explain(user=1, item=10, time_ms=moment) for _ in range(2)]
    assert first.contributions == second.contributions and first.logit == second.logit
    assert first.events is not None and second.events is not None
    assert (first.events.leave_out == second.events.leave_out).all()


async def test_more_parts_than_all_orders_can_be_of_are_estimated_and_still_add_up(
    client: AsyncClient, store: RedisFeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(client, store)
    asked = {"user": 1, "item": 10, "features": {"hour": 7, "tags": ["a"]}, "time_ms": now_ms()}
    exact = await client.explain(**asked)  # type: ignore[arg-type]
    for name, least in (("MOST_RUNS", 16), ("MOST_SCORES", 64)):
        with monkeypatch.context() as patch:
            patch.setattr(explainer, name, least)
            found = await client.explain(**asked)  # type: ignore[arg-type]
            again = await client.explain(**asked)  # type: ignore[arg-type]
        assert exact.exact and not found.exact and found.orders >= 4
        check_sum(found)
        assert found.contributions == again.contributions and found.logit == exact.logit
        for ours, exactly in zip(found.contributions, exact.contributions, strict=True):
            assert ours.leave_out == exactly.leave_out
            assert abs(ours.contribution - exactly.contribution) <= 6 * ours.standard_error + 1e-6
        assert contributions(found)["hour"] == 0.0


async def test_what_does_not_fit_is_refused_and_named(client: AsyncClient) -> None:
    for match, asked in {
        "max_events is 201; allowed: 1 to 200, or 0 for 50": {"max_events": 201},
        "unknown feature 'agee': did you mean 'age'": {"features": {"agee": 1.0}},
        "'hour' is 'x'; allowed: a 64-bit integer": {"features": {"hour": "x"}},
        r"item\.integer is -1": {"item": -1},
        r"item\.text: .*set item\.integer": {"item": "seven"},
        r"user\.integer is -1": {"user": -1},
        "time_ms": {"time_ms": 12},
    }.items():
        with pytest.raises(InvalidArgument, match=match):
            await client.explain(**{"user": 1, "item": 2, **asked})  # type: ignore[arg-type]
    with pytest.raises(NotFound, match="'tinny' is not served here: did you mean 'tiny'"):
        await client.explain(user=1, item=2, model="tinny")
    with pytest.raises(NotFound, match="release 'other' has no part in the requests for model 'tiny'"):
        await client.explain(user=1, item=2, release="other")
    found = await client.explain(user=1, item=2)
    assert (await client.explain(user=1, item=2, release=found.release)).logit == found.logit


async def test_without_a_store_the_explanation_is_of_what_the_model_then_reads(
    start: Start, store: RedisFeatureStore, redis_admin: redis.Redis
) -> None:
    async with start(store_timeout_ms=200) as client:
        await fill(client, store)
        with stalled(redis_admin):
            found = await client.explain(user=1, item=10)
        assert set(found.degraded) == {"user", "items"} and found.history_events == 0
        check_sum(found)
        assert found.logit == pytest.approx(logit_of(frozenset({"item_id"})), abs=1e-6)


async def test_texts_of_ids_come_from_the_request_the_bundle_or_the_store(start: Start, tmp_path: Path) -> None:
    texts = replace(
        FEATURES,
        user_id=Categorical(name="user_id", id_type="string"),
        item_id=Categorical(name="item_id", id_type="string"),
        history=History(attributes=(Categorical(name="rating", id_type="string"),), max_events=20, recent=4),
    )
    write_tiny_bundle(tmp_path / "texts", features=texts, names={"item_id": ["known"], "rating": ["good"]})
    async with start(bundle=tmp_path / "texts") as client:
        moment = now_ms() - 100
        await client.append_events(
            user="ann",
            items=["known", "stored"],
            timestamps_ms=[moment, moment + 1],
            attributes={"rating": ["good", None]},
        )
        found = await client.explain(user="ann", item="asked for", features={"tags": ["new"]})
        values = {part.name: part.value for part in found.contributions}
        assert (values["user_id"], values["item_id"], values["tags"]) == ("ann", "asked for", "new")
        assert found.events is not None and found.events.items.tolist() == ["known", "stored"]
        assert found.events.attributes["rating"].tolist() == ["good", None]


async def test_an_id_without_a_text_is_shown_by_its_key(start: Start, redis_url: str, tmp_path: Path) -> None:
    texts = replace(FEATURES, item_id=Categorical(name="item_id", id_type="string"))
    write_tiny_bundle(tmp_path / "texts", features=texts)
    bare = RedisFeatureStore.connect(redis_url, texts)
    await bare.append(1, make_events(texts, item=["quiet"], timestamp_ms=[now_ms() - 100]), timeout_s=5)
    await bare.close()
    async with start(bundle=tmp_path / "texts") as client:
        found = await client.explain(user=1, item="x")
        assert found.events is not None and found.events.items.tolist() == [UnknownText(string_key("quiet"))]


async def test_an_explanation_is_no_request_that_is_logged_or_counted_to_a_release(
    redis_url: str, tmp_path: Path
) -> None:
    write_tiny_bundle(tmp_path / "tiny")
    folder = tmp_path / "log"
    settings = Settings(port=0, redis_url=redis_url, log_requests=1.0, request_log_dir=folder)
    with plan_server(plan_of(ServedModel(live="one"), {"one": tmp_path / "tiny"}), settings, tmp_path) as server:
        with Client(server.address) as client:
            for _ in range(3):
                client.explain(user=1, item=2)
            assert server.figures("one").answered == server.figures("one").scored == 0
    assert not list(folder.glob("*.parquet"))


def test_a_split_explains_by_the_release_that_answers_the_user_or_by_the_one_asked_for(
    redis_url: str, tmp_path: Path
) -> None:
    for name, factor in (("live", 1.0), ("other", -3.0)):
        write_tiny_bundle(tmp_path / name, items=(factor * ITEMS).astype(np.float32))
    folders = {name: tmp_path / name for name in ("live", "other")}
    plan = plan_of(ServedModel(live="live", split={"other": 50.0}), folders)
    of_user = {user: "other" if user_point("m", user) < 50.0 else "live" for user in range(8)}
    assert set(of_user.values()) == {"live", "other"}
    asked = {"features": {"age": 1.0}, "item": 2}
    with plan_server(plan, Settings(port=0, redis_url=redis_url), tmp_path) as server:
        with Client(server.address, timeout_s=10) as client:
            for user, release in of_user.items():
                found = client.explain(user=user, **asked)  # type: ignore[arg-type]
                assert found.release == release == client.rank(user=user, candidates=[2]).release
                for name, factor in (("live", 1.0), ("other", -3.0)):
                    by = client.explain(user=user, release=name, **asked)  # type: ignore[arg-type]
                    assert by.release == name
                    expected = logit_of(frozenset({"age", "item_id"}), item=2, age=1.0, items=factor * ITEMS)
                    assert by.logit == pytest.approx(expected, abs=1e-6)


@pytest.fixture
def slow_bundle(tmp_path: Path) -> Path:
    """The tiny bundle, each of whose runs takes some milliseconds."""
    write_tiny_bundle(tmp_path / "slow", work=200)
    return tmp_path / "slow"


async def test_a_second_explanation_is_refused_while_ranking_goes_on(start: Start, slow_bundle: Path) -> None:
    async with start(bundle=slow_bundle) as client:
        features = {"age": 1.0, "hour": 3, "tags": ["a"]}
        explaining = asyncio.create_task(client.explain(user=1, item=2, features=features, timeout_s=60))
        await asyncio.sleep(0)
        ranked, refused = 0, 0
        while not explaining.done():
            ranked += len((await client.rank(user=1, candidates=[2])).scores)
            if not refused and ranked == 2:
                with pytest.raises(Overloaded, match="1 explanation is being made, the limit"):
                    await client.explain(user=1, item=3, timeout_s=60)
                refused += 1
        found = await explaining
        check_sum(found)
        assert refused == 1 and ranked > 3, "calls go between the runs"
        assert (await client.explain(user=1, item=3, timeout_s=60)).history_events == 0, "the place is free again"


def test_an_explanation_whose_caller_leaves_counts_as_cancelled(redis_url: str, tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "slow", work=2_000)
    plan, settings = plan_of(ServedModel(live="one"), {"one": tmp_path / "slow"}), Settings(port=0, redis_url=redis_url)
    request = ExplainRequest(user=Id(integer=1), item=Id(integer=2)).SerializeToString()
    with plan_server(plan, settings, tmp_path) as server, grpc.insecure_channel(server.address) as channel:

        def counters() -> Mapping[tuple[str, ...], int]:
            return read_totals(server.counts).counters

        call = channel.unary_unary("/recsys.v1.Ranker/Explain").future(request, timeout=600)
        until(lambda: counters()["calls_in_flight", "Explain"] == 1)
        call.cancel()
        until(lambda: counters()["calls_in_flight", "Explain"] == 0)
        ended = {key: count for key, count in counters().items() if key[0] == "requests" and count}
    assert ended == {("requests", "Explain", "CANCELLED"): 1}


async def test_an_explanation_ends_at_its_deadline_and_leaves_no_trace(start: Start, tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "slow", work=3_000)
    async with start(bundle=tmp_path / "slow") as client:
        features = {"age": 1.0, "hour": 3, "tags": ["a"]}
        with pytest.raises(DeadlineExceeded):
            await client.explain(user=1, item=2, features=features, timeout_s=0.1)
        for _ in range(500):
            try:
                check_sum(await client.explain(user=1, item=2, timeout_s=60))
                return
            except Overloaded:  # until the server has noticed
                await asyncio.sleep(0.02)
        raise AssertionError("the place is still taken")


async def test_an_explanation_asks_before_each_run_if_ranking_calls_are_being_answered(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, running, opened = list[bool](), threading.Event(), threading.Event()
    user_side = RankingSession._user_side

    def held(session: RankingSession, *arguments: object) -> object:
        running.set()
        assert opened.wait(20)
        return user_side(session, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(parts, "give_way", lambda others: asked.append(others()))
    async with start() as client:
        alone = await client.explain(user=1, item=2)
        assert asked == [False] * alone.runs
        asked.clear()
        monkeypatch.setattr(RankingSession, "_user_side", held)
        ranking = asyncio.create_task(client.rank(user=1, candidates=[1, 2]))
        await asyncio.to_thread(running.wait, 20)
        explaining = asyncio.create_task(client.explain(user=1, item=2))
        deadline_s = time.monotonic() + 20
        while not asked:
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.01)
        assert asked == [True]
        opened.set()
        await asyncio.gather(ranking, explaining)
