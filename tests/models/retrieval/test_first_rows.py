"""Rows fitted to vectors: the mean where ids have one row each, else those whose vectors are nearest."""

import numpy as np
import pytest
import torch

from recsys.errors import InvalidInputError
from recsys.models.retrieval.first_rows import FirstRows, first_vectors_of, fit_first_rows
from recsys.models.retrieval.mf import IdRows, MfConfig, full_rows

CONFIG = MfConfig(dim=4, init_std=0.1)
RANDOM = np.random.default_rng(0)


def rows(rows_NK: list[list[int]], combine: str = "sum") -> IdRows:
    return IdRows(rows_NK=np.array(rows_NK), num_rows=5, combine=combine)  # type: ignore[arg-type]


def vectors(ids: int) -> torch.Tensor:
    return torch.from_numpy(RANDOM.standard_normal((ids, 4)).astype(np.float32))


def test_ids_with_one_row_each_have_the_mean_of_those_that_count_and_other_rows_stay() -> None:
    first = FirstRows(users=rows([[1], [1], [1], [2], [3]]), items=full_rows(2))
    made, users, items = first_vectors_of(first, CONFIG), vectors(5), vectors(2)
    before = made.users.weight_RD.detach().clone()
    fit_first_rows(made, first, users, items, (np.array([1, 1, 0, 1, 0], bool), np.array([0, 1], bool)))
    after = made.users.weight_RD.detach()
    torch.testing.assert_close(after[1], users[:2].mean(dim=0), atol=1e-5, rtol=0.0)
    torch.testing.assert_close(after[2], users[3], atol=1e-5, rtol=0.0)
    assert torch.equal(after[[0, 3, 4]], before[[0, 3, 4]])
    assert torch.equal(made.items()[1], items[1]) and not torch.equal(made.items()[0], items[0])


def test_sums_of_rows_are_the_nearest_there_are() -> None:
    first = FirstRows(users=rows([[1, 2], [2, 3], [3, 1], [1, 1], [2, 4], [4, 3]]), items=full_rows(2))
    made, users = first_vectors_of(first, CONFIG), vectors(6)
    fit_first_rows(made, first, users, vectors(2))
    design = np.zeros((6, 5))
    np.add.at(design, (np.arange(6)[:, None], first.users.rows_NK), 1)
    nearest = design @ np.linalg.lstsq(design, users.numpy(), rcond=None)[0]
    np.testing.assert_allclose(made.users().detach(), nearest, atol=1e-3)


def test_parts_of_users_and_items_in_one_table_are_fitted_together() -> None:
    first = FirstRows(
        users=rows([[1, 2], [3, 1]], "concat"), items=rows([[1, 4], [3, 3], [2, 2]], "concat"), one_table=True
    )
    made, users, items = first_vectors_of(first, CONFIG), vectors(2), vectors(3)
    assert made.users.weight_RD is made.items.weight_RD
    fit_first_rows(made, first, users, items)
    of_row_1 = torch.stack([users[0, :2], users[1, 2:], items[0, :2]])
    torch.testing.assert_close(made.users.weight_RD.detach()[1], of_row_1.mean(dim=0), atol=1e-5, rtol=0.0)


def test_without_a_vector_that_counts_nothing_changes_and_products_are_refused() -> None:
    first = FirstRows(users=rows([[1], [2]]), items=rows([[1, 2], [3, 4]], "product"))
    made = first_vectors_of(first, CONFIG)
    before = made.users.weight_RD.detach().clone()
    with pytest.raises(InvalidInputError, match="multiplies the rows of an id"):
        fit_first_rows(made, first, vectors(2), vectors(2), (np.zeros(2, bool), np.zeros(2, bool)))
    assert torch.equal(made.users.weight_RD, before)
