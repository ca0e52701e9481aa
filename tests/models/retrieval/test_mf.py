"""Products, loss and gradients against dense matrices and torch's own autograd."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.embeddings.row_maps.hashing import hash_rows
from recsys.embeddings.row_maps.quotient_remainder import quotient_remainder
from recsys.errors import InvalidInputError
from recsys.models.retrieval.mf import (
    IdRows,
    IdVectors,
    MatrixFactorization,
    bpr_loss,
    draw_negatives,
    full_rows,
    hardest_negatives,
    mapped_rows,
    training_pairs,
)
from recsys.models.retrieval.sparse import sparse_matrix

# User 2 and item 3 have no pair.
USERS = torch.tensor([0, 0, 0, 1, 3, 3])
ITEMS = torch.tensor([4, 0, 1, 0, 2, 0])
PAIRS = training_pairs(USERS, ITEMS, num_users=4, num_items=5)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(5)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("has_values", [False, True])
def test_a_product_and_its_gradient_are_those_of_the_dense_matrix(has_values: bool) -> None:
    row, column = torch.tensor([0, 0, 2, 2, 2]), torch.tensor([1, 1, 3, 0, 1])  # (0, 1) twice; row 1 is empty
    values = torch.randn(5, dtype=torch.float64) if has_values else None
    dense = torch.zeros(3, 4, dtype=torch.float64)
    dense.index_put_((row, column), torch.ones(5).double() if values is None else values, accumulate=True)
    matrix = sparse_matrix(row, column, (3, 4), values)
    x = random(4, 2)
    ours, theirs = matrix @ x, dense @ x
    upstream = torch.randn_like(theirs)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, x, upstream)[0], torch.autograd.grad(theirs, x, upstream)[0])


def naive_bpr(users: Tensor, items: Tensor, negative: Tensor) -> Tensor:
    """Rendle et al., UAI 2009, equation 3, without the prior."""
    positive_scores = (users[USERS] * items[ITEMS]).sum(dim=1)
    negative_scores = (users[USERS] * items[negative]).sum(dim=1)
    return -torch.log(torch.sigmoid(positive_scores - negative_scores)).mean()


@pytest.mark.parametrize("negative", [[3, 3, 3, 3, 3, 3], [4, 0, 1, 0, 2, 0], [0, 1, 4, 2, 0, 3]])
def test_bpr_and_its_gradients_are_those_of_the_formula(negative: list[int]) -> None:
    users, items, drawn = random(4, 3), random(5, 3), torch.tensor(negative)
    ours, theirs = bpr_loss(users, items, PAIRS, drawn), naive_bpr(users, items, drawn)
    torch.testing.assert_close(ours, theirs)
    for mine, expected in zip(
        torch.autograd.grad(3.0 * ours, (users, items)), torch.autograd.grad(3.0 * theirs, (users, items)), strict=True
    ):
        torch.testing.assert_close(mine, expected)


def test_bpr_passes_gradcheck() -> None:
    drawn = torch.tensor([3, 2, 2, 1, 4, 0])
    assert torch.autograd.gradcheck(lambda u, v: bpr_loss(u, v, PAIRS, drawn), (random(4, 3), random(5, 3)))


def test_bpr_of_hopeless_pairs_is_large_and_finite() -> None:
    users, items = torch.full((4, 1), 1e3), torch.tensor([[-1.0], [-1.0], [-1.0], [1.0], [-1.0]])
    loss = bpr_loss(users, items, PAIRS, torch.full((6,), 3))
    assert loss.item() == pytest.approx(2000)  # -log sigmoid(-2000), which is 0 in floats


def test_negatives_are_uniform_over_all_items_those_of_the_user_included() -> None:
    user_E = torch.zeros(50_000, dtype=torch.int64)
    pairs = training_pairs(user_E, torch.arange(50_000) % 3, num_users=1, num_items=5)
    drawn = draw_negatives(pairs, torch.Generator().manual_seed(1))
    counts = torch.bincount(drawn, minlength=5)
    # 50,000 draws with probability 1/5: a standard deviation of 89.
    assert len(counts) == 5 and (counts - 10_000).abs().max() < 5 * 89
    assert torch.equal(drawn, draw_negatives(pairs, torch.Generator().manual_seed(1)))
    assert not torch.equal(drawn, draw_negatives(pairs, torch.Generator().manual_seed(2)))


def test_the_hardest_negative_is_the_draw_that_the_user_scores_highest() -> None:
    users, items = random(4, 3), random(5, 3)
    drawn = torch.randint(5, (6, 4), generator=torch.Generator().manual_seed(3))
    expected = [
        max(row.tolist(), key=lambda j: users[u] @ items[j]) for u, row in zip(PAIRS.user_E, drawn, strict=True)
    ]
    assert hardest_negatives(users, items, PAIRS, drawn).tolist() == expected
    assert hardest_negatives(users, items, PAIRS, drawn[:, :1]).tolist() == drawn[:, 0].tolist()


ROWS = np.array([[0, 4], [2, 1], [3, 3], [0, 1], [2, 0]])


@pytest.mark.parametrize("combine", ["sum", "product", "concat"])
def test_an_ids_vector_is_made_of_its_rows(combine: str) -> None:
    vectors = IdVectors(IdRows(rows_NK=ROWS, num_rows=6, combine=combine), dim=4).double()  # type: ignore[arg-type]
    table = vectors.weight_RD
    assert table.shape == (6, 2 if combine == "concat" else 4)
    first, second = table[ROWS[:, 0]], table[ROWS[:, 1]]
    expected = {"sum": first + second, "product": first * second, "concat": torch.cat([first, second], dim=1)}[combine]
    got, upstream = vectors(), torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(
        torch.autograd.grad(got, table, upstream)[0], torch.autograd.grad(expected, table, upstream)[0]
    )


@pytest.mark.parametrize("combine", ["sum", "product", "concat"])
@pytest.mark.parametrize("lookups", [1, 2, 4])
def test_vectors_start_with_the_same_deviation_for_every_number_of_rows(combine: str, lookups: int) -> None:
    rows = np.arange(8000 * lookups).reshape(8000, lookups)
    ids = IdRows(rows_NK=rows, num_rows=8000 * lookups, combine=combine)  # type: ignore[arg-type]
    with torch.no_grad():
        vectors = IdVectors(ids, dim=32, std=0.1)()
    assert vectors.mean().item() == pytest.approx(0.0, abs=1e-3)
    assert vectors.std().item() == pytest.approx(0.1, rel=0.03)


def test_without_a_deviation_rows_start_by_xaviers_rule() -> None:
    weight = IdVectors(full_rows(2936), dim=64).weight_RD  # 2,936 + 64 = 3,000
    bound = math.sqrt(6 / 3000)
    assert weight.abs().max().item() == pytest.approx(bound, rel=1e-3) and weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(math.sqrt(2 / 3000), rel=0.02)


def test_a_product_starts_with_the_deviation_of_one_row() -> None:
    ids = IdRows(rows_NK=np.arange(5872).reshape(2936, 2) // 2, num_rows=2936, combine="product")
    with torch.no_grad():
        assert IdVectors(ids, dim=64).weight_RD.std().item() == pytest.approx((2 / 3000) ** 0.25, rel=0.02)


def test_a_map_of_several_tables_has_them_one_after_another() -> None:
    keys = np.array([7, 8, 9, 10, 11])
    row_map = quotient_remainder("item", keys, np.array([5, 4, 3, 2, 1]), rows=7)
    tables = row_map.table_rows()
    got = mapped_rows(row_map, keys)
    assert got.combine == "product"
    assert got.num_rows == sum(tables.values())
    first, second = tables.values()
    assert np.array_equal(got.rows_NK - [0, first], row_map.lookup(keys))
    assert got.rows_NK[:, 0].max() < first <= got.rows_NK[:, 1].min()
    assert len({tuple(row) for row in got.rows_NK.tolist()}) == len(keys)


def test_lookups_of_one_table_share_it() -> None:
    keys = np.arange(50)
    row_map = hash_rows("item", rows=9, functions=2)
    got = mapped_rows(row_map, keys)
    assert (got.num_rows, got.combine) == (9, "sum")
    assert np.array_equal(got.rows_NK, row_map.lookup(keys))


def test_scores_are_dot_products_of_both_sides() -> None:
    users, items = IdVectors(full_rows(4), dim=3), IdVectors(full_rows(5), dim=3)
    users_ND, items_MD = MatrixFactorization(users, items)()
    assert torch.equal(users_ND, users.weight_RD)
    assert torch.equal(items_MD, items.weight_RD)


@pytest.mark.parametrize(
    ("rows", "combine", "message"),
    [
        (np.array([0, 1]), "sum", r"rows are int64 \[2\]; must be int64 \[N, K\] with K >= 1"),
        (np.array([[0.5]]), "sum", r"rows are float64 \[1, 1\]; must be int64 \[N, K\] with K >= 1"),
        (np.zeros((2, 0), dtype=np.int64), "sum", r"rows are int64 \[2, 0\]; must be"),
        (np.array([[0], [3]]), "sum", r"rows are in \[0, 3\]; allowed: 0 to 2"),
        (np.array([[-1], [2]]), "sum", r"rows are in \[-1, 2\]; allowed: 0 to 2"),
        (np.array([[1]]), "concatenate", "combine is 'concatenate': did you mean 'concat'"),
    ],
)
def test_rows_outside_the_table_and_unknown_ways_to_combine_are_refused(
    rows: np.ndarray, combine: str, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        IdRows(rows_NK=rows, num_rows=3, combine=combine)  # type: ignore[arg-type]


def test_a_width_that_cannot_be_split_is_refused() -> None:
    ids = IdRows(rows_NK=np.zeros((2, 3), dtype=np.int64), num_rows=1, combine="concat")
    with pytest.raises(InvalidInputError, match="dim is 64; allowed with 3 rows, one after another: a multiple"):
        IdVectors(ids, dim=64)
    assert math.isfinite(IdVectors(ids, dim=63)().sum().item())
