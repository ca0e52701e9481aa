"""Dice and batch normalisation in several processes: standardised over the samples of the whole step, so that they are
the one process's."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recsys.models.ranking.blocks import BatchNorm, Dice
from recsys.training.distributed.processes import world


class SyncDice(nn.Module):
    """:class:`Dice` over the samples of all processes; shares its parameters and running statistics."""

    def __init__(self, dice: Dice) -> None:
        super().__init__()
        self.norm = dice.norm
        self.alpha = dice.alpha

    def forward(self, x: Tensor) -> Tensor:
        """[..., units] to the same shape. Like Dice, one row in all has no variance and uses the running one."""
        flat = x.reshape(-1, x.shape[-1])
        standardised = _standardised(self.norm, flat, training=self.training)
        gate = torch.sigmoid(standardised).view_as(x)
        return x * (self.alpha + gate * (1.0 - self.alpha))


class SyncBatchNorm(nn.Module):
    """:class:`BatchNorm` over the samples of all processes; shares its parameters and running statistics."""

    def __init__(self, batch_norm: BatchNorm) -> None:
        super().__init__()
        self.norm = batch_norm.norm

    def forward(self, x: Tensor) -> Tensor:
        """[B, units] to the same shape. One row in all has no variance and uses the running one."""
        return _standardised(self.norm, x, training=self.training) * self.norm.weight + self.norm.bias


def _standardised(norm: nn.BatchNorm1d, x: Tensor, *, training: bool) -> Tensor:
    """By the statistics of the step, which the running ones follow, or by the running ones."""
    assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
    if training:
        standardised: Tensor
        standardised, mean, variance, count = _Standardise.apply(x, norm.eps)  # type: ignore[no-untyped-call]
        if count > 1:
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
            assert norm.num_batches_tracked is not None
            norm.num_batches_tracked += 1
            return standardised
    return (x - norm.running_mean) * torch.rsqrt(norm.running_var + norm.eps)


class _Standardise(torch.autograd.Function):
    """(x - mean) / deviation over the rows of all processes, in one exchange each way (Chan et al., 1983)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, int]:
        local = x.sum(dim=0) / max(len(x), 1)
        squares = (x - local).square().sum(dim=0)
        mine = torch.cat([x.new_tensor([float(len(x))]), local, squares])
        everyone = [torch.empty_like(mine) for _ in range(world().size)]
        dist.all_gather(everyone, mine)
        stacked = torch.stack(everyone)
        counts, means, sums = stacked[:, :1], *stacked[:, 1:].chunk(2, dim=1)
        count = counts.sum().clamp_min(1.0)
        mean = (counts * means).sum(dim=0) / count
        variance = (sums + counts * (means - mean).square()).sum(dim=0) / count
        inverse = torch.rsqrt(variance + eps)
        standardised = (x - mean) * inverse
        ctx.save_for_backward(standardised, inverse)
        ctx.count = count
        ctx.mark_non_differentiable(mean, variance)
        return standardised, mean, variance, int(count)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, None]:
        standardised, inverse = ctx.saved_tensors
        sums = torch.stack([grad.sum(dim=0), (grad * standardised).sum(dim=0)])
        dist.all_reduce(sums)
        mean_grad, mean_product = sums / ctx.count
        return inverse * (grad - mean_grad - standardised * mean_product), None


def use_sync_normalization(net: nn.Module) -> None:
    """Have a network's Dice and normalising layers read all processes, in place; nothing to do for one process."""
    if world().size == 1:
        return
    for name, child in net.named_children():
        if isinstance(child, Dice):
            setattr(net, name, SyncDice(child))
        elif isinstance(child, BatchNorm):
            setattr(net, name, SyncBatchNorm(child))
        else:
            use_sync_normalization(child)
