"""Items that a request brings take part in a search as those of the bundle do; their rows are those of attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.tiny_retrieval import (
    GENRE_FEATURES,
    best_by_history,
    tiny_attributes,
    tiny_history_tables,
    write_tiny_history_retrieval,
)

from recsys.arrays import Float32Array
from recsys.bundle import open_bundle, read_manifest
from recsys.errors import BundleError, InvalidInputError
from recsys.export.retrieval.by_history.linear.graph import HistoryTables
from recsys.features.feature_set import Categorical
from recsys.features.hashing import MISSING
from recsys.features.history.records import Events, make_events
from recsys.features.number_transform import NumberTransform
from recsys.models.retrieval.attributes import AttributeRows, Encoding
from recsys.serving.inference.candidate_index import AddedItems
from recsys.serving.inference.retrieval_session import RetrievalSession, open_retrieval

NOTHING = np.empty(0, dtype=np.int64)
HELD = np.array([2, 7, 19])
"""Items that the bundle of these tests has not."""


def history(items: Sequence[int]) -> Events:
    count = len(items)
    return make_events(
        GENRE_FEATURES, item=list(items), timestamp_ms=list(range(count)), attributes={"rating": [1] * count}
    )


def split(tables: HistoryTables) -> tuple[HistoryTables, HistoryTables]:
    """The tables without ``HELD``, and whole ones in which those are nobody's neighbours and have none."""
    kept = np.flatnonzero(~np.isin(tables.item_keys, HELD))
    place = np.full(len(tables.item_keys) + 1, -1, dtype=np.int32)
    place[kept] = np.arange(len(kept))
    near = np.where(place[tables.neighbours_MJ] >= 0, tables.neighbours_MJ, -1).astype(np.int32)
    near[HELD - 1] = -1
    popularity = tables.popularity_M.copy()
    popularity[HELD - 1] = 0.0
    whole = replace(tables, neighbours_MJ=near, popularity_M=popularity)
    part = HistoryTables(
        item_keys=tables.item_keys[kept],
        history_MD=tables.history_MD[kept],
        items_MD=tables.items_MD[kept],
        neighbours_MJ=place[near[kept]],
        added_MJ=tables.added_MJ[kept],
        popularity_M=tables.popularity_M[kept],
    )
    return part, whole


def rows_of(tables: HistoryTables, keys: Sequence[int]) -> Float32Array:
    places = np.array(keys) - 1
    return np.concatenate([tables.history_MD[places], tables.items_MD[places]], axis=1)


@pytest.fixture(scope="module")
def whole() -> HistoryTables:
    return split(tiny_history_tables())[1]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("added") / "bundle"
    part, _ = split(tiny_history_tables())
    write_tiny_history_retrieval(path, part, features=GENRE_FEATURES, attributes=tiny_attributes())
    return path


@pytest.fixture(scope="module")
def session(bundle: Path) -> RetrievalSession:
    return open_retrieval(open_bundle(bundle))


@pytest.mark.parametrize(
    ("items", "seen"),
    [((3,), ()), ((7,), ()), ((3, 7, 3, 19, 99, 7), (19, 4)), (tuple(range(1, 21)), (2, 7, 19)), ((5, 6), (99,))],
)
def test_the_list_is_that_of_a_bundle_with_the_items_inside(
    items: tuple[int, ...], seen: tuple[int, ...], session: RetrievalSession, whole: HistoryTables
) -> None:
    added = AddedItems(HELD, rows_of(whole, HELD.tolist()))
    got = session.retrieve(5, np.array(seen, dtype=np.int64), 20, history(items), added)
    expected, scores = best_by_history(whole, dict.fromkeys(set(items) & set(range(1, 21)), 1.0), seen, 20)
    assert dict(zip(got.items.tolist(), got.scores.tolist(), strict=True)) == dict(
        zip(expected.tolist(), scores.tolist(), strict=True)
    )
    assert got.scores.tolist() == scores.tolist() and got.known
    assert got.history_known == sum(item <= 20 for item in items), "an added item is a known one"


def test_rows_may_stand_in_any_order_and_some_be_no_items(session: RetrievalSession, whole: HistoryTables) -> None:
    in_order = AddedItems(HELD, rows_of(whole, HELD.tolist()))
    nobody = np.full((1, 8), 1e6, dtype=np.float32)
    rows = np.concatenate([nobody, in_order.rows[[2, 0]], nobody, in_order.rows[[1]], nobody])
    places = np.array([2, 4, 1])
    scattered = AddedItems(HELD, rows, order=places)
    assert scattered.places(np.array([19, 5, 2])).tolist() == [1, -1, 2]
    for items in ([3, 7, 19], []):
        got, expected = (
            session.retrieve(5, np.array([19]), 20, history(items), added) for added in (scattered, in_order)
        )
        assert got.items.tolist() == expected.items.tolist() and got.scores.tolist() == expected.scores.tolist()


def test_without_them_they_are_unknown(session: RetrievalSession, whole: HistoryTables) -> None:
    for none in (None, AddedItems(NOTHING, np.zeros((0, 8), dtype=np.float32))):
        got = session.retrieve(5, NOTHING, 20, history([3, 7]), none)
        assert len(got.items) == 17 and not set(got.items) & set(HELD.tolist()) and got.history_unknown == 1
    got = session.retrieve(5, NOTHING, 3, history([7]))
    assert not got.known and got.items.tolist() == [20, 18, 17]


def test_who_is_not_known_gets_added_items_last(session: RetrievalSession, whole: HistoryTables) -> None:
    added = AddedItems(HELD, rows_of(whole, HELD.tolist()))
    got = session.retrieve(5, NOTHING, 20, None, added)
    assert not got.known and got.items.tolist() == [i for i in range(20, 0, -1) if i not in HELD] + HELD.tolist()
    assert got.scores[-3:].tolist() == [0.0] * 3


def test_an_added_item_that_the_bundle_has_is_passed_over(session: RetrievalSession, whole: HistoryTables) -> None:
    keys = np.array([3, 7, 20])
    odd = np.full((3, 8), 1000.0, dtype=np.float32)
    odd[1] = rows_of(whole, [7])[0]
    alone = session.retrieve(5, NOTHING, 20, history([3, 7]), AddedItems(keys[1:2], odd[1:2]))
    got = session.retrieve(5, NOTHING, 20, history([3, 7]), AddedItems(keys, odd))
    assert got.items.tolist() == alone.items.tolist() and got.scores.tolist() == alone.scores.tolist()
    assert session.has_items(np.array([3, 7, 20, MISSING, 10**12])).tolist() == [True, False, True, False, False]


def test_any_number_of_added_items_is_found_among(session: RetrievalSession, whole: HistoryTables) -> None:
    random = np.random.default_rng(0)
    for count in (1, 2, 3, 4, 5, 7, 8, 9, 1000):
        keys = np.sort(random.choice(10**15, count, replace=False) + 100)
        rows = random.integers(-8, 8, (count, 8)).astype(np.float32)
        place = int(random.integers(count))
        out = keys[[0, count // 2, -1]]
        got = session.retrieve(
            5, out, count + 17, history([int(keys[place]), int(keys[place]) + 1]), AddedItems(keys, rows)
        )
        assert got.known and got.history_known == 1 + (int(keys[place]) + 1 in keys)
        left = np.flatnonzero(~np.isin(keys, out))
        expected = {int(keys[at]): float(rows[at, 4:] @ rows[place, :4]) for at in left}
        assert {key: score for key, score in zip(got.items.tolist(), got.scores.tolist(), strict=True) if key > 20} == (
            expected
        )


def test_rows_of_items_are_those_of_their_attributes(session: RetrievalSession) -> None:
    attributes = tiny_attributes()
    assert sorted(session.item_inputs) == ["genres", "price"]
    weights, base = attributes.weights_PR, attributes.base_R
    genres = np.array([[1, 2, MISSING], [4, MISSING, 77], [77, MISSING, MISSING], [MISSING] * 3])
    price = np.array([8.0, 12.0, np.nan, 0.0], dtype=np.float32)
    got = session.rows({"genres": genres, "price": price, "colour": price})
    expected = [
        base + (weights[0] + weights[1]) / 2,
        base + weights[3] / 2 + weights[4],
        base,
        base - 2 * weights[4],
    ]
    np.testing.assert_allclose(got.rows, np.stack(expected), rtol=1e-6)
    assert got.known.tolist() == [2, 2, 0, 0], "a price of the default is none"
    assert got.usable.tolist() == [True, True, False, False]
    rows, known = attributes.rows({"genres": genres, "price": price}, 4)
    np.testing.assert_allclose(got.rows, rows, rtol=1e-6)
    assert known.tolist() == got.known.tolist()
    assert session.rows({"price": price[:0]}).rows.shape == (0, 8)
    alone = session.rows({"price": price[:1]})
    np.testing.assert_allclose(alone.rows, base[None], rtol=1e-6)
    assert alone.known.tolist() == [1]


@pytest.mark.parametrize(
    "kinds",
    [
        ("many", "one", "a", "b"),
        ("a",),
        pytest.param(("one",), marks=pytest.mark.prove),
        pytest.param(("b", "a", "c"), marks=pytest.mark.prove),
    ],
)
def test_attributes_of_any_kinds_make_a_graph(kinds: tuple[str, ...], tmp_path: Path) -> None:
    every = {
        "one": Categorical(name="one", table="shared"),
        "many": Categorical(name="many", table="shared", max_values=4),
        **{name: type(GENRE_FEATURES.item[1])(name=name, default=None) for name in ("a", "b", "c")},
    }
    features = replace(GENRE_FEATURES, item=tuple(every[kind] for kind in kinds))
    keys = {name: np.arange(3) * 10 for name in kinds if name in ("one", "many")}
    transforms = {
        "a": NumberTransform(kind="signed_log", unit=2.0, fill=0.5),
        "b": NumberTransform(kind="standardise", centre=1.0, scale=2.0),
        "c": NumberTransform(kind="quantile", boundaries=tuple(float(n) for n in range(5))),
    }
    numbers = {name: transforms[name] for name in kinds if name in transforms}
    random = np.random.default_rng(0)
    width = sum(map(len, keys.values())) + len(numbers)
    attributes = AttributeRows(
        encoding=Encoding(features=features.item, keys=keys, numbers=numbers),
        weights_PR=random.normal(size=(width, 8)).astype(np.float32),
        base_R=random.normal(size=8).astype(np.float32),
    )
    write_tiny_history_retrieval(tmp_path / "bundle", features=features, attributes=attributes)
    columns = {}
    for kind in kinds:
        drawn = random.integers(-1, 3, (6, 4)) * 10
        columns[kind] = np.maximum(drawn, -1) if kind == "many" else np.maximum(drawn[:, 0], -1)
        if kind in numbers:
            columns[kind] = np.array([np.nan, *random.normal(size=5)], dtype=np.float32)
    got = open_retrieval(open_bundle(tmp_path / "bundle")).rows(columns)
    rows, known = attributes.rows(columns, 6)
    np.testing.assert_allclose(got.rows, rows, rtol=1e-5, atol=1e-6)
    assert got.known.tolist() == known.tolist()


def test_what_does_not_fit_is_refused(session: RetrievalSession, bundle: Path, tmp_path: Path) -> None:
    for keys, rows, message in (
        ([3, 3], np.zeros((2, 8)), "distinct, ascending"),
        ([-1], np.zeros((1, 8)), "0 or more"),
        ([3, 4], np.zeros((1, 8)), r"rows \[1, 8\], no names, 2 places of 2 keys"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            AddedItems(np.array(keys), rows.astype(np.float32))
    with pytest.raises(InvalidInputError, match=r"columns of items have \[1, 2\] rows"):
        session.rows({"genres": np.full((1, 3), MISSING), "price": np.zeros(2, dtype=np.float32)})
    write_tiny_history_retrieval(tmp_path / "bare")
    bare = open_retrieval(open_bundle(tmp_path / "bare"))
    assert bare.item_inputs == () and "item" not in read_manifest(tmp_path / "bare").graphs
    with pytest.raises(InvalidInputError, match="makes no rows of items: it has no graph 'item'"):
        bare.rows({"genres": np.full((1, 3), MISSING)})
    made = open_bundle(bundle)
    other = replace(made, manifest=replace(made.manifest, feature_set=replace(GENRE_FEATURES, item=())))
    with pytest.raises(BundleError, match=r"graph 'item', input 'genres': the graph has int64 .* says nothing"):
        open_retrieval(other)
