"""A release with more features: both releases read one store, back and forth, and no call fails meanwhile."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.extended_bundle import EXTENDED, write_extended_bundle
from support.redis_servers import eventually
from support.tiny_bundle import FEATURES, Event, reference_scores, write_tiny_bundle

from recsys.client import Client, Ranking, RankQuery, RpcError, UserEvents
from recsys.errors import BundleError, StoreFormatError
from recsys.feature_store.item_cache import ItemCache
from recsys.feature_store.redis.link.connect import open_link
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.feature_set import Categorical, FeatureSet, Numeric
from recsys.releases.served import ServedModel
from recsys.releases.store import push_release
from recsys.serving.process import stores as stores_module
from recsys.serving.process.releases.plan import Plan, PlannedRelease
from recsys.serving.process.server import RunningServer, serving
from recsys.serving.process.startup import load_models
from recsys.serving.settings import Settings

T_MS = 1_700_000_000_000
ITEMS, PRICES, BOOSTS = [11, 12, 13], [1.0, 2.0, 3.0], [5.0, -4.0, 0.5]
OLD_EVENTS = [Event(3, 2), Event(5, 1), Event(6, 4), Event(2, 3), Event(7, 5)]
"""Five, of which the tiny model reads four and the extended one three."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    write_tiny_bundle(folder / "a")
    write_extended_bundle(folder / "b")
    return {name: folder / name for name in "ab"}


def plan_of(folders: dict[str, Path], live: str, *, kept: str = "", number: int = 1) -> Plan:
    """A plan whose live release is the folder of that name; others are kept for a rollback."""
    releases = {
        name: PlannedRelease(name=name, ranking=folders[name], retrieval=None, slot=slot)
        for slot, name in enumerate(sorted({live, *kept}))
    }
    return Plan(number=number, models={"tiny": ServedModel(live=live)}, default="tiny", releases=releases)


@contextmanager
def served(plan: Plan, redis_url: str, *, releases: Path | None = None) -> Iterator[RunningServer]:
    settings = Settings(port=0, redis_url=redis_url, store_timeout_ms=5_000, releases=releases)
    with load_models(settings, plan) as loaded, serving(settings, *loaded) as server:
        yield server


def change_over(server: RunningServer, plan: Plan) -> None:
    server.switch.prepare(plan)
    server.switch.commit(plan.number).join(20)
    time.sleep(0.1)  # for those who call meanwhile


def append(client: Client, user: int, events: Sequence[Event], *, since_ms: int = T_MS, **more: Any) -> None:
    client.append_events(
        user=user,
        items=[event.item for event in events],
        timestamps_ms=[since_ms + 1000 * place for place in range(len(events))],
        attributes={"rating": [event.rating for event in events], **more},
        timeout_s=20.0,
    )


def fill(client: Client) -> None:
    """Users 1 and 2 and items, as a client of the narrower FeatureSet does it."""
    client.put_entities(entity="item", ids=ITEMS, features={"price": PRICES}, timeout_s=20.0)
    client.put_entities(entity="user", ids=[1, 2], features={"age": [0.5, 0.25]}, timeout_s=20.0)
    for user in (1, 2):
        append(client, user, OLD_EVENTS)


def ask(client: Client, user: int = 2, candidates: Sequence[int] = ITEMS) -> Ranking:
    ranking = client.rank(user=user, candidates=list(candidates), timeout_s=20.0)
    assert not ranking.degraded
    return ranking


def expect(ranking: Ranking, release: str, **inputs: Any) -> None:
    assert ranking.release == release
    recent = {"a": 4, "b": 3}[release]
    events = inputs.pop("events", OLD_EVENTS)[-recent:]
    np.testing.assert_allclose(ranking.scores, reference_scores(events=events, **inputs), atol=1e-6)


def test_a_release_with_more_features_is_put_on_taken_back_and_put_on_again_without_a_call_lost(
    folders: dict[str, Path], redis_url: str
) -> None:
    stop = threading.Event()

    def rank(client: Client) -> int:
        count = 0
        while not stop.is_set():
            ranking = ask(client, user=1, candidates=[5, 1, 4])  # whom nobody writes
            expect(ranking, ranking.release, candidates=[5, 1, 4], age=0.5)
            count += 1
        return count

    def write(client: Client) -> int:
        count = 0
        while not stop.is_set():
            append(client, 3, [Event(1, 1)], since_ms=T_MS + 1000 * count)
            client.put_entities(entity="item", ids=[30 + count % 3], features={"price": [2.0]}, timeout_s=20.0)
            assert client.get_features(entity="item", ids=[30 + count % 3]).columns["price"].tolist() == [2.0]
            assert client.get_history(user=3, limit=1).attributes["rating"].tolist() == [1]
            count += 1
        return count

    def stream(client: Client) -> int:
        count = 0

        def batches() -> Iterator[UserEvents]:
            nonlocal count
            while not stop.is_set():
                stamps = [T_MS + 1000 * count]
                yield UserEvents(user=40 + count % 5, items=[1], timestamps_ms=stamps, attributes={"rating": [2]})
                count += 1
                stop.wait(0.002)

        summary = client.append_stream(batches(), timeout_s=60.0)
        assert (summary.added, summary.rejected) == (count, 0)
        return count

    with (
        served(plan_of(folders, "a"), redis_url) as server,
        Client(server.address) as client,
        ThreadPoolExecutor(5) as pool,
    ):
        fill(client)
        known = {"candidates": ITEMS, "prices": PRICES, "age": 0.25}
        expect(ask(client), "a", **known)
        with pytest.raises(RpcError, match="boost"):
            client.put_entities(entity="item", ids=ITEMS, features={"boost": BOOSTS})
        callers = [pool.submit(work, client) for work in (rank, rank, write, stream)]
        try:
            change_over(server, plan_of(folders, "b", kept="a", number=2))
            expect(ask(client), "b", **known)

            client.put_entities(entity="item", ids=ITEMS, features={"price": PRICES, "boost": BOOSTS}, timeout_s=20.0)
            client.put_entities(entity="user", ids=[2], features={"age": [0.25], "bias": [0.125]}, timeout_s=20.0)
            more = {"candidates": ITEMS, "prices": [p + b for p, b in zip(PRICES, BOOSTS, strict=True)], "age": 0.375}
            expect(ask(client), "b", **more)

            change_over(server, plan_of(folders, "a", kept="b", number=3))
            expect(ask(client), "a", **known)
            append(client, 2, [Event(4, 2)], since_ms=T_MS + 60_000, mode=[3])
            expect(ask(client), "a", events=[*OLD_EVENTS, Event(4, 2)], **known)

            change_over(server, plan_of(folders, "b", kept="a", number=4))
            expect(ask(client), "b", events=[*OLD_EVENTS, Event(4, 6)], **more)

            change_over(server, plan_of(folders, "a", number=5))  # b goes; what it had stored stays readable
            expect(ask(client), "a", events=[*OLD_EVENTS, Event(4, 2)], **known)
        finally:
            stop.set()
        assert all(caller.result(60) > 0 for caller in callers)


def test_a_release_passes_over_what_a_request_gives_for_another_one(folders: dict[str, Path], redis_url: str) -> None:
    given = {"age": 0.5, "bias": 0.25}
    with served(plan_of(folders, "a"), redis_url) as server, Client(server.address, timeout_s=20.0) as client:

        def scores(release: str, **features: float) -> None:
            expected = reference_scores(events=[], candidates=[5, 1], age=sum(features.values()))
            for ranking in (
                client.rank(user=9, candidates=[5, 1], features=given),
                *client.rank_batch([RankQuery(user=9, candidates=[5, 1], features=given)]),
            ):
                assert ranking.release == release
                np.testing.assert_allclose(ranking.scores, expected, atol=1e-6)

        with pytest.raises(RpcError, match="unknown feature 'bias'"):
            client.rank(user=9, candidates=[5, 1], features=given)
        change_over(server, plan_of(folders, "b", kept="a", number=2))
        scores("b", **given)
        change_over(server, plan_of(folders, "a", kept="b", number=3))
        scores("a", age=0.5)
        with pytest.raises(RpcError, match="unknown feature 'bais'"):
            client.rank(user=9, candidates=[5, 1], features={"bais": 0.25})
        change_over(server, plan_of(folders, "a", number=4))
        with pytest.raises(RpcError, match="unknown feature 'bias'"):
            client.rank(user=9, candidates=[5, 1], features=given)


def test_a_server_that_has_not_changed_over_yet_serves_on_when_another_one_extends_the_store(
    folders: dict[str, Path], redis_url: str
) -> None:
    both = plan_of(folders, "b", kept="a", number=2)
    with (
        served(plan_of(folders, "a"), redis_url) as first,
        served(plan_of(folders, "a"), redis_url) as second,
        Client(first.address, timeout_s=20.0) as ahead,
        Client(second.address, timeout_s=20.0) as behind,
    ):
        fill(behind)
        second.switch.prepare(both)
        change_over(first, both)
        ahead.put_entities(entity="item", ids=ITEMS, features={"price": PRICES, "boost": BOOSTS})
        append(ahead, 2, [Event(4, 2)], since_ms=T_MS + 60_000, mode=[3])

        known = {"candidates": ITEMS, "prices": PRICES, "age": 0.25}
        expect(ask(behind), "a", events=[*OLD_EVENTS, Event(4, 2)], **known)
        batches = [UserEvents(user=2, items=[1], timestamps_ms=[T_MS + 61_000], attributes={"rating": [1]})]
        summary = behind.append_stream(batches)
        assert (summary.added, summary.rejected) == (1, 0)
        append(behind, 2, [Event(6, 1)], since_ms=T_MS + 62_000)
        assert behind.get_history(user=2, limit=3).items.tolist() == [4, 1, 6]
        behind.put_entities(entity="item", ids=[12], features={"price": [2.5]})
        second.switch.abort()
        events = [*OLD_EVENTS, Event(4, 6), Event(1, 1), Event(6, 1)]
        prices = [PRICES[0] + BOOSTS[0], 2.5, PRICES[2] + BOOSTS[2]]
        expect(ask(ahead), "b", events=events, candidates=ITEMS, prices=prices, age=0.25)


def test_a_server_of_the_narrower_release_starts_on_an_extended_store_if_it_knows_the_wider_one(
    folders: dict[str, Path], redis_url: str
) -> None:
    with served(plan_of(folders, "b"), redis_url) as server, Client(server.address, timeout_s=20.0) as client:
        fill(client)
        client.put_entities(entity="user", ids=[2], features={"age": [0.25], "bias": [0.125]})
    with served(plan_of(folders, "a", kept="b"), redis_url) as server, Client(server.address) as client:
        expect(ask(client), "a", candidates=ITEMS, prices=PRICES, age=0.25)
    with pytest.raises(StoreFormatError, match="the (user|item|history) part of this store was filled with layout"):
        with served(plan_of(folders, "a"), redis_url):
            pass


def test_so_does_one_whose_store_of_releases_has_the_wider_one_though_it_is_not_served_any_more(
    folders: dict[str, Path],
    tmp_path: Path,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(stores_module, "_CHECK_EVERY_S", 0.1)
    pushed = push_release(tmp_path, ranking=folders["b"], retrieval=None)
    said = f"extended for release '{pushed.name}', which is not served"
    only_a = plan_of(folders, "a")
    known = {"candidates": ITEMS, "prices": PRICES, "age": 0.25}
    with served(only_a, redis_url, releases=tmp_path) as early, Client(early.address, timeout_s=20.0) as before:
        fill(before)
        with served(plan_of(folders, "b"), redis_url) as other, Client(other.address, timeout_s=20.0) as client:
            client.put_entities(entity="user", ids=[2], features={"age": [0.25], "bias": [0.125]})
            client.put_entities(entity="item", ids=ITEMS, features={"price": PRICES, "boost": BOOSTS})
        eventually(lambda: said in caplog.text)
        expect(ask(before), "a", **known)
        append(before, 2, [Event(4, 2)], since_ms=T_MS + 60_000)
        caplog.clear()
        with served(only_a, redis_url, releases=tmp_path) as late, Client(late.address) as client:
            assert said in caplog.text
            expect(ask(client), "a", events=[*OLD_EVENTS, Event(4, 2)], **known)


async def test_a_read_that_began_before_the_cache_held_more_features_ends_as_it_would(redis_url: str) -> None:
    store = RedisFeatureStore(FEATURES, link=open_link(redis_url), cache=ItemCache(EXTENDED.item))
    await store.put_entities("item", np.array([11]), {"price": np.array([1.5], dtype=np.float32)}, timeout_s=5)
    found = await store.read_for_rank(1, np.array([11]), time_ms=T_MS, timeout_s=5)
    assert found.item_columns["price"].tolist() == [1.5] and not found.items_degraded
    await store.close()


def reordered() -> FeatureSet:
    return dataclasses.replace(EXTENDED, user=EXTENDED.user[::-1])


def of_string_items() -> FeatureSet:
    return dataclasses.replace(FEATURES, item_id=Categorical(name="item_id", id_type="string"))


def extended_otherwise() -> FeatureSet:
    return dataclasses.replace(EXTENDED, item=(*FEATURES.item, Numeric(name="weight", default=0.0)))


@pytest.mark.parametrize(
    ("features", "problem"),
    [
        (lambda: dataclasses.replace(FEATURES, name="elsewhere"), "name: tiny -> elsewhere"),
        (reordered, "user features in another order"),
        (of_string_items, "item id: id_type int -> string"),
        (extended_otherwise, "item feature weight added not at the end; item feature boost removed"),
    ],
)
def test_a_release_that_does_not_extend_is_refused_with_the_difference_and_nothing_switches(
    folders: dict[str, Path],
    tmp_path: Path,
    redis_url: str,
    features: Callable[[], FeatureSet],
    problem: str,
) -> None:
    write_tiny_bundle(tmp_path / "c", features=features())
    all_folders = {**folders, "c": tmp_path / "c"}
    with served(plan_of(folders, "b", kept="a"), redis_url) as server, Client(server.address) as client:
        fill(client)
        with pytest.raises(BundleError, match=f"release 'c' and what is stored cannot share a store: .*{problem}"):
            server.switch.prepare(plan_of(all_folders, "c", kept="ab", number=2))
        assert server.switch.plan.number == 1
        expect(ask(client), "b", candidates=ITEMS, prices=PRICES, age=0.25)


def test_a_release_for_another_layout_than_the_store_was_filled_with_is_refused_in_time(
    folders: dict[str, Path], tmp_path: Path, redis_url: str
) -> None:
    write_tiny_bundle(tmp_path / "c", features=extended_otherwise())
    all_folders = {**folders, "c": tmp_path / "c"}
    with served(plan_of(folders, "a"), redis_url) as server, Client(server.address, timeout_s=20.0) as client:
        with served(plan_of(folders, "b"), redis_url) as other, Client(other.address, timeout_s=20.0) as more:
            more.put_entities(entity="item", ids=ITEMS, features={"price": PRICES, "boost": BOOSTS})
        with pytest.raises(StoreFormatError, match="the item part of this store was filled with layout"):
            server.switch.prepare(plan_of(all_folders, "c", kept="a", number=2))
        assert client.rank(user=1, candidates=[5]).release == "a"
