"""Samples that `prepare` draws or joins: functions of the set of rows, whatever the files, their order, the engine."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.spark_cluster import QUICK, require_spark

import recsys.data.log.engines.duckdb
import recsys.rows.read
from recsys.data.log.event_table import open_event_table
from recsys.data.log.negatives.rule import NegativeRule
from recsys.data.log.prepare import PrepareSummary, RawInputs, prepare_log
from recsys.data.log.requests import read as request_reader
from recsys.data.log.splits.rule import SplitRule
from recsys.data.samples.stored import open_samples
from recsys.errors import DataFileError, InvalidInputError
from recsys.features.encode import encode_request
from recsys.features.feature_set import Categorical, FeatureSet, History, Numeric
from recsys.features.hashing import string_key
from recsys.serving.handlers.request_log import RequestLog

SHOP = FeatureSet(
    name="shop",
    user_id=Categorical(name="user", id_type="string"),
    item_id=Categorical(name="item_id"),
    context=(
        Categorical(name="page", id_type="string"),
        Numeric(name="price"),
        Categorical(name="slots", max_values=2),
    ),
    history=History(recent=4),
)
T0_MS = 1_700_000_000_000
Rows = list[dict[str, Any]]


def clicks() -> Rows:
    draw = random.Random(3)
    rows: Rows = [
        {
            "user": f"u{draw.randrange(9)}",
            "item_id": draw.randrange(14),
            "timestamp_ms": T0_MS + 60_000 * draw.randrange(40),
            "page": draw.choice([None, "home", "search"]),
        }
        for _ in range(150)
    ]
    return [*rows, {"user": "u0", "item_id": 1, "timestamp_ms": T0_MS + 60_000 * 90, "page": None}]


def write_csv(rows: Rows, path: Path) -> str:
    lines = [",".join("" if row[name] is None else str(row[name]) for name in rows[0]) for row in rows]
    path.write_text("\n".join([",".join(rows[0]), *lines]) + "\n")
    return str(path)


def log_requests(folder: Path, requests: list[tuple[str, list[int], int, list[int] | None]]) -> str:
    """A server's request log: (user, candidates, time, places of those that were answered)."""
    log = RequestLog(folder, share=1.0)
    for number, (user, candidates, time_ms, best) in enumerate(requests):
        encoded = encode_request(
            SHOP,
            user_key=string_key(user),
            user_columns={},
            request_values={"page": ["home"], "price": [number / 4], "slots": [number % 3]},
            events=None,
            item_keys=np.array(candidates),
            item_columns={},
        )
        log.offer(
            encoded,
            features=SHOP,
            history_events=0,
            time_ms=time_ms,
            sent=["page", "price", "slots"],
            degraded=False,
            model="m",
            model_version="1",
            scores=np.zeros(len(candidates), np.float32),
            best=None if best is None else np.array(best),
        )
    log.close()
    return str(folder)


def shown() -> list[tuple[str, list[int], int, list[int] | None]]:
    draw = random.Random(4)
    return [
        (f"u{draw.randrange(11)}", draw.sample(range(16), 8), T0_MS + 60_000 * draw.randrange(40), [3, 0, 7][: n % 4])
        for n in range(60)
    ]


def prepare(folder: Path, rows: Rows, *, out: str = "out", requests: str = "", **options: Any) -> PrepareSummary:
    half = len(rows) // 2
    folder.mkdir(exist_ok=True)
    log = (write_csv(rows[:half], folder / "a.csv"), write_csv(rows[half:], folder / "b.csv"))
    return prepare_log(SHOP, RawInputs(log=log, requests=(requests,) if requests else ()), folder / out, **options)


def samples_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "samples").iterdir()}


@pytest.mark.parametrize("by", ["uniform", "popularity"])
def test_the_order_of_rows_and_the_size_of_batches_draw_the_same_negatives(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = NegativeRule(per_positive=3, by=by, seed=5)
    prepare(tmp_path / "a", clicks(), negatives=rule)
    for module in (recsys.rows.read, recsys.data.log.engines.duckdb):
        monkeypatch.setattr(module, "BATCH_ROWS", 11)
    rows = clicks()
    random.Random(1).shuffle(rows)
    prepare(tmp_path / "b", rows, negatives=rule)
    expected = samples_of(tmp_path / "a" / "out")
    assert samples_of(tmp_path / "b" / "out") == expected and len(expected) == 11


def test_the_order_of_requests_and_of_clicks_makes_the_same_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = shown()
    summary = prepare(tmp_path / "a", clicks(), requests=log_requests(tmp_path / "a" / "log", requests))
    assert summary.requests is not None and summary.requests.positives > 3
    for module in (recsys.rows.read, recsys.data.log.engines.duckdb):
        monkeypatch.setattr(module, "BATCH_ROWS", 7)
    monkeypatch.setattr(request_reader, "_BATCH_REQUESTS", 5)
    rows = clicks()
    random.Random(1).shuffle(rows)
    logged = log_requests(tmp_path / "one", requests[40:])  # two files
    log_requests(tmp_path / "one", requests[:40])
    later = sorted(enumerate(requests), key=lambda pair: (pair[0] < 40, pair[0]))
    assert [pair[1] for pair in later] == requests[40:] + requests[:40]
    prepare(tmp_path / "b", rows, requests=logged)
    a, b = (open_samples(tmp_path / name / "out" / "samples") for name in "ab")
    assert a.impressions is not None and b.impressions is not None
    for name in ("user", "item", "time_ms"):
        assert (getattr(a.impressions, name) == getattr(b.impressions, name)).all()
    assert (a.label == b.label).all() and {n: s.tolist() for n, s in a.splits.items()} == {
        n: s.tolist() for n, s in b.splits.items()
    }


@pytest.mark.prove
def test_spark_draws_and_joins_the_same_samples_in_a_session_of_the_callers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_spark()
    from pyspark.sql import SparkSession

    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", QUICK)
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    own = {"spark.driver.host": "127.0.0.1", "spark.ui.enabled": "false", "spark.sql.shuffle.partitions": "2"}
    session = SparkSession.builder.master("local[2]").config(map=own).getOrCreate()
    requests = log_requests(tmp_path / "log", shown())
    for name, options in (
        ("drawn", {"negatives": NegativeRule(per_positive=3, by="popularity")}),
        ("joined", {"requests": requests}),
    ):
        for engine in ("duckdb", "spark"):
            prepare(tmp_path / f"{name}-{engine}", clicks(), engine=engine, **options)
        found = [samples_of(tmp_path / f"{name}-{engine}" / "out") for engine in ("duckdb", "spark")]
        assert found[0] == found[1], name
    assert session.range(3).count() == 3, "it goes on"
    session.stop()


def test_what_a_request_sent_is_the_context_of_what_it_showed(tmp_path: Path) -> None:
    at = T0_MS + 60_000
    requests = [("u1", [4, 5, 6], at, [2, 0]), ("u1", [4, 5, 6], at + 1, [1]), ("new", [77], at, [0])]
    rows: Rows = [
        {"user": user, "item_id": item, "timestamp_ms": T0_MS + 60_000 * minute, "page": None}
        for user, item, minute in (("u1", 1, 0), ("u1", 6, 2), ("u2", 4, 2), ("u1", 5, 40), ("u2", 1, 90))
    ]
    logged = log_requests(tmp_path / "log", requests)
    split = SplitRule(validation_from_ms=T0_MS + 90 * 60_000)
    prepare(tmp_path, rows, requests=logged, split=split, window_ms=39 * 60_000)
    table, samples = open_event_table(tmp_path / "out" / "events"), open_samples(tmp_path / "out" / "samples")
    assert samples.impressions is not None
    context = samples.impressions.context
    found = {
        (
            table.user_keys[user].item(), table.item_keys[item].item(), time - at, label,
            context["price"][n].item(), tuple(context["slots"][n].tolist()),
        )
        for n, (user, item, time, label) in enumerate(
            zip(
                samples.impressions.user, samples.impressions.item, samples.impressions.time_ms.tolist(),
                samples.label.tolist(), strict=True,
            )
        )
    }  # fmt: skip
    u1, new = string_key("u1"), string_key("new")
    assert found == {
        (u1, 6, 0, 1, 0.0, (0, -1)), (u1, 4, 0, 0, 0.0, (0, -1)), (u1, 5, 1, 1, 0.25, (1, -1)),
        (new, 77, 0, 0, 0.5, (2, -1)),
    }  # fmt: skip
    assert set(context["page"].tolist()) == {string_key("home")}


def test_what_is_no_request_log_of_these_features_is_refused_by_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(DataFileError, match=r"other\.parquet: not a request log; `recsys serve --log-requests` writes"):
        prepare(tmp_path, clicks(), requests=str(tmp_path / "other.parquet"))
    (tmp_path / "text.parquet").write_text("x")
    with pytest.raises(DataFileError, match=r"text\.parquet: not a Parquet file"):
        prepare(tmp_path, clicks(), requests=str(tmp_path / "text.parquet"))
    folder = log_requests(tmp_path / "log", shown())
    (path,) = Path(folder).iterdir()
    whole = pq.read_table(path)
    pq.write_table(whole.drop_columns(["best"]), tmp_path / "old.parquet")
    with pytest.raises(
        DataFileError, match="a request log of an earlier version, which does not say what was answered"
    ):
        prepare(tmp_path, clicks(), requests=str(tmp_path / "old.parquet"))
    other = json.loads(SHOP.to_json())
    other["context"][0]["id_type"] = "int"
    pq.write_table(
        whole.replace_schema_metadata({**whole.schema.metadata, b"recsys.features": json.dumps(other).encode()}),
        tmp_path / "typed.parquet",
    )
    with pytest.raises(DataFileError, match="which declares 'page' otherwise than 'shop'"):
        prepare(tmp_path, clicks(), requests=str(tmp_path / "typed.parquet"))
    assert not (tmp_path / "out").exists()


def test_requests_of_which_nothing_is_left_are_an_error_that_says_why(tmp_path: Path) -> None:
    unranked = log_requests(tmp_path / "log", [("u1", [4, 5], T0_MS, None)])
    with pytest.raises(InvalidInputError, match="no shown item is left to label. 1 of 1 logged requests had no top_k"):
        prepare(tmp_path, clicks(), requests=unranked)
    unended = log_requests(tmp_path / "late", [("u1", [4, 5], T0_MS + 80 * 60_000, [0])])
    with pytest.raises(InvalidInputError, match="1 of 1 shown items are left out, because the log ends before"):
        prepare(tmp_path, clicks(), requests=unended)


@pytest.mark.parametrize("name", ["one moment", "one second", "one user", "one time for all users"])
def test_odd_logs_of_clicks_get_lists_or_an_error_that_says_why(name: str, tmp_path: Path) -> None:
    def row(user: int, item: int, time: int) -> dict[str, Any]:
        return {"user": f"u{user}", "item_id": item, "timestamp_ms": T0_MS + time, "page": None}

    rows = {
        "one moment": [row(0, item, 0) for item in range(30)],
        "one second": [row(n % 7, n * n % 41, n * 7 % 1000) for n in range(100)],
        "one user": [row(0, n % 13, 1000 * n) for n in range(60)],
        "one time for all users": [row(n % 7, n * n % 41, 0) for n in range(60)],
    }[name]
    rule = NegativeRule(per_positive=2)
    if name in ("one moment", "one user"):  # that user took all there is
        with pytest.raises(InvalidInputError, match="no negative could be drawn: every user took all items"):
            prepare(tmp_path, rows, negatives=rule)
        return
    summary = prepare(tmp_path, rows, negatives=rule)
    assert summary.negatives is not None and summary.split is not None
    assert summary.negatives.negatives > 80
    said = " ".join(summary.warnings)
    assert ("every sample is at the same time" in said) == (name == "one time for all users")
    samples = open_samples(tmp_path / "out" / "samples")
    assert samples.impressions is not None
    moments = {
        part: set(zip(samples.impressions.user[rows].tolist(), samples.impressions.time_ms[rows].tolist(), strict=True))
        for part, rows in samples.splits.items()
    }
    assert not moments["train"] & moments["validation"] and not moments["validation"] & moments["test"]
