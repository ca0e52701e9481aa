"""Training runs small enough for tests, and data sets with awkward features.

Folders that share a finished run take it from :func:`finished`, which trains once per process.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from recsys.data.log.event_table import open_event_table, write_event_table
from recsys.data.samples.dataset import Dataset, make_dataset
from recsys.data.samples.stored import Impressions, Samples
from recsys.data.sources.movielens.prepare import prepare_movielens
from recsys.data.sources.synthetic.logs import make_synthetic_log
from recsys.features.feature_set import Categorical, FeatureSet, History, Numeric
from recsys.models.ranking.din import DinConfig
from recsys.training.config import DataConfig, RowConfig, RunConfig, TableConfig, TrainConfig
from recsys.training.loop import train
from recsys.training.reports import RunResult

# Matrices this small gain nothing from threads, and lose much when the cores are busy.
torch.set_num_threads(1)

CONFIG = RunConfig(
    recipe="tiny",
    data=DataConfig(dataset="synthetic", recent=50),
    model=DinConfig(attention=(16, 8), head=(24, 12), dropout=0.1),
    tables=TableConfig(dim=4, dims={"movie_id": 8, "genre": 8}, learning_rate=0.05, regularization=0.01),
    rows=RowConfig(spare_rows=0.0),
    train=TrainConfig(epochs=4, batch_size=128, learning_rate=1e-2, warmup_steps=10, checkpoint_steps=29),
)
"""Tables of two widths, dropout, regularisation, Dice in the head, a last batch that is short."""

PLAIN = FeatureSet(
    name="plain",
    user_id=Categorical(name="user"),
    item_id=Categorical(name="item_id"),
    user=(Numeric(name="age", default=-1.0),),
    history=History(recent=4),
)
"""Items have nothing but their id, events nothing but their item."""

NAMESAKES = FeatureSet(
    name="namesakes",
    user_id=Categorical(name="user"),
    item_id=Categorical(name="item_id"),
    user=(Categorical(name="type"), Numeric(name="size"), Categorical(name="keys", max_values=3)),
    item=(
        Categorical(name="type", table="values", max_values=2),
        Numeric(name="size", default=2.0, transform="signed_log"),
    ),
    context=(Numeric(name="present", transform="quantile"),),
    history=History(attributes=(Categorical(name="action", storage="u8"),), recent=4),
)
"""User and item features share names; others are named like attributes of modules and like tensors of graphs. Numbers
of every transform."""

ONE_OFF = replace(NAMESAKES, name="one_off", history=None)
"""No history: samples are impressions."""


@dataclass(frozen=True)
class Finished:
    """A run that was never interrupted, and what it was trained on."""

    dataset: Dataset
    folder: Path
    result: RunResult


@functools.cache
def tiny_dataset() -> Dataset:
    """12,000 ratings of 150 users and 60 movies."""
    return prepare_movielens(make_synthetic_log(users=150, events_per_user=80, items=60), folder_of_this_process())


@functools.cache
def finished() -> Finished:
    """``CONFIG`` on :func:`tiny_dataset`."""
    folder = folder_of_this_process() / "run"
    return Finished(tiny_dataset(), folder, train(CONFIG, tiny_dataset(), folder))


def odd_dataset(features: FeatureSet, folder: Path) -> Dataset:
    """A few random events of ``PLAIN`` or ``NAMESAKES``, or impressions of ``ONE_OFF``."""
    random = np.random.Generator(np.random.PCG64(5))
    users = {"user": list(range(10)), "age": random.normal(size=10)}
    users |= {
        "type": random.integers(0, 3, size=10),
        "size": [None, *random.normal(size=10)[1:]],
        "keys": [[1, 2], []] * 5,
    }
    items = {
        "item_id": [7, 1 << 40, (1 << 62) - 2, 3, 4],
        "type": [[1], [2, 9], [], [9], [1, 2]],
        "size": [1, 2, 3, 4, 5],
    }
    events = {
        "user": random.integers(0, 10, size=200),
        "item_id": random.choice(items["item_id"], size=200),
        "timestamp_ms": np.arange(200) // 2,
        "action": random.integers(1, 4, size=200),
        "present": random.normal(size=200),
    }
    user_rows = {f.name: users[f.name] for f in (features.user_id, *features.user)}
    item_rows = {f.name: items[f.name] for f in (features.item_id, *features.item)}
    if features.history is None:
        write_event_table(features, user_rows, item_rows, {}, folder / features.name)
        shown = Impressions(
            user=np.sort(events["user"]).astype(np.int32),
            item=np.array([items["item_id"].index(key) for key in events["item_id"].tolist()], dtype=np.int32),
            time_ms=np.arange(200),
            context={f.name: events[f.name].astype(np.float32) for f in features.context},
        )
        return make_dataset(open_event_table(folder / features.name), _labelled(random, 200, shown))
    history = {a.name for a in features.history.attributes}
    kept = {*("user", "item_id", "timestamp_ms"), *history, *(f.name for f in features.context)}
    write_event_table(
        features,
        user_rows,
        item_rows,
        {name: column for name, column in events.items() if name in kept},
        folder / features.name,
    )
    table = open_event_table(folder / features.name)
    return make_dataset(table, _labelled(random, len(table)))  # a random event may repeat another: a few less than 200


def _labelled(random: np.random.Generator, size: int, shown: Impressions | None = None) -> Samples:
    """Every event, or every impression, as a sample with a random label."""
    order = random.permutation(size)
    splits = {"train": order[:150], "validation": order[150:175], "test": order[175:]}
    label = random.integers(0, 2, size=size).astype(np.uint8)
    position = np.arange(size) if shown is None else np.full(size, -1)
    return Samples(position=position, label=label, splits=splits, impressions=shown)


def odd_config(**model: object) -> RunConfig:
    """A run of five steps for each of two epochs, with everything random that a run can have."""
    return replace(
        CONFIG,
        model=DinConfig(attention=(6, 5), head=(7,), dropout=0.2, **model),  # type: ignore[arg-type]
        tables=TableConfig(dim=4, dims={"user": 8}, learning_rate=0.3, regularization=0.1),
        train=replace(CONFIG.train, epochs=2, batch_size=30, warmup_steps=3, checkpoint_steps=3),
    )


@functools.cache
def folder_of_this_run() -> Path:
    """A folder that all processes of a test run share; it goes with the last of them."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    path = Path(tempfile.gettempdir()) / f"recsys-tests-{run}"
    path.mkdir(exist_ok=True)
    users = os.open(path, os.O_RDONLY)
    fcntl.flock(users, fcntl.LOCK_SH)

    def leave() -> None:
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # another process still uses it
        shutil.rmtree(path, ignore_errors=True)

    atexit.register(leave)
    return path


@contextmanager
def first_in_run(name: str) -> Iterator[tuple[Path, bool]]:
    """A folder of this name that all processes of a test run share, and whether it is still to be filled.

    The others wait while one fills it. One that fails leaves it to the next.
    """
    path = folder_of_this_run() / name
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = path.with_suffix(".done")
        if not done.exists():
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
            yield path, True
            done.touch()
        else:
            yield path, False


def folder_of_this_process() -> Path:
    """A new folder that goes when the process does: runs kept by ``functools.cache`` outlive fixtures."""
    path = tempfile.mkdtemp(prefix="recsys-tiny-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return Path(path)
