"""The certificate of an index counts what its lists have of those of scoring all, and refuses one that lacks any."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_retrieval import tiny_tables

from recsys.errors import BundleError
from recsys.export.retrieval import index as index_module
from recsys.export.retrieval.codes import item_codes
from recsys.export.retrieval.graph import write_retrieve_graph
from recsys.export.retrieval.index import certify_index, effective_dimension
from recsys.features.hashing import MISSING
from recsys.operators import library


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
