"""Filters through gRPC, on a real store: found, ranked, withdrawn, said; and what two workers see of a write."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from google.protobuf import json_format
from support.filtered_shop import FOUND, SHOP
from support.tiny_bundle import write_tiny_bundle
from support.tiny_retrieval import best_items, tiny_tables, write_tiny_retrieval
from support.tiny_server import stalled
from support.tiny_workers import workers

from recsys.client import (
    Client,
    InvalidArgument,
    RankQuery,
    above,
    below,
    between,
    either,
    missing,
    present,
    where,
    without,
)
from recsys.client.messages.filters import filter_message
from recsys.errors import InvalidInputError
from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.proto.ranker_pb2 import Filter
from recsys.serving.process.server import running_server
from recsys.serving.settings import Settings

ITEMS = 40
TABLES = tiny_tables(items=ITEMS)
CATEGORY = {item: "shoes" if item % 2 else "boots" for item in range(1, ITEMS + 1)}
PRICE = {item: float(10 * (item % 8)) for item in range(1, ITEMS + 1)}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("filtered")
    write_tiny_bundle(folder / "tiny", features=SHOP)
    write_tiny_retrieval(folder / "finder", TABLES, features=FOUND)
    return folder / "tiny", folder / "finder"


@contextmanager
def serving(bundles: tuple[Path, Path], redis_url: str, **more: Any) -> Iterator[Client]:
    values = {"redis_url": redis_url, "store_timeout_ms": 5_000, **more}
    with (
        running_server(Settings(bundle=bundles[0], retrieval=bundles[1], port=0, **values)) as server,
        Client(server.address, timeout_s=10.0) as client,
    ):
        yield client


def fill(client: Client) -> None:
    """All items but 40, of which the store knows nothing; 39 has a price alone."""
    items = list(range(1, ITEMS))
    client.put_entities(entity="item", ids=items, features={"price": [PRICE[item] for item in items]})
    offers = items[:-1]
    client.put_entities(
        entity="offer",
        ids=offers,
        features={
            "category": [CATEGORY[item] for item in offers],
            "in_stock": [int(item % 3 != 0) for item in offers],
            "labels": [[item % 5, 7] for item in offers],
            "weight": [None if item % 4 == 0 else float(item) for item in offers],
        },
    )


@pytest.fixture(scope="module")
def client(bundles: tuple[Path, Path], redis_server: EmbeddedRedis) -> Iterator[Client]:
    with serving(bundles, redis_server.url) as client:
        fill(client)
        until(lambda: passed(client, where(category=present())) == ITEMS - 2)
        yield client


def until(is_so: Callable[[], Any], *, limit_s: float = 10.0) -> float:
    """Wait for something to be true; the seconds that it took."""
    began_s = time.monotonic()
    while not is_so():
        assert time.monotonic() < began_s + limit_s, "waited in vain"
        time.sleep(0.01)
    return time.monotonic() - began_s


def passed(client: Client, wanted: Any) -> int:
    report = client.retrieve(user=4, top_k=5, filter=wanted).filter
    assert report is not None
    return report.passed


def test_retrieve_gives_the_best_items_that_pass_whatever_is_asked(client: Client) -> None:
    known = range(1, ITEMS - 1)
    priced = range(1, ITEMS)
    every = range(1, ITEMS + 1)
    for wanted, passing in (
        (where(category="shoes"), [i for i in known if CATEGORY[i] == "shoes"]),
        (where(category=["shoes", "boots"], price=(None, 50)), [i for i in known if PRICE[i] <= 50]),
        (where(price=below(50)), [i for i in priced if PRICE[i] < 50]),
        (where(price=above(50)), [i for i in priced if PRICE[i] > 50]),
        (where(price=between(20, 40, low_open=True)), [i for i in priced if 20 < PRICE[i] <= 40]),
        (where(in_stock=True), [i for i in known if i % 3]),
        (where(in_stock=False), [i for i in known if i % 3 == 0]),
        (where(labels=[1, 2]), [i for i in known if i % 5 in (1, 2)]),
        (where(labels=without(1, 2)), [i for i in every if i not in known or i % 5 not in (1, 2)]),
        (where(weight=(3, None)), [i for i in known if i % 4 and i >= 3]),
        (where(weight=missing()), [i for i in every if i not in known or i % 4 == 0]),
        (where(either(category="boots", price=below(20)), in_stock=True),
         [i for i in known if i % 3 and (CATEGORY[i] == "boots" or PRICE[i] < 20)]),
        (where(either(where(price=below(10)), where(price=above(60)))),
         [i for i in priced if not 10 <= PRICE[i] <= 60]),
    ):  # fmt: skip
        found = client.retrieve(user=4, top_k=ITEMS, filter=wanted)
        expected, scores = best_items(TABLES, 4, [i for i in every if i not in passing], ITEMS)
        assert found.items.tolist() == expected.tolist(), str(wanted)
        assert found.scores.tolist() == scores.tolist()
        assert found.filter is not None and found.filter.passed == len(passing) and not found.degraded


def test_recommend_ranks_only_what_passes_and_is_unseen(client: Client) -> None:
    client.append_events(user=5, items=[1, 3], timestamps_ms=[1_700_000_000_000, 1_700_000_000_001])
    best = client.recommend(user=5, top_k=ITEMS, filter=where(category="shoes", in_stock=True), timings=True)
    assert set(best.items) == {i for i in range(5, ITEMS - 1) if i % 2 and i % 3}
    assert best.filter is not None and best.filter.withdrawn_late == 0 and best.timings_us["filter"] > 0


def test_rank_scores_what_passes_and_says_what_does_not(client: Client) -> None:
    candidates = [4, 1, 2, 3, 1, 40, 999]
    ranked = client.rank(user=4, candidates=candidates, filter=where(category="shoes"))
    assert ranked.items == [1, 3] and ranked.positions.tolist() == [1, 3]
    assert ranked.filter is not None
    assert (ranked.filter.passed, ranked.filter.filtered_out) == (2, (0, 2, 5, 6))
    plain = client.rank(user=4, candidates=candidates)
    assert ranked.scores.tolist() == [plain.scores[1], plain.scores[3]] and plain.filter is None
    top = client.rank(user=4, candidates=candidates, top_k=1, filter=where(category="shoes"))
    assert (
        len(top.items) == 1
        and top.items[0] in (1, 3)
        and top.filter == ranked.filter.__class__(passed=2, filtered_out=(0, 2, 5, 6), age_ms=top.filter.age_ms)
    )
    nothing = client.rank(user=4, candidates=[2, 4], filter=where(category="shoes"))
    assert nothing.items == [] and nothing.filter is not None and nothing.filter.reason == "no_item"
    both = client.rank_batch(
        [
            RankQuery(user=4, candidates=[2], filter=where(category="shoes")),
            RankQuery(user=4, candidates=[1]),
            RankQuery(user=4, candidates=[2, 3], filter=where(category="shoes")),
        ]
    )
    assert [each.items for each in both] == [[], [1], [3]]


def test_an_empty_list_says_why(client: Client) -> None:
    for wanted, reason, detail in (
        (where(category="shoes").__class__((*where(category="shoes").all, *where(category="boots").all)),
         "contradiction", "category: no value is in all of its sets"),
        (where(where(price=below(10)), where(price=above(20))), "contradiction", "no number is in all of its ranges"),
        (where(price=(50, 10)), "contradiction", "price"),
        (where(where(in_stock=True), where(in_stock=False)), "contradiction", "it cannot be set and not set"),
        (where(where(weight=missing()), where(weight=below(3))), "contradiction", "missing"),
        (where(category="shoez"), "no_item", "no item has had category=shoez"),
        (where(price=above(1000)), "no_item", "no item passes"),
    ):  # fmt: skip
        for answer in (client.retrieve(user=4, filter=wanted), client.recommend(user=4, filter=wanted)):
            assert len(answer.items) == 0 and answer.filter is not None
            assert answer.filter.reason == reason and detail in answer.filter.detail, answer.filter
    answer = client.retrieve(user=4, filter=where(category=["shoez", "shoes"]))
    assert len(answer.items) and answer.filter is not None and answer.filter.unknown_values == ("category=shoez",)
    seen = [i for i in range(1, ITEMS - 1) if i % 2]
    answer = client.retrieve(user=4, filter=where(category="shoes"), exclude=seen)
    assert answer.filter is not None and answer.filter.reason == "left_out" and answer.filter.passed == len(seen)


def test_bad_filters_are_refused_by_the_name_of_the_condition(client: Client) -> None:
    many = list(range(10_001))
    for wanted, message in (
        (where(categroy="shoes"), r"all\[0\].attribute: unknown attribute 'categroy': did you mean 'category'\?"),
        (where(supplier=3), r"'supplier' is not declared filterable; filterable: price, category, in_stock"),
        (where(price=[5]), r"filter.all\[0\].any_of: 'price' is a number; allowed: range, flag or present"),
        (where(category=5), r"filter.all\[0\].any_of: .*'category' is 5"),
        (where(in_stock="yes"), r"any_of: .*'in_stock' is 'yes'"),
        (where(category=(1, 2)), r"range: 'category' takes ids; allowed: a set of them, flag or present"),
        (where(category=True), r"flag: 'category' takes texts and is no flag"),
        (where(labels=True), r"flag: 'labels' takes several values and is no flag"),
        (where(category=""), r"any_of\[0\] is -1 or the empty text"),
        (where(category=[]), r"any_of: got 0 values; allowed: 1 to 10,000"),
        (where(in_stock=many), r"any_of: got 10,001 values; allowed: 1 to 10,000"),
        (where(where(in_stock=many[:6000]), where(in_stock=many[:6000])), r"filter: got 12,000 values; allowed: up to"),
        (where(price=(float("nan"), None)), r"range: an end is nan; allowed: finite numbers"),
        (where(price=(None, float("inf"))), r"range: an end is inf; allowed: finite numbers"),
        (where(price=(None, None)), r"range: a range without ends"),
        (where(), r"filter: got 0 conditions; allowed: 1 to 64"),
        (where(either()), r"filter: got 0 conditions"),
        (where(either(), in_stock=True), r"filter: an any has no conditions"),
        (where(*[where(in_stock=True)] * 65), r"filter.all: got 65; allowed: up to 64"),
        (where(*[either(in_stock=True, price=below(1))] * 33), r"filter: got 66 conditions; allowed: 1 to 64"),
    ):  # fmt: skip
        for call in (client.retrieve, client.recommend):
            with pytest.raises(InvalidArgument, match=message):
                call(user=4, filter=wanted)  # type: ignore[operator]
        with pytest.raises(InvalidArgument, match=message):
            client.rank(user=4, candidates=[1], filter=wanted)
    with pytest.raises(InvalidInputError, match=r"price: got 5.5; allowed: a value or a list of them, a range"):
        where(price=5.5)
    with pytest.raises(InvalidInputError, match="filter: got {}; allowed: what recsys.client.where"):
        client.retrieve(user=4, filter={})  # type: ignore[arg-type]


def test_ten_thousand_values_are_a_set(client: Client) -> None:
    found = client.retrieve(user=4, top_k=ITEMS, filter=where(labels=[*range(4, 10_003), 1]))
    assert set(found.items) == set(range(1, ITEMS - 1))
    assert found.filter is not None and len(found.filter.unknown_values) == 20


def test_a_withdrawn_item_is_retrieved_no_more_until_it_is_put_again(client: Client) -> None:
    best = client.retrieve(user=2, top_k=3, include_seen=True).items.tolist()
    client.withdraw_items(items=[best[0], 987_654])
    until(lambda: best[0] not in client.retrieve(user=2, top_k=ITEMS).items)
    assert client.retrieve(user=2, top_k=2).items.tolist() == best[1:]
    assert best[0] not in client.recommend(user=2, top_k=ITEMS).items
    assert best[0] not in client.retrieve(user=2, top_k=ITEMS, filter=where(labels=without(9999))).items
    ranked = client.rank(user=2, candidates=best, filter=where(labels=without(9999)))
    assert ranked.filter is not None and ranked.filter.filtered_out == (0,)
    assert len(client.rank(user=2, candidates=best).items) == 3  # without a filter Rank scores what it is given
    assert client.get_features(entity="item", ids=[best[0]]).columns["price"].tolist() == [0.0]
    client.put_entities(entity="item", ids=[best[0]], features={"price": [PRICE[best[0]]]})
    until(lambda: best[0] in client.retrieve(user=2, top_k=ITEMS).items)
    assert client.retrieve(user=2, top_k=3).items.tolist() == best


def test_a_store_that_is_away_makes_old_values_degraded(
    bundles: tuple[Path, Path], redis_url: str, redis_admin: redis.Redis
) -> None:
    with serving(bundles, redis_url, store_timeout_ms=50) as client:
        fill(client)
        wanted = where(category="shoes", in_stock=True)
        until(lambda: passed(client, wanted) == 13)
        with stalled(redis_admin):
            until(lambda: "attributes" in client.retrieve(user=4, filter=wanted).degraded)
            found = client.retrieve(user=4, filter=wanted)
            assert len(found.items) == 13 and found.filter is not None and found.filter.age_ms > 2_000
            assert "attributes" in client.recommend(user=4, filter=wanted).degraded
        until(lambda: not client.retrieve(user=4, filter=wanted).degraded)


def test_two_workers_share_the_columns_and_both_see_a_write_within_a_second(
    bundles: tuple[Path, Path], redis_url: str, tmp_path: Path
) -> None:
    columns = tmp_path / "columns"
    columns.mkdir()
    more = {"RECSYS_RETRIEVAL": str(bundles[1]), "RECSYS_ITEM_COLUMNS_DIR": str(columns)}
    with workers(tmp_path, bundles[0], redis_url, **more) as server:
        ask = where(category="shoes", in_stock=True)
        clients = [Client(server.address, timeout_s=10.0) for _ in range(8)]
        try:
            fill(clients[0])
            until(lambda: all(passed(client, ask) == 13 for client in clients))
            (folder,) = columns.iterdir()
            assert len(list(folder.glob("columns-*"))) == 1
            for in_stock in (0, 1, 0):
                clients[0].put_entities(
                    entity="offer", ids=[1], features={"category": ["shoes"], "in_stock": [in_stock]}
                )
                took_s = until(lambda: all(passed(client, ask) == 12 + in_stock for client in clients))  # noqa: B023
                assert took_s < 2.0  # a second, on a machine that is busy
        finally:
            for client in clients:
                client.close()


def test_json_of_a_filter_is_the_message_that_the_client_sends() -> None:
    """The page's example, as a transcoder reads it."""
    text = """{"all": [{"attribute": "category", "anyOf": {"texts": ["shoes"]}},
        {"attribute": "price", "range": {"max": 50}},
        {"attribute": "in_stock", "flag": true}],
        "any": [{"of": [{"attribute": "price", "range": {"below": 10}}]}]}"""
    wanted = where(either(price=below(10)), category="shoes", price=(None, 50), in_stock=True)
    assert json_format.Parse(text, Filter()) == filter_message(wanted)
