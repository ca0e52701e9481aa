"""A shop whose items are filtered: by a price that models read, and by an offer of its own that none does."""

from __future__ import annotations

from dataclasses import replace

from recsys.features.feature_set import Categorical, Entity, FeatureSet, Numeric
from support.tiny_bundle import FEATURES as TINY
from support.tiny_retrieval import FEATURES as TINY_RETRIEVAL

OFFER = Entity(
    name="offer",
    id=Categorical(name="item_id"),
    features=(
        Categorical(name="category", id_type="string", filterable=True),
        Categorical(name="in_stock", filterable=True),
        Categorical(name="labels", max_values=2, filterable=True),
        Numeric(name="weight", filterable=True),
        Categorical(name="supplier"),
    ),
)
"""A part that changes often: put by itself, in place of the whole offer."""

SHOP: FeatureSet = replace(
    TINY, item=(Numeric(name="price", default=0.0, filterable=True),), entities=(*TINY.entities, OFFER)
)
"""The tiny bundle's FeatureSet with values to filter by."""

FOUND: FeatureSet = replace(TINY_RETRIEVAL, item=SHOP.item, entities=SHOP.entities)
"""The same of a bundle that finds items."""
