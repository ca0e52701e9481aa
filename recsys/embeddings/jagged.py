"""Gather and sum over jagged rows, with backward passes that are fast on CPU.

Measured for 50,000 gathered rows of width 16 on 2 cores: the backward pass of ``F.embedding`` 2.5 ms, of
``index_select`` 0.8 ms, of :func:`gather_rows` 0.5 ms (summing a strided gradient costs three times its copy).

Legend: ``U`` rows, ``E`` events, ``B`` samples, ``D`` width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def gather_rows(rows_UD: Tensor, index_E: Tensor) -> Tensor:
    """rows_UD[index_E], [E, D]."""
    gathered: Tensor = _GatherRows.apply(rows_UD, index_E)  # type: ignore[no-untyped-call]
    return gathered


def repeat_rows(rows_BD: Tensor, offsets: Tensor, sample_E: Tensor) -> Tensor:
    """Each sample's row once per event of it: rows_BD[sample_E], [E, D].

    Args:
        rows_BD: one per sample.
        offsets: sample b's events are offsets[b]:offsets[b + 1]; [B + 1], int64.
        sample_E: the sample of each event, int64.
    """
    repeated: Tensor = _RepeatRows.apply(rows_BD, offsets, sample_E)  # type: ignore[no-untyped-call]
    return repeated


def weighted_sum(weights_E: Tensor, values_ED: Tensor, offsets: Tensor, sample_E: Tensor) -> Tensor:
    """Sum of weight times value over each sample's events, [B, D]; zero for a sample without events.

    Args:
        weights_E, values_ED: one per event, the samples' events one after another.
        offsets: sample b's events are offsets[b]:offsets[b + 1]; [B + 1], int64.
        sample_E: the sample of each event, int64.
    """
    weights_E = weights_E.to(values_ED.dtype)  # under autocast a network's weights are bf16, its tables' rows are not
    summed: Tensor = _WeightedSum.apply(weights_E, values_ED, offsets, sample_E)  # type: ignore[no-untyped-call]
    return summed


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.length = len(rows)
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return grad.new_zeros(ctx.length, grad.shape[1]).index_add_(0, index, grad.contiguous()), None


class _RepeatRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, offsets: Tensor, sample: Tensor) -> Tensor:
        ctx.save_for_backward(offsets)
        return rows.index_select(0, sample)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (offsets,) = ctx.saved_tensors
        return _sum_by_sample(grad, offsets), None, None


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, values: Tensor, offsets: Tensor, sample: Tensor) -> Tensor:
        ctx.save_for_backward(weights, values, sample)
        return _sum_by_sample(values, offsets, weights)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        weights, values, sample = ctx.saved_tensors
        grad_E = grad.index_select(0, sample)
        grad_weights = torch.linalg.vecdot(grad_E, values)
        return grad_weights, grad_E.mul_(weights[:, None]), None, None


def _sum_by_sample(values: Tensor, offsets: Tensor, weights: Tensor | None = None) -> Tensor:
    """One bag per sample of FBGEMM's kernel behind ``F.embedding_bag``: 0.1 ms where ``index_add`` takes 0.4."""
    everyone = torch.arange(len(values), device=values.device)
    return F.embedding_bag(everyone, values.contiguous(), offsets[:-1], mode="sum", per_sample_weights=weights)
