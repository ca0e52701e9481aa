"""Models that rank all items as functions of the vectors of layer 0, and the L2 of a batch of pairs.

Legend: ``N`` users, ``M`` items, ``D`` width, ``B`` pairs of a batch, ``Z`` nodes of one side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recsys.models.retrieval.hops import Hop, Normalization
from recsys.models.retrieval.lightgcn import LightGcnConfig, LightGcnLayers
from recsys.models.retrieval.mf import MfConfig
from recsys.models.retrieval.ngcf import Ngcf, NgcfConfig
from recsys.training.retrieval.config import ModelConfig


class Layers(nn.Module):
    """The part of a model above the vectors of layer 0: none of matrix factorisation, propagation of the others."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.hops = 0 if isinstance(model, MfConfig) else model.layers
        self.normalization: Normalization = "symmetric"
        self.of_output = False
        self.net: nn.Module = nn.Identity()
        if isinstance(model, LightGcnConfig):
            self.net = LightGcnLayers()
        if isinstance(model, NgcfConfig):
            self.net = Ngcf(
                model.dim,
                layers=model.layers,
                variant=model.variant,
                dropout=(model.message_dropout, model.node_dropout),
                slope=model.slope,
            )
            if model.variant == "code":
                self.normalization, self.of_output = "row", True

    def forward(self, users_ND: Tensor, items_MD: Tensor, hops: tuple[Hop, ...]) -> tuple[Tensor, Tensor]:
        """Final vectors of the users and items that the hops leave."""
        if not self.hops:
            return users_ND, items_MD
        users, items = self.net(users_ND, items_MD, hops)
        return users, items

    def l2(self) -> Tensor | float:
        """Half the squared weights, where the loss holds them: NGCF's by its equations."""
        if self.of_output:
            return 0.0
        weights = [parameter.square().sum() for parameter in self.parameters()]
        return 0.5 * torch.stack(weights).sum() if weights else 0.0


def pairs_l2(users_ZD: Tensor, items_ZD: Tensor, user_B: Tensor, item_B: Tensor, negative_B: Tensor) -> Tensor:
    """Half the mean over pairs of |user|^2 + |item|^2 + |negative|^2; by counts, so that no pair's rows are copied."""
    user_count = torch.bincount(user_B, minlength=len(users_ZD))
    item_count = torch.bincount(torch.cat([item_B, negative_B]), minlength=len(items_ZD))
    total = user_count.to(users_ZD.dtype) @ users_ZD.square().sum(dim=1)
    total = total + item_count.to(items_ZD.dtype) @ items_ZD.square().sum(dim=1)
    return 0.5 * total / len(user_B)


def first_vectors(ids: int, model: ModelConfig) -> Tensor:
    """Vectors before training, [ids, dim], drawn by torch's global generator."""
    vectors = torch.empty(ids, model.dim)
    return vectors.normal_(0.0, model.init_std) if model.init_std else nn.init.xavier_uniform_(vectors)
