"""The promises of a model that ranks all items, and the L2 of a batch of pairs.

Such a model is a function of the vectors of layer 0, one per user and per item, and of hops over the graph of training
pairs; the score of a user and an item is the dot product of their final vectors.

Legend: ``N`` users, ``M`` items, ``D`` width, ``B`` pairs of a batch, ``Z`` nodes of one side.
"""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from recsys.models.retrieval.hops import Hop, Normalization

Start = Literal["random", "svd"]
"""First vectors: drawn, or from the singular vectors of the training pairs (``svd_start.py``)."""


class RetrievalConfig(Protocol):
    """Hyper-parameters: a frozen dataclass whose defaults are a model, and whose fields are settings ``model.*``.

    The run checks those named ``dim``, ``init_std``, ``layers``, ``slope`` and ``*_dropout``; the others are checked in
    ``__post_init__``.
    """

    @property
    def kind(self) -> str:
        """The model's name, a field; its annotation is the ``Literal`` of it."""
        ...

    @property
    def dim(self) -> int:
        """Width of an item's vector, a field."""
        ...

    @property
    def layers(self) -> int:
        """Layers of the network; a field of a model that has a choice, otherwise a constant. 0: none."""
        ...


@runtime_checkable
class VectorConfig(RetrievalConfig, Protocol):
    """The same of a model with a first vector, of ``dim`` columns, for each user and item; its layers are hops over
    the graph.
    """

    @property
    def init_std(self) -> float:
        """Deviation of a first vector per column, a field; 0: Xavier's rule."""
        ...


class RetrievalNet(Protocol):
    """A torch module above the vectors of layer 0.

    Attributes:
        normalization: of the messages that it is given.
        of_output: the loss's L2 is of a batch's final vectors, instead of those of layer 0 and the weights.
    """

    normalization: Normalization
    of_output: bool

    def __call__(self, users_ND: Tensor, items_MD: Tensor, hops: tuple[Hop, ...], /) -> tuple[Tensor, Tensor]:
        """Final vectors of the users and items that the last hop leaves; ``hops``: one per layer."""
        ...


class Layers(nn.Module):
    """The part of a model above the vectors of layer 0.

    Args:
        net: the model's own.
        hops: that it takes.
    """

    def __init__(self, net: RetrievalNet, *, hops: int) -> None:
        super().__init__()
        self.net = net
        self.hops = hops
        self.normalization: Normalization = net.normalization
        self.of_output = net.of_output

    def forward(self, users_ND: Tensor, items_MD: Tensor, hops: tuple[Hop, ...]) -> tuple[Tensor, Tensor]:
        """Final vectors of the users and items that the hops leave."""
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
