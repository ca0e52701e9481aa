"""Rows of which the vectors of layer 0 of both sides are made, and rows fitted to vectors that are given.

Legend: ``N`` users, ``M`` items, ``D`` width, ``K`` rows of an id, ``R`` rows of a table, ``W`` width of a row;
``E`` equations: for each an id's vector, or a part of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack
from torch import Tensor, nn

from recsys.arrays import BoolArray, Float32Array
from recsys.errors import InvalidInputError
from recsys.models.retrieval.mf import IdRows, IdVectors, MatrixFactorization
from recsys.models.retrieval.network import VectorConfig
from recsys.models.retrieval.ridge import ridge

_WEIGHT = 1e-6
"""Of the change of a row beside its equations: what they leave open stays."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FirstRows:
    """The rows of all ids.

    Attributes:
        users, items: of each side.
        one_table: both look up in the same rows.
    """

    users: IdRows
    items: IdRows
    one_table: bool = False

    @property
    def are_shared(self) -> tuple[bool, bool]:
        """For users and for items, true if ids share rows."""
        return not self.users.are_own, not self.items.are_own


def first_vectors_of(rows: FirstRows, model: VectorConfig) -> MatrixFactorization:
    """Build the vectors of layer 0, of rows that are drawn by torch's global generator.

    Raises:
        InvalidInputError: ``model.dim`` cannot be split into an id's rows.
    """
    std = model.init_std or None
    users = IdVectors(rows.users, dim=model.dim, std=std)
    weight_RD = users.weight_RD if rows.one_table else None
    return MatrixFactorization(users, IdVectors(rows.items, dim=model.dim, std=std, weight_RD=weight_RD))


def first_vectors_from(
    rows: FirstRows, dim: int, users_RW: nn.Parameter, items_RW: nn.Parameter
) -> MatrixFactorization:
    """The same of rows that are given, [R, W]; of one table those of users alone are read."""
    users = IdVectors(rows.users, dim=dim, weight_RD=users_RW)
    items = IdVectors(rows.items, dim=dim, weight_RD=users_RW if rows.one_table else items_RW)
    return MatrixFactorization(users, items)


@torch.no_grad()
def fit_first_rows(
    first: MatrixFactorization,
    rows: FirstRows,
    users_ND: Tensor,
    items_MD: Tensor,
    chosen: tuple[BoolArray, BoolArray] | None = None,
) -> None:
    """Give the rows the values whose vectors are nearest to these, by least squares.

    An id with a row of its own has its vector; of ids that share one row it is the mean of theirs. Where a vector is a
    sum of rows, and these were a run's, they give the same vectors again.

    Args:
        first: its rows are set; those that no chosen id looks up, and what the vectors leave open, stay.
        rows: of which it is made.
        users_ND, items_MD: vectors of layer 0.
        chosen: users and items that count, [N] and [M]; None: all.

    Raises:
        InvalidInputError: the vectors of ids that share rows are products of these.
    """
    users, items = (True, True) if chosen is None else chosen
    sides = [(first.users, rows.users, users_ND, users), (first.items, rows.items, items_MD, items)]
    for each in [sides] if rows.one_table else [[side] for side in sides]:
        weight_RW = each[0][0].weight_RD.detach().numpy()
        found = [_equations(ids, vectors, of) for _, ids, vectors, of in each]
        design_ER, targets_EW = (
            csr_matrix(vstack([design for design, _ in found])),
            np.concatenate([t for _, t in found]),
        )
        if each[0][1].are_own:
            weight_RW[design_ER.indices] = targets_EW
        elif len(targets_EW):
            left_EW = (targets_EW - design_ER @ weight_RW).astype(np.float32)
            weight_RW += ridge(design_ER, left_EW, _WEIGHT, base=False)[0]


def _equations(ids: IdRows, vectors_ND: Tensor, chosen_N: BoolArray | bool) -> tuple[csr_matrix, Float32Array]:
    """Rows that make each vector, [E, R], and the vector, [E, W]."""
    if ids.combine == "product":
        raise InvalidInputError(
            "rows.map multiplies the rows of an id (quotient_remainder): none are nearest to vectors that are given by "
            "train.warm_start or model.start; choose another rows.map, or begin anew"
        )
    chosen_N = np.broadcast_to(chosen_N, len(ids.rows_NK))
    rows_NK, targets_ND = ids.rows_NK[chosen_N], vectors_ND.numpy()[chosen_N]
    parts = rows_NK.shape[1] if ids.combine == "concat" else 1
    equations, of_each = len(rows_NK) * parts, rows_NK.shape[1] // parts
    ones, offsets = np.ones(rows_NK.size, dtype=np.float32), np.arange(equations + 1) * of_each
    design_ER = csr_matrix((ones, rows_NK.ravel(), offsets), shape=(equations, ids.num_rows))
    design_ER.sum_duplicates()
    return design_ER, targets_ND.reshape(equations, targets_ND.shape[1] // parts)
