"""The reference model of the serving benchmarks: DIN on the 50 newest events and SDIM over a long history.

Item and category of width 32 each (D = 64), user 32, activation unit 80-40-1, head 200-80-1, SDIM with 16 signatures
of 3 bits; 1 M items with an exact id map, 1,000 categories, 100,000 users. PReLU throughout. Speed does not depend on
the weights, so these are the initial ones; ids, tables and graphs are those of an export.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from recsys.data.log.event_table import open_event_table, write_event_table
from recsys.data.samples.dataset import Dataset, make_dataset
from recsys.data.samples.stored import Samples
from recsys.embeddings.row_maps.hashing import hash_rows
from recsys.embeddings.row_maps.row_map import RowMap
from recsys.embeddings.row_maps.vocabulary import vocabulary
from recsys.embeddings.sharding.shard import table_weights
from recsys.features.feature_set import Categorical, Entity, FeatureSet, History, Numeric
from recsys.features.history.records import Events, event_dtype
from recsys.models.ranking.sdim import LongName, SdimConfig
from recsys.training.config import DataConfig, RunConfig, TableConfig, TrainConfig
from recsys.training.trained import TrainedModel, build

ITEMS, USERS, CATEGORIES = 1_000_000, 100_000, 1_000
SHORT = 50
MAX_EVENTS = 100_000
START_MS, STEP_MS = 1_600_000_000_000, 1_000

OFFER = "offer"
"""An entity of the items that no model reads, and that requests filter by."""

FEATURES = FeatureSet(
    name="reference",
    user_id=Categorical(name="user_id"),
    item_id=Categorical(name="item_id"),
    item=(Categorical(name="category"),),
    history=History(attributes=(Categorical(name="category"),), max_events=MAX_EVENTS, recent=MAX_EVENTS),
    entities=(
        Entity(
            name=OFFER,
            id=Categorical(name="item_id"),
            features=(
                Categorical(name="kind", filterable=True),
                Numeric(name="price", filterable=True),
                Categorical(name="in_stock", filterable=True),
            ),
        ),
    ),
)


def config(*, long: LongName = "sdim") -> RunConfig:
    """The run whose model it would be, with another long block if asked."""
    return RunConfig(
        recipe="reference",
        data=DataConfig(dataset="synthetic", recent=SHORT),
        model=SdimConfig(long=long, short=SHORT, attention=(80, 40), head=(200, 80), head_act="prelu"),
        tables=TableConfig(dim=32),
        train=TrainConfig(),
    )


def reference_model(*, long: LongName = "sdim", items: int = ITEMS, hashed_rows: int = 0) -> TrainedModel:
    """The untrained model; with ``hashed_rows`` items have no id map but are hashed to so many rows."""
    torch.manual_seed(0)
    of_items = hash_rows("item_id", rows=hashed_rows) if hashed_rows else _numbers("item_id", items)
    maps = {"user_id": _numbers("user_id", USERS), "item_id": of_items}
    maps["category"] = _numbers("category", CATEGORIES)
    trained = build(config(long=long), FEATURES, maps, device=torch.device("cpu"))
    trained.model.eval()
    return trained


def export_reference(
    path: Path,
    *,
    long: LongName = "sdim",
    items: int = ITEMS,
    hashed_rows: int = 0,
    compute: str = "float32",
    change: Callable[[TrainedModel], None] = lambda _: None,
) -> Path:
    """A bundle of the model, after ``change`` has changed it; its certificate is on random requests."""
    from recsys.export.onnx import export_bundle

    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as folder:
        dataset = _dataset(Path(folder) / "events", items)
        trained = reference_model(long=long, items=items, hashed_rows=hashed_rows)
        change(trained)
        export_bundle(trained, dataset, path, name="reference", compute=compute)
    return path


def change_network(trained: TrainedModel) -> None:
    """Make it another model with the same tables and states."""
    with torch.no_grad():
        for weight in trained.model.module.net.parameters():
            weight.mul_(1.1)


def change_items(trained: TrainedModel) -> None:
    """Give all items other vectors."""
    with torch.no_grad():
        table_weights(trained.model)["item_id"].mul_(-1.1)


def category_of(items: np.ndarray) -> np.ndarray:
    """An item's category."""
    return items % CATEGORIES


def random_events(random: np.random.Generator, length: int, *, items: int = ITEMS) -> Events:
    """A history of so many events, a second apart, oldest first."""
    events = np.zeros(length, dtype=event_dtype(FEATURES))
    events["item"] = random.integers(0, items, size=length)
    events["category"] = category_of(events["item"])
    events["timestamp"] = START_MS + STEP_MS * np.arange(length)
    events["arrival"] = events["timestamp"] + 1
    return events


def _numbers(table: str, count: int) -> RowMap:
    return vocabulary(table, np.arange(count, dtype=np.int64), np.ones(count, dtype=np.int64))


def _dataset(path: Path, items: int) -> Dataset:
    """A few histories over some of the items."""
    random = np.random.Generator(np.random.PCG64(0))
    shown = np.unique(random.integers(0, items, size=5_000))
    users = np.sort(random.integers(0, 50, size=5_000))
    events = {
        "user_id": users,
        "item_id": random.choice(shown, size=len(users)),
        "timestamp_ms": START_MS + STEP_MS * np.arange(len(users)),
    }
    write_event_table(
        FEATURES,
        {"user_id": np.arange(50)},
        {"item_id": shown, "category": category_of(shown)},
        events,
        path,
    )
    table = open_event_table(path)
    order = random.permutation(len(table))
    splits = {"train": order[:4_000], "validation": order[4_000:4_500], "test": order[4_500:]}
    label = random.integers(0, 2, size=len(table)).astype(np.uint8)
    return make_dataset(table, Samples(position=np.arange(len(table)), label=label, splits=splits, impressions=None))
