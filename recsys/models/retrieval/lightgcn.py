"""LightGCN (He et al., SIGIR 2020, arXiv 2002.02126): vectors averaged over the neighbourhoods of the training graph.

Legend: ``N`` users, ``M`` items, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from recsys.errors import InvalidInputError
from recsys.models.retrieval.hops import Hop, Normalization
from recsys.models.retrieval.mf import IdVectors
from recsys.models.retrieval.network import Start


@dataclass(frozen=True, kw_only=True)
class LightGcnConfig:
    """LightGCN.

    Attributes:
        dim: width of an id's vector.
        layers: of propagation.
        init_std: deviation of an id's first vector per column; 0: Xavier's rule.
        start: of these vectors: ``random``, or ``svd`` of the training pairs (``svd_start.py``).
    """

    kind: Literal["lightgcn"] = "lightgcn"
    dim: int = 64
    layers: int = 3
    init_std: float = 0.1
    start: Start = "random"


class LightGcnLayers(nn.Module):
    """The mean over layers 0 to the last, each layer the messages of the one before (equations 6 to 8). No weights.

    The hops may be samples of the graph. An id without neighbours keeps its own vector, divided by layers + 1.
    """

    normalization: Normalization = "symmetric"
    of_output = False

    def forward(self, users_ND: Tensor, items_MD: Tensor, hops: Sequence[Hop]) -> tuple[Tensor, Tensor]:
        """Vectors of the users and of the items that the last hop leaves, [., D]."""
        users_sum, items_sum = users_ND, items_MD
        for hop in hops:
            users_ND, items_MD = hop.messages(users_ND, items_MD)
            users_sum, items_sum = hop.kept(users_sum, items_sum)
            users_sum, items_sum = users_sum + users_ND, items_sum + items_MD
        return users_sum / (len(hops) + 1), items_sum / (len(hops) + 1)


def lightgcn_net(config: LightGcnConfig) -> LightGcnLayers:
    """Build LightGCN's propagation."""
    return LightGcnLayers()


class LightGcn(nn.Module):
    """Scores are dot products of the two sides' propagated vectors.

    Args:
        users, items: the vectors of layer 0, the only weights.
        hop: over the whole graph (:func:`recsys.models.retrieval.hops.full_hop`).
        layers: how often to propagate.
    """

    def __init__(self, users: IdVectors, items: IdVectors, *, hop: Hop, layers: int = 2) -> None:
        if layers < 1:
            raise InvalidInputError(f"layers is {layers}; allowed: 1 or more")
        super().__init__()
        self.users = users
        self.items = items
        self.propagation = LightGcnLayers()
        self.hops = (hop,) * layers

    def forward(self) -> tuple[Tensor, Tensor]:
        """Vectors of all users, [N, D], and of all items, [M, D]."""
        users_ND, items_MD = self.propagation(self.users(), self.items(), self.hops)
        return users_ND, items_MD
