"""Clustering to a number of rows: the resolution that gives it, or a split of the nearest coarser clustering.

Legend: ``E`` edges, ``N`` ids of both sides, left first, ``P`` pieces of communities.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from recsys.arrays import Int64Array
from recsys.embeddings.row_maps.clusters.bipartite import BipartiteGraph, components, distinct_edges
from recsys.embeddings.row_maps.clusters.indices import is_first
from recsys.embeddings.row_maps.clusters.modularity import NO_CLUSTER, Clusters, Side, describe, find_communities
from recsys.errors import InvalidInputError

TOLERANCE = 0.02
"""A clustering this close to the rows asked for is taken as it is."""

MAX_TRIES = 12
_FIRST_ROWS_PER_RESOLUTION = 50
_STEP = 4.0


@dataclass(frozen=True, kw_only=True)
class Try:
    """A clustering on the way to a number of rows: ``number`` counts from 1, at most ``MAX_TRIES``."""

    number: int
    resolution: float
    rows: int
    wanted: int


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
    graph = distinct_edges(left_E, right_E, num_left, num_right)
    # The coarsest and the finest clustering there is; between them each number of rows can be reached.
    coarse = _Bracket(0.0, components(graph))
    fine = _Bracket(math.inf, np.arange(num_left + num_right))
    least, most = _count(graph, coarse.communities_N, side), _count(graph, fine.communities_N, side)
    if not least <= rows <= most:
        raise InvalidInputError(
            f"rows is {rows}; allowed: {least} (one for each connected component and side that counts) to {most} "
            f"(one for each id with edges); the nearest is {min(max(rows, least), most)}"
        )
    resolution = max(1.0, rows / _FIRST_ROWS_PER_RESOLUTION)
    for number in range(1, MAX_TRIES + 1):
        found = _Bracket(resolution, find_communities(graph, resolution, seed))
        count = _count(graph, found.communities_N, side)
        if report is not None:
            report(Try(number=number, resolution=resolution, rows=count, wanted=rows))
        if abs(count - rows) <= TOLERANCE * rows:
            return describe(graph, found.communities_N, resolution)
        if count < rows:
            coarse = found
        else:
            fine = found
        resolution = _next_resolution(graph, coarse, fine, rows, side)
    split_N = _split(graph, coarse.communities_N, fine.communities_N, rows, side)
    return describe(graph, split_N, coarse.resolution or fine.resolution)


@dataclass(frozen=True)
class _Bracket:
    resolution: float
    communities_N: Int64Array


def _count(graph: BipartiteGraph, communities_N: Int64Array, side: str) -> int:
    """Clusters of ids with edges."""
    halves = {"left": slice(None, graph.num_left), "right": slice(graph.num_left, None)}
    wanted = [half for name, half in halves.items() if side in (name, "both")]
    return sum(len(np.unique(communities_N[half][graph.degrees_N[half] > 0])) for half in wanted)


def _next_resolution(graph: BipartiteGraph, coarse: _Bracket, fine: _Bracket, rows: int, side: str) -> float:
    if not coarse.resolution:
        return fine.resolution / _STEP
    if math.isinf(fine.resolution):
        return coarse.resolution * _STEP
    low, high = (math.log(_count(graph, end.communities_N, side)) for end in (coarse, fine))
    # Rows are nearly a power of the resolution; where they jump, a tenth of the way at least keeps it closing in.
    share = min(max((math.log(rows) - low) / (high - low), 0.1), 0.9)
    return coarse.resolution * math.exp(share * math.log(fine.resolution / coarse.resolution))


def _split(graph: BipartiteGraph, coarse_N: Int64Array, fine_N: Int64Array, rows: int, side: str) -> Int64Array:
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
            gain_P[holding] += ~is_first(of_piece[holding][::-1])[::-1]
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
