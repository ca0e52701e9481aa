"""Losses over a sample of items that all users of a batch share.

With shared items the part of a loss that negatives have is one per user, however many pairs the user has in the batch:
one product of the batch's users and the sampled items. BPR, with negatives of each pair, is in ``mf.py``.

Legend: ``N`` users, ``M`` items, ``D`` width, ``E`` pairs, ``U`` users of these pairs, ``S`` sampled items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from recsys.models.retrieval.mf import TrainingPairs, dots

Loss = Literal["bpr", "softmax", "cosine_contrastive"]

_NONE = -1e9
"""Logit of an item that is left out; finite, so that a user without any other has gradients that are 0."""


@dataclass(frozen=True, eq=False)
class SampledItems:
    """Items that the users of a batch are compared with.

    Attributes:
        item_S: distinct, int64.
        left_out_US: True where the user took the item; users in the order of the pairs.
        scale_U: the items that each user did not take, over those of them in the sample; float32.
    """

    item_S: Tensor
    left_out_US: Tensor
    scale_U: Tensor


def softmax_loss(
    users_ND: Tensor,
    items_MD: Tensor,
    pairs: TrainingPairs,
    sampled: SampledItems,
    *,
    temperature: float,
    weight_E: Tensor | None = None,
) -> Tensor:
    """Mean over pairs of -log of the item's share in the softmax of its score and those of all items not taken.

    The sum over the latter is estimated from the sample, scaled up; with all items sampled it is the softmax itself
    (Bengio and Senecal, IEEE TNN 2008; for recommendation Wu et al., TOIS 2023, arXiv 2201.02327).

    Args:
        users_ND, items_MD: vectors of all users and items, contiguous.
        pairs: positives.
        sampled: negatives.
        temperature: that scores are divided by.
        weight_E: of each pair in the mean, float32; None: all weigh the same.
    """
    user_U, of_user_E = torch.unique_consecutive(pairs.user_E, return_inverse=True)
    logits_US = users_ND[user_U] @ items_MD[sampled.item_S].t() / temperature
    rest_U = logits_US.masked_fill(sampled.left_out_US, _NONE).logsumexp(dim=1) + sampled.scale_U.log()
    score_E = pair_scores(users_ND, items_MD, pairs)
    return _mean(F.softplus(rest_U[of_user_E] - score_E / temperature), weight_E)


def cosine_contrastive_loss(
    users_ND: Tensor,
    items_MD: Tensor,
    pairs: TrainingPairs,
    sampled: SampledItems,
    *,
    margin: float,
    negative_weight: float,
    weight_E: Tensor | None = None,
) -> Tensor:
    """Mean over pairs of 1 - u . i and ``negative_weight`` times the mean over negatives of max(0, u . j - margin).

    The cosine contrastive loss of SimpleX (Mao et al., CIKM 2021, equation 1), its vectors of length 1.

    Args:
        users_ND, items_MD, pairs, sampled, weight_E: as of :func:`softmax_loss`.
        margin: up to this score a negative costs nothing.
        negative_weight: of the negatives' part.
    """
    user_U, of_user_E = torch.unique_consecutive(pairs.user_E, return_inverse=True)
    above_US = F.relu(users_ND[user_U] @ items_MD[sampled.item_S].t() - margin)
    kept_US = ~sampled.left_out_US
    rest_U = (above_US * kept_US).sum(dim=1) / kept_US.sum(dim=1).clamp(min=1)
    return _mean(1.0 - pair_scores(users_ND, items_MD, pairs) + negative_weight * rest_U[of_user_E], weight_E)


def pair_scores(users_ND: Tensor, items_MD: Tensor, pairs: TrainingPairs) -> Tensor:
    """u . i of each pair, [E], with no pair's vectors copied, forwards or backwards; both tables contiguous."""
    scores: Tensor = _PairScores.apply(users_ND, items_MD, pairs)  # type: ignore[no-untyped-call]
    return scores


def _mean(loss_E: Tensor, weight_E: Tensor | None) -> Tensor:
    return loss_E.mean() if weight_E is None else (loss_E * weight_E).sum() / weight_E.sum()


class _PairScores(torch.autograd.Function):
    """With w_e the derivative by the score of pair e, dU = W V and dV = W^T U; W holds w_e at (user, item)."""

    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, pairs: TrainingPairs) -> Tensor:
        ctx.save_for_backward(users, items)
        ctx.pairs = pairs
        return dots(pairs.matrix.rows, users, items)

    @staticmethod
    def backward(ctx: Any, grad_E: Tensor) -> tuple[Tensor, Tensor, None]:
        users, items = ctx.saved_tensors
        matrix = ctx.pairs.matrix
        grad_E = grad_E.contiguous()
        return matrix.rows.multiply(grad_E, items), matrix.columns.multiply(grad_E[matrix.order_E], users), None


class ItemSampler:
    """Draws the items that a batch is compared with, uniformly and without repetition.

    Args:
        user_E, item_E: training pairs in order of user, then item, int64.
        num_users, num_items: indices are below these.
    """

    def __init__(self, user_E: Tensor, item_E: Tensor, *, num_users: int, num_items: int) -> None:
        self._item_E = item_E
        self._count_N = torch.bincount(user_E, minlength=num_users)
        self._first_N = self._count_N.cumsum(0) - self._count_N
        self._num_items = num_items

    def draw(self, user_B: Tensor, generator: torch.Generator, *, items: int) -> SampledItems:
        """A sample for these ascending users; of all items if there are no more than asked for.

        Args:
            user_B: of each pair of the batch.
            generator: of the draw.
            items: S.
        """
        item_S = torch.randperm(self._num_items, generator=generator)[:items]
        place_M = torch.full((self._num_items,), -1)
        place_M[item_S] = torch.arange(len(item_S))
        user_U = torch.unique_consecutive(user_B)
        count_U = self._count_N[user_U]
        row_T = torch.arange(len(user_U)).repeat_interleave(count_U)
        within_T = torch.arange(len(row_T)) - (count_U.cumsum(0) - count_U)[row_T]
        place_T = place_M[self._item_E[self._first_N[user_U][row_T] + within_T]]
        left_out_US = torch.zeros(len(user_U), len(item_S), dtype=torch.bool)
        left_out_US[row_T[place_T >= 0], place_T[place_T >= 0]] = True
        left_U = self._num_items - count_U
        scale_U = left_U / (~left_out_US).sum(dim=1).clamp(min=1)
        return SampledItems(item_S, left_out_US, scale_U.clamp(min=1e-6).float())
