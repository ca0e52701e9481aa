"""The closed form is its definition: eigenvalues, scores and neighbours of a matrix that can be written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from support.planted import ITEMS, USERS, planted

from recsys.errors import ConfigError
from recsys.models.retrieval import linear
from recsys.models.retrieval.linear import (
    Linear,
    LinearConfig,
    linear_model,
    memory_bytes,
    strongest_neighbours,
)
from recsys.models.retrieval.spectrum import ItemFilter, basis_columns, item_filter, largest_eigenvalues

DATA = planted()
TRAIN = DATA.train


def operator() -> ItemFilter:
    return item_filter(TRAIN.user_E, TRAIN.item_E, num_users=USERS, num_items=ITEMS)


def written_out() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The 0/1 matrix, the items' roots, and P, in float64."""
    pairs_NM = np.zeros((USERS, ITEMS))
    pairs_NM[TRAIN.user_E, TRAIN.item_E] = 1
    root_M = np.sqrt(pairs_NM.sum(axis=0).clip(1))
    divided_NM = pairs_NM / np.sqrt(pairs_NM.sum(axis=1).clip(1))[:, None] / root_M
    return pairs_NM, root_M, divided_NM.T @ divided_NM


@pytest.mark.parametrize("count", [1, 5, ITEMS])
def test_eigenvalues_and_their_space_are_those_of_the_matrix(count: int) -> None:
    values_K, vectors_MK = largest_eigenvalues(operator(), count, seed=3)
    expected_M, basis_MM = np.linalg.eigh(written_out()[2])
    np.testing.assert_allclose(values_K, expected_M[::-1][:count].clip(0), atol=1e-5)
    np.testing.assert_allclose(vectors_MK.t() @ vectors_MK, np.eye(count), atol=1e-5)
    if count < ITEMS:
        along = basis_MM[:, ::-1][:, :count].T @ vectors_MK.numpy()
        np.testing.assert_allclose(np.linalg.svd(along, compute_uv=False), 1.0, atol=1e-4)
    again, _ = largest_eigenvalues(operator(), count, seed=3)
    assert torch.equal(again, values_K)


def test_a_basis_of_few_columns_finds_the_first_eigenvalues_of_many_items() -> None:
    random = np.random.default_rng(0)
    item_E = np.concatenate([random.choice(1_500, 20, replace=False) for _ in range(1_000)])
    made = item_filter(np.repeat(np.arange(1_000), 20), item_E, num_users=1_000, num_items=1_500)
    assert basis_columns(64, 1_500) < 300
    values_K, vectors_MK = largest_eigenvalues(made, 64, seed=0)
    residual_MK = made.apply(vectors_MK) - vectors_MK * values_K
    assert float(residual_MK[:, :8].norm(dim=0).max()) < 0.02 and float(values_K[0]) == pytest.approx(1.0, abs=1e-4)


def test_columns_that_depend_on_each_other_do_no_harm() -> None:
    """Two groups of users who all take the same: P has two eigenvalues other than 0."""
    user_E, item_E = np.repeat(np.arange(200), 100), np.tile(np.arange(100), 200) + 100 * (np.arange(20_000) // 10_000)
    made = item_filter(user_E, item_E, num_users=200, num_items=200)
    values_K, vectors_MK = largest_eigenvalues(made, 50, seed=0)
    assert values_K[:2].tolist() == pytest.approx([1.0, 1.0], abs=1e-5) and float(values_K[2:].max()) < 1e-5
    np.testing.assert_allclose(vectors_MK.t() @ vectors_MK, np.eye(50), atol=1e-4)


def served_scores(settings: Linear) -> np.ndarray:
    values_K, vectors_MK = largest_eigenvalues(operator(), settings.rank, seed=0)
    model = linear_model(operator(), values_K, vectors_MK, settings, np.ones(ITEMS, dtype=np.float32))
    return model.scores(csr_matrix(written_out()[0].astype(np.float32)))


@pytest.mark.parametrize(("rank", "low_pass", "sharpen", "degree"), [(64, 0.3, 0.4, 0.35), (16, 0.1, 0.8, 0.5)])
def test_items_without_neighbours_are_scored_by_the_first_eigenvectors_alone(
    rank: int, low_pass: float, sharpen: float, degree: float
) -> None:
    """A copy of each item, by its row alone: V (L + a) (1 - T L) V' from and to copies, whatever P is beside it."""
    settings = Linear(
        rank=rank, user_degree=0.5, degree=degree, low_pass=low_pass, sharpen=sharpen, neighbours=ITEMS - 1
    )
    values_K, vectors_MK = largest_eigenvalues(operator(), rank, seed=0)
    model = linear_model(operator(), values_K, vectors_MK, settings, np.ones(ITEMS, dtype=np.float32))
    more = model.with_items(model.rows_MR)
    scores = more.scores(csr_matrix(np.eye(2 * ITEMS, dtype=np.float32)))
    values, vectors = values_K.double().numpy(), vectors_MK.double().numpy()
    scale_M = written_out()[1] ** (2 * degree)
    alone = (vectors * (values + low_pass) * (1 - sharpen * values)) @ vectors.T * scale_M / scale_M[:, None]
    for rows, columns in ((slice(0, ITEMS), slice(ITEMS, None)), (slice(ITEMS, None), slice(0, None))):
        expected = np.tile(alone, scores[rows, columns].shape[1] // ITEMS)
        np.testing.assert_allclose(scores[rows, columns], expected, atol=1e-5)
    own = model.scores(csr_matrix(np.eye(ITEMS, dtype=np.float32)))
    np.testing.assert_allclose(scores[:ITEMS, :ITEMS], own, atol=1e-6)


@pytest.mark.parametrize("user_degree", [0.0, 0.3])
def test_another_power_of_the_users_numbers_leaves_the_largest_eigenvalue_1(user_degree: float) -> None:
    pairs_NM, root_M, _ = written_out()
    divided_NM = pairs_NM / pairs_NM.sum(axis=1).clip(1)[:, None] ** user_degree / root_M
    expected_MM = divided_NM.T @ divided_NM
    expected_MM /= np.linalg.eigvalsh(expected_MM).max()
    made = item_filter(TRAIN.user_E, TRAIN.item_E, num_users=USERS, num_items=ITEMS, user_degree=user_degree)
    np.testing.assert_allclose(made.apply(torch.eye(ITEMS)), expected_MM, atol=1e-5)


@pytest.mark.parametrize(("degree", "sharpen"), [(0.0, 0.0), (0.5, 0.0), (0.35, 0.7)])
def test_served_scores_with_all_eigenvectors_and_neighbours_are_those_of_the_formula(
    degree: float, sharpen: float
) -> None:
    pairs_NM, root_M, similar_MM = written_out()
    low_pass, scale_M = 0.3, root_M ** (2 * degree)
    whole_MM = (similar_MM + low_pass * np.eye(ITEMS)) @ (np.eye(ITEMS) - sharpen * similar_MM)
    expected = (pairs_NM / scale_M) @ whole_MM * scale_M
    settings = Linear(
        rank=ITEMS, user_degree=0.5, degree=degree, low_pass=low_pass, sharpen=sharpen, neighbours=ITEMS - 1
    )
    new = pairs_NM == 0  # an item is no neighbour of itself: it adds less to its own score
    np.testing.assert_allclose(served_scores(settings)[new], expected[new], atol=2e-4)


def test_what_the_first_eigenvectors_leave_is_sharpened_as_if_its_eigenvalues_were_the_least_of_theirs() -> None:
    pairs_NM, root_M, similar_MM = written_out()
    rank, low_pass, sharpen = 6, 0.3, 0.7
    values_M, basis_MM = (each[..., ::-1] for each in np.linalg.eigh(similar_MM))
    first_MK, least = basis_MM[:, :rank], values_M[rank - 1]
    of_first_K = (values_M[:rank] + low_pass) * (1 - sharpen * values_M[:rank])
    rest_MM = similar_MM - first_MK * values_M[:rank] @ first_MK.T
    whole_MM = first_MK * of_first_K @ first_MK.T + (1 - sharpen * least) * rest_MM
    expected = (pairs_NM / root_M) @ whole_MM * root_M
    settings = Linear(rank=rank, user_degree=0.5, degree=0.5, low_pass=low_pass, sharpen=sharpen, neighbours=ITEMS - 1)
    new = pairs_NM == 0
    np.testing.assert_allclose(served_scores(settings)[new], expected[new], atol=1e-4)


@pytest.mark.parametrize("degree", [0.0, 0.35])
def test_neighbours_are_the_strongest_first(degree: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_BLOCK_ENTRIES", 1_000)  # several blocks
    _, root_M, similar_MM = written_out()
    scale_M = root_M ** (2 * degree)
    similar_MM = similar_MM / scale_M[:, None] * scale_M
    np.fill_diagonal(similar_MM, 0)
    items_C, seen = np.random.default_rng(0).permutation(ITEMS), list[tuple[int, int]]()
    near_CJ, add_CJ = strongest_neighbours(
        operator(), items_C, 5, degree=degree, report=lambda done, of: seen.append((done, of))
    )
    for row, item in enumerate(items_C):
        np.testing.assert_allclose(add_CJ[row], np.sort(similar_MM[item])[::-1][:5], atol=1e-6)
        np.testing.assert_allclose(similar_MM[item][near_CJ[row]], add_CJ[row], atol=1e-6)
    assert len(seen) > 2 and seen[-1] == (ITEMS, ITEMS) and seen == sorted(seen)


def test_an_item_that_nobody_took_with_another_has_no_neighbours() -> None:
    alone = item_filter(np.array([0, 0, 1]), np.array([0, 1, 2]), num_users=2, num_items=4)
    near_CJ, add_CJ = strongest_neighbours(alone, np.array([0, 2, 3]), 3, degree=0.5)
    assert near_CJ.tolist() == [[1, -1, -1], [-1, -1, -1], [-1, -1, -1]] and (add_CJ[1:] == 0).all()


def test_who_has_no_history_gets_what_is_popular() -> None:
    spectrum, popularity_M = largest_eigenvalues(operator(), 4, seed=0), np.arange(ITEMS, dtype=np.float32)
    settings = Linear(rank=4, user_degree=0.5, degree=0.5, low_pass=1, sharpen=0, neighbours=0)
    model = linear_model(operator(), *spectrum, settings, popularity_M)
    scores = model.scores(csr_matrix((2, ITEMS), dtype=np.float32))
    assert (scores == popularity_M).all()


@pytest.mark.parametrize("given", [{"ranks": ()}, {"ranks": (0,)}, {"sharpen": (-1.0,)}, {"neighbours": (5, 5)}])
def test_values_that_are_none_are_refused(given: dict[str, tuple[float, ...]]) -> None:
    name, values = next(iter(given.items()))
    with pytest.raises(ConfigError, match=rf"model.{name} is \[.*\]; allowed: distinct values of"):
        LinearConfig(**given)  # type: ignore[arg-type]


def test_memory_grows_with_users_items_and_pairs() -> None:
    given = {"users": 10_000, "items": 10_000, "pairs": 10**6, "validated": 1_000, "rank": 256, "neighbours": 128}
    for name in given:
        assert memory_bytes(**{**given, name: 4 * given[name]}) > memory_bytes(**given)
