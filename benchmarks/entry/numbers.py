"""A price as it comes beside the same price standardised by hand: the AUC of models that are alike in all else.

A generated log of offers: each names a user, an item and a price in cents, which is log-normal. Users like some
categories, and differ in how much a price puts them off; items have a quality. The label is drawn with the
probability that follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from harness import common

from recsys.arrays import Float64Array, Int64Array
from recsys.data.log.event_table import open_event_table, write_event_table
from recsys.data.samples.dataset import Dataset, make_dataset
from recsys.data.samples.stored import Samples
from recsys.features.feature_set import Categorical, FeatureSet, History, Numeric, Transform
from recsys.recipes.own_log import din
from recsys.training.loop import train

# size -> users, events of each, epochs, seeds of the model
SIZES = {"tiny": (60, 30, 1, 1), "quick": (600, 50, 2, 1), "full": (2_000, 100, 2, 3)}
TARGET = 0.002
START_MS, STEP_MS = 1_700_000_000_000, 3_600_000


class Offers(NamedTuple):
    """Events of ``users`` users, one after another, each user's in the order of time; [N] each but the categories."""

    user: Int64Array
    item: Int64Array
    category_I: Int64Array
    time_ms: Int64Array
    log_price: Float64Array
    label: Int64Array


def numeric_auc_kept(size: str, folder: Path) -> Iterator[common.Line]:
    """The figure ``way_in.numeric_auc_kept``, with the AUC of a raw time and of a constant price beside it."""
    users, each, epochs, seeds = SIZES[size]
    offers = draw_offers(users, each)
    cents = np.round(np.exp(offers.log_price) * 100)
    trained = split(len(cents), each) == "train"
    by_hand = (np.log(cents) - np.log(cents[trained]).mean()) / np.log(cents[trained]).std()
    columns: dict[str, tuple[Any, Transform]] = {
        "by hand": (by_hand, "none"),
        "cents": (cents, "auto"),
        "cents, as they come": (cents, "none"),
        "time in ms": (offers.time_ms, "auto"),
        "time in ms, as it comes": (offers.time_ms, "none"),
        "constant": (np.full(len(cents), 1999.0), "auto"),
    }
    auc: dict[str, float] = {}
    for name, (column, transform) in columns.items():
        dataset = as_dataset(offers, column, transform, each, folder / name)
        runs = [
            auc_of(dataset, folder / f"run, {name}, {seed}", epochs=epochs, seed=seed) for seed in range(1, seeds + 1)
        ]
        auc[name] = float(np.mean(runs))
        common.say(f"price: {name}: AUC {auc[name]:.4f}")
    on = common.machine(["torch", "torchrec", "numpy"], users=users, events=len(cents), epochs=epochs, seeds=seeds)
    yield common.line(
        "way_in.numeric_auc_kept", abs(auc["cents"] - auc["by hand"]), "difference of AUC", higher_is_better=False,
        target=TARGET, compared_with="the same log with the logarithm of the price standardised by hand",
        auc={name: common.rounded(value) for name, value in auc.items()}, on=on,
    )  # fmt: skip


def draw_offers(users: int, each: int) -> Offers:
    """The log; the same one every time."""
    random = np.random.Generator(np.random.PCG64(0))
    items, categories = max(50, users // 4), 12
    category_I = random.integers(0, categories, size=items)
    quality_I = random.normal(0.0, 0.7, size=items)
    liked_UC = random.normal(0.0, 1.0, size=(users, categories))
    thrift_U = random.uniform(0.5, 2.0, size=users)
    user = np.repeat(np.arange(users), each)
    item = random.integers(0, items, size=len(user))
    dearness = random.normal(0.0, 1.0, size=len(user))
    logit = quality_I[item] + liked_UC[user, category_I[item]] - 1.5 * thrift_U[user] * dearness
    time_ms = START_MS + STEP_MS * np.tile(np.arange(each), users) + random.integers(0, STEP_MS, size=len(user))
    label = (random.random(len(user)) < 1.0 / (1.0 + np.exp(-logit))).astype(np.int64)
    return Offers(user, item, category_I, time_ms, 3.0 + 1.2 * dearness, label)


def split(events: int, each: int) -> Any:
    """Name of each event's split: the last tenth of each user's events are the test's, the tenth before validation."""
    place = np.arange(events) % each
    return np.select([place < 0.8 * each, place < 0.9 * each], ["train", "validation"], "test")


def as_dataset(offers: Offers, column: Any, transform: Transform, each: int, folder: Path) -> Dataset:
    """The log with a number as the price of each event."""
    category = Categorical(name="category")
    features = FeatureSet(
        name="offers",
        user_id=Categorical(name="user"),
        item_id=Categorical(name="item_id"),
        item=(category,),
        context=(Numeric(name="price", transform=transform),),
        history=History(attributes=(category, Categorical(name="bought", storage="u8")), recent=50),
    )
    write_event_table(
        features,
        {"user": np.unique(offers.user)},
        {"item_id": np.arange(len(offers.category_I)), "category": offers.category_I},
        {
            "user": offers.user,
            "item_id": offers.item,
            "timestamp_ms": offers.time_ms,
            "bought": offers.label,
            "price": np.asarray(column, dtype=np.float64),
        },
        folder,
    )
    names = split(len(offers.user), each)
    splits = {name: np.flatnonzero(names == name) for name in ("train", "validation", "test")}
    samples = Samples(position=np.arange(len(offers.user)), label=offers.label.astype(np.uint8), splits=splits)
    return make_dataset(open_event_table(folder), samples)


def auc_of(dataset: Dataset, folder: Path, *, epochs: int, seed: int) -> float:
    """AUC on the test split of DIN as `recsys train din` trains it."""
    config = din()
    config = replace(config, train=replace(config.train, epochs=epochs, seed=seed))
    found = train(config, dataset, folder).test
    assert found is not None and found.auc is not None
    return found.auc
