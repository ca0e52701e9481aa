"""The closed form with fixed settings, as a baseline beside every other model that ranks all items.

GF-CF (Shen et al., CIKM 2021; arXiv 2108.07567) with 64 columns, as it is written, ``r P + .3 r D^-1/2 V V' D^1/2``
(``recsys/models/retrieval/linear.py`` has the terms): nothing is chosen, so it looks at nothing but training pairs.
The history is the user's positive pairs; ``recsys train linear`` reads all events of a log.

Legend: ``M`` items, ``B`` users.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from recsys.arrays import Float64Array, Int64Array
from recsys.data.interactions.candidates import CandidateLists
from recsys.data.interactions.pairs import Interactions, Pairs
from recsys.models.retrieval.spectrum import basis_columns, item_filter, largest_eigenvalues
from recsys.training.retrieval.ranking import metric_means, rank_scored

RANK, LOW_PASS = 64, 0.3

BUDGET_S = 10.0
"""Seconds, by :func:`baseline_seconds`, beyond which it is left out of an evaluation; in training: a tenth of it."""

_PRODUCT_S, _SCORE_S = 4e-10, 5e-9
"""Of a pair and a column, and of a user's score of an item with its place in the list; measured on one core."""


def baseline_seconds(interactions: Interactions, relevant: Pairs) -> float:
    """Seconds that it would take, about, on one core."""
    users, items = len(np.unique(relevant.user_E)), interactions.num_items
    columns = basis_columns(min(RANK, items), items) + users
    return _PRODUCT_S * 2 * len(interactions.train) * columns + _SCORE_S * users * items


def linear_baseline(
    interactions: Interactions,
    relevant: Pairs,
    *,
    excluded: tuple[Pairs, ...],
    list_length: int,
    candidates: CandidateLists | None = None,
) -> tuple[Mapping[str, Float64Array], dict[str, float]]:
    """Values of each user of ``relevant``, and the means; a user without a pair of ``excluded`` gets what is popular.

    Args:
        interactions: whose training pairs it is made of.
        relevant: the items to find.
        excluded: pairs that are not recommended: the users' histories.
        list_length: k.
        candidates: as of :func:`recsys.training.retrieval.ranking.rank_users`.
    """
    train, users, items = interactions.train, interactions.num_users, interactions.num_items
    operator = item_filter(train.user_E, train.item_E, num_users=users, num_items=items)
    _, vectors_MK = largest_eigenvalues(operator, min(RANK, items), seed=0)
    user_E = np.concatenate([pairs.user_E for pairs in excluded])
    item_E = np.concatenate([pairs.item_E for pairs in excluded])
    ones_E = np.ones(len(user_E), dtype=np.float32)
    history_NM = csr_matrix((ones_E, (user_E, item_E)), shape=(users, items))
    popularity_M = torch.from_numpy(np.bincount(train.item_E, minlength=items).astype(np.float32))

    root_M1 = operator.root_M[:, None]

    def score(users_B: Int64Array) -> Tensor:
        history_BM = history_NM[users_B].toarray()
        history_MB = torch.from_numpy(np.ascontiguousarray(history_BM.T))
        smooth_MB = root_M1 * (vectors_MK @ (vectors_MK.t() @ (history_MB / root_M1)))
        scores_BM = (operator.apply(history_MB) + LOW_PASS * smooth_MB).t()
        new_B = torch.from_numpy(~history_BM.any(axis=1))
        return torch.where(new_B[:, None], popularity_M, scores_BM).masked_fill(popularity_M == 0, -torch.inf)

    metrics, of_users = rank_scored(
        score,
        num_items=items,
        relevant=relevant,
        excluded=excluded,
        list_length=list_length,
        candidates=candidates,
    )
    return of_users.values, metric_means(metrics)
