"""Columns that the towers read: which items have an attribute, and how often training has each."""

import dataclasses

import numpy as np
from support.walks import walks

from recsys.features.feature_set import Categorical, FeatureSet, Numeric
from recsys.models.retrieval.two_tower.config import TwoTowerConfig
from recsys.models.retrieval.two_tower.features import tower_features
from recsys.training.config import RowConfig
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.two_tower.data import TowerData, tower_row_maps
from recsys.training.retrieval.two_tower.sequences import training_sequences
from recsys.training.settings import override


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


def test_an_item_counts_once_for_each_event_and_for_each_target_that_is_no_event() -> None:
    data = walks()
    assert data.ids is not None
    features = tower_features(data.ids.features)
    config = override(RetrievalRunConfig(recipe="r"), ["model.kind=two_tower", "train.loss=softmax"])
    events = data.histories["validation"]
    beside = {part: of.where(of.item_E % 7 > 0) for part, of in data.histories.items()}  # some targets are no events
    for histories in (data.histories, beside):
        log = dataclasses.replace(data, histories=histories)
        sequences, _ = training_sequences(config, log, window=20)
        count_M = np.bincount(histories["validation"].item_E, minlength=data.num_items)
        if histories is beside:
            count_M += np.bincount(sequences.item_T[sequences.item_T % 7 == 0], minlength=data.num_items)
            assert not np.array_equal(count_M, np.bincount(events.item_E, minlength=data.num_items))
        for least in (9, 12, 15):
            rows = RowConfig(min_count=least)
            maps = tower_row_maps(TwoTowerConfig(), rows, features, log, sequences)
            has_row_M = maps["item_id"].lookup(data.ids.item_keys_M)[:, 0] > 0
            assert np.array_equal(has_row_M, count_M >= least) and has_row_M.any()
