"""Ids that the store does not know, and missing values, in the columns that a request read."""

from __future__ import annotations

import numpy as np

from recsys.features.columns import feature_column, missing_column
from recsys.features.feature_set import Categorical, FeatureSet, History, Numeric
from recsys.serving.telemetry.missing import lookups

FEATURES = FeatureSet(
    name="shop",
    user_id=Categorical(name="user_id"),
    item_id=Categorical(name="item_id"),
    user=(Numeric(name="age"), Categorical(name="tags", id_type="string", max_values=2)),
    item=(Numeric(name="price"), Numeric(name="stock", default=0.0), Categorical(name="brand")),
    history=History(max_events=20, recent=4),
)
PRICE, STOCK, BRAND = FEATURES.item
AGE, TAGS = FEATURES.user


def test_an_id_without_any_value_is_unknown_and_a_known_one_may_lack_values() -> None:
    items = {
        "price": np.array([9.5, np.nan, np.nan, 1.0], dtype=np.float32),
        "stock": np.array([0.0, 0.0, 0.0, 4.0], dtype=np.float32),
        "brand": np.concatenate([feature_column(BRAND, [7, 8]), missing_column(BRAND, 1), feature_column(BRAND, [7])]),
    }
    found = lookups(FEATURES, user_columns=None, item_columns=items, events=None)
    assert found == {
        ("release_ids", "items"): 4,
        ("release_unknown_ids", "items"): 1,
        # Price and brand of three items: the default of stock is not told from a stock of none.
        ("release_features", "items"): 6,
        ("release_missing_features", "items"): 1,
    }


def test_a_user_without_a_row_is_unknown_and_one_without_events_has_no_history() -> None:
    missing = {feature.name: missing_column(feature, 1) for feature in FEATURES.user}
    found = lookups(FEATURES, user_columns=missing, item_columns=None, events=0)
    assert found["release_ids", "users"] == found["release_unknown_ids", "users"] == 1
    assert found["release_features", "users"] == 0
    assert found["release_ids", "histories"] == found["release_unknown_ids", "histories"] == 1
    known = {"age": missing["age"], "tags": feature_column(TAGS, [["new"]])}
    found = lookups(FEATURES, user_columns=known, item_columns=None, events=3)
    assert found["release_unknown_ids", "users"] == found["release_unknown_ids", "histories"] == 0
    assert (found["release_features", "users"], found["release_missing_features", "users"]) == (2, 1)


def test_a_table_without_features_and_one_that_could_not_be_read_are_not_counted() -> None:
    user, item = Categorical(name="user_id"), Categorical(name="item_id")
    bare = FeatureSet(name="bare", user_id=user, item_id=item, history=None)
    assert lookups(bare, user_columns={}, item_columns={}, events=3) == {}
    assert lookups(FEATURES, user_columns=None, item_columns=None, events=None) == {}
