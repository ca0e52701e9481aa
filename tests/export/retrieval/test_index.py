"""The certificate of an index counts what its lists have of those of scoring all, and refuses one that lacks any."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_retrieval import tiny_tables

from recsys.bundle import ALL_ALLOWED
from recsys.errors import BundleError
from recsys.export.retrieval import index as index_module
from recsys.export.retrieval import rerank
from recsys.export.retrieval.codes import item_codes
from recsys.export.retrieval.graph import RetrievalTables, write_retrieve_graph
from recsys.export.retrieval.index import certify_index, effective_dimension
from recsys.export.retrieval.rerank import ExactList, exact_lists, write_reranked
from recsys.features.hashing import MISSING
from recsys.operators import library, use_operators


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tables").mkdir()
    return tmp_path


USERS = [{"user_id": np.array([user]), "seen": np.array([MISSING])} for user in range(1, 7)]
compiled = pytest.mark.skipif(library() is None, reason="the operators were not compiled")


@compiled
@pytest.mark.parametrize(("coarse", "scanned"), [("int8", 16 + 8), ("none", 4 * 6)])
def test_an_index_finds_all_that_scoring_all_finds(coarse: str, scanned: int, folder: Path) -> None:
    graph, tables = write_retrieve_graph(tiny_tables(), folder, coarse=coarse)  # type: ignore[arg-type]
    made = certify_index(folder, graph.file, tables, USERS, list_length=5)
    assert (made.info.coarse, made.info.users, made.info.recall) == (coarse, 6, 1.0)
    assert made.info.scanned_bytes_per_item == scanned
    assert made.ms is not None and "recall 1.0000 against scoring all on 6 users" in str(made)


@compiled
def test_codes_of_other_rows_are_refused(folder: Path) -> None:
    graph, tables = write_retrieve_graph(tiny_tables(), folder)
    file = folder / tables["item_id.codes"].file
    (-np.fromfile(file, np.int8)).tofile(file)
    with pytest.raises(BundleError, match=r"the index finds \d+ of 30 items that scoring all finds for 6 users"):
        certify_index(folder, graph.file, tables, USERS, list_length=5)


def test_without_operators_nothing_is_claimed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "use_operators", lambda _: False)
    graph, tables = write_retrieve_graph(tiny_tables(), folder)
    made = certify_index(folder, graph.file, tables, USERS, list_length=5)
    assert made.info.recall is None and made.ms is None and "operators do not run here" in str(made)


@pytest.mark.parametrize(("columns", "expected"), [([1, 1, 1, 1], 4.0), ([1, 0, 0, 0], 1.0), ([0, 0, 0, 0], 0.0)])
def test_the_effective_dimension_is_that_of_the_directions_in_which_vectors_spread(
    columns: list[int], expected: float
) -> None:
    corners = 2.0 * (np.arange(16)[:, None] >> np.arange(4) & 1) - 1.0  # of equal variance, and not correlated
    assert effective_dimension((corners * columns).astype(np.float32)) == pytest.approx(expected)


@given(seed=st.integers(0, 2**32), size=st.sampled_from([0.0, 1e-44, 1e-30, 1.0, 1e30]), width=st.integers(1, 40))
def test_a_rows_error_is_no_less_than_what_its_codes_miss(seed: int, size: float, width: int) -> None:
    rows = (np.random.default_rng(seed).standard_normal((9, width)) * size).astype(np.float32)
    codes, scales = item_codes(rows)
    assert codes.shape == (9, -(-width // 16) * 16) and not codes[:, width:].any()
    missing = rows.astype(np.float64) - scales[:, :1].astype(np.float64) * codes[:, :width]
    assert (np.linalg.norm(missing, axis=1) <= scales[:, 1]).all()
    if size in (1e-30, 1.0, 1e30):  # rounding to 127 steps on either side, and no more
        assert (scales[:, 1] <= 0.51 * np.sqrt(width) * scales[:, 0]).all()


def spread_tables(items: int = 3_000) -> RetrievalTables:
    """Users 1 to 6 and items of 24 normal numbers."""
    random = np.random.default_rng(2)
    return RetrievalTables(
        user_keys=np.arange(1, 7),
        users_ND=random.standard_normal((6, 24), dtype=np.float32),
        item_keys=np.arange(1, items + 1),
        items_MD=random.standard_normal((items, 24), dtype=np.float32),
        popularity_M=np.ones(items, dtype=np.float32),
    )


@compiled
@pytest.mark.parametrize(("coarse", "scanned"), [("1bit", 8 + 4), ("2bit", 16 + 4), ("4bit", 32 + 4)])
def test_an_index_of_bits_scores_as_few_rows_as_keep_the_share(coarse: str, scanned: int, folder: Path) -> None:
    graph, tables = write_retrieve_graph(spread_tables(), folder, coarse=coarse)  # type: ignore[arg-type]
    made = certify_index(folder, graph.file, tables, USERS, list_length=5, least_recall=0.9)
    info = made.info
    assert (info.coarse, info.users, info.scanned_bytes_per_item, info.least_recall) == (coarse, 6, scanned, 0.9)
    assert info.recall == info.recalls["5"] >= 0.9 and not info.is_proven
    assert "not proven: recall against scoring all on 6 users" in str(made) and "at least 0.9" in str(made)
    lists = exact_lists(ort.InferenceSession(folder / graph.file), USERS, 1_000)
    assert list(info.reranked)[:2] == ["5", "100"]
    for length, rows in info.reranked.items():
        k = int(length)
        write_reranked(folder / graph.file, {k: rows})
        assert recall_of(folder / graph.file, lists, k) == pytest.approx(info.recalls[length])
        write_reranked(folder / graph.file, {k: int(rows / 2 ** (1 / 2))})
        assert k == rows or recall_of(folder / graph.file, lists, k) < 0.9


def recall_of(graph: Path, lists: list[ExactList], k: int) -> float:
    """Of that half of the users of whom it is lower."""
    options = ort.SessionOptions()
    assert use_operators(options)
    session = ort.InferenceSession(graph, options)
    found = []
    for each in lists:
        items, _ = session.run(["items", "scores"], {**each.request, **ALL_ALLOWED, "k": np.array(k)})
        found.append(len(np.intersect1d(items, each.items[:k])))
    return float(min(np.mean(found[::2]), np.mean(found[1::2])) / k)


@compiled
def test_an_index_of_bits_that_keeps_less_than_is_asked_for_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rerank, "_LEAST_ROWS", 10)
    graph, tables = write_retrieve_graph(spread_tables(400), folder, coarse="1bit")
    with pytest.raises(BundleError) as refused:
        certify_index(folder, graph.file, tables, USERS, list_length=5)
    assert re.search(
        r"codes of 1bit finds 0\.\d+ of the items that scoring all finds for 6 users in lists of 5, and scores 25 of "
        r"400 rows .* at least 0\.999 is asked for\. Use --coarse 2bit, 4bit or int8",
        str(refused.value),
    )


@compiled
def test_of_fewer_items_than_a_list_is_long_all_are_found_by_bits(folder: Path) -> None:
    graph, tables = write_retrieve_graph(tiny_tables(4), folder, coarse="1bit")
    made = certify_index(folder, graph.file, tables, USERS, list_length=20)
    assert (made.info.recall, made.info.reranked["20"]) == (1.0, 4)


def test_an_index_of_bits_is_not_written_where_nobody_can_measure_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, tables = write_retrieve_graph(tiny_tables(), folder, coarse="1bit")
    unknown = [{"user_id": np.array([99]), "seen": np.array([MISSING])}]
    if library() is not None:
        with pytest.raises(BundleError, match="need users of the test part, by whose lists their recall is measured"):
            certify_index(folder, graph.file, tables, unknown, list_length=5)
    monkeypatch.setattr(index_module, "library", lambda: None)
    with pytest.raises(BundleError, match=r"measured by recsys's operators, which do not run here.*--coarse int8"):
        certify_index(folder, graph.file, tables, USERS, list_length=5)


def test_a_list_counts_what_it_has_of_the_exact_one_and_equal_scores() -> None:
    exact = ExactList(request={}, items=np.array([4, 2, 9]), scores=np.array([3.0, 2.0, 1.0], dtype=np.float32))
    for items, scores, k, found in (
        ([4, 2, 9], [3, 2, 1], 3, 3),
        ([4, 9, 8], [3, 1, 0.9], 3, 2),
        ([4, 8], [3, 2], 2, 2),  # as good as 2
        ([4, 4], [3, 3], 2, 1),
        ([4], [3], 5, 1),
    ):
        assert exact.found(np.array(items), np.array(scores, dtype=np.float32), k) == found
