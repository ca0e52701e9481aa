"""Fixed sparse matrices times dense ones, forward and back, by FBGEMM's kernel behind ``F.embedding_bag`` on CPU.

Legend: ``E`` entries, ``P`` and ``Q`` rows and columns of a sparse matrix, ``D`` width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Half:
    """One orientation of a sparse matrix, by rows (CSR).

    Attributes:
        index_E: column of each entry, in order of rows, int32.
        offsets: row p's entries are offsets[p]:offsets[p + 1]; [P + 1], int32.
    """

    index_E: Tensor
    offsets: Tensor

    def multiply(self, values_E: Tensor | None, dense_QD: Tensor) -> Tensor:
        """The product with a dense matrix, [P, D]; entries are 1 where there are no values."""
        return F.embedding_bag(
            self.index_E, dense_QD, self.offsets, mode="sum", per_sample_weights=values_E, include_last_offset=True
        )


@dataclass(frozen=True, eq=False)
class SparseMatrix:
    """A fixed sparse matrix in both orientations, [P, Q].

    Attributes:
        rows: by rows.
        columns: the transposed matrix by its rows.
        order_E: which entry of ``rows`` each entry of ``columns`` is.
        values_E: of each entry, in order of rows; None: all are 1.
        transposed_E: the same in order of columns, values_E[order_E].
    """

    rows: Half
    columns: Half
    order_E: Tensor
    values_E: Tensor | None
    transposed_E: Tensor | None

    def __matmul__(self, dense_QD: Tensor) -> Tensor:
        """The product with a dense matrix, [P, D]; differentiable in the dense one."""
        product: Tensor = _Product.apply(self, dense_QD)  # type: ignore[no-untyped-call]
        return product


def sparse_matrix(
    row_E: Tensor, column_E: Tensor, shape: tuple[int, int], values_E: Tensor | None = None
) -> SparseMatrix:
    """The matrix with an entry at each (row, column), in order of rows; a repeated one adds up.

    Args:
        row_E: int64, ascending.
        column_E: int64.
        shape: [P, Q].
        values_E: floats; None: all are 1.
    """
    columns, order_E = by_columns(row_E, column_E, shape[1])
    return SparseMatrix(
        rows=Half(column_E.int(), _offsets(row_E, shape[0])),
        columns=columns,
        order_E=order_E,
        values_E=values_E,
        transposed_E=None if values_E is None else values_E[order_E],
    )


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: SparseMatrix, dense_QD: Tensor) -> Tensor:
        ctx.matrix = matrix
        return matrix.rows.multiply(matrix.values_E, dense_QD)

    @staticmethod
    def backward(ctx: Any, grad_PD: Tensor) -> tuple[None, Tensor]:
        matrix: SparseMatrix = ctx.matrix
        return None, matrix.columns.multiply(matrix.transposed_E, grad_PD.contiguous())


def by_columns(row_E: Tensor, column_E: Tensor, columns: int) -> tuple[Half, Tensor]:
    """The transposed matrix, and where its entries come from. Stable, so that sums have one order."""
    ordered, order_E = torch.sort(column_E, stable=True)
    return Half(row_E[order_E].int(), _offsets(ordered, columns)), order_E


def _offsets(ordered_E: Tensor, rows: int) -> Tensor:
    return torch.searchsorted(ordered_E, torch.arange(rows + 1, dtype=ordered_E.dtype), out_int32=True)
