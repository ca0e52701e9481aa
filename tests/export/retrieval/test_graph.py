"""The graph ``retrieve`` finds what the definition says, for any vectors, users and items left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_retrieval import TEXT_FEATURES, best_items, tiny_tables, tiny_text_tables, write_tiny_retrieval

from recsys.bundle import open_bundle
from recsys.errors import InvalidInputError
from recsys.export.retrieval.graph import RetrievalTables
from recsys.features.hashing import KEY_LIMIT, string_keys
from recsys.features.names import ITEM_NAMES, open_names
from recsys.serving.inference.retrieval_session import RetrievalSession, open_retrieval

KEYS = st.integers(0, KEY_LIMIT - 1)


@st.composite
def tables(draw: st.DrawFn) -> RetrievalTables:
    """Small whole numbers: products are exact, whatever the order of the sums, and ties are many."""
    users = draw(st.lists(KEYS, max_size=6, unique=True))
    items = draw(st.lists(KEYS, min_size=1, max_size=40, unique=True))
    width = draw(st.integers(1, 5))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return RetrievalTables(
        user_keys=np.array(users, dtype=np.int64),
        users_ND=random.integers(-2, 3, (len(users), width)).astype(np.float32),
        item_keys=np.array(items, dtype=np.int64),
        items_MD=random.integers(-2, 3, (len(items), width)).astype(np.float32),
        popularity_M=random.integers(0, 4, len(items)).astype(np.float32),
    )


def opened(made: RetrievalTables, folder: Path) -> RetrievalSession:
    write_tiny_retrieval(folder / "bundle", made)
    return open_retrieval(open_bundle(folder / "bundle"))


@given(made=tables(), data=st.data())
@settings(max_examples=40)
def test_lists_are_those_of_brute_force(
    made: RetrievalTables, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    session = opened(made, tmp_path_factory.mktemp("graph"))
    for _ in range(5):
        user = data.draw(st.one_of(KEYS, st.sampled_from(made.user_keys.tolist() or [0])))
        own = st.sampled_from(made.item_keys.tolist())
        seen = data.draw(st.lists(st.one_of(own, own, KEYS, st.just(-1)), max_size=60))
        k = data.draw(st.integers(1, 60))
        got = session.retrieve(user, np.array(seen, dtype=np.int64), k)
        items, scores = best_items(made, user, seen, k)
        assert got.items.tolist() == items.tolist()
        assert got.scores.tolist() == scores.tolist()
        assert got.known == (user in made.user_keys)


def test_fewer_items_come_when_fewer_are_left(tmp_path: Path) -> None:
    made = tiny_tables(20)
    session = opened(made, tmp_path)
    assert len(session.retrieve(1, np.empty(0, dtype=np.int64), 1000).items) == 20
    assert session.retrieve(1, np.arange(1, 20), 5).items.tolist() == [20]
    nothing = session.retrieve(1, np.arange(1, 21), 5)
    assert nothing.items.shape == nothing.scores.shape == (0,) and nothing.known


def test_an_unknown_user_gets_the_most_popular_items_without_those_seen(tmp_path: Path) -> None:
    session = opened(tiny_tables(20), tmp_path)
    got = session.retrieve(77, np.array([20, 18]), 3)
    assert got.items.tolist() == [19, 17, 16] and got.scores.tolist() == [19.0, 17.0, 16.0]
    assert not got.known


def test_floating_scores_are_those_of_numpy(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    made = RetrievalTables(
        user_keys=np.arange(50),
        users_ND=random.normal(size=(50, 64)).astype(np.float32),
        item_keys=random.permutation(10_000)[:5_000],
        items_MD=random.normal(size=(5_000, 64)).astype(np.float32),
        popularity_M=np.ones(5_000, dtype=np.float32),
    )
    session = opened(made, tmp_path)
    for user in range(50):
        got = session.retrieve(user, made.item_keys[:user], 100)
        items, scores = best_items(made, user, made.item_keys[:user], 100)
        np.testing.assert_allclose(got.scores, scores, atol=1e-4)
        assert np.isin(items, got.items).mean() > 0.97, "only items of nearly equal scores may change places"


def test_rows_are_in_the_order_of_keys_and_names_beside_them(tmp_path: Path) -> None:
    made = tiny_text_tables(20)
    assert made.item_names_M is not None and (np.diff(made.item_keys) < 0).any()
    write_tiny_retrieval(tmp_path / "bundle", made, features=TEXT_FEATURES)
    keys = np.fromfile(tmp_path / "bundle" / "tables" / "item_id.keys.bin", dtype=np.int64)
    assert keys.tolist() == [-1, *sorted(made.item_keys.tolist())]
    names = open_names(tmp_path / "bundle" / ITEM_NAMES)
    assert names.of(made.item_keys) == list(made.item_names_M)


def test_two_items_of_one_key_are_refused() -> None:
    made = tiny_tables(3)
    with pytest.raises(InvalidInputError, match="items 'JCaTtfAV' and 'NUcxGd9W' have one key, 1824316602636817148"):
        names = ["JCaTtfAV", "x", "NUcxGd9W"]
        replace(made, item_keys=string_keys(names), item_names_M=names)
    with pytest.raises(InvalidInputError, match="items 2 and 2 have one key, 2; expected distinct keys"):
        replace(made, item_keys=np.array([2, 1, 2]))


def test_the_graph_and_its_functions_are_of_standard_operators_with_its_tables_beside_it(tmp_path: Path) -> None:
    manifest = write_tiny_retrieval(tmp_path / "bundle")
    model = onnx.load(tmp_path / "bundle" / "retrieve.onnx", load_external_data=False)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 21), ("recsys", 1)]
    assert {node.domain for node in model.graph.node} == {""}
    assert [function.name for function in model.functions] == ["TopItems", "TopScores"]
    assert {node.domain for function in model.functions for node in function.node} == {""}
    external = {t.name for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL}
    assert external == set(manifest.tables) - {"item_id.inverse_norm"}  # which the graph similar reads


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"users_ND": np.zeros((2, 3), np.float32)}, r"users_ND is \[2, 3\]; expected \[6, 6\]"),
        ({"popularity_M": np.zeros(3, np.float32)}, r"popularity_M is \[3\]; expected \[20\]"),
        ({"item_names_M": ["a", "b"]}, "item_names_M has 2 names; expected 20"),
        ({"items_MD": np.full((20, 6), np.nan, np.float32)}, "items_MD holds numbers that are not finite"),
        (
            {
                "item_keys": np.empty(0, np.int64),
                "items_MD": np.empty((0, 6), np.float32),
                "popularity_M": np.empty(0, np.float32),
            },
            "there are no items; expected at least one",
        ),
    ],
)
def test_tables_that_do_not_fit_are_refused(changes: dict[str, np.ndarray], message: str) -> None:
    made = tiny_tables()
    with pytest.raises(InvalidInputError, match=message):
        RetrievalTables(**{**vars(made), **changes})
