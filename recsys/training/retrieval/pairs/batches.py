"""Batches of training pairs with draws of what they are compared with, and their losses.

Legend: ``N`` users, ``M`` items, ``D`` width, ``B`` pairs of a batch, ``C`` draws per pair, ``E`` training pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from recsys.data.interactions.pairs import Interactions
from recsys.models.retrieval.hops import Hop, full_hop
from recsys.models.retrieval.losses import ItemSampler, SampledItems, cosine_contrastive_loss, softmax_loss
from recsys.models.retrieval.mf import bpr_loss, hardest_negatives, training_pairs
from recsys.models.retrieval.network import Layers
from recsys.training.retrieval.config import RetrievalTrainConfig
from recsys.training.retrieval.pairs.negatives import NegativeSampler


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Pairs of a step, in order of users, and what they are compared with.

    Attributes:
        user_B, item_B: int64.
        weight_B: of each, float32; None: all are 1.
        drawn_BC: of BPR: items of which one is the negative, int64; otherwise C is 0.
        sampled: of the other losses.
    """

    user_B: Tensor
    item_B: Tensor
    weight_B: Tensor | None
    drawn_BC: Tensor
    sampled: SampledItems | None


def batch_loss(
    users_ND: Tensor, items_MD: Tensor, batch: Batch, settings: RetrievalTrainConfig
) -> tuple[Tensor, Tensor]:
    """The loss of final vectors, and BPR's negative of each pair, [B]; none for the other losses, [0]."""
    pairs = training_pairs(batch.user_B, batch.item_B, num_users=len(users_ND), num_items=len(items_MD))
    if batch.sampled is None:
        negative_B = hardest_negatives(users_ND, items_MD, pairs, batch.drawn_BC)
        return bpr_loss(users_ND, items_MD, pairs, negative_B, batch.weight_B), negative_B
    vectors = scored(users_ND, items_MD, settings)
    if settings.loss == "softmax":
        loss = softmax_loss(*vectors, pairs, batch.sampled, temperature=settings.temperature, weight_E=batch.weight_B)
    else:
        loss = cosine_contrastive_loss(
            *vectors,
            pairs,
            batch.sampled,
            margin=settings.margin,
            negative_weight=settings.negative_weight,
            weight_E=batch.weight_B,
        )
    return loss, batch.item_B[:0]


def scored(users_ND: Tensor, items_MD: Tensor, settings: RetrievalTrainConfig) -> tuple[Tensor, Tensor]:
    """The vectors whose dot products are scores: of length 1, but for BPR."""
    if settings.loss == "bpr":
        return users_ND, items_MD
    return F.normalize(users_ND, dim=1), F.normalize(items_MD, dim=1)


def compact(batch: Batch) -> tuple[Tensor, Tensor, Batch]:
    """The ascending users and items that a batch needs, and the batch by their places."""
    users, user_B = torch.unique(batch.user_B, return_inverse=True)
    drawn = batch.drawn_BC if batch.sampled is None else batch.sampled.item_S
    items, all_places = torch.unique(torch.cat([batch.item_B, drawn.flatten()]), return_inverse=True)
    item_B, places = all_places[: len(batch.item_B)].contiguous(), all_places[len(batch.item_B) :]
    sampled = None if batch.sampled is None else replace(batch.sampled, item_S=places)
    drawn_BC = batch.drawn_BC if batch.sampled is not None else places.view(batch.drawn_BC.shape)
    return users, items, replace(batch, user_B=user_B, item_B=item_B, drawn_BC=drawn_BC, sampled=sampled)


class PairBatches:
    """The training pairs as tensors."""

    def __init__(self, interactions: Interactions, settings: RetrievalTrainConfig) -> None:
        self._settings = settings
        self.user_E = torch.from_numpy(interactions.train.user_E)
        self.item_E = torch.from_numpy(interactions.train.item_E)
        weight_E = interactions.train.weight_E
        self._weight_E = None if weight_E is None else torch.from_numpy(weight_E)
        self._sizes = {"num_users": interactions.num_users, "num_items": interactions.num_items}
        self._negatives = NegativeSampler(self.user_E, self.item_E, **self._sizes)
        self._items = ItemSampler(self.user_E, self.item_E, **self._sizes)

    def batch(self, batch_B: Tensor, generator: torch.Generator) -> Batch:
        """The pairs in these places, with draws of what they are compared with."""
        user_B, settings = self.user_E[batch_B], self._settings
        drawn_BC, sampled = torch.empty(len(user_B), 0, dtype=torch.int64), None
        if settings.loss == "bpr":
            drawn_BC = self._negatives.draw(user_B, generator, draws=settings.negatives)
        else:
            sampled = self._items.draw(user_B, generator, items=settings.sampled_items)
        weight_B = None if self._weight_E is None else self._weight_E[batch_B]
        return Batch(user_B=user_B, item_B=self.item_E[batch_B], weight_B=weight_B, drawn_BC=drawn_BC, sampled=sampled)

    def hops(self, layers: Layers) -> tuple[Hop, ...]:
        """The whole graph, once per layer."""
        if not layers.hops:
            return ()
        hop = full_hop(
            self.user_E,
            self.item_E,
            num_users=self._sizes["num_users"],
            num_items=self._sizes["num_items"],
            normalization=layers.normalization,
        )
        return (hop,) * layers.hops
