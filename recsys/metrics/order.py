"""Metrics of order: positives above negatives.

Legend: ``N`` samples, ``G`` groups (users).
"""

from __future__ import annotations

import numpy as np

from recsys.errors import InvalidInputError
from recsys.metrics.checks import Array, average_ranks, checked


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
    labels, scores = checked(labels, scores)
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        raise InvalidInputError(f"AUC needs both classes; got {positives} positives and {negatives} negatives")
    rank_sum = float(average_ranks(scores)[labels == 1].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def gauc(labels: Array, scores: Array, groups: Array) -> float:
    """AUC within each group, averaged with the group's number of samples as weight.

    Groups with one class only say nothing about order and are left out (Zhou et al., KDD 2018,
    section 6.3). NaN if none is left.

    >>> gauc(np.array([0, 1, 0, 1, 1]), np.array([0.1, 0.9, 0.8, 0.2, 0.5]), np.array([7, 7, 8, 8, 9]))
    0.5
    """
    auc_G, size_G = auc_by_group(labels, scores, groups)
    both = ~np.isnan(auc_G)
    return float(np.average(auc_G[both], weights=size_G[both])) if both.any() else float("nan")


def auc_by_group(labels: Array, scores: Array, groups: Array) -> tuple[Array, Array]:
    """AUC of each distinct group in ascending order, NaN for one with one class only, and its samples; [G] each.

    >>> auc_by_group(np.array([0, 1, 1]), np.array([0.1, 0.9, 0.5]), np.array([7, 7, 9]))
    (array([ 1., nan]), array([2, 1]))

    Raises:
        InvalidInputError: what :func:`auc` refuses, but for one class only.
    """
    labels, scores = checked(labels, scores)
    if len(groups) != len(labels):
        raise InvalidInputError(f"{len(groups)} groups for {len(labels)} labels")
    if not len(labels):
        return np.zeros(0), np.zeros(0, dtype=np.int64)
    _, group_N = np.unique(groups, return_inverse=True)
    # Ranks within a group: dense score ranks made unique per group, then averaged over ties.
    _, score_rank = np.unique(scores, return_inverse=True)
    ranks = average_ranks(group_N.astype(np.int64) * (int(score_rank.max()) + 1) + score_rank)
    size = np.bincount(group_N)
    positives = np.bincount(group_N, weights=labels)
    first = np.concatenate([[0], np.cumsum(size)[:-1]])
    rank_sum = np.bincount(group_N, weights=np.where(labels == 1, ranks - first[group_N], 0.0))
    pairs = positives * (size - positives)
    won = rank_sum - positives * (positives + 1) / 2
    return np.divide(won, pairs, out=np.full(len(size), np.nan), where=pairs > 0), size
