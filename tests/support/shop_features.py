"""A small FeatureSet of a shop, and parts to change it with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from recsys.features.feature_set import Categorical, Entity, FeatureSet, History, Numeric

GENRE, PAGE = Categorical(name="genre"), Categorical(name="page")
RATING = Categorical(name="rating", storage="u8")
PRICE, AGE = Numeric(name="price"), Numeric(name="age")
HISTORY = History(attributes=(GENRE,), max_events=100, recent=10, max_age_s=60, ttl_s=90)
SHOP = FeatureSet(
    name="shop",
    user_id=Categorical(name="user_id"),
    item_id=Categorical(name="item_id"),
    user=(AGE,),
    item=(GENRE,),
    context=(PAGE,),
    history=HISTORY,
    entities=(Entity(name="brand", id=Categorical(name="brand_id"), features=(PRICE,)),),
)
BRAND = SHOP.entities[0]


def past(**changed: Any) -> dict[str, Any]:
    """A change of the shop's history."""
    return {"history": replace(HISTORY, **changed)}
