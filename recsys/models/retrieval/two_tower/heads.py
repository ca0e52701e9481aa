"""Heads that predict the attributes of the next item, beside the item itself, in training (M2TRec: Shalaby et al.,
RecSys 2022, multi-task heads for item and category). Nothing of them is exported.

Legend: ``T`` targets, ``D`` width, ``V`` values of an attribute, ``K`` of them that an item has at most.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class AttributeHeads(nn.Module):
    """A linear head for each attribute, over all its values.

    Args:
        dim: D.
        values: V of each attribute.
    """

    def __init__(self, dim: int, *, values: Sequence[int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(dim, count) for count in values)

    def forward(self, read_TD: Tensor, value_TK: Sequence[Tensor]) -> Tensor:
        """Mean over attributes of :func:`attribute_loss`; ``value_TK``: of each attribute, the targets' values."""
        losses = [attribute_loss(head(read_TD), of) for head, of in zip(self.heads, value_TK, strict=True)]
        return torch.stack(losses).mean()


def attribute_loss(logits_TV: Tensor, value_TK: Tensor) -> Tensor:
    """Mean, over the targets that have a value, of the mean over their values of -log of its softmax; none have: 0.

    >>> attribute_loss(torch.zeros(2, 4), torch.tensor([[3, -1], [-1, -1]])).item()  # log(4)
    1.3862943649291992
    """
    has_TK = value_TK >= 0
    log_TK = torch.log_softmax(logits_TV, dim=1).gather(1, value_TK.clamp_min(0))
    counts_T = has_TK.sum(dim=1)
    loss_T = -(log_TK * has_TK).sum(dim=1) / counts_T.clamp_min(1)
    return loss_T.sum() / (counts_T > 0).sum().clamp_min(1)
