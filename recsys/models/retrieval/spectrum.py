"""The items' similarity by who took them, as an operator, and its largest eigenvalues.

With the 0/1 matrix ``R`` of users and items, ``R~ = Du^-u R Di^-1/2`` divides an entry by a power of its user's, and
the root of its item's number of pairs. ``P = R~' R~`` says how much two items are taken by the same users; with u = 1/2
its eigenvalues lie in [0, 1], and with another u it is divided by the largest. It is never made: a product with it is
two with ``R~``.

Legend: ``N`` users, ``M`` items, ``B`` columns, ``K`` eigenvalues, ``Q`` columns of a basis, ``W`` of a block of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from recsys.arrays import Float32Array, Int64Array
from recsys.models.retrieval.sparse import SparseMatrix, sparse_matrix

_BLOCK = 64
_SPARE = 128
_ITERATIONS = 200

BASIS = 2.6
"""Columns of the basis over eigenvalues wanted. Gowalla's 448th is then .204 (with twice as many as wanted: .161; the
true one: .216), and the 256th exact to three digits."""


@dataclass(frozen=True, eq=False)
class ItemFilter:
    """The operator ``P``.

    Attributes:
        pairs: ``R~``, [N, M].
        root_M: of each item's number of pairs, 1 where there is none; float32.
    """

    pairs: SparseMatrix
    root_M: Tensor

    @property
    def num_items(self) -> int:
        """M."""
        return len(self.root_M)

    def apply(self, columns_MB: Tensor) -> Tensor:
        """P times some columns, [M, B]."""
        of_users = self.pairs @ columns_MB.contiguous()
        return self.pairs.columns.multiply(self.pairs.transposed_E, of_users)

    def scale_M(self, power: float) -> Tensor:
        """Each item's number of pairs to this power, float32."""
        return self.root_M ** (2 * power)

    def matrix_NM(self) -> csr_matrix:
        """``R~`` for products of sparse matrices."""
        rows, values_E = self.pairs.rows, self.pairs.values_E
        assert values_E is not None
        shape = (len(rows.offsets) - 1, self.num_items)
        return csr_matrix((values_E.numpy(), rows.index_E.numpy(), rows.offsets.numpy()), shape=shape)


def item_filter(
    user_E: Int64Array,
    item_E: Int64Array,
    *,
    num_users: int,
    num_items: int,
    weight_E: Float32Array | None = None,
    user_degree: float = 0.5,
) -> ItemFilter:
    """The operator of distinct pairs in order of users.

    Args:
        user_E, item_E: the pairs.
        num_users, num_items: of all.
        weight_E: stand in place of the ones, and of counts.
        user_degree: u; 0: each pair counts the same, however many its user has.
    """
    own_E = np.ones(len(user_E)) if weight_E is None else weight_E.astype(np.float64)
    users_N = np.bincount(user_E, weights=own_E, minlength=num_users)
    items_M = np.bincount(item_E, weights=own_E, minlength=num_items)
    values_E = (own_E / (users_N[user_E] ** user_degree * np.sqrt(items_M[item_E]))).astype(np.float32)
    if user_degree != 0.5:
        pairs_NM = csr_matrix((values_E, (user_E, item_E)), shape=(num_users, num_items))
        values_E /= np.float32(_largest_singular_value(pairs_NM))
    items_M[items_M == 0] = 1.0
    pairs = sparse_matrix(
        torch.from_numpy(user_E), torch.from_numpy(item_E), (num_users, num_items), torch.from_numpy(values_E)
    )
    return ItemFilter(pairs, torch.from_numpy(np.sqrt(items_M).astype(np.float32)))


def _largest_singular_value(pairs_NM: csr_matrix) -> float:
    """By iteration from a vector that is not at a right angle to its own, since no entry is negative."""
    found, vector_M = 0.0, np.ones(pairs_NM.shape[1]) / np.sqrt(pairs_NM.shape[1])
    for _ in range(_ITERATIONS):
        image_M = pairs_NM.T @ (pairs_NM @ vector_M)
        last, found = found, float(np.linalg.norm(image_M))
        vector_M = image_M / found
        if abs(found - last) <= 1e-6 * found:
            break
    return float(np.sqrt(found))


def basis_columns(count: int, num_items: int) -> int:
    """Columns of the basis that so many eigenvalues are found in."""
    return min(num_items, int(BASIS * count) + _SPARE)


def largest_eigenvalues(
    operator: ItemFilter, count: int, *, seed: int, report: Callable[[int, int], None] = lambda done, of: None
) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues of ``P``, falling, [K], and their vectors, [M, K]; float32.

    A block Krylov space of P with full reorthogonalisation, and the eigenvalues of P in it (Musco and Musco, NeurIPS
    2015; arXiv 1504.05477): each product with P brings new columns, where subspace iteration makes old ones better, so
    that a third of the products do. The same seed and number of threads give the same digits.

    Args:
        operator: ``P``.
        count: K, at most the number of items.
        seed: of the first block.
        report: called after each block with the columns of the basis done, and all.
    """
    items, columns = operator.num_items, basis_columns(count, operator.num_items)
    generator = torch.Generator().manual_seed(seed)
    basis_MQ = torch.empty(items, columns)
    small_QQ = torch.zeros(columns, columns, dtype=torch.float64)
    block_MW, _ = _orthonormal(torch.randn(items, min(_BLOCK, columns), generator=generator), generator)
    done = 0
    while True:
        width = block_MW.shape[1]
        basis_MQ[:, done : done + width] = block_MW
        image_MW = operator.apply(block_MW)
        so_far = basis_MQ[:, : done + width]
        along_QW = so_far.t() @ image_MW
        small_QQ[: done + width, done : done + width] = along_QW.double()
        done += width
        report(done, columns)
        if done == columns:
            break
        next_MW = image_MW[:, : min(_BLOCK, columns - done)]
        next_MW = next_MW - so_far @ along_QW[:, : next_MW.shape[1]]
        # Once more: rounding has put some back; and again if columns were replaced by others.
        for _ in range(3):
            next_MW, dependent = _orthonormal(next_MW - so_far @ (so_far.t() @ next_MW), generator)
            if not dependent:
                break
        block_MW = next_MW
    upper = torch.triu(small_QQ)
    values_Q, vectors_QQ = torch.linalg.eigh(upper + torch.triu(upper, 1).t())
    vectors_MK = basis_MQ @ vectors_QQ.flip(1)[:, :count].float()
    return values_Q.flip(0)[:count].float().clamp(0.0, 1.0), vectors_MK


def _orthonormal(block_MW: Tensor, generator: torch.Generator) -> tuple[Tensor, bool]:
    """An orthonormal basis of the columns, by Cholesky's factor of their products: twice, as once is inexact.

    Also True if columns depended on each other, so that others took their places.
    """
    dependent = False
    for _ in range(2):
        norms_W = block_MW.norm(dim=0)
        block_MW = block_MW / norms_W.clamp_min(1e-30)
        factor, failed = torch.linalg.cholesky_ex((block_MW.t() @ block_MW).double())
        if int(failed) or not bool((factor.diagonal() > 1e-4).all()):
            dependent = True  # the space has no more to give
            block_MW = block_MW + 1e-3 * torch.randn(block_MW.shape, generator=generator) / len(block_MW) ** 0.5
            block_MW = torch.linalg.qr(block_MW).Q
        else:
            block_MW = torch.linalg.solve_triangular(factor.t().float(), block_MW, upper=True, left=False)
    return block_MW, dependent
