"""LightGCN (He et al., SIGIR 2020, arXiv 2002.02126): vectors averaged over the neighbourhoods of the training graph.

Legend: ``N`` users, ``M`` items, ``E`` training pairs, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from recsys.errors import InvalidInputError
from recsys.models.retrieval.hops import Hop
from recsys.models.retrieval.mf import IdVectors
from recsys.models.retrieval.sparse import SparseMatrix, sparse_matrix


@dataclass(frozen=True, kw_only=True)
class LightGcnConfig:
    """LightGCN.

    Attributes:
        dim: width of an id's vector.
        layers: of propagation.
        init_std: deviation of an id's first vector per column; 0: Xavier's rule.
    """

    kind: Literal["lightgcn"] = "lightgcn"
    dim: int = 64
    layers: int = 3
    init_std: float = 0.1


def normalized_graph(user_E: Tensor, item_E: Tensor, *, num_users: int, num_items: int) -> SparseMatrix:
    """Users by items with 1 / sqrt(degree of the user * degree of the item) at each pair (section 3.1.1).

    Args:
        user_E, item_E: distinct pairs in order of users, int64.
    """
    user_degree = torch.bincount(user_E, minlength=num_users).double()
    item_degree = torch.bincount(item_E, minlength=num_items).double()
    values_E = torch.rsqrt(user_degree[user_E] * item_degree[item_E])
    return sparse_matrix(user_E, item_E, (num_users, num_items), values_E.to(torch.get_default_dtype()))


def propagate(graph: SparseMatrix, users_ND: Tensor, items_MD: Tensor, *, layers: int) -> tuple[Tensor, Tensor]:
    """The mean over layers 0 to ``layers`` of users and items, each layer the graph's product with the one before.

    An id without neighbours keeps its own vector, divided by layers + 1.
    """
    users_sum, items_sum = users_ND, items_MD
    for _ in range(layers):
        users_ND, items_MD = graph @ items_MD, graph.transposed_matmul(users_ND)
        users_sum, items_sum = users_sum + users_ND, items_sum + items_MD
    return users_sum / (layers + 1), items_sum / (layers + 1)


class LightGcnLayers(nn.Module):
    """:func:`propagate` over hops, which may be samples of the graph. It has no weights."""

    def forward(self, users_ND: Tensor, items_MD: Tensor, hops: Sequence[Hop]) -> tuple[Tensor, Tensor]:
        """Vectors of the users and of the items that the last hop leaves, [., D]."""
        users_sum, items_sum = users_ND, items_MD
        for hop in hops:
            users_ND, items_MD = hop.messages(users_ND, items_MD)
            users_sum, items_sum = hop.kept(users_sum, items_sum)
            users_sum, items_sum = users_sum + users_ND, items_sum + items_MD
        return users_sum / (len(hops) + 1), items_sum / (len(hops) + 1)


class LightGcn(nn.Module):
    """Scores are dot products of the two sides' propagated vectors.

    Args:
        users, items: the vectors of layer 0, the only weights.
        graph: see :func:`normalized_graph`.
        layers: how often to propagate.
    """

    def __init__(self, users: IdVectors, items: IdVectors, *, graph: SparseMatrix, layers: int = 2) -> None:
        if layers < 1:
            raise InvalidInputError(f"layers is {layers}; allowed: 1 or more")
        super().__init__()
        self.users = users
        self.items = items
        self.graph = graph
        self.layers = layers

    def forward(self) -> tuple[Tensor, Tensor]:
        """Vectors of all users, [N, D], and of all items, [M, D]."""
        return propagate(self.graph, self.users(), self.items(), layers=self.layers)
