"""Sampled softmax over the items of a step, shared by all its users, by the best of a user's interests.

A step compares each target with the targets of the others and with a uniform sample of all items. An item that is
often a target is often among them, so that it would be pushed down for being popular alone: its part of the sum is
divided by the probability with which it is there (logQ correction; Yi et al., RecSys 2019; Bengio and Senecal, IEEE TNN
2008), so that the sum estimates that over all items.

Legend: ``T`` targets, ``C`` items of a step, ``Q`` interests, ``D`` width, ``M`` items, ``V``
interests of all targets, ``K`` hard negatives, ``L`` events of a window, ``U`` users.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_NONE = -1e9
"""Logit of an item that is left out."""

_AT_A_TIME = 128
"""Targets whose logits are made at a time."""


def inclusion(share_C: Tensor, *, targets: int, sampled: int, items: int) -> Tensor:
    """Probability that an item is among the items of a step, [C], float32.

    Args:
        share_C: of all targets, that are of this item.
        targets: of a step.
        sampled: items of the uniform sample.
        items: M, at least as many.

    >>> inclusion(torch.tensor([1.0, 0.0]), targets=3, sampled=1, items=2).tolist()
    [1.0, 0.5]
    """
    missed_C = (1.0 - share_C.double()).pow(targets) * (1.0 - sampled / items)
    return (1.0 - missed_C).float()


def sampled_softmax(
    interests_TQD: Tensor,
    items_CD: Tensor,
    place_T: Tensor,
    *,
    inclusion_C: Tensor,
    temperature: float,
    weight_T: Tensor | None = None,
    hard_TK: Tensor | None = None,
    user_T: Tensor | None = None,
) -> Tensor:
    """Mean over targets of -log of the target's share in the softmax of the scores of all items.

    Args:
        interests_TQD: of the user at each target.
        items_CD: vectors of the step's items, the targets among them.
        place_T: which of these each target is.
        inclusion_C: probability of each of them to be there (:func:`inclusion`).
        temperature: that scores are divided by.
        weight_T: of each target in the mean; None: all weigh the same.
        hard_TK: scores of further items that the target is compared with, -inf for none (:func:`hard_negatives`).
        user_T: number of the user whose each target is, int64: a user's other targets are in the step for certain, and
            are wanted too, so that none of them is compared with; None: each is of another user.
    """
    if user_T is None:
        user_T = torch.arange(len(place_T), device=place_T.device)
    wanted_UC = torch.zeros(int(user_T.max()) + 1, len(items_CD), dtype=torch.bool, device=place_T.device)
    wanted_UC[user_T, place_T] = True
    logits_of_TQD = interests_TQD / temperature
    own_T = (logits_of_TQD * items_CD[place_T][:, None]).sum(dim=2).amax(dim=1)
    rest_T: Tensor = _Rest.apply(logits_of_TQD, items_CD, -inclusion_C.log(), wanted_UC, user_T)  # type: ignore[no-untyped-call]
    if hard_TK is not None:
        rest_T = torch.logaddexp(rest_T, (hard_TK / temperature).clamp_min(_NONE).logsumexp(dim=1))
    loss_T = F.softplus(rest_T - own_T)
    return loss_T.mean() if weight_T is None else (loss_T * weight_T).sum() / weight_T.sum()


class _Rest(torch.autograd.Function):
    """Log of the sum of exp of the best products of interests and items that are not wanted, [T].

    All of [T, C] that is kept is each item's share of its target's sum, made in place, some targets at a time, which
    fit a processor's cache: the gradients are two products with it, scaled on their narrow side.
    """

    @staticmethod
    def forward(
        ctx: Any, interests_TQD: Tensor, items_CD: Tensor, added_C: Tensor, wanted_UC: Tensor, user_T: Tensor
    ) -> Tensor:
        targets, interests, _ = interests_TQD.shape
        share_TC = interests_TQD.new_empty(targets, len(items_CD))
        best_TC = torch.empty_like(share_TC, dtype=torch.int16) if interests > 1 else None
        rest_T = interests_TQD.new_empty(targets)
        for part in (slice(begin, begin + _AT_A_TIME) for begin in range(0, targets, _AT_A_TIME)):
            share, every_VD = share_TC[part], interests_TQD[part].flatten(0, 1)
            if best_TC is None:
                torch.addmm(added_C, every_VD, items_CD.t(), out=share)
            else:
                products = torch.addmm(added_C, every_VD, items_CD.t()).view(len(share), interests, -1)
                torch.amax(products, dim=1, out=share)
                best_TC[part] = products.argmax(dim=1)
            share.masked_fill_(wanted_UC[user_T[part]], _NONE)
            most_T1 = share.amax(dim=1, keepdim=True)
            sum_T1 = share.sub_(most_T1).exp_().sum(dim=1, keepdim=True)
            share.div_(sum_T1)
            rest_T[part] = (sum_T1.log() + most_T1).squeeze(1)
        ctx.save_for_backward(interests_TQD, items_CD, share_TC, best_TC)
        return rest_T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        interests_TQD, items_CD, share_TC, best_TC = ctx.saved_tensors
        scaled_TQD = interests_TQD * grads[0][:, None, None]
        of_interests_TQD, of_items_CD = torch.empty_like(interests_TQD), torch.zeros_like(items_CD)
        for number in range(interests_TQD.shape[1]):
            own_TC = share_TC if best_TC is None else share_TC * (best_TC == number)
            of_interests_TQD[:, number] = own_TC @ items_CD
            of_items_CD.addmm_(own_TC.t(), scaled_TQD[:, number])
        return of_interests_TQD.mul_(grads[0][:, None, None]), of_items_CD, None, None, None


def scores(interests_TQD: Tensor, items_CD: Tensor) -> Tensor:
    """The largest product of an item with one of a user's interests, [T, C]."""
    products = interests_TQD.flatten(0, 1) @ items_CD.t()
    if interests_TQD.shape[1] == 1:
        return products
    return torch.amax(products.view(*interests_TQD.shape[:2], -1), dim=1)


def hard_negatives(
    interests_TQD: Tensor, rows_MD: Tensor, *, left_out_M: Tensor, read_TL: Tensor, count: int
) -> Tensor:
    """Scores of the best items of the users at each target, with the items' vectors as they are given, [T, K].

    Users are trained against what search really finds, while items stay where they are, as in ADORE (Zhan et al., SIGIR
    2021, arXiv 2104.08051). An item that is left out, or that was read, has -inf.

    Args:
        interests_TQD: of the users at each target.
        rows_MD: vectors of all items; no gradient reaches them.
        left_out_M: items that the loss holds already, bool.
        read_TL: items of the events at each target.
        count: K, at most M.
    """
    with torch.no_grad():
        found_TM = scores(interests_TQD, rows_MD).masked_fill(left_out_M, -torch.inf)
        found_TM = found_TM.scatter(1, read_TL, -torch.inf)
        best_TK, item_TK = found_TM.topk(count, dim=1)
    products_TQK = interests_TQD @ rows_MD[item_TK].transpose(1, 2)
    return torch.amax(products_TQK, dim=1).masked_fill(best_TK == -torch.inf, -torch.inf)
