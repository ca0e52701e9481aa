"""Shown items become samples: Rank calls, clicks ingested into its store, `prepare --requests`, `train`."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

import numpy as np
import pytest
from support.command_line import recsys
from support.tiny_bundle import write_tiny_bundle
from support.tiny_server import server_process
from typer.testing import CliRunner

from recsys.cli import app
from recsys.client import Client
from recsys.data.datasets import load_dataset
from recsys.data.samples.dataset import Dataset
from recsys.features.feature_set import Categorical, FeatureSet, History, Numeric
from recsys.features.hashing import string_key

FEATURES = FeatureSet(
    name="tiny",
    user_id=Categorical(name="user_id", id_type="string"),
    item_id=Categorical(name="item_id", id_type="string"),
    user=(Numeric(name="age", default=0.0),),
    item=(Numeric(name="price", default=0.0),),
    context=(Categorical(name="hour"), Categorical(name="tags", id_type="string", max_values=3)),
    history=History(attributes=(Categorical(name="rating", storage="u8"),), max_events=20, recent=4),
)
ITEMS = [f"item {n}" for n in range(12)]
MINUTE_MS = 60_000
T0_MS = time.time_ns() // 1_000_000 - 600 * MINUTE_MS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the log of clicks and the request log of a server that showed three items of six to 30 users."""
    path = tmp_path_factory.mktemp("requests")
    write_tiny_bundle(path / "bundle", features=FEATURES)
    (path / "features.json").write_text(FEATURES.to_json())
    # A click of long ago, so that the log begins before the requests, and one of the end, so that their windows end.
    clicks = [(f"user {n}", ITEMS[n % 12], T0_MS - (n + 1) * MINUTE_MS) for n in range(30)]
    clicks.append(("last", ITEMS[11], T0_MS + 200 * MINUTE_MS))
    shown: dict[str, list[str]] = {}
    settings = {
        "RECSYS_BUNDLE": str(path / "bundle"), "RECSYS_REDIS_DIR": str(path / "redis"),
        "RECSYS_LOG_REQUESTS": "1", "RECSYS_REQUEST_LOG_DIR": str(path / "requests"),
    }  # fmt: skip
    with server_process(path, **settings) as server, Client(server.address, timeout_s=20) as client:
        for n in range(30):
            at_ms = T0_MS + n * MINUTE_MS
            candidates = [ITEMS[(n + k) % 12] for k in (0, 1, 2, 3, 4, 5, 0)]
            context = {"hour": n % 24, "tags": [f"tag {n % 3}"]}
            found = client.rank(user=f"user {n}", candidates=candidates, top_k=3, features=context, time_ms=at_ms)
            shown[f"user {n}"] = list(found.items)
            client.rank(user=f"user {n}", candidates=candidates, time_ms=at_ms)  # scores alone: nothing was shown
        for n in range(30):
            # The first user in three takes the best item, the second one that was ranked but not shown, in time; the
            # third the second best, too late.
            ranked = [ITEMS[(n + k) % 12] for k in range(6)]
            hidden = next(item for item in ranked if item not in shown[f"user {n}"])
            item = (shown[f"user {n}"][0], hidden, shown[f"user {n}"][1])[n % 3]
            minutes = n + (31 if n % 3 == 2 else 5)
            clicks.append((f"user {n}", item, T0_MS + minutes * MINUTE_MS))
        client.rank(user="last", candidates=ITEMS, top_k=2, time_ms=T0_MS + 190 * MINUTE_MS)  # its window is open
        # A user who took nothing, and an item that nobody took, are in the samples all the same.
        client.rank(user="looks only", candidates=["unseen", ITEMS[0]], top_k=2, time_ms=T0_MS + 100 * MINUTE_MS)
        rows = [dict(zip(("user_id", "item_id", "timestamp_ms"), click, strict=True)) for click in clicks]
        (path / "clicks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        ingested = recsys(
            "ingest", "clicks.jsonl", "--features", "features.json", "--redis-dir", "redis", "--json", cwd=path
        )
        assert ingested.returncode == 0, ingested.stderr
        assert client.rank(user="user 0", candidates=ITEMS).history_events == 2
        server.process.terminate()
        assert server.process.wait(timeout=20) == 0
    (path / "shown.json").write_text(json.dumps(shown))
    return path


def prepare(folder: Path, out: str, *options: str) -> dict[str, object]:
    given = ("clicks.jsonl", "--features", "features.json", "--requests", "requests", "--out", out, "--json", *options)
    with contextlib.chdir(folder):
        made = CliRunner().invoke(app, ["prepare", *given], catch_exceptions=False)
    assert made.exit_code == 0, made.output
    facts: dict[str, object] = json.loads(made.stdout)
    return facts


def rows_of(dataset: Dataset) -> list[tuple[int, int, int, int]]:
    """(user key, item key, minute, label) of every sample."""
    table = dataset.table
    columns = (
        table.user_keys[dataset.sample_user],
        table.item_keys[dataset.sample_item],
        (dataset.sample_time_ms - T0_MS) // MINUTE_MS,
        dataset.samples.label,
    )
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_what_was_shown_and_then_taken_is_positive_and_what_was_only_ranked_is_no_sample(folder: Path) -> None:
    facts = prepare(folder, "half_an_hour")
    joined = facts["requests"]
    assert isinstance(joined, dict)
    assert joined == {
        "window_ms": 30 * MINUTE_MS, "requests": 63, "unranked": 31, "shown": 94, "repeated": 0, "open": 2, "before": 0,
        "impressions": 92, "positives": 10,
    }  # fmt: skip
    dataset = load_dataset(str(folder / "half_an_hour"), recent=4, work_dir=folder).dataset
    shown: dict[str, list[str]] = json.loads((folder / "shown.json").read_text())
    expected = {
        (string_key(f"user {n}"), string_key(item), n, int(n % 3 == 0 and place == 0))
        for n in range(30)
        for place, item in enumerate(shown[f"user {n}"])
    }
    expected |= {(string_key("looks only"), string_key(item), 100, 0) for item in ("unseen", ITEMS[0])}
    found = rows_of(dataset)
    assert set(found) == expected and len(found) == len(expected)
    # The context is what the request sent, the history what the user had done before.
    hour = dataset.context["hour"][dataset.context_row]
    tags = dataset.context["tags"][dataset.context_row]
    for (user, _, minute, _), at, where in zip(found, hour.tolist(), tags.tolist(), strict=True):
        if user != string_key("looks only"):
            assert (at, where) == (minute % 24, [string_key(f"tag {minute % 3}"), -1, -1])
    lengths = dataset.history_end - dataset.history_begin
    assert set(lengths.tolist()) == {0, 1}  # the click of long ago; none of the user who only looks
    warnings = [str(w) for w in dataset.samples.warnings]
    assert any("31 of 63 logged requests had no top_k" in w for w in warnings)
    assert any("2 of 94 shown items are left out, because the log ends before their window does" in w for w in warnings)


def test_a_longer_window_takes_later_clicks(folder: Path) -> None:
    joined = prepare(folder, "an_hour", "--window", "1h")["requests"]
    assert isinstance(joined, dict) and joined["positives"] == 20


def test_the_samples_can_be_trained_on(folder: Path) -> None:
    prepare(folder, "prepared", "--window", "40m")
    change = ["data.dataset=./prepared", "data.recent=4", "train.epochs=2", "train.batch_size=16", "rows.min_count=1"]
    with contextlib.chdir(folder):
        trained = CliRunner().invoke(app, ["train", "din", *change, "--run-dir", "run", "--json"])
    assert trained.exit_code == 0, trained.output
    assert np.isfinite(json.loads(trained.stdout)["validation"]["auc"])
    assert "had no top_k: what was ranked is not what was shown" in trained.stderr


def test_rows_of_unknown_users_are_rejected_where_that_is_asked_for(folder: Path) -> None:
    users = sorted({json.loads(line)["user_id"] for line in (folder / "clicks.jsonl").read_text().splitlines()})
    (folder / "users.jsonl").write_text("".join(json.dumps({"user_id": user, "age": 3}) + "\n" for user in users))
    facts = prepare(folder, "known", "--users", "users.jsonl", "--unknown", "reject", "--rejects", "r.jsonl")
    joined = facts["requests"]
    assert isinstance(joined, dict) and joined["impressions"] == 90 and facts["rejected"] == 2
    rejected = [json.loads(line) for line in (folder / "r.jsonl").read_text().splitlines()]
    assert {(row["field"], row["value"]) for row in rejected} == {("user_id", string_key("looks only"))}
