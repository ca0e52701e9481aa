"""Ranking metrics in numpy.

Legend: ``N`` samples, ``G`` groups (users), ``k`` length of a recommendation list.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.errors import InvalidInputError

Array = npt.NDArray[Any]


def auc(labels: Array, scores: Array) -> float:
    """Probability that a random positive is scored above a random negative; a tie counts half.

    Args:
        labels: 0 or 1, [N].
        scores: any real numbers, higher is better, [N].

    Raises:
        InvalidInputError: lengths differ, labels outside {0, 1}, or only one class is present.

    >>> auc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]))
    0.75
    """
    labels, scores = _checked(labels, scores)
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        raise InvalidInputError(f"AUC needs both classes; got {positives} positives and {negatives} negatives")
    rank_sum = float(_average_ranks(scores)[labels == 1].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def gauc(labels: Array, scores: Array, groups: Array) -> float:
    """AUC within each group, averaged with the group's number of samples as weight.

    Groups with one class only say nothing about order and are left out (Zhou et al., KDD 2018,
    section 6.2). NaN if none is left.

    >>> gauc(np.array([0, 1, 0, 1, 1]), np.array([0.1, 0.9, 0.8, 0.2, 0.5]), np.array([7, 7, 8, 8, 9]))
    0.5
    """
    labels, scores = _checked(labels, scores)
    if len(groups) != len(labels):
        raise InvalidInputError(f"{len(groups)} groups for {len(labels)} labels")
    if not len(labels):
        return float("nan")
    _, group_N = np.unique(groups, return_inverse=True)
    # Ranks within a group: dense score ranks made unique per group, then averaged over ties.
    _, score_rank = np.unique(scores, return_inverse=True)
    ranks = _average_ranks(group_N.astype(np.int64) * (int(score_rank.max()) + 1) + score_rank)
    size = np.bincount(group_N)
    positives = np.bincount(group_N, weights=labels)
    first = np.concatenate([[0], np.cumsum(size)[:-1]])
    rank_sum = np.bincount(group_N, weights=np.where(labels == 1, ranks - first[group_N], 0.0))
    both = (positives > 0) & (positives < size)
    if not both.any():
        return float("nan")
    size, positives, rank_sum = size[both], positives[both], rank_sum[both]
    per_group = (rank_sum - positives * (positives + 1) / 2) / (positives * (size - positives))
    return float(np.average(per_group, weights=size))


def log_loss(labels: Array, probabilities: Array) -> float:
    """Mean negative log likelihood, natural logarithm; probabilities are kept off 0 and 1 by 1e-7.

    >>> round(log_loss(np.array([1, 0]), np.array([0.9, 0.2])), 4)
    0.1643
    """
    labels, probabilities = _checked(labels, probabilities)
    if len(labels) and not (0.0 <= probabilities.min() and probabilities.max() <= 1.0):
        raise InvalidInputError(
            f"log loss: probabilities are in [{probabilities.min()}, {probabilities.max()}]; allowed: 0 to 1"
        )
    clipped = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(labels == 1, np.log(clipped), np.log1p(-clipped))))


def recall_at_k(hits: Array, relevant: Array) -> float:
    """Mean over users of (relevant items in the top k) / (relevant items).

    Args:
        hits: 1 where the recommendation is relevant, [G, k], best first.
        relevant: number of relevant items of each user, 1 or more, [G].

    >>> recall_at_k(np.array([[1, 0, 1], [0, 0, 0]]), np.array([4, 1]))
    0.25
    """
    relevant = _checked_relevant(hits, relevant)
    return float(np.mean(hits.sum(axis=1) / relevant))


def capped_recall_at_k(hits: Array, relevant: Array) -> float:
    """Mean over users of (relevant items in the top k) / min(k, relevant items), so that 1 can be reached.

    The recall of GraphHash's code; never below :func:`recall_at_k`, with which it is easily confused.

    >>> capped_recall_at_k(np.array([[1, 0, 1], [0, 0, 0]]), np.array([4, 1]))  # recall_at_k: 0.25
    0.3333333333333333
    """
    relevant = _checked_relevant(hits, relevant)
    return float(np.mean(hits.sum(axis=1) / np.minimum(relevant, hits.shape[1])))


def ndcg_at_k(hits: Array, relevant: Array) -> float:
    """Mean over users of DCG@k / ideal DCG@k, with gain 1 / log2(rank + 1).

    The ideal list has min(k, relevant) hits on top, whatever was retrieved.

    >>> round(ndcg_at_k(np.array([[0, 1]]), np.array([1])), 4)
    0.6309
    """
    relevant = _checked_relevant(hits, relevant)
    length = hits.shape[1]
    gains = 1.0 / np.log2(np.arange(2, length + 2))
    ideal = np.concatenate([[0.0], np.cumsum(gains)])[np.minimum(relevant, length)]
    return float(np.mean((hits * gains).sum(axis=1) / ideal))


def _average_ranks(values: Array) -> Array:
    """1-based ranks in ascending order; equal values share the mean of their ranks."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    counts = np.diff(np.concatenate([starts, [len(values)]]))
    ranks = np.empty(len(values), dtype=np.float64)
    ranks[order] = np.repeat(starts + (counts + 1) / 2, counts)
    return ranks


def _checked(labels: Array, scores: Array) -> tuple[Array, Array]:
    labels, scores = np.asarray(labels), np.asarray(scores)
    if labels.shape != scores.shape or labels.ndim != 1:
        raise InvalidInputError(f"labels have shape {list(labels.shape)}, scores {list(scores.shape)}; must be [N]")
    if not np.isin(labels, (0, 1)).all():
        raise InvalidInputError(f"labels: found {labels[~np.isin(labels, (0, 1))][0]}; allowed: 0 and 1")
    if np.isnan(scores).any():
        raise InvalidInputError(f"scores: {int(np.isnan(scores).sum())} of {len(scores)} are NaN")
    return labels, scores


def _checked_relevant(hits: Array, relevant: Array) -> Array:
    if hits.ndim != 2 or len(hits) != len(relevant):
        raise InvalidInputError(f"hits have shape {list(hits.shape)}; expected [{len(relevant)}, k]")
    if len(relevant) and relevant.min() < 1:
        raise InvalidInputError("every user must have at least one relevant item; leave the others out")
    return np.asarray(relevant)
