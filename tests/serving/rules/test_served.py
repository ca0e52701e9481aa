"""Rules through gRPC, on a real store: lists by rules, what is said of them, and what is refused."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from support.filtered_shop import FOUND, SHOP
from support.tiny_bundle import write_tiny_bundle
from support.tiny_retrieval import tiny_tables, write_tiny_retrieval

from recsys.client import (
    Client,
    InvalidArgument,
    ListPlace,
    ListQuery,
    RankQuery,
    Recommendation,
    at_most,
    below,
    boost,
    diverse,
    pin,
    where,
)
from recsys.errors import InvalidInputError
from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.serving.process.server import running_server
from recsys.serving.settings import Settings

ITEMS = 40
TABLES = tiny_tables(items=ITEMS)
CATEGORIES = ("shoes", "boots", "socks")
CATEGORY = {item: CATEGORIES[item % 3] for item in range(1, ITEMS - 1)}
"""Of all items but the last two, of which the store knows nothing."""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("ruled")
    write_tiny_bundle(folder / "tiny", features=SHOP)
    write_tiny_retrieval(folder / "finder", TABLES, features=FOUND)
    values: dict[str, Any] = {"redis_url": redis_server.url, "store_timeout_ms": 5_000}
    settings = Settings(bundle=folder / "tiny", retrieval=folder / "finder", port=0, **values)
    with running_server(settings) as server, Client(server.address, timeout_s=10.0) as client:
        items = list(CATEGORY)
        client.put_entities(entity="item", ids=items, features={"price": [float(10 * (i % 8)) for i in items]})
        client.put_entities(
            entity="offer",
            ids=items,
            features={
                "category": [CATEGORY[i] for i in items],
                "in_stock": [i % 2 for i in items],
                "labels": [[i % 5, 7] for i in items],
            },
        )
        client.append_events(user=5, items=[1, 3], timestamps_ms=[1_700_000_000_000, 1_700_000_000_001])
        until_s = time.monotonic() + 10
        while client.retrieve(user=4, filter=where(category=list(CATEGORIES))).filter.passed != len(items):  # type: ignore[union-attr]
            assert time.monotonic() < until_s, "the values did not come"
            time.sleep(0.02)
        yield client


def ruled(client: Client, *rules: Any, top_k: int = 10, user: int = 4, **more: Any) -> Recommendation:
    return client.recommend(user=user, top_k=top_k, rules=rules, reasons=bool(rules), **more)


def plain(client: Client, *, user: int = 4, **more: Any) -> list[int]:
    return [int(item) for item in client.recommend(user=user, top_k=ITEMS, **more).items]


def cosine(one: int, other: int) -> float:
    a, b = TABLES.items_MD[one - 1].astype(np.float64), TABLES.items_MD[other - 1].astype(np.float64)
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths else 0.0


def test_a_cap_looks_at_all_candidates_and_says_when_they_ran_out(client: Client) -> None:
    best = ruled(client, at_most(2, "category"), top_k=8)
    counts = Counter(CATEGORY.get(item) for item in best.items.tolist())
    assert counts == {"shoes": 2, "boots": 2, "socks": 2, None: 2}, "items of no category are not capped"
    assert best.rules is not None and best.rules.lacking == 0 and best.rules.detail == ""
    assert [plain(client)[reason.place_by_score - 1] for reason in best.rules.reasons] == best.items.tolist()
    short = ruled(client, at_most(1, "category"), top_k=10, exclude=[ITEMS - 1, ITEMS])
    assert short.rules is not None and len(short.items) == 3 and short.rules.lacking == 7
    assert short.rules.effects[0].left_out == len(CATEGORY) - 3
    assert "ran out at 3 of 10 items, 38 were ranked: at most 1 of a category (rules[0]) left out 35" in (
        short.rules.detail
    )


def test_boosts_multiply_odds_and_add_up(client: Client) -> None:
    order = client.recommend(user=4, top_k=ITEMS)
    logits = {
        item: float(np.log(score / (1 - score)))
        for item, score in zip(order.items.tolist(), order.scores.astype(np.float64), strict=True)
    }
    best = ruled(client, boost("category", 3.0, "shoes"), boost("price", add=-1.0, test=below(20)), top_k=ITEMS)

    def boosted(item: int) -> float:
        shoes, cheap = CATEGORY.get(item) == "shoes", item in CATEGORY and 10 * (item % 8) < 20
        return logits[item] + np.log(3.0) * shoes - 1.0 * cheap

    values = [boosted(item) for item in best.items.tolist()]
    assert all(one >= other - 1e-4 for one, other in zip(values, values[1:], strict=False))
    scores = dict(zip(order.items.tolist(), order.scores.tolist(), strict=True))
    assert best.scores.tolist() == [scores[item] for item in best.items.tolist()], "scores are the model's own"
    assert best.rules is not None
    for item, reason in zip(best.items.tolist(), best.rules.reasons, strict=True):
        assert (0 in reason.rules) == (CATEGORY.get(item) == "shoes")
    assert best.rules.effects[0].acted == sum(category == "shoes" for category in CATEGORY.values())


def test_a_value_that_no_item_has_is_said(client: Client) -> None:
    best = ruled(client, boost("category", 3.0, "shoez"))
    assert best.rules is not None and best.rules.unknown_values == ("category=shoez",)
    assert best.items.tolist() == plain(client)[:10] and best.rules.effects[0].acted == 0


def test_pins_have_their_places_or_it_is_said_why_not(client: Client) -> None:
    last, seen, other = plain(client, user=5)[-1], 3, plain(client, user=5)[4]
    client.withdraw_items(items=[38])
    try:
        until_s = time.monotonic() + 10
        while 38 in plain(client, user=5):
            assert time.monotonic() < until_s, "38 is still there"
        best = ruled(client, pin(last, 2), pin(seen, 1), pin(12_345, 3), pin(other, 4), pin(38, 5), user=5,
                     exclude=[other])  # fmt: skip
    finally:
        client.put_entities(entity="item", ids=[38], features={"price": [60.0]})
    assert best.items[1] == last and len(best.items) == 10 and best.rules is not None
    assert [(of.pin, of.place) for of in best.rules.effects] == [
        ("placed", 2), ("seen", 0), ("unknown", 0), ("excluded", 0), ("withdrawn", 0)
    ]  # fmt: skip
    assert best.rules.reasons[1].rules == (0,)
    kept = ruled(client, pin(seen, 1), user=5, include_seen=True)
    assert kept.items[0] == seen
    out = ruled(client, pin(2, 1), filter=where(in_stock=True))
    assert out.rules is not None and out.rules.effects[0].pin == "filtered_out" and 2 not in out.items


def test_a_pinned_item_that_was_not_retrieved_is_ranked_too(client: Client) -> None:
    few = client.recommend(user=4, top_k=3, candidates=3).items.tolist()
    other = next(item for item in plain(client) if item not in few)
    best = client.recommend(user=4, top_k=3, candidates=3, rules=[pin(other, 1)])
    assert best.items[0] == other and best.candidates == 4
    score = client.rank(user=4, candidates=[other]).scores[0]
    assert best.scores[0] == pytest.approx(score, abs=1e-6)


def test_diversity_reads_the_vectors_of_the_retrieval_model(client: Client) -> None:
    order = client.recommend(user=4, top_k=ITEMS)
    best = ruled(client, diverse(0.3), top_k=6)
    scores = dict(zip(order.items.tolist(), order.scores.astype(np.float64).tolist(), strict=True))
    left, chosen = order.items.tolist(), list[int]()
    for _ in range(6):
        worth = {
            item: 0.3 * scores[item] / max(scores.values())
            - 0.7 * max((cosine(item, other) for other in chosen), default=0.0)
            for item in left
        }
        chosen.append(next(item for item in left if worth[item] >= max(worth.values()) - 1e-6))
        left.remove(chosen[-1])
    assert best.items.tolist() == chosen != plain(client)[:6]
    assert best.rules is not None and best.rules.without_vector == sum(
        not TABLES.items_MD[item - 1].any() for item in plain(client)
    )
    assert ruled(client, diverse(1.0)).items.tolist() == plain(client)[:10]


def test_rank_makes_lists_of_its_candidates(client: Client) -> None:
    candidates = [4, 1, 2, 3, 1, 40, 7, 999]
    order = client.rank(user=4, candidates=candidates, top_k=8).items
    ranked = client.rank(user=4, candidates=candidates, top_k=3, rules=[at_most(1, "category"), pin(4, 1), pin(9, 2)])
    assert ranked.items[0] == 4 and [candidates[at] for at in ranked.positions] == ranked.items
    others = [item for item in order if item not in (4, 1, 7)]  # these three are boots
    assert list(ranked.items[1:]) == others[:2]
    assert ranked.rules is not None and [of.pin for of in ranked.rules.effects] == ["", "placed", "not_a_candidate"]
    both = client.rank_batch(
        [
            RankQuery(user=4, candidates=candidates, top_k=2, rules=[diverse(0.5)], reasons=True),
            RankQuery(user=4, candidates=[2, 4], top_k=2, filter=where(category="shoes"), rules=[pin(2, 1)]),
        ]
    )
    assert both[0].rules is not None and len(both[0].rules.reasons) == 2 and both[0].rules.without_vector >= 1
    assert both[1].items == [] and both[1].rules is not None
    assert both[1].rules.effects[0].pin == "filtered_out" and both[1].rules.lacking == 2


def test_an_answer_without_rules_says_nothing_of_them(client: Client) -> None:
    assert client.recommend(user=4).rules is None and client.rank(user=4, candidates=[1], top_k=1).rules is None
    silent = client.recommend(user=4, rules=[at_most(2, "category")])
    assert silent.rules is not None and silent.rules.reasons == ()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([at_most(0, "category")], r"rules\[0\].at_most.count is 0; allowed: 1 or more; a filter leaves all"),
        ([at_most(1, "categroy")], r"at_most.attribute: unknown attribute 'categroy': did you mean 'category'\?"),
        ([at_most(1, "supplier")], r"'supplier' is not declared filterable"),
        ([at_most(1, "price")], r"'price' is a number; allowed: an attribute of ids, or a test of a range"),
        ([at_most(1, "")], r"at_most: neither of attribute and when is set; allowed: one"),
        ([boost("categroy", 2.0)], r"boost.when.attribute: unknown attribute 'categroy': did you mean 'category'\?"),
        ([boost("in_stock", 0.0)], r"rules\[0\].boost.multiply is 0; allowed: 1e-06 to 1,000,000"),
        ([boost("in_stock", -2.0)], r"multiply is -2; allowed"),
        ([boost("in_stock", float("nan"))], r"multiply is nan; allowed"),
        ([boost("in_stock", add=float("inf"))], r"add is inf; allowed: -13.82 to 13.82"),
        ([boost("category", 2.0)], r"boost.when.flag: 'category' takes texts and is no flag"),
        ([pin(1, 0)], r"rules\[0\].pin.place is 0; allowed: 1 to top_k, 10"),
        ([pin(1, 11)], r"pin.place is 11; allowed: 1 to top_k, 10"),
        ([pin(1, 2), pin(3, 2)], r"rules\[1\].pin.place: rules\[0\] has a pin of the same place; allowed: one"),
        ([pin(1, 2), pin(1, 3)], r"rules\[1\].pin.item: rules\[0\] has a pin of the same item"),
        ([pin(-1, 2)], r"rules\[0\].pin.item.integer is -1"),
        ([pin("a", 2)], r"rules\[0\].pin.item.text"),
        ([diverse(0.0)], r"rules\[0\].diverse.relevance is 0; allowed: above 0 and up to 1"),
        ([diverse(1.5)], r"relevance is 1.5; allowed"),
        ([diverse(float("nan"))], r"relevance is nan; allowed"),
        ([diverse(0.5), diverse(0.6)], r"rules\[1\].diverse: rules\[0\] is another one; allowed: one"),
        ([boost("in_stock", 2.0)] * 65, r"rules: got 65; allowed: up to 64"),
        ([boost("labels", 2.0, list(range(6_000)))] * 2, r"rules: got 12,000 values; allowed: up to 10,000"),
    ],
)
def test_bad_rules_are_refused_by_their_place(client: Client, rules: Sequence[Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        client.recommend(user=4, rules=rules)
    with pytest.raises(InvalidArgument, match=message):
        client.rank(user=4, candidates=[1, 2], top_k=10, rules=rules)


def test_rules_need_a_list_of_bounded_work(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="rules: top_k is 0; rules make a list: set top_k"):
        client.rank(user=4, candidates=[1], rules=[pin(1, 1)])
    with pytest.raises(InvalidArgument, match="reasons is set, but there are no rules"):
        client.recommend(user=4, reasons=True)
    with pytest.raises(InvalidArgument, match=r"top_k times candidates is 2,000,000; allowed: up to 1,000,000"):
        client.recommend(user=4, top_k=200, candidates=10_000, rules=[diverse(0.5)])
    with pytest.raises(InvalidInputError, match=r"rules\[1\]: got 'pin'; allowed: what at_most\(\), boost\(\), pin"):
        client.recommend(user=4, rules=[pin(1, 1), "pin"])  # type: ignore[list-item]
    with pytest.raises(InvalidInputError, match="boost: got multiply=2, add=1; allowed: one of the two"):
        boost("in_stock", 2, add=1)


def test_explain_names_the_rule_that_moved_an_item_or_kept_it_away(client: Client) -> None:
    order = plain(client)
    capped = at_most(1, "category")
    shoes = [item for item in order if CATEGORY.get(item) == "shoes"]
    within = ListQuery(top_k=5, rules=[pin(order[20], 1), capped])

    def place(item: int, query: ListQuery = within) -> ListPlace:
        found = client.explain(user=4, item=item, within=query).place
        assert found is not None
        return found

    answer = client.recommend(user=4, top_k=5, rules=within.rules)
    assert place(order[20]) == ListPlace(1, 21, (0,), f"rules[0]: item {order[20]} at 1")
    second = int(answer.items[1])
    assert place(second) == ListPlace(2, order.index(second) + 1, (), "others were moved, or left out, before it")
    out = next(item for item in shoes if item not in answer.items)
    kept = place(out)
    assert (kept.place, kept.rules) == (0, (1,)) and kept.place_by_score == order.index(out) + 1
    assert kept.why == "kept from the list by rules[1]: at most 1 of a category"
    assert place(order[0], ListQuery(top_k=5)) == ListPlace(1, 1, (), "its score")
    assert place(order[-1], ListQuery(top_k=5)).why == f"not among the best 5: place {ITEMS} of {ITEMS} by its score"
    lost = place(order[2], ListQuery(top_k=5, exclude=[order[2]], rules=[pin(order[2], 1)]))
    assert lost.why == f"rules[0]: item {order[2]} at 1, but the request excludes it" and lost.rules == (0,)
    gone = place(order[2], ListQuery(top_k=5, exclude=[order[2]]))
    assert (gone.place, gone.place_by_score) == (0, 0) and gone.why.startswith("not among the 39 candidates")
    assert client.explain(user=4, item=1).place is None
    with pytest.raises(InvalidArgument, match=r"list.rules\[0\].pin.place is 9; allowed: 1 to top_k, 5"):
        place(1, ListQuery(top_k=5, rules=[pin(1, 9)]))
    with pytest.raises(InvalidArgument, match="list.top_k is 0; allowed: 1 to"):
        place(1, ListQuery(top_k=0))
