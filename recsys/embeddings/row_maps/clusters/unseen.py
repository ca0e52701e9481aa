"""Clusters of ids that came after the clustering.

Legend: ``E`` edges, ``V`` ids of a side, ``C`` communities.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recsys.arrays import Int64Array
from recsys.embeddings.row_maps.clusters.indices import check_ends, is_first
from recsys.embeddings.row_maps.clusters.modularity import NO_CLUSTER, Clusters, Side
from recsys.errors import InvalidInputError


def assign_unseen(
    clusters: Clusters,
    new_E: npt.NDArray[np.integer],
    known_E: npt.NDArray[np.integer],
    *,
    num_new: int,
    side: Side,
) -> Int64Array:
    """Clusters of ids that came after the clustering, by a vote of the other side's ids they met.

    A new id joins the community that gains most modularity by it: its edges into the community less resolution x all
    its edges x the community's share of the graph's, so that large communities do not win by size. Only communities
    with a cluster of the new id's side take part, as only they have a row to give.

    Args:
        new_E: for each interaction the new id, in [0, num_new); one given twice counts once.
        known_E: the id of the other side, by its index at the clustering.
        num_new: new ids.
        side: the side of the new ids.

    Returns:
        A cluster of that side for each new id, [num_new] int64, ``NO_CLUSTER`` where it met nobody with a cluster.

    Raises:
        InvalidInputError: indices out of range.

    >>> from recsys.embeddings.row_maps.clusters import cluster
    >>> left_E, right_E = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 2])
    >>> found = cluster(left_E, right_E, num_left=3, num_right=4, resolution=1.0)
    >>> assign_unseen(found, np.array([0, 0, 2]), np.array([2, 3, 1]), num_new=3, side="left").tolist()
    [1, -1, 0]
    """
    if side not in ("left", "right"):
        raise InvalidInputError(f"side is {side!r}; allowed: 'left', 'right'")
    if side == "left":
        labels, of_label, degrees_C = clusters.right_labels, clusters.right_communities, clusters.right_degrees_C
        own = clusters.left_communities
    else:
        labels, of_label, degrees_C = clusters.left_labels, clusters.left_communities, clusters.left_degrees_C
        own = clusters.right_communities
    check_ends(new_E, known_E, ("new", num_new), ("known", len(labels)))
    pairs = np.unique(new_E.astype(np.int64) * len(labels) + known_E)
    new, known = np.divmod(pairs, max(len(labels), 1))
    row_C = np.full(len(degrees_C), NO_CLUSTER, dtype=np.int64)
    row_C[own] = np.arange(len(own))
    met = labels[known] != NO_CLUSTER
    new, community = new[met], of_label[labels[known[met]]]
    degree_V = np.bincount(new, minlength=num_new)
    packed, edges = np.unique(new * len(degrees_C) + community, return_counts=True)
    new, community = np.divmod(packed, len(degrees_C))
    gain = edges - clusters.resolution * degree_V[new] * (degrees_C[community] / degrees_C.sum())
    gain[row_C[community] == NO_CLUSTER] = -np.inf
    order = np.lexsort((community, -gain, new))
    best = order[is_first(new[order])]
    answer = np.full(num_new, NO_CLUSTER, dtype=np.int64)
    answer[new[best]] = row_C[community[best]]
    return answer
