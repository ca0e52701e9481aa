"""Numbers of clusters that survive a new clustering.

Legend: ``V`` ids of a side, ``W`` ids of a side in a later clustering, ``K`` clusters of a side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.arrays import Int64Array
from recsys.embeddings.row_maps.clusters.indices import is_first
from recsys.embeddings.row_maps.clusters.modularity import NO_CLUSTER
from recsys.errors import InvalidInputError


@dataclass(frozen=True, kw_only=True)
class Matched:
    """New clusters in old numbers.

    Attributes:
        labels: cluster of each new id, [W] int64, below ``num_clusters``; ``NO_CLUSTER`` stays.
        num_clusters: the rows a table needs.
        kept: clusters that kept their number.
        kept_ids: ids that did; many clusters may persist with few of their ids, as communities of real graphs
            are not sharp.
    """

    labels: Int64Array
    num_clusters: int
    kept: int
    kept_ids: int


def match_labels(
    old_keys_V: Int64Array, old_labels_V: Int64Array, new_keys_W: Int64Array, new_labels_W: Int64Array
) -> Matched:
    """Number new clusters so that those which persist keep their rows.

    Pairs of an old and a new cluster are matched by falling number of common ids, each cluster once. New clusters
    without a match get the smallest free numbers. Numbers stay below the larger of both counts: where clusters became
    fewer, some are unused.

    Args:
        old_keys_V: distinct keys of one side at the earlier clustering; ids may have gone since.
        old_labels_V: their clusters, ``NO_CLUSTER`` for none.
        new_keys_W: distinct keys of that side now; ids may have come.
        new_labels_W: their clusters, numbered without regard to the old ones.

    Raises:
        InvalidInputError: keys and labels differ in length, or keys are given more than once.

    >>> matched = match_labels(np.array([1, 2, 3]), np.array([0, 0, 1]), np.array([2, 3, 4, 1]), np.array([1, 0, 2, 1]))
    >>> matched.labels.tolist(), matched.num_clusters, matched.kept, matched.kept_ids
    ([0, 1, 2, 0], 3, 2, 3)
    """
    for name, keys, labels in (("old", old_keys_V, old_labels_V), ("new", new_keys_W, new_labels_W)):
        if keys.shape != labels.shape or keys.ndim != 1:
            raise InvalidInputError(
                f"{name} keys are {keys.shape}, {name} labels {labels.shape}; allowed: one label a key"
            )
        if len(np.unique(keys)) != len(keys):
            raise InvalidInputError(f"{len(keys) - len(np.unique(keys))} {name} keys are given more than once")
    num_old = int(old_labels_V.max(initial=NO_CLUSTER)) + 1
    num_new = int(new_labels_W.max(initial=NO_CLUSTER)) + 1
    _, at_old, at_new = np.intersect1d(old_keys_V, new_keys_W, assume_unique=True, return_indices=True)
    pairs = np.stack([old_labels_V[at_old], new_labels_W[at_new]])
    pairs = pairs[:, (pairs >= 0).all(axis=0)]
    packed, common = np.unique(pairs[0] * max(num_new, 1) + pairs[1], return_counts=True)
    old, new = np.divmod(packed[np.argsort(-common, kind="stable")], max(num_new, 1))
    number_K = np.full(num_new, NO_CLUSTER, dtype=np.int64)
    used_K = np.zeros(max(num_old, num_new), dtype=bool)
    # Greedy, many pairs a round: a pair that comes first for both its clusters is taken whatever the others do.
    while len(old):
        taken = is_first(old) & is_first(new)
        number_K[new[taken]] = old[taken]
        used_K[old[taken]] = True
        left = ~used_K[old] & (number_K[new] == NO_CLUSTER)
        old, new = old[left], new[left]
    kept = int((number_K >= 0).sum())
    number_K[number_K == NO_CLUSTER] = np.flatnonzero(~used_K)[: num_new - kept]
    labels = np.append(number_K, NO_CLUSTER)[new_labels_W]  # -1 picks the last
    same = (labels[at_new] == old_labels_V[at_old]) & (labels[at_new] != NO_CLUSTER)
    return Matched(labels=labels, num_clusters=len(used_K), kept=kept, kept_ids=int(same.sum()))
