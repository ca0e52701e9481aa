"""The part of a FeatureSet that the two towers read, and its vectors.

The item's side reads the item's id and features; the user's side the history and the user's features, not the user's
id: a user who came after training is like any other. A request for candidates brings no context.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from recsys.embeddings.tables import ITEM
from recsys.embeddings.vectors import Inputs, side_vectors, vector_widths
from recsys.errors import ConfigError
from recsys.features.feature_set import FeatureSet


class TowerWidths(NamedTuple):
    """Columns of what the network is given: an item's id and other features, an event's attributes, a user's features.

    All but the first may be 0.
    """

    item_id: int
    item: int
    event: int
    user: int


def tower_features(features: FeatureSet) -> FeatureSet:
    """The FeatureSet without context, and without attributes of the history that its items have themselves.

    Raises:
        ConfigError: it declares no history.
    """
    if features.history is None:
        raise ConfigError(
            f"model two_tower knows users by their history, but the FeatureSet {features.name!r} declares none; add "
            '"history" to it and prepare the log again (docs/guides/features.md), or train mf or lightgcn'
        )
    history = replace(features.history, attributes=features.stand_ins(), identity=None, trending=None)
    return replace(features, context=(), history=history, entities=())


def read_tables(features: FeatureSet) -> tuple[str, ...]:
    """Embedding tables that the model reads, of :func:`tower_features`: all but that of the user's id."""
    read = [f for f in features.categoricals() if f is not features.user_id]
    return tuple(dict.fromkeys(f.table for f in read))


def tower_widths(features: FeatureSet, dims: Mapping[str, int]) -> TowerWidths:
    """Widths of the vectors below, given each table's; ``features``: of :func:`tower_features`."""
    return TowerWidths(
        item_id=dims[features.item_id.table],
        item=sum(vector_widths(features.item, dims)),
        event=sum(vector_widths(features.event_features()[1:], dims)),
        user=sum(vector_widths(features.user, dims)),
    )


def item_inputs(features: FeatureSet, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Vectors of items' ids, [A, I], and of their features, one beside another, [A, W]; W may be 0."""
    id_AI = inputs.vectors(f"{ITEM}{features.item_id.name}", features.item_id)
    return id_AI, side_vectors(features.item, inputs, side="item") if features.item else id_AI[:, :0]


def event_inputs(features: FeatureSet, inputs: Inputs) -> Tensor | None:
    """Vectors of events' attributes, one beside another, [E, W]; None: events have none."""
    attributes = features.event_features()[1:]
    return side_vectors(attributes, inputs, side="history") if attributes else None


def user_inputs(features: FeatureSet, inputs: Inputs) -> Tensor | None:
    """Vectors of users' features, one beside another, [B, U]; None: users have none."""
    return side_vectors(features.user, inputs, side="user") if features.user else None
