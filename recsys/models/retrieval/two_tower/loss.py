"""Sampled softmax over the items of a step, shared by all its users, by the best of a user's interests.

A step compares each target with the targets of the others and with a uniform sample of all items. An item that is
often a target is often among them, so that it would be pushed down for being popular alone: its part of the sum is
divided by the probability with which it is there (logQ correction; Yi et al., RecSys 2019; Bengio and Senecal, IEEE TNN
2008), so that the sum estimates that over all items.

Legend: ``T`` targets, ``C`` items of a step, ``Q`` interests, ``D`` width, ``M`` items, ``V``
interests of all targets, ``K`` hard negatives, ``L`` events of a window, ``U`` users.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_NONE = -1e9
"""Logit of an item that is left out."""


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
    # The correction is added in the product, and taken back of the target's own logit: no pass over [T, C] for it.
    logit_TC = scores(interests_TQD / temperature, items_CD, added_C=-inclusion_C.log())
    own_T = logit_TC.gather(1, place_T[:, None]).squeeze(1) + inclusion_C[place_T].log()
    if user_T is None:
        rest_TC = logit_TC.scatter(1, place_T[:, None], _NONE)
    else:
        wanted_UC = torch.zeros(int(user_T.max()) + 1, len(items_CD), dtype=torch.bool, device=logit_TC.device)
        wanted_UC[user_T, place_T] = True
        rest_TC = logit_TC.masked_fill(wanted_UC[user_T], _NONE)
    rest_T = rest_TC.logsumexp(dim=1)
    if hard_TK is not None:
        rest_T = torch.logaddexp(rest_T, (hard_TK / temperature).clamp_min(_NONE).logsumexp(dim=1))
    loss_T = F.softplus(rest_T - own_T)
    return loss_T.mean() if weight_T is None else (loss_T * weight_T).sum() / weight_T.sum()


def scores(interests_TQD: Tensor, items_CD: Tensor, *, added_C: Tensor | None = None) -> Tensor:
    """The largest product of an item with one of a user's interests, [T, C]; ``added_C``: of each item, added to it."""
    every_VD, items_DC = interests_TQD.flatten(0, 1), items_CD.t()
    products = every_VD @ items_DC if added_C is None else torch.addmm(added_C, every_VD, items_DC)
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
