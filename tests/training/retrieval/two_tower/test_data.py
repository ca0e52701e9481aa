"""Columns that the towers read: which items have an attribute."""

import numpy as np

from recsys.features.feature_set import Categorical, FeatureSet, Numeric
from recsys.training.retrieval.two_tower.data import TowerData


def test_a_number_that_is_missing_or_the_declared_default_is_no_attribute() -> None:
    features = FeatureSet(
        name="shop",
        user_id=Categorical(name="user_id"),
        item_id=Categorical(name="item_id"),
        item=(Categorical(name="brand"), Numeric(name="price", default=0.0), Numeric(name="weight")),
    )
    data = TowerData(
        features=features,
        item={
            "item_id": np.arange(1, 6),
            "brand": np.array([0, 0, 0, 0, 2]),
            "price": np.array([0.0, np.nan, 9.0, 0.0, 0.0], dtype=np.float32),
            "weight": np.array([np.nan, np.nan, np.nan, 0.0, np.nan], dtype=np.float32),
        },
        user={},
        rows_of_codes={},
        keys={},
    )
    assert data.with_attribute_M.tolist() == [False, False, True, True, True]
