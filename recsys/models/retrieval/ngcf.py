"""NGCF (Wang et al., SIGIR 2019, arXiv 1905.08108): nonlinear propagation over users and items, layers concatenated.

The paper's equations and the authors' code are two models; ``variant`` chooses.

``equation`` (equations 3 to 8), with L the symmetrically normalised adjacency::

    E(l) = LeakyReLU((L E + E) W1 + (L E * E) W2)

``code``, with A = D^-1 (adjacency + I), so that a message is weighted by its receiver's degree alone::

    E(l) = LeakyReLU((A E) W1 + b1) + LeakyReLU((E * A E) W2 + b2)

and of each layer but the first the L2-normalised copy is concatenated, while the layer itself goes on unnormalised.
Both drop elements of a layer's vectors (message dropout). The code's L2 is of the concatenated vectors of a batch, the
paper's of the weights (``of_output``).

Legend: ``N`` users, ``M`` items, ``D`` width of a layer, ``Z`` nodes of one side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.errors import InvalidInputError
from recsys.models.retrieval.hops import Hop, Normalization, drop_messages

Variant = Literal["equation", "code"]


@dataclass(frozen=True, kw_only=True)
class NgcfConfig:
    """NGCF.

    Attributes:
        dim: width of an id's vector and of every layer; the result has (layers + 1) * dim columns.
        layers: of propagation.
        variant: ``equation`` of the paper or ``code`` of the authors; see the module.
        message_dropout: of the elements of a layer's vectors.
        node_dropout: of messages; the authors' runs use none.
        slope: of the leaky ReLU on negatives.
        init_std: deviation of an id's first vector per column; 0: Xavier's rule.
    """

    kind: Literal["ngcf"] = "ngcf"
    dim: int = 64
    layers: int = 3
    variant: Variant = "equation"
    message_dropout: float = 0.1
    node_dropout: float = 0.0
    slope: float = 0.2
    init_std: float = 0.0


class NgcfLayer(nn.Module):
    """One layer of propagation.

    Args:
        dim: width of the vectors, in and out.
        variant: see the module.
        slope: of the leaky ReLU.
    """

    def __init__(self, dim: int, *, variant: Variant, slope: float) -> None:
        super().__init__()
        self.sum_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(dim, dim)))
        self.product_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(dim, dim)))
        if variant == "code":
            self.sum_bias = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, dim)))
            self.product_bias = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, dim)))
        self.variant = variant
        self.slope = slope

    def forward(self, own_ZD: Tensor, messages_ZD: Tensor) -> Tensor:
        """The next layer's vectors of one side, [Z, D], of its own vectors and the sums of its messages."""
        product_ZD = own_ZD * messages_ZD
        if self.variant == "code":
            summed_ZD = torch.addmm(self.sum_bias, messages_ZD, self.sum_weight)
            crossed_ZD = torch.addmm(self.product_bias, product_ZD, self.product_weight)
            return F.leaky_relu(summed_ZD, self.slope) + F.leaky_relu(crossed_ZD, self.slope)
        linear_ZD = torch.addmm((own_ZD + messages_ZD) @ self.sum_weight, product_ZD, self.product_weight)
        return F.leaky_relu(linear_ZD, self.slope)


class Ngcf(nn.Module):
    """Scores are dot products of the two sides' concatenated vectors.

    Args:
        dim, layers, variant: as in :class:`NgcfConfig`.
        dropout: of messages' elements, and of whole messages.
        slope: of the leaky ReLU.
    """

    def __init__(
        self,
        dim: int,
        *,
        layers: int = 3,
        variant: Variant = "equation",
        dropout: tuple[float, float] = (0.1, 0.0),
        slope: float = 0.2,
    ) -> None:
        if layers < 1:
            raise InvalidInputError(f"layers is {layers}; allowed: 1 or more")
        super().__init__()
        self.layers = nn.ModuleList(NgcfLayer(dim, variant=variant, slope=slope) for _ in range(layers))
        self.variant = variant
        self.normalization: Normalization = "row" if variant == "code" else "symmetric"
        self.of_output = variant == "code"
        self.message_dropout, self.node_dropout = dropout

    def forward(self, users_ND: Tensor, items_MD: Tensor, hops: Sequence[Hop]) -> tuple[Tensor, Tensor]:
        """Vectors of the users and of the items that the last hop leaves, [., (layers + 1) * D].

        Args:
            users_ND, items_MD: of layer 0.
            hops: one per layer; those of ``code`` weigh a node's own vector
                (:func:`recsys.models.retrieval.hops.full_hop` with ``row``).
        """
        assert len(hops) == len(self.layers)
        every_user, every_item = [users_ND], [items_MD]
        for layer, hop in zip(self.layers, hops, strict=True):
            if self.training:
                hop = drop_messages(hop, self.node_dropout)
            to_users, to_items = hop.messages(users_ND, items_MD)
            own_users, own_items = hop.kept(users_ND, items_MD)
            users_ND = F.dropout(layer(own_users, to_users), self.message_dropout, self.training)
            items_MD = F.dropout(layer(own_items, to_items), self.message_dropout, self.training)
            every_user = [part if hop.users is None else part.index_select(0, hop.users) for part in every_user]
            every_item = [part if hop.items is None else part.index_select(0, hop.items) for part in every_item]
            every_user.append(self._shown(users_ND))
            every_item.append(self._shown(items_MD))
        return torch.cat(every_user, dim=1), torch.cat(every_item, dim=1)

    def _shown(self, layer_ZD: Tensor) -> Tensor:
        return F.normalize(layer_ZD, dim=1) if self.variant == "code" else layer_ZD


def ngcf_net(config: NgcfConfig) -> Ngcf:
    """Build the layers that a configuration describes."""
    return Ngcf(
        config.dim,
        layers=config.layers,
        variant=config.variant,
        dropout=(config.message_dropout, config.node_dropout),
        slope=config.slope,
    )
