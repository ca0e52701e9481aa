"""Items like these, by the graph ``similar``: the definition is the mean of the cosines to the known seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.tiny_retrieval import (
    GENRE_FEATURES,
    tiny_attributes,
    tiny_history_tables,
    tiny_tables,
    write_tiny_history_retrieval,
    write_tiny_retrieval,
)

from recsys.arrays import Float32Array, Int64Array
from recsys.bundle import open_bundle
from recsys.errors import BundleError
from recsys.export.retrieval import similar
from recsys.serving.inference.candidate_index import AddedItems, Allowed
from recsys.serving.inference.related.similar import Neighbours, SimilarItems, open_similar
from recsys.serving.inference.retrieval_session import open_retrieval


def opened(path: Path) -> SimilarItems:
    bundle = open_bundle(path)
    found = open_similar(bundle, open_retrieval(bundle))
    assert found is not None
    return found


def by_definition(
    keys_M: Int64Array, vectors_MD: Float32Array, seeds: Sequence[int], k: int
) -> tuple[list[int], list[float]]:
    unit = vectors_MD / np.maximum(np.linalg.norm(vectors_MD.astype(float), axis=1, keepdims=True), 1e-30)
    own = np.isin(keys_M, seeds) & (np.abs(vectors_MD).sum(axis=1) > 0)
    scores = (unit @ unit[own].T).mean(axis=1)
    order = np.lexsort((keys_M, -np.round(scores, 5)))
    order = order[~np.isin(keys_M[order], seeds)][:k]
    return keys_M[order].tolist(), scores[order].tolist()


def check(found: Neighbours, expected: tuple[list[int], list[float]]) -> None:
    items, scores = expected
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
    assert len(set(found.items.tolist())) == len(items)
    # Equal cosines may change places.
    last = scores[-1] + 1e-5
    assert {item for item, score in zip(found.items.tolist(), found.scores, strict=True) if score > last} == {
        item for item, score in zip(items, scores, strict=True) if score > last
    }


@pytest.mark.parametrize("seeds", [[3], [3, 8, 12]])
def test_the_nearest_are_those_with_the_largest_mean_cosine_and_never_the_seeds(
    seeds: list[int], tmp_path: Path
) -> None:
    tables = tiny_tables(40)
    write_tiny_retrieval(tmp_path / "bundle", tables)
    found = opened(tmp_path / "bundle").find(np.array(seeds), 9)
    assert not set(seeds) & set(found.items.tolist()) and found.known.all()
    check(found, by_definition(tables.item_keys, tables.items_MD, seeds, 9))


def test_a_vectors_length_does_not_matter(tmp_path: Path) -> None:
    tables = tiny_tables(40)
    stretch = np.random.default_rng(0).uniform(0.1, 100, (40, 1)).astype(np.float32)
    write_tiny_retrieval(tmp_path / "plain", tables)
    write_tiny_retrieval(tmp_path / "stretched", replace(tables, items_MD=tables.items_MD * stretch))
    plain, stretched = (opened(tmp_path / name).find(np.array([3, 8]), 9) for name in ("plain", "stretched"))
    np.testing.assert_allclose(plain.scores, stretched.scores, atol=1e-5)


def test_seeds_that_nobody_knows_are_told_and_do_not_count(tmp_path: Path) -> None:
    tables = tiny_tables(40)  # the vector of item 7 is zeros: nothing is known of it
    write_tiny_retrieval(tmp_path / "bundle", tables)
    items = opened(tmp_path / "bundle")
    found = items.find(np.array([3, 7, 10**15]), 5)
    assert found.known.tolist() == [True, False, False]
    check(found, by_definition(tables.item_keys, tables.items_MD, [3, 7], 5))
    nothing = items.find(np.array([7, 10**15]), 5)
    assert len(nothing.items) == len(nothing.scores) == 0 and not nothing.known.any()


def test_items_are_left_out_and_there_are_no_more_than_are_left(tmp_path: Path) -> None:
    write_tiny_retrieval(tmp_path / "bundle", tiny_tables(10))
    found = opened(tmp_path / "bundle").find(np.array([3]), 100, left_out=np.array([4, 5, 999]))
    assert set(found.items.tolist()) == set(range(1, 11)) - {3, 4, 5}


def test_items_that_came_after_training_are_seeds_and_neighbours_by_their_rows(tmp_path: Path) -> None:
    tables = tiny_history_tables(30)
    write_tiny_history_retrieval(tmp_path / "bundle", tables, features=GENRE_FEATURES, attributes=tiny_attributes())
    items = opened(tmp_path / "bundle")
    random = np.random.default_rng(3)
    rows = random.integers(-8, 8, (3, 8)).astype(np.float32)
    added = AddedItems(np.array([101, 102, 103]), rows)
    keys = np.concatenate([tables.item_keys, added.keys])
    vectors = np.concatenate([tables.items_MD, rows[:, 4:]])  # a row is what it adds to a user, then its vector
    for seeds in ([101], [2, 103]):
        found = items.find(np.array(seeds), 33, added=added)
        assert found.known.all() and not set(seeds) & set(found.items.tolist())
        check(found, by_definition(keys, vectors, seeds, 33))
    assert items.find(np.array([101]), 5).known.tolist() == [False]


def test_an_export_whose_lists_are_not_those_of_the_cosines_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similar, "inverse_norms", lambda rows_MD: np.ones(len(rows_MD), dtype=np.float32))
    with pytest.raises(BundleError, match="not that of the vectors' cosines"):
        write_tiny_retrieval(tmp_path / "bundle", tiny_tables(40))


def test_a_bundle_from_before_there_was_such_a_graph_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("support.tiny_retrieval.add_similar", lambda folder, graphs, tables: (graphs, tables))
    write_tiny_retrieval(tmp_path / "bundle", tiny_tables())
    bundle = open_bundle(tmp_path / "bundle")
    assert open_similar(bundle, open_retrieval(bundle)) is None


def test_only_what_is_allowed_is_found_whatever_the_seeds_are(tmp_path: Path) -> None:
    tables = tiny_tables(40)
    write_tiny_retrieval(tmp_path / "bundle", tables)
    items = opened(tmp_path / "bundle")
    every = dict(zip(*by_definition(tables.item_keys, tables.items_MD, [3], 39), strict=True))
    rows = np.array([5, 9, 20, 31])  # row r is the r-th key, here r itself
    mask = np.packbits(np.isin(np.arange(41), rows), bitorder="little")
    for allowed in (Allowed(rows_L=rows), Allowed(mask=mask)):
        found = items.find(np.array([3]), 9, allowed=allowed)
        assert set(found.items.tolist()) == set(rows.tolist()) and found.known.all()
        np.testing.assert_allclose(found.scores, [every[item] for item in found.items.tolist()], atol=1e-5)
