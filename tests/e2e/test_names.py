"""A log of string ids from prepare to every place that shows an id: each shows the text, and an unknown one as such."""

from __future__ import annotations

import asyncio
import csv
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from support.tiny_run import folder_of_this_process, odd_config
from typer.testing import CliRunner

from recsys.bundle import open_bundle
from recsys.cli import app
from recsys.client import Client, UnknownText
from recsys.data.datasets import load_dataset
from recsys.data.samples.dataset import Dataset
from recsys.export.onnx import export_bundle
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.feature_set import Categorical, FeatureSet, History
from recsys.features.hashing import string_key
from recsys.features.history.records import make_events
from recsys.ingest.materialize import materialize
from recsys.models.ranking.autoint import AutoIntConfig
from recsys.parity.deliveries import table_deliveries
from recsys.parity.replay import replay_parity
from recsys.serving.process.server import running_server
from recsys.serving.settings import Settings
from recsys.training.explain import explain
from recsys.training.loop import train
from recsys.training.tables.report import report_run
from recsys.training.trained import TrainedModel

BRANDS = ["Société", "七人", "acme"]
ITEMS = [f"item {number}" for number in range(9)]
USERS = [f"user-{number}@example.org" for number in range(12)]
ACTIONS = ["click", "buy"]
FEATURES = FeatureSet(
    name="texts",
    user_id=Categorical(name="user", id_type="string"),
    item_id=Categorical(name="item", id_type="string"),
    user=(Categorical(name="city", id_type="string"),),
    item=(
        Categorical(name="brand", id_type="string"),
        Categorical(name="tags", id_type="string", max_values=2, table="tag"),
    ),
    context=(Categorical(name="page", id_type="string"),),
    history=History(
        attributes=(Categorical(name="brand", id_type="string"), Categorical(name="action", id_type="string")),
        recent=4,
    ),
)
START_MS = (time.time_ns() // 1_000_000) - 86_400_000


def tags_of(number: int) -> list[str]:
    return [["red", "blue"], ["red"], []][number % 3]


def write_log(folder: Path) -> None:
    def write(name: str, rows: list[dict[str, object]]) -> None:
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)

    (folder / "features.json").write_text(FEATURES.to_json())
    write("users.csv", [{"user": user, "city": f"city {n % 2}"} for n, user in enumerate(USERS)])
    write(
        "items.csv",
        [{"item": item, "brand": BRANDS[n % 3], "tags": json.dumps(tags_of(n))} for n, item in enumerate(ITEMS)],
    )
    write(
        "log.csv",
        [
            {
                "user": USERS[n % 12],
                "item": ITEMS[(n * n + n // 12) % 9],
                "timestamp_ms": START_MS + 1_000 * n,
                "action": ACTIONS[n % 2],
                "page": f"page {n % 2}",
                "label": (n // 5) % 2,
            }
            for n in range(360)
        ],
    )


@dataclass(frozen=True)
class Trained:
    folder: Path
    dataset: Dataset
    model: TrainedModel


@pytest.fixture(scope="module")
def trained() -> Trained:
    """A run on a log that `recsys prepare` read."""
    folder = folder_of_this_process()
    write_log(folder)
    given = [f"--{side}={folder}/{side}.csv" for side in ("users", "items")]
    done = CliRunner().invoke(
        app,
        ["prepare", f"{folder}/log.csv", f"--features={folder}/features.json", f"--out={folder}/prepared", *given],
    )
    assert done.exit_code == 0, done.output
    dataset = load_dataset(f"{folder}/prepared", work_dir=folder).dataset
    config = replace(odd_config(), model=AutoIntConfig(layers=1, attention_width=4, history="mean"))
    config = replace(
        config,
        data=replace(config.data, dataset=f"{folder}/prepared", recent=4),
        tables=replace(config.tables, dims={}),
        train=replace(config.train, epochs=1),
    )
    return Trained(folder, dataset, train(config, dataset, folder / "run").trained)


@pytest.fixture(scope="module")
def bundle(trained: Trained) -> Path:
    export_bundle(trained.model, trained.dataset, trained.folder / "bundle", name="texts")
    return trained.folder / "bundle"


@pytest.fixture
def served(bundle: Path, redis_url: str) -> Iterator[Client]:
    settings = Settings(bundle=bundle, port=0, redis_url=redis_url, store_timeout_ms=10_000)
    with running_server(settings) as running, Client(running.address, timeout_s=60) as client:
        yield client


def fill(url: str, dataset: Dataset) -> None:
    async def put() -> None:
        store = RedisFeatureStore.connect(url, dataset.table.features)
        await materialize(store, dataset.table)
        await store.close()

    asyncio.run(put())


def test_a_prepared_folder_has_the_texts_of_every_table(trained: Trained) -> None:
    names = trained.dataset.table.names
    expected = {
        "user": USERS, "city": ["city 0", "city 1"], "item": ITEMS, "brand": BRANDS, "tag": ["red", "blue"],
        "page": ["page 0", "page 1"], "action": ACTIONS,
    }  # fmt: skip
    assert {table: sorted(names[table].of(names[table].keys_R)) for table in names} == {
        table: sorted(texts) for table, texts in expected.items()
    }


def test_explain_and_rows_report_show_texts(trained: Trained) -> None:
    found = explain(trained.model, trained.dataset)
    shown = dict(zip(found.fields, found.values, strict=True))
    assert shown["user"] in USERS and shown["city"] in ("city 0", "city 1") and shown["page"] in ("page 0", "page 1")
    number = ITEMS.index(shown["item.item"])
    assert shown["item.brand"] == BRANDS[number % 3]
    assert shown["item.tags"] == (", ".join(tags_of(number)) or "missing")
    told = {table.table: table for table in report_run(trained.folder / "run", trained.dataset).ids}
    assert {hot.id for hot in told["brand"].hottest} == set(BRANDS)
    assert {hot.id for hot in told["user"].hottest} < set(USERS)
    bare = replace(trained.dataset, table=replace(trained.dataset.table, names={}))
    assert explain(trained.model, bare).values[0] == f"key {string_key(shown['user'])} (text unknown)"


def test_a_bundle_has_all_texts_but_those_of_users_or_none(trained: Trained, bundle: Path) -> None:
    names = open_bundle(bundle).names()
    assert sorted(names) == ["action", "brand", "city", "item", "page", "tag"]
    assert names["item"].of(names["item"].keys_R) == trained.dataset.table.names["item"].of(names["item"].keys_R)
    assert not any(user.encode() in file.read_bytes() for user in USERS for file in bundle.rglob("*") if file.is_file())
    export_bundle(trained.model, trained.dataset, trained.folder / "bare", name="texts", names=False)
    assert open_bundle(trained.folder / "bare").names() == {}


def test_parity_tells_a_difference_in_texts(trained: Trained, redis_url: str) -> None:
    deliveries = table_deliveries(trained.dataset.table, np.arange(12))
    wrong = deliveries.events["item"] == string_key("item 4")
    deliveries.events["item"][wrong] = string_key("not in the log")

    async def compare() -> str:
        store = RedisFeatureStore.connect(redis_url, trained.dataset.table.features)
        report = await replay_parity(store, trained.dataset, deliveries, np.arange(len(trained.dataset)))
        await store.close()
        return "\n".join(str(difference) for difference in report.differences)

    told = asyncio.run(compare())
    unknown = f'"key {string_key("not in the log")} (text unknown)"'
    assert told.startswith("user user-") and "history.item is [" in told
    assert unknown in told and '"item 4"' in told


def test_what_was_loaded_comes_back_in_texts_without_a_bundle(trained: Trained, redis_url: str, tmp_path: Path) -> None:
    fill(redis_url, trained.dataset)
    export_bundle(trained.model, trained.dataset, tmp_path / "bare", name="texts", names=False)
    settings = Settings(bundle=tmp_path / "bare", port=0, redis_url=redis_url, store_timeout_ms=10_000)
    with running_server(settings) as running, Client(running.address, timeout_s=60) as client:
        history = client.get_history(user=USERS[3], limit=100)
        items = client.get_features(entity="item", ids=ITEMS)
    assert set(history.items.tolist()) <= set(ITEMS) and len(history.items) == 30
    brands = [BRANDS[ITEMS.index(item) % 3] for item in history.items.tolist()]
    assert history.attributes["brand"].tolist() == brands
    assert set(history.attributes["action"].tolist()) == {"buy"}
    assert items.columns["brand"].tolist() == [BRANDS[n % 3] for n in range(9)]
    assert items.columns["tags"][:3].tolist() == [["red", "blue"], ["red", None], [None, None]]


def test_what_was_appended_by_key_comes_back_in_the_bundles_texts(served: Client, redis_url: str) -> None:
    events = make_events(
        FEATURES,
        item=["item 1", "unheard of"],
        timestamp_ms=np.array([START_MS, START_MS + 1]),
        attributes={"brand": ["acme", None], "action": ["click", "wink"]},
    )

    async def append() -> None:
        store = RedisFeatureStore.connect(redis_url, FEATURES)
        await store.append(string_key("ann"), events, timeout_s=10)
        await store.close()

    asyncio.run(append())
    history = served.get_history(user="ann")
    assert history.items.tolist() == ["item 1", UnknownText(string_key("unheard of"))]
    assert history.attributes["brand"].tolist() == ["acme", None]
    assert history.attributes["action"].tolist() == ["click", UnknownText(string_key("wink"))]
    assert served.rank(user="ann", candidates=["item 1", "new"], features={"page": "page 1"}).items == ["item 1", "new"]


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet"])
def test_what_was_ingested_comes_back_in_texts(format: str, served: Client, redis_url: str, tmp_path: Path) -> None:
    rows = [
        {"user": "ann", "item": "unheard of", "timestamp_ms": START_MS, "action": "wink"},
        {"user": "ann", "item": "item 1", "timestamp_ms": START_MS + 1, "action": None},
        {"user": "ann", "item": "", "timestamp_ms": START_MS + 2, "action": "click"},
    ]
    file = tmp_path / f"events.{format}"
    table = pa.Table.from_pylist(rows)
    if format == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {**rows[0], "item": 5}]))
    elif format == "csv":
        pa.csv.write_csv(table, file)
    else:
        pa.parquet.write_table(table, file)
    (tmp_path / "features.json").write_text(FEATURES.to_json())
    given = [f"--features={tmp_path}/features.json", f"--redis-url={redis_url}", f"--dead-letters={tmp_path}/dead"]
    done = CliRunner().invoke(app, ["ingest", str(file), *given])
    assert done.exit_code == 0, done.output
    history = served.get_history(user="ann")
    assert history.items.tolist() == ["unheard of", "item 1"]
    assert history.attributes["action"].tolist() == ["wink", None]
