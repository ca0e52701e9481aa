"""Ids that share neighbours, found in the graph of interactions: what GraphHash makes rows of.

Two id features that occur together (users and items, queries and clicked products) are the left and right side of a
bipartite graph. Modularity clustering (Louvain, Blondel et al. 2008; by scikit-network, ADR 11) cuts it into
*communities* with ids of both sides. A community's left ids are one left *cluster* and share a row of the left
table; likewise right (GraphHash, WWW 2025). The rest is what rows need to be used for long: a number of rows to
hit, numbers that survive a new clustering, and rows for ids that came later.

numpy in, numpy out. It is longer than most files here, as the parts share the graph and the clusters.

Legend: ``E`` edges, ``V`` ids of a side, ``W`` ids of a side in a later clustering, ``N`` ids of both sides, left
first, ``K`` clusters of a side, ``C`` communities, ``P`` pieces of communities.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from recsys.arrays import BoolArray, Int32Array, Int64Array
from recsys.errors import InvalidInputError
from recsys.features.hashing import KEY_LIMIT

Side = Literal["left", "right"]

NO_CLUSTER = -1
"""Label of an id without edges."""

TOLERANCE = 0.02
"""A clustering this close to the rows asked for is taken as it is."""

MAX_TRIES = 12
_FIRST_ROWS_PER_RESOLUTION = 50
_STEP = 4.0


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """A clustering of both sides.

    Attributes:
        left_labels: cluster of each left id, [V] int64, from 0 by falling number of ids; ``NO_CLUSTER`` where it has no
            edge.
        right_labels: the same of the right ids; left and right numbers have nothing to do with each other.
        num_left: left clusters.
        num_right: right clusters.
        resolution: what was asked for, or was found for a number of rows.
        modularity: (1/w) sum over pairs (u, i) in one community of B_ui - resolution d_u d_i / w; w counts the edges.
        left_communities: community of each left cluster, [K] int64.
        right_communities: community of each right cluster; a left and a right cluster of one community belong together.
        left_degrees_C: edges of each community's left ids, [C] int64.
        right_degrees_C: edges of its right ids.
    """

    left_labels: Int64Array
    right_labels: Int64Array
    num_left: int
    num_right: int
    resolution: float
    modularity: float
    left_communities: Int64Array
    right_communities: Int64Array
    left_degrees_C: Int64Array
    right_degrees_C: Int64Array


@dataclass(frozen=True, kw_only=True)
class Try:
    """A clustering on the way to a number of rows: ``number`` counts from 1, at most ``MAX_TRIES``."""

    number: int
    resolution: float
    rows: int
    wanted: int


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


def index_keys(keys_E: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Keys to the indices that :func:`cluster` takes: index of each key, [E], and the distinct keys in order, [V].

    Raises:
        InvalidInputError: a key is out of range; ``MISSING`` is no key, drop such edges first.

    >>> indices_E, keys_V = index_keys(np.array([2**62 - 1, 7, 7]))
    >>> indices_E.tolist(), keys_V.tolist()
    ([1, 0, 0], [7, 4611686018427387903])
    """
    if len(keys_E) and (keys_E.min() < 0 or keys_E.max() >= KEY_LIMIT):
        bad = keys_E[(keys_E < 0) | (keys_E >= KEY_LIMIT)][0]
        raise InvalidInputError(
            f"clustering: key {bad} is out of range; allowed: 0 to 2^62 - 1, drop edges without an id"
        )
    keys_V, indices_E = np.unique(keys_E, return_inverse=True)
    return indices_E.astype(np.int64, copy=False), keys_V.astype(np.int64, copy=False)


def cluster(
    left_E: npt.NDArray[np.integer],
    right_E: npt.NDArray[np.integer],
    *,
    num_left: int,
    num_right: int,
    resolution: float,
    seed: int | None = None,
) -> Clusters:
    """Bipartite modularity clustering (GraphHash, WWW 2025, section 3).

    The same input and seed give the same labels. It runs on one thread, so the number of threads does not matter.

    Args:
        left_E: index of each edge's left id, in [0, num_left); an edge given twice counts once.
        right_E: index of its right id, in [0, num_right).
        num_left: left ids, with and without edges.
        num_right: right ids.
        resolution: higher gives more clusters; GraphHash takes 5 for MovieLens-1M, 200 for Gowalla.
        seed: of the order in which ids are visited; None is the order of their indices, as GraphHash has it.

    Raises:
        InvalidInputError: no edges, indices out of range, resolution not above 0.

    >>> left_E, right_E = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 2])
    >>> found = cluster(left_E, right_E, num_left=3, num_right=4, resolution=1.0)
    >>> found.left_labels.tolist(), found.right_labels.tolist(), round(found.modularity, 2)
    ([0, 0, 1], [0, 0, 1, -1], 0.32)
    """
    _check_resolution(resolution)
    graph = _distinct_edges(left_E, right_E, num_left, num_right)
    return _describe(graph, _communities(graph, resolution, seed), resolution)


def cluster_again(
    left_E: npt.NDArray[np.integer],
    right_E: npt.NDArray[np.integer],
    *,
    left_start_V: Int64Array,
    right_start_V: Int64Array,
    resolution: float,
) -> Clusters:
    """:func:`cluster` of a graph that has changed, begun at earlier clusters instead of single ids.

    Louvain joins what belongs together and takes nothing apart, so earlier clusters stay whole: they take in ids that
    came, and may become one. It keeps nearly all ids where they were, at the price of some modularity; with
    :func:`match_labels` behind it, rows keep their meaning. Measured on Gowalla, another 5 % of its
    edges left out: 99 % of the ids keep their row (43 % clustered anew), modularity .1086 (anew .1138).

    Args:
        left_E, right_E: as for :func:`cluster`.
        left_start_V: earlier cluster of each left id, ``NO_CLUSTER`` for one that had none.
        right_start_V: likewise of the right ids; numbers of the two sides have nothing to do with each other.
        resolution: of the earlier clustering.

    Raises:
        InvalidInputError: as :func:`cluster`.
    """
    _check_resolution(resolution)
    graph = _distinct_edges(left_E, right_E, len(left_start_V), len(right_start_V))
    # One node per earlier cluster and side, one per id that had none.
    first_right = int(left_start_V.max()) + 1
    start_N = np.concatenate([left_start_V, np.where(right_start_V < 0, NO_CLUSTER, right_start_V + first_right)])
    alone = start_N == NO_CLUSTER
    start_N[alone] = int(start_N.max()) + 1 + np.arange(int(alone.sum()))
    names, node_N = np.unique(start_N, return_inverse=True)
    from scipy.sparse import csr_matrix

    count = len(start_N)
    member = csr_matrix((np.ones(count), (np.arange(count), node_N)), shape=(count, len(names)))
    communities = _louvain(member.T @ _square(graph).astype(np.float64) @ member, resolution)
    return _describe(graph, communities[node_N], resolution)


def cluster_to_rows(
    left_E: npt.NDArray[np.integer],
    right_E: npt.NDArray[np.integer],
    *,
    num_left: int,
    num_right: int,
    rows: int,
    side: Side | Literal["both"] = "both",
    seed: int | None = None,
    report: Callable[[Try], None] | None = None,
) -> Clusters:
    """:func:`cluster` with the resolution that gives a number of rows.

    Tries at most ``MAX_TRIES`` resolutions, interpolating log rows over log resolution, and takes the first
    clustering within ``TOLERANCE`` of ``rows``. The number of clusters is a step function of the resolution, so there
    may be none. Then the nearest coarser clustering is split until it has exactly ``rows``: pieces are broken off its
    communities along the nearest finer clustering, the largest of the largest community first, of equal ones that
    with more edges; ``resolution`` is the coarser one's (the finer one's where no try was coarser).

    Args:
        rows: clusters to end with.
        side: whose clusters count: "left", "right", or the sum of "both".
        report: called after each try, which takes as long as :func:`cluster`.

    Raises:
        InvalidInputError: as :func:`cluster`; or ``rows`` is below one for each connected component and side that
            counts, or above the number of ids with edges.

    >>> left, right = np.divmod(np.arange(36), 6)
    >>> blocks = left // 2 == right // 2
    >>> found = cluster_to_rows(left[blocks], right[blocks], num_left=6, num_right=6, rows=8)
    >>> found.num_left + found.num_right
    8
    """
    if side not in ("left", "right", "both"):
        raise InvalidInputError(f"side is {side!r}; allowed: 'left', 'right', 'both'")
    graph = _distinct_edges(left_E, right_E, num_left, num_right)
    # The coarsest and the finest clustering there is; between them each number of rows can be reached.
    coarse = _Bracket(0.0, _components(graph))
    fine = _Bracket(math.inf, np.arange(num_left + num_right))
    least, most = _count(graph, coarse.communities_N, side), _count(graph, fine.communities_N, side)
    if not least <= rows <= most:
        raise InvalidInputError(
            f"rows is {rows}; allowed: {least} (one for each connected component and side that counts) to {most} "
            f"(one for each id with edges); the nearest is {min(max(rows, least), most)}"
        )
    resolution = max(1.0, rows / _FIRST_ROWS_PER_RESOLUTION)
    for number in range(1, MAX_TRIES + 1):
        found = _Bracket(resolution, _communities(graph, resolution, seed))
        count = _count(graph, found.communities_N, side)
        if report is not None:
            report(Try(number=number, resolution=resolution, rows=count, wanted=rows))
        if abs(count - rows) <= TOLERANCE * rows:
            return _describe(graph, found.communities_N, resolution)
        if count < rows:
            coarse = found
        else:
            fine = found
        resolution = _next_resolution(graph, coarse, fine, rows, side)
    split_N = _split(graph, coarse.communities_N, fine.communities_N, rows, side)
    return _describe(graph, split_N, coarse.resolution or fine.resolution)


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
        taken = _is_first(old) & _is_first(new)
        number_K[new[taken]] = old[taken]
        used_K[old[taken]] = True
        left = ~used_K[old] & (number_K[new] == NO_CLUSTER)
        old, new = old[left], new[left]
    kept = int((number_K >= 0).sum())
    number_K[number_K == NO_CLUSTER] = np.flatnonzero(~used_K)[: num_new - kept]
    labels = np.append(number_K, NO_CLUSTER)[new_labels_W]  # -1 picks the last
    same = (labels[at_new] == old_labels_V[at_old]) & (labels[at_new] != NO_CLUSTER)
    return Matched(labels=labels, num_clusters=len(used_K), kept=kept, kept_ids=int(same.sum()))


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
    _check_ends(new_E, known_E, ("new", num_new), ("known", len(labels)))
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
    best = order[_is_first(new[order])]
    answer = np.full(num_new, NO_CLUSTER, dtype=np.int64)
    answer[new[best]] = row_C[community[best]]
    return answer


@dataclass(frozen=True)
class _Graph:
    """Distinct edges, sorted by left id; int32 where that is enough, as they are most of the memory."""

    left_ends: npt.NDArray[np.integer]  # [V + 1]: where each left id's edges end, as in CSR
    right_E: npt.NDArray[np.integer]
    degrees_N: Int64Array
    num_left: int

    @property
    def left_E(self) -> Int32Array:
        return np.repeat(np.arange(self.num_left, dtype=np.int32), self.degrees_N[: self.num_left])


@dataclass(frozen=True)
class _Bracket:
    resolution: float
    communities_N: Int64Array


def _check_ends(one_E: npt.NDArray[np.integer], other_E: npt.NDArray[np.integer], *named: tuple[str, int]) -> None:
    if one_E.ndim != 1 or one_E.shape != other_E.shape:
        raise InvalidInputError(
            f"edges are {one_E.shape} and {other_E.shape}; allowed: two equally long lists of indices"
        )
    for ends, (name, count) in zip((one_E, other_E), named, strict=True):
        if not np.issubdtype(ends.dtype, np.integer):
            raise InvalidInputError(f"{name} ends of edges are {ends.dtype}; allowed: integers")
        if len(ends) and (ends.min() < 0 or ends.max() >= count):
            bad = ends[(ends < 0) | (ends >= count)][0]
            raise InvalidInputError(f"{name} end {bad} of an edge is out of range; allowed: 0 to {count - 1}")


def _distinct_edges(
    left_E: npt.NDArray[np.integer], right_E: npt.NDArray[np.integer], num_left: int, num_right: int
) -> _Graph:
    from scipy.sparse import csr_matrix

    _check_ends(left_E, right_E, ("left", num_left), ("right", num_right))
    if not len(left_E):
        raise InvalidInputError(
            "clustering: the graph has no edges; allowed: 1 or more, from the interactions in training data"
        )
    edges = csr_matrix((np.ones(len(left_E), dtype=bool), (left_E, right_E)), shape=(num_left, num_right))
    edges.sum_duplicates()
    degrees_N = np.concatenate([np.diff(edges.indptr), np.bincount(edges.indices, minlength=num_right)])
    return _Graph(edges.indptr, edges.indices, degrees_N.astype(np.int64), num_left)


def _square(graph: _Graph) -> Any:
    """The graph as a directed one of all ids, left to right."""
    from scipy.sparse import csr_matrix

    count = len(graph.degrees_N)
    ends = np.concatenate([graph.left_ends, np.full(count - graph.num_left, len(graph.right_E), graph.left_ends.dtype)])
    ones = np.ones(len(graph.right_E), dtype=bool)
    return csr_matrix((ones, graph.right_E + graph.right_E.dtype.type(graph.num_left), ends), shape=(count, count))


def _communities(graph: _Graph, resolution: float, seed: int | None) -> Int64Array:
    """Community of each id; any numbers."""
    from scipy.sparse import csr_matrix

    count = len(graph.degrees_N)
    if seed is None:
        order_N = np.arange(count)
        edges = _square(graph)
    else:
        order_N = np.random.Generator(np.random.PCG64(seed)).permutation(count).astype(np.int32)
        ones = np.ones(len(graph.right_E), dtype=bool)
        ends = (order_N[: graph.num_left][graph.left_E], order_N[graph.num_left :][graph.right_E])
        edges = csr_matrix((ones, ends), shape=(count, count))
        del ends
    return _louvain(edges, resolution)[order_N]


def _louvain(edges: Any, resolution: float) -> Int64Array:
    # Imported here: half a second that only GraphHash has use for.
    from sknetwork.clustering import Louvain

    # Of a directed graph "dugue" is the bipartite objective: only left-right pairs are held against a community.
    louvain = Louvain(
        resolution=resolution, modularity="dugue", sort_clusters=False, return_probs=False, return_aggregate=False
    )
    labels: npt.NDArray[np.integer] = louvain.fit_predict(edges)
    return labels.astype(np.int64)


def _check_resolution(resolution: float) -> None:
    if not (resolution > 0 and math.isfinite(resolution)):
        raise InvalidInputError(f"resolution is {resolution}; allowed: above 0, finite")


def _components(graph: _Graph) -> Int64Array:
    from scipy.sparse.csgraph import connected_components

    labels: npt.NDArray[np.integer] = connected_components(_square(graph), directed=False)[1]
    return labels.astype(np.int64)


def _count(graph: _Graph, communities_N: Int64Array, side: str) -> int:
    """Clusters of ids with edges."""
    halves = {"left": slice(None, graph.num_left), "right": slice(graph.num_left, None)}
    wanted = [half for name, half in halves.items() if side in (name, "both")]
    return sum(len(np.unique(communities_N[half][graph.degrees_N[half] > 0])) for half in wanted)


def _next_resolution(graph: _Graph, coarse: _Bracket, fine: _Bracket, rows: int, side: str) -> float:
    if not coarse.resolution:
        return fine.resolution / _STEP
    if math.isinf(fine.resolution):
        return coarse.resolution * _STEP
    low, high = (math.log(_count(graph, end.communities_N, side)) for end in (coarse, fine))
    # Rows are nearly a power of the resolution; where they jump, a tenth of the way at least keeps it closing in.
    share = min(max((math.log(rows) - low) / (high - low), 0.1), 0.9)
    return coarse.resolution * math.exp(share * math.log(fine.resolution / coarse.resolution))


def _split(graph: _Graph, coarse_N: Int64Array, fine_N: Int64Array, rows: int, side: str) -> Int64Array:
    """Break pieces off the coarse communities, along the fine ones, until exactly ``rows`` clusters count."""
    missing = rows - _count(graph, coarse_N, side)
    if not missing:
        return coarse_N
    connected = np.flatnonzero(graph.degrees_N > 0)
    is_left = connected < graph.num_left
    _, coarse = np.unique(coarse_N[connected], return_inverse=True)
    _, fine = np.unique(fine_N[connected], return_inverse=True)
    packed, piece, size_P = np.unique(coarse * len(connected) + fine, return_inverse=True, return_counts=True)
    of_piece = packed // len(connected)
    edges_P = np.bincount(piece, graph.degrees_N[connected])
    order_P = np.lexsort((-edges_P, -size_P, of_piece, -np.bincount(coarse)[of_piece]))
    gain_P = np.zeros(len(packed), dtype=np.int64)
    for name, members in (("left", is_left), ("right", ~is_left)):
        if side in (name, "both"):
            holding = order_P[np.bincount(piece[members], minlength=len(packed))[order_P] > 0]
            # Breaking off the last piece with ids of a side leaves none behind: no cluster more.
            gain_P[holding] += ~_is_first(of_piece[holding][::-1])[::-1]
    total = np.cumsum(gain_P[order_P])
    last = int(np.searchsorted(total, missing))
    broken_P = np.zeros(len(packed), dtype=bool)
    broken_P[order_P[: last + 1]] = True
    off = broken_P[piece]
    if total[last] > missing:  # the last piece brings a row of each side, and one is wanted: its right ids stay
        off &= is_left | (piece != order_P[last])
    split_N = np.full(len(coarse_N), NO_CLUSTER, dtype=np.int64)
    split_N[connected] = np.where(off, len(connected) + piece, coarse)
    return split_N


def _describe(graph: _Graph, communities_N: Int64Array, resolution: float) -> Clusters:
    connected_N = graph.degrees_N > 0
    names, found = np.unique(communities_N[connected_N], return_inverse=True)
    numbers_N = np.full(len(communities_N), NO_CLUSTER, dtype=np.int64)
    numbers_N[connected_N] = found
    left, right = slice(None, graph.num_left), slice(graph.num_left, None)
    left_labels, left_communities = _by_size(numbers_N[left])
    right_labels, right_communities = _by_size(numbers_N[right])
    left_degrees_C, right_degrees_C = (
        np.bincount(numbers_N[half][connected_N[half]], graph.degrees_N[half][connected_N[half]], len(names))
        for half in (left, right)
    )
    edges = len(graph.right_E)
    inside = int((np.repeat(numbers_N[left], graph.degrees_N[left]) == numbers_N[right][graph.right_E]).sum())
    expected = float((left_degrees_C / edges) @ (right_degrees_C / edges))
    return Clusters(
        left_labels=left_labels,
        right_labels=right_labels,
        num_left=len(left_communities),
        num_right=len(right_communities),
        resolution=resolution,
        modularity=inside / edges - resolution * expected,
        left_communities=left_communities,
        right_communities=right_communities,
        left_degrees_C=left_degrees_C.astype(np.int64),
        right_degrees_C=right_degrees_C.astype(np.int64),
    )


def _by_size(communities_V: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Labels from 0 by falling number of ids, and the community of each label."""
    connected = communities_V != NO_CLUSTER
    names, found, counts = np.unique(communities_V[connected], return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    rank = np.empty(len(names), dtype=np.int64)
    rank[order] = np.arange(len(names))
    labels = np.full(len(communities_V), NO_CLUSTER, dtype=np.int64)
    labels[connected] = rank[found]
    return labels, names[order]


def _is_first(values: npt.NDArray[np.integer]) -> BoolArray:
    """True for each value that is the first of its kind."""
    first = np.zeros(len(values), dtype=bool)
    first[np.unique(values, return_index=True)[1]] = True
    return first
