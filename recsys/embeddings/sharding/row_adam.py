"""Adam for tables on CPU, where FBGEMM has no fused one: only the rows a step looked up are updated.

A row that was not looked up keeps its value and its moments, as with FBGEMM's fused Adam on GPU and with
``torch.optim.SparseAdam``; dense Adam would decay the moments, and move the rows, of the whole table at every
step. The bias correction counts the steps of the run, not those of the row. Kingma and Ba, ICLR 2015, algorithm 1.

FBGEMM's lookup stays; its own update runs with rate 0. The gradient of the rows passes through a hook on the
lookup's output, which costs a sort of the rows looked up and no pass over the table.

Legend: ``R`` rows of all tables in one kernel, ``D`` width, ``N`` rows looked up, ``U`` distinct ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
"""FBGEMM's and torch's defaults."""


class RowAdam:
    """Updates one FBGEMM kernel's tables inside the backward pass.

    Args:
        kernel: a ``SplitTableBatchedEmbeddingBagsCodegen`` in CPU memory with rate 0; its tables have one width.
        rate: learning rate.

    Attributes:
        rate: of the next backward pass.
        step: steps already taken.
    """

    def __init__(self, kernel: Any, rate: float) -> None:
        self.rate = rate
        self.step = 0
        width = kernel.embedding_specs[0][1]
        # `.data`: the update must not count as a change of what autograd saved for FBGEMM's own backward pass.
        self._rows_RD: Tensor = kernel.weights_host.data.view(-1, width)
        self._mean_RD = torch.zeros_like(self._rows_RD)
        self._square_RD = torch.zeros_like(self._rows_RD)
        self._first_rows = (kernel.weights_offsets // width).tolist()  # per feature: where its table begins in R
        self._sizes = [spec[0] for spec in kernel.embedding_specs]
        kernel.register_forward_hook(self._remember, with_kwargs=True)

    def states(self) -> list[dict[str, Tensor]]:
        """The moments of each table of the kernel, in its order; views, [rows of the table, D]."""
        means, squares = torch.split(self._mean_RD, self._sizes), torch.split(self._square_RD, self._sizes)
        return [{"exp_avg": m, "exp_avg_sq": s} for m, s in zip(means, squares, strict=True)]

    def _remember(self, kernel: Any, args: Any, kwargs: dict[str, Tensor], found_ND: Tensor) -> None:
        if not found_ND.requires_grad:
            return
        indices_N, offsets = kwargs["indices"], kwargs["offsets"]
        samples = (len(offsets) - 1) // len(self._first_rows)
        ends = offsets[samples::samples].tolist()
        rows = torch.empty_like(indices_N)
        start = 0
        for end, first_row in zip(ends, self._first_rows, strict=True):
            rows[start:end] = indices_N[start:end] + first_row
            start = end
        found_ND.register_hook(lambda grad_ND: self._update(rows, grad_ND))  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _update(self, rows_N: Tensor, grad_ND: Tensor) -> None:
        rows_U, position_N = torch.unique(rows_N, return_inverse=True)
        grad_UD = grad_ND.new_zeros(len(rows_U), grad_ND.shape[1]).index_add_(0, position_N, grad_ND)
        mean_UD = self._mean_RD[rows_U].lerp_(grad_UD, 1 - BETA1)
        square_UD = self._square_RD[rows_U].mul_(BETA2).addcmul_(grad_UD, grad_UD, value=1 - BETA2)
        self._mean_RD[rows_U] = mean_UD
        self._square_RD[rows_U] = square_UD
        self.step += 1
        divisor_UD = (square_UD / (1 - BETA2**self.step)).sqrt_().add_(EPSILON)
        self._rows_RD.index_add_(0, rows_U, mean_UD.div_(divisor_UD), alpha=-self.rate / (1 - BETA1**self.step))
