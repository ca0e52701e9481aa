"""Sampled neighbourhoods: the part of a graph that a batch needs, for graphs too big to propagate whole.

A node with more neighbours than the layer's fan-out receives messages from so many of them, drawn with replacement and
scaled by (neighbours / fan-out); others receive all. Before nonlinearities the expected sum is that of the whole graph
(GraphSAGE, Hamilton et al., NeurIPS 2017, with the scale that keeps sums instead of means).

Legend: ``E`` training pairs, ``Z`` nodes of one side, ``K`` sampled messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recsys.errors import InvalidInputError
from recsys.models.retrieval.hops import Hop, Normalization, degrees, message_weights, own_weights
from recsys.models.retrieval.sparse import SparseMatrix, sparse_matrix


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbours:
    """Neighbours of one side's nodes: node z's are ids_E[first_Z[z] : first_Z[z] + count_Z[z]]; int64."""

    ids_E: Tensor
    first_Z: Tensor
    count_Z: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class SampledPart:
    """The part of the graph that a batch looks up and propagates.

    Attributes:
        users, items: distinct ids of layer 0, ascending, int64.
        hops: from layer 0 to the last layer, which holds the batch's own users and items, ascending.
    """

    users: Tensor
    items: Tensor
    hops: tuple[Hop, ...]


class NeighbourSampler:
    """Draws the part of the graph around a batch.

    Args:
        user_E, item_E: distinct pairs in order of users, int64.
        num_users, num_items: of the graph.
        normalization: of messages, by the degrees in the whole graph.
    """

    def __init__(
        self,
        user_E: Tensor,
        item_E: Tensor,
        *,
        num_users: int,
        num_items: int,
        normalization: Normalization = "symmetric",
    ) -> None:
        by_item = torch.argsort(item_E, stable=True)
        self._of_users = _neighbours(user_E, item_E, num_users)
        self._of_items = _neighbours(item_E[by_item], user_E[by_item], num_items)
        self._user_degree, self._item_degree = degrees(user_E, item_E, num_users=num_users, num_items=num_items)
        self._normalization: Normalization = normalization

    def sample(
        self, users: Tensor, items: Tensor, *, fan_outs: Sequence[int], generator: torch.Generator
    ) -> SampledPart:
        """The part that gives the last layer of some users and items.

        Args:
            users, items: distinct, ascending, int64.
            fan_outs: largest number of messages to a node, of each layer from the last to the first.
            generator: of the draws.

        Raises:
            InvalidInputError: a fan-out is below 1.
        """
        if min(fan_outs) < 1:
            raise InvalidInputError(f"fan_outs are {tuple(fan_outs)}; allowed: 1 or more each")
        hops: list[Hop] = []
        for fan_out in fan_outs:
            to_users = _draw(self._of_users, users, fan_out, generator)
            to_items = _draw(self._of_items, items, fan_out, generator)
            before_users = torch.unique(torch.cat([users, to_items.sender_K]))
            before_items = torch.unique(torch.cat([items, to_users.sender_K]))
            hops.append(
                Hop(
                    to_users=self._matrix(to_users, users, before_items, self._user_degree, self._item_degree),
                    to_items=self._matrix(to_items, items, before_users, self._item_degree, self._user_degree),
                    users=torch.searchsorted(before_users, users),
                    items=torch.searchsorted(before_items, items),
                    user_own=own_weights(self._user_degree[users], self._normalization),
                    item_own=own_weights(self._item_degree[items], self._normalization),
                )
            )
            users, items = before_users, before_items
        return SampledPart(users=users, items=items, hops=tuple(reversed(hops)))

    def _matrix(
        self, drawn: _Drawn, receivers: Tensor, senders: Tensor, own_degree: Tensor, other_degree: Tensor
    ) -> SparseMatrix:
        weights_K = message_weights(
            own_degree[receivers][drawn.receiver_K], other_degree[drawn.sender_K], self._normalization
        )
        return sparse_matrix(
            drawn.receiver_K,
            torch.searchsorted(senders, drawn.sender_K),
            (len(receivers), len(senders)),
            weights_K * drawn.scale_K,
        )


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Messages: place of the receiver among those asked for, ascending; id of the sender; factor of the weight."""

    receiver_K: Tensor
    sender_K: Tensor
    scale_K: Tensor


def _neighbours(ordered_E: Tensor, other_E: Tensor, size: int) -> Neighbours:
    count_Z = torch.bincount(ordered_E, minlength=size)
    return Neighbours(ids_E=other_E, first_Z=count_Z.cumsum(0) - count_Z, count_Z=count_Z)


def _draw(neighbours: Neighbours, nodes: Tensor, fan_out: int, generator: torch.Generator) -> _Drawn:
    count_Z = neighbours.count_Z[nodes]
    taken_Z = count_Z.clamp_max(fan_out)
    receiver_K = torch.repeat_interleave(torch.arange(len(nodes)), taken_Z)
    in_order_K = torch.arange(len(receiver_K)) - (taken_Z.cumsum(0) - taken_Z)[receiver_K]
    chance_K = torch.rand(len(receiver_K), generator=generator, dtype=torch.float64)
    count_K = count_Z[receiver_K]
    place_K = torch.where(count_K > fan_out, (chance_K * count_K).long(), in_order_K)
    sender_K = neighbours.ids_E[neighbours.first_Z[nodes][receiver_K] + place_K]
    scale_K = (count_K / taken_Z[receiver_K]).to(torch.get_default_dtype())
    return _Drawn(receiver_K, sender_K, scale_K)
