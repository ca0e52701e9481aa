"""Messages of one step over a user-item graph, for the whole graph or for a sampled part of it.

Graph models are functions of the vectors of layer 0 and of a list of hops, so that one code path serves full
propagation and neighbour-sampled batches (``neighbour_sampling.py``).

Legend: ``N`` users, ``M`` items, ``E`` training pairs, ``D`` width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recsys.models.retrieval.sparse import SparseMatrix, sparse_matrix

Normalization = Literal["symmetric", "row"]
"""Weight of the message from j to i, with d the number of neighbours: ``symmetric`` 1 / sqrt(d_i d_j), of LightGCN and
of NGCF's equations; ``row`` 1 / (d_i + 1), of NGCF's code, whose adjacency holds each node itself."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Hop:
    """From the vectors of one layer to the sums of messages of the next.

    Attributes:
        to_users: [users of the next layer, items of this one].
        to_items: [items of the next layer, users of this one].
        users, items: which of this layer's users and items have a next layer; None: all, in the same order.
        user_own, item_own: weight of a node's own vector beside its messages, [users or items of the next layer, 1];
            None: it takes no part in the sum.
    """

    to_users: SparseMatrix
    to_items: SparseMatrix
    users: Tensor | None = None
    items: Tensor | None = None
    user_own: Tensor | None = None
    item_own: Tensor | None = None

    def kept(self, users_ND: Tensor, items_MD: Tensor) -> tuple[Tensor, Tensor]:
        """This layer's vectors of the nodes that have a next one."""
        return (
            users_ND if self.users is None else users_ND.index_select(0, self.users),
            items_MD if self.items is None else items_MD.index_select(0, self.items),
        )

    def messages(self, users_ND: Tensor, items_MD: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted sums of the neighbours' vectors, and of the own one where it has a weight."""
        to_users, to_items = self.to_users @ items_MD, self.to_items @ users_ND
        own_users, own_items = self.kept(users_ND, items_MD)
        if self.user_own is not None:
            to_users = to_users + self.user_own * own_users
        if self.item_own is not None:
            to_items = to_items + self.item_own * own_items
        return to_users, to_items


def degrees(
    user_E: Tensor, item_E: Tensor, *, num_users: int, num_items: int, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Number of neighbours of each user and each item; default: in float32."""
    dtype = dtype or torch.get_default_dtype()
    return (
        torch.bincount(user_E, minlength=num_users).to(dtype),
        torch.bincount(item_E, minlength=num_items).to(dtype),
    )


def message_weights(own_degree: Tensor, other_degree: Tensor, normalization: Normalization) -> Tensor:
    """Weight of each message, given the degrees of who receives and of who sends it."""
    if normalization == "row":
        return (1.0 / (own_degree + 1.0)).to(torch.get_default_dtype())
    return torch.rsqrt(own_degree * other_degree).to(torch.get_default_dtype())


def own_weights(degree: Tensor, normalization: Normalization) -> Tensor | None:
    """Weight of a node's own vector among the messages it receives, [nodes, 1]."""
    return (1.0 / (degree + 1.0)[:, None]).to(torch.get_default_dtype()) if normalization == "row" else None


def full_hop(
    user_E: Tensor,
    item_E: Tensor,
    *,
    num_users: int,
    num_items: int,
    normalization: Normalization = "symmetric",
    dtype: torch.dtype | None = None,
) -> Hop:
    """The hop over the whole graph, the same for every layer.

    A user or item without neighbours receives nothing but, with ``row``, its own vector.

    Args:
        user_E, item_E: distinct pairs in order of users, int64.
        dtype: in which weights are computed, before they are rounded to the default one; default: that.
    """
    user_degree, item_degree = degrees(user_E, item_E, num_users=num_users, num_items=num_items, dtype=dtype)
    of_user, of_item = user_degree[user_E], item_degree[item_E]
    by_item = torch.argsort(item_E, stable=True)
    return Hop(
        to_users=sparse_matrix(
            user_E, item_E, (num_users, num_items), message_weights(of_user, of_item, normalization)
        ),
        to_items=sparse_matrix(
            item_E[by_item],
            user_E[by_item],
            (num_items, num_users),
            message_weights(of_item, of_user, normalization)[by_item],
        ),
        user_own=own_weights(user_degree, normalization),
        item_own=own_weights(item_degree, normalization),
    )


def drop_messages(hop: Hop, rate: float) -> Hop:
    """Leave each message out with a probability, and scale the others up: NGCF's node dropout as in its code."""
    if not rate:
        return hop

    def thinned(matrix: SparseMatrix) -> SparseMatrix:
        assert matrix.values_E is not None
        values_E = torch.dropout(matrix.values_E, rate, True)
        return SparseMatrix(matrix.rows, matrix.columns, matrix.order_E, values_E, values_E[matrix.order_E])

    return Hop(
        to_users=thinned(hop.to_users),
        to_items=thinned(hop.to_items),
        users=hop.users,
        items=hop.items,
        user_own=hop.user_own,
        item_own=hop.item_own,
    )
