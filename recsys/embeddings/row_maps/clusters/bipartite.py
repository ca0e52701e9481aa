"""Bipartite graphs of ids: the distinct edges between two sides, as sparse matrices.

Legend: ``E`` edges, ``V`` ids of a side, ``N`` ids of both sides, left first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.arrays import Int32Array, Int64Array
from recsys.embeddings.row_maps.clusters.indices import check_ends
from recsys.errors import InvalidInputError


@dataclass(frozen=True)
class BipartiteGraph:
    """Distinct edges, sorted by left id; int32 where that is enough, as they are most of the memory."""

    left_ends: npt.NDArray[np.integer]  # [V + 1]: where each left id's edges end, as in CSR
    right_E: npt.NDArray[np.integer]
    degrees_N: Int64Array
    num_left: int

    @property
    def left_E(self) -> Int32Array:
        return np.repeat(np.arange(self.num_left, dtype=np.int32), self.degrees_N[: self.num_left])


def distinct_edges(
    left_E: npt.NDArray[np.integer], right_E: npt.NDArray[np.integer], num_left: int, num_right: int
) -> BipartiteGraph:
    """The graph of these edges, checked; one given twice counts once."""
    from scipy.sparse import csr_matrix

    check_ends(left_E, right_E, ("left", num_left), ("right", num_right))
    if not len(left_E):
        raise InvalidInputError(
            "clustering: the graph has no edges; allowed: 1 or more, from the interactions in training data"
        )
    edges = csr_matrix((np.ones(len(left_E), dtype=bool), (left_E, right_E)), shape=(num_left, num_right))
    edges.sum_duplicates()
    degrees_N = np.concatenate([np.diff(edges.indptr), np.bincount(edges.indices, minlength=num_right)])
    return BipartiteGraph(edges.indptr, edges.indices, degrees_N.astype(np.int64), num_left)


def directed(graph: BipartiteGraph) -> Any:
    """The graph as a directed one of all ids, left to right."""
    from scipy.sparse import csr_matrix

    count = len(graph.degrees_N)
    ends = np.concatenate([graph.left_ends, np.full(count - graph.num_left, len(graph.right_E), graph.left_ends.dtype)])
    ones = np.ones(len(graph.right_E), dtype=bool)
    return csr_matrix((ones, graph.right_E + graph.right_E.dtype.type(graph.num_left), ends), shape=(count, count))


def components(graph: BipartiteGraph) -> Int64Array:
    """Connected component of each id, [N] int64."""
    from scipy.sparse.csgraph import connected_components

    labels: npt.NDArray[np.integer] = connected_components(directed(graph), directed=False)[1]
    return labels.astype(np.int64)
