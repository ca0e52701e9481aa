"""A feature store as a worker reads it, and an index whose rows of items say what they were made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest
from contracts.feature_store_contract.shop import SHOP

from recsys.arrays import BoolArray, Int64Array
from recsys.bundle import ItemRows
from recsys.errors import ModelError
from recsys.feature_store.blocking import BlockingFeatureStore
from recsys.feature_store.item_cache import ItemCache
from recsys.feature_store.loop_thread import loop_in_thread
from recsys.features.columns import Column
from recsys.features.entities import make_columns
from recsys.features.feature_set import FeatureSet
from recsys.serving.inference.candidate_index import AddedItems

TRAINED = 100
"""Items below it are in the bundle."""

FAILS = -999.0
"""A price for which the model fails."""


class Index:
    """Rows of items are [price, key]; a price of 0 is none, and a negative one makes a row that is not finite."""

    history_fields = ("item_id",)
    item_inputs = ("item_id", "price")
    model, version, names = "by_hand", "1", None

    def __init__(self, features: FeatureSet = SHOP) -> None:
        self.features = features
        self.runs: list[list[int]] = []

    def has_items(self, keys: Int64Array) -> BoolArray:
        return np.asarray(keys < TRAINED)

    def rows(self, columns: Mapping[str, Column]) -> ItemRows:
        price, keys = columns["price"], columns["item_id"]
        self.runs.append(keys.tolist())
        if (price == FAILS).any():
            raise ModelError("table damaged")
        rows = np.stack([np.where(price < 0, np.nan, price), (keys % 1009).astype(np.float32)], axis=1)
        return ItemRows(rows.astype(np.float32), (price != 0).astype(np.int64))


def put(store: BlockingFeatureStore, prices: Mapping[int, float]) -> None:
    columns = make_columns(SHOP.item, {"price": list(prices.values())}, length=len(prices))
    store.put_entities("item", np.array(list(prices)), columns, timeout_s=5)


def prices_of(items: AddedItems | None) -> dict[int, float]:
    return (
        {} if items is None else dict(zip(items.keys.tolist(), items.rows[items.row_places, 0].tolist(), strict=True))
    )


def keys_of(items: AddedItems | None) -> Sequence[int]:
    return [] if items is None else items.keys.tolist()


@pytest.fixture
def store(redis_url: str) -> Iterator[BlockingFeatureStore]:
    with loop_in_thread("store") as loop:
        store = BlockingFeatureStore.connect(redis_url, SHOP, loop=loop, cache=ItemCache(SHOP.item))
        yield store
        store.close()
