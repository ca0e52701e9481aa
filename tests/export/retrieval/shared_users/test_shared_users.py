"""Lists by shared users are those of all pairs of items; the users of each item are those of the log."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.tiny_retrieval import items_by_user, jaccard, tiny_log, tiny_tables, write_tiny_retrieval

from recsys.bundle import open_bundle
from recsys.data.interactions.pairs import make_pairs
from recsys.errors import BundleError, InvalidInputError
from recsys.export.retrieval.shared_users import neighbours
from recsys.export.retrieval.shared_users.add import SharedUsers
from recsys.export.retrieval.shared_users.audience import audience_tables
from recsys.export.retrieval.shared_users.neighbours import NeighbourLists, certify_neighbours, neighbour_lists

USERS, ITEMS = 60, 50


def pairs_of(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    pairs = make_pairs(random.integers(0, USERS, 400), random.integers(0, ITEMS - 2, 400))  # two items without a user
    return pairs.user_E, pairs.item_E


def by_definition(user_E: np.ndarray, item_E: np.ndarray, item: int, listed_M: np.ndarray) -> dict[int, float]:
    users = {i: set(user_E[item_E == i].tolist()) for i in range(ITEMS)}
    scores = {
        other: len(users[item] & users[other]) / max(1, len(users[item] | users[other]))
        for other in np.flatnonzero(listed_M).tolist()
        if other != item
    }
    return {other: score for other, score in scores.items() if score > 0}


@pytest.mark.parametrize("work", [1, 700, 10**9])
def test_a_list_has_the_items_that_share_most_users_whatever_is_walked_at_once(
    work: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "_WORK", work)
    user_E, item_E = pairs_of(0)
    listed_M = np.arange(ITEMS) % 3 > 0
    lists = neighbour_lists(user_E, item_E, users=USERS, items=ITEMS, listed_M=listed_M, most=7)
    for item in range(ITEMS):
        mine = slice(*lists.begins[item : item + 2])
        expected = by_definition(user_E, item_E, item, listed_M)
        best = sorted(expected, key=lambda other: (-expected[other], other))[:7]
        assert lists.items[mine].tolist() == best
        np.testing.assert_allclose(lists.scores[mine], [expected[other] for other in best], atol=1e-6)
    certify_neighbours(lists, user_E, item_E, users=USERS, listed_M=listed_M, most=7)


def test_users_with_too_many_items_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    user_E, item_E = pairs_of(1)
    crawler = np.arange(ITEMS)
    with_user, with_item = np.concatenate([user_E, np.full(ITEMS, USERS)]), np.concatenate([item_E, crawler])
    monkeypatch.setattr(neighbours, "MOST_ITEMS", ITEMS - 1)
    every = np.ones(ITEMS, dtype=np.bool_)
    plain = neighbour_lists(user_E, item_E, users=USERS, items=ITEMS, listed_M=every, most=9)
    lists = neighbour_lists(with_user, with_item, users=USERS + 1, items=ITEMS, listed_M=every, most=9)
    assert lists.items.tolist() == plain.items.tolist() and lists.scores.tolist() == plain.scores.tolist()


def test_a_list_that_is_not_that_of_all_pairs_is_not_certified() -> None:
    user_E, item_E = pairs_of(0)
    every = np.ones(ITEMS, dtype=np.bool_)
    lists = neighbour_lists(user_E, item_E, users=USERS, items=ITEMS, listed_M=every, most=7)
    for wrong in (
        NeighbourLists(lists.begins, lists.items, lists.scores * np.float32(0.99)),
        NeighbourLists(lists.begins, np.roll(lists.items, 1), lists.scores),
    ):
        with pytest.raises(BundleError, match="certificate: the items that share most users with item"):
            certify_neighbours(wrong, user_E, item_E, users=USERS, listed_M=every, most=7)


def test_the_users_of_each_item_are_those_of_the_pairs() -> None:
    user_E, item_E = pairs_of(2)
    random = np.random.default_rng(5)
    user_keys, item_keys = random.permutation(USERS) + 100, random.permutation(ITEMS) + 9_000
    found = audience_tables(user_E, item_E, user_keys_N=user_keys, item_keys_M=item_keys)
    keys, begins, users, of_users, counts = (
        found[f"audience.{name}"] for name in ("keys", "begins", "users", "user_keys", "user_items")
    )
    assert keys.tolist() == sorted(item_keys[np.unique(item_E)].tolist())
    for place, key in enumerate(keys.tolist()):
        mine = of_users[users[begins[place] : begins[place + 1]]]
        assert mine.tolist() == sorted(user_keys[user_E[item_keys[item_E] == key]].tolist())
    assert counts.tolist() == [int(np.sum(user_keys[user_E] == key)) for key in of_users.tolist()]


def test_a_bundle_has_the_tables_that_are_asked_for_and_no_others(tmp_path: Path) -> None:
    tables = tiny_tables(30)
    log = tiny_log(tables, more_items=5)
    write_tiny_retrieval(tmp_path / "plain", tables, log=log, shared_users=SharedUsers())
    bare = set(open_bundle(tmp_path / "plain").manifest.tables)
    for wanted, prefix in ((SharedUsers(neighbours=4), "neighbours"), (SharedUsers(audience=True), "audience")):
        write_tiny_retrieval(tmp_path / prefix, tables, log=log, shared_users=wanted)
        added = set(open_bundle(tmp_path / prefix).manifest.tables) - bare
        assert added and all(name.startswith(f"{prefix}.") for name in added)


def test_lists_are_of_the_bundles_items_and_any_item_of_the_log_has_one(tmp_path: Path) -> None:
    tables = tiny_tables(30)
    log = tiny_log(tables, more_items=5)
    write_tiny_retrieval(tmp_path / "b", tables, log=log, shared_users=SharedUsers(neighbours=1_000))
    infos = open_bundle(tmp_path / "b").manifest.tables
    keys, begins, rows, item_keys = (
        infos[name].read(tmp_path / "b")
        for name in ("neighbours.keys", "neighbours.begins", "neighbours.rows", "item_id.keys")
    )
    assert keys.tolist() == sorted(set().union(*items_by_user(log).values()))
    assert (keys >= 10**6).any()
    for place, key in enumerate(keys.tolist()):
        listed = set(item_keys[rows[begins[place] : begins[place + 1]]].tolist())
        assert listed == {item for item in jaccard(log, key) if item < 10**6}


@pytest.mark.parametrize("length", [-1, 1_001])
def test_the_length_of_a_list_is_bounded(length: int) -> None:
    with pytest.raises(InvalidInputError, match=f"neighbours is {length:,}; allowed: 0 to 1,000"):
        SharedUsers(neighbours=length)
