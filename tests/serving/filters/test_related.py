"""Filters and withdrawn items in the calls that name no user: Similar and Trending, through gRPC on a real store."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.filtered_shop import FOUND, SHOP
from support.tiny_bundle import write_tiny_bundle
from support.tiny_retrieval import jaccard, tiny_log, tiny_tables, write_tiny_retrieval
from typer.testing import CliRunner

from recsys.cli import app
from recsys.client import Client, InvalidArgument, below, where, without
from recsys.errors import ConfigError
from recsys.export.retrieval.shared_users.add import SharedUsers
from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.features.feature_set import FeatureSet, Numeric
from recsys.features.trending import Trending
from recsys.serving.process.server import running_server
from recsys.serving.settings import Settings

ITEMS = 30
TABLES = tiny_tables(items=ITEMS)
LOG = tiny_log(TABLES)
CATEGORY = {item: "shoes" if item % 2 else "boots" for item in range(1, ITEMS + 1)}


def counting(features: FeatureSet) -> FeatureSet:
    assert features.history is not None
    return replace(features, history=replace(features.history, trending=Trending(half_life_s=3600, other=1.0)))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("related")
    write_tiny_bundle(folder / "tiny", features=counting(SHOP))
    wanted = SharedUsers(neighbours=ITEMS)
    write_tiny_retrieval(folder / "finder", TABLES, features=FOUND, log=LOG, shared_users=wanted)
    values: dict[str, Any] = {"redis_url": redis_server.url, "store_timeout_ms": 5_000}
    settings = Settings(bundle=folder / "tiny", retrieval=folder / "finder", port=0, **values)
    with running_server(settings) as server, Client(server.address, timeout_s=10.0) as client:
        items = list(CATEGORY)
        client.put_entities(entity="item", ids=items, features={"price": [float(item) for item in items]})
        client.put_entities(entity="offer", ids=items, features={"category": [CATEGORY[item] for item in items]})
        now_ms = time.time_ns() // 1_000_000
        for item, events in ((3, 3), (4, 2), (5, 1)):
            for user in range(1, events + 1):
                client.append_events(user=user, items=[item], timestamps_ms=[now_ms])
        until(lambda: passed(client) == ITEMS // 2)
        until(lambda: client.trending().items.tolist() == [3, 4, 5])
        yield server.address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address, timeout_s=10.0) as client:
        yield client


def until(is_so: Callable[[], Any], *, limit_s: float = 10.0) -> None:
    until_s = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < until_s, "waited in vain"
        time.sleep(0.02)


def passed(client: Client) -> int:
    report = client.retrieve(user=4, filter=where(category="shoes")).filter
    assert report is not None
    return report.passed


def cosines(seed: int, *, passing: set[int]) -> dict[int, float]:
    """The definition: cosine to the seed of each other item that passes."""
    vectors = TABLES.items_MD.astype(float)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    return {item: float(unit[item - 1] @ unit[seed - 1]) for item in passing - {seed}}


def test_similar_gives_the_nearest_items_that_pass_to_seeds_that_need_not(client: Client) -> None:
    near = client.similar(items=[4], top_k=ITEMS, filter=where(category="shoes", price=below(20)))
    expected = cosines(4, passing={item for item in CATEGORY if item % 2 and item < 20})
    assert set(near.items.tolist()) == set(expected)
    np.testing.assert_allclose(near.scores, sorted(expected.values(), reverse=True), atol=1e-5)
    assert near.filter is not None and near.filter.passed == 10 and near.degraded == ()
    assert client.similar(items=[4]).filter is None


def test_similar_by_users_gives_the_items_of_the_lists_that_pass(client: Client) -> None:
    near = client.similar(items=[4], top_k=ITEMS, by="users", filter=where(category="shoes", price=below(20)))
    expected = {item: score for item, score in jaccard(LOG, 4).items() if item % 2 and item < 20}
    assert near.items.tolist() == sorted(expected, key=lambda item: (-expected[item], item)) and expected
    assert near.filter is not None and near.filter.passed == len(expected) and near.degraded == ()


def test_an_empty_list_by_users_says_why(client: Client) -> None:
    def asked(items: list[int], category: str = "shoes", **more: Any) -> tuple[int, str, str]:
        near = client.similar(items=items, by="users", filter=where(category=category), **more)
        assert near.filter is not None and not len(near.items)
        return near.filter.passed, near.filter.reason, near.filter.detail

    shoes = sum(item % 2 for item in jaccard(LOG, 4))
    left_out = (shoes, "left_out", "all items that pass are seeds, or excluded")
    assert asked([4], exclude=list(range(1, ITEMS + 1))) == left_out
    assert asked([4], "shoez") == (0, "no_item", "no item passes; no item has had category=shoez")
    assert asked([ITEMS]) == (0, "no_item", "there is nothing on the seeds' lists by shared users")


def test_trending_gives_the_items_with_most_events_that_pass(client: Client) -> None:
    now = client.trending(filter=where(category="shoes"))
    assert now.items.tolist() == [3, 5] and now.degraded == ()
    assert now.filter is not None and now.filter.passed == 2
    assert client.trending(top_k=1, exclude=[3], filter=where(category="shoes")).items.tolist() == [5]
    assert client.trending().filter is None


def test_a_user_whom_nobody_knows_gets_what_is_trending_first_where_the_request_asks_for_it(client: Client) -> None:
    popular = client.retrieve(user=99, top_k=ITEMS)
    assert popular.fallback == "popularity" and popular.items.tolist()[:3] != [3, 4, 5]
    for filter, exclude, trending in (
        (None, [], [3, 4, 5]),
        (None, [4, 99], [3, 5]),
        (where(category="shoes"), [], [3, 5]),
    ):
        found = client.retrieve(user=99, top_k=6, fallback="trending", filter=filter, exclude=exclude)
        listed = client.retrieve(user=99, top_k=ITEMS, filter=filter, exclude=exclude).items.tolist()
        assert found.items.tolist() == [*trending, *(item for item in listed if item not in trending)][:6]
        assert (found.fallback, found.user_known, found.degraded) == ("trending", False, ())
        np.testing.assert_allclose(found.scores, 1 / np.arange(1, 7), rtol=1e-6)
    assert client.retrieve(user=99, top_k=2, fallback="trending").items.tolist() == [3, 4]
    best = client.recommend(user=99, top_k=2, candidates=2, fallback="trending")
    assert set(best.items.tolist()) == {3, 4} and best.fallback == "trending"
    told = client.retrieve(user=99, top_k=6, fallback="popularity")
    assert told.items.tolist() == popular.items.tolist()[:6] and told.fallback == "popularity"


def test_a_user_whom_the_model_knows_gets_nothing_else_for_what_is_trending(client: Client) -> None:
    plain, asked = (client.retrieve(user=6, top_k=6, fallback=fallback) for fallback in ("", "trending"))
    assert asked.items.tolist() == plain.items.tolist() and asked.scores.tolist() == plain.scores.tolist()
    assert asked.fallback == "" and asked.user_known


def test_an_empty_list_says_why(client: Client) -> None:
    for call in (lambda **more: client.similar(items=[4], **more), client.trending):
        nothing = call(filter=where(category="shoez"))
        assert nothing.filter.reason == "no_item" and nothing.filter.unknown_values == ("category=shoez",)
        assert call(filter=where(price=(50, 10))).filter.reason == "contradiction"
        left_out = call(filter=where(price=(3, 3)), exclude=[3])
        assert left_out.filter.reason == "left_out" and left_out.filter.passed == 1
        assert len(nothing.items) == len(left_out.items) == 0
        with pytest.raises(InvalidArgument, match=r"filter.all\[0\].attribute: unknown attribute 'categroy': did you"):
            call(filter=where(categroy="shoes"))


def test_a_withdrawn_item_is_neither_similar_nor_trending_until_it_is_put_again(client: Client) -> None:
    client.withdraw_items(items=[3])
    try:
        until(lambda: 3 not in client.trending().items)
        assert client.retrieve(user=99, top_k=2, fallback="trending").items.tolist() == [4, 5]
        assert client.trending().items.tolist() == [4, 5]
        assert client.trending(filter=where(labels=without(9))).items.tolist() == [4, 5]
        assert 3 in jaccard(LOG, 4)
        for wanted in (None, where(labels=without(9))):
            by_users = client.similar(items=[4], top_k=ITEMS, by="users", filter=wanted)
            assert set(by_users.items) == set(jaccard(LOG, 4)) - {3}
            assert set(client.similar(items=[4], top_k=ITEMS, filter=wanted).items) == set(CATEGORY) - {3, 4}
    finally:
        client.put_entities(entity="item", ids=[3], features={"price": [3.0]})
    until(lambda: client.trending().items.tolist() == [3, 4, 5])
    assert 3 in client.similar(items=[4], top_k=ITEMS).items


def test_the_command_line_filters(address: str) -> None:
    def asked(*arguments: str) -> Any:
        call = [*arguments, "--address", address]
        return CliRunner().invoke(app, [*call, "--json"])

    def items(*arguments: str) -> set[int]:
        return {each["item"] for each in json.loads(asked(*arguments).stdout)["items"]}

    shoes = {item for item in CATEGORY if item % 2}
    for command in (("retrieve", "--user", "9"), ("recommend", "--user", "9"), ("similar", "--items", "4")):
        some = (*command, "--top", "30", "--filter")
        assert items(*some, "category=shoes,shoez") == shoes
        assert items(*some, "category!=shoes", "--filter", "price>4", "--filter", "price<=8") == {6, 8}
        assert items(*some, "price>=4", "--filter", "price<7", "--filter", "category='shoes'") == {5}
        assert items(*some, "in_stock") == items(*some, "!in_stock") == set()
    assert items("trending", "--filter", "category=shoes") == {3, 5}
    told = json.loads(asked("trending", "--filter", "category=shoez").stdout)["filter"]
    assert (told["passed"], told["reason"], told["unknown_values"]) == (0, "no_item", ["category=shoez"])
    for text in ("price<cheap", "!category=shoes", "=shoes", "category="):
        refused = asked("trending", "--filter", text).exception
        assert isinstance(refused, ConfigError) and f"--filter {text!r}" in str(refused)


def test_a_withdrawn_item_is_not_trending_where_nothing_is_filterable_and_nothing_retrieved(
    tmp_path: Path, redis_url: str
) -> None:
    features = counting(replace(SHOP, item=(Numeric(name="price", default=0.0),), entities=()))
    write_tiny_bundle(tmp_path / "tiny", features=features)
    settings = Settings(bundle=tmp_path / "tiny", redis_url=redis_url, port=0)
    with running_server(settings) as server, Client(server.address, timeout_s=10.0) as client:
        client.put_entities(entity="item", ids=[3, 4], features={"price": [1.0, 2.0]})
        client.append_events(user=1, items=[3, 4], timestamps_ms=[time.time_ns() // 1_000_000] * 2)
        until(lambda: client.trending().items.tolist() == [3, 4])
        client.withdraw_items(items=[3])
        until(lambda: client.trending().items.tolist() == [4])
