"""The request log of a real server: what is in it, and that it never gets in the way."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.full_disk import files_up_to
from support.tiny_bundle import FEATURES
from support.tiny_retrieval import write_tiny_retrieval
from support.tiny_server import Start

from recsys.client import pin
from recsys.errors import ConfigError
from recsys.features.encode import encode_request
from recsys.features.feature_set import FeatureSet, Numeric
from recsys.serving.handlers import request_log
from recsys.serving.handlers.request_log import RequestLog


async def test_every_sampled_request_is_in_the_log_when_the_server_has_stopped(start: Start, tmp_path: Path) -> None:
    now_ms = time.time_ns() // 1_000_000
    times = [now_ms - 5_000, now_ms - 2_000]
    async with start(log_requests=1.0, request_log_dir=tmp_path) as client:
        await client.append_events(user=1, items=[5, 6], timestamps_ms=times, arrivals_ms=times)
        for time_ms in (now_ms - 4_000, now_ms):
            await client.rank(user=1, candidates=[5, 9], time_ms=time_ms)
        scores = (await client.rank(user=2, candidates=[7])).scores
        ranked = await client.rank(user=1, candidates=[5, 9, 5, 6], top_k=2)
        ruled = await client.rank(user=1, candidates=[5, 9, 6], top_k=2, rules=[pin(6, 1), pin(9, 2)])
    (file,) = tmp_path.glob("*.parquet")
    table = pq.read_table(file)
    assert FeatureSet.from_json(table.schema.metadata[b"recsys.features"].decode()) == FEATURES
    rows = table.to_pylist()
    assert [row["user_key"] for row in rows] == [1, 1, 2, 1, 1]
    history = f"history.{FEATURES.item_id.name}"
    assert [row[history] for row in rows] == [[5], [5, 6], [], [5, 6], [5, 6]]
    assert [row[f"item.{FEATURES.item_id.name}"] for row in rows] == [[5, 9], [5, 9], [7], [5, 9, 6], [5, 9, 6]]
    assert rows[0]["time_ms"] == now_ms - 4_000 and now_ms < rows[2]["time_ms"] < now_ms + 60_000
    # Of a candidate that was given twice there is one row, and the answer's places are those of the rows.
    assert [row["best"] for row in rows[:3]] == [None] * 3 and len(rows[3]["best"]) == 2
    assert [rows[3]["item.item_id"][place] for place in rows[3]["best"]] == ranked.items
    assert ruled.items == [6, 9] and rows[4]["best"] == [2, 1], "the list as it was answered"
    assert [row["rules"] for row in rows] == ["", "", "", "", "item 6 at 1; item 9 at 2"]
    assert rows[2]["score"] == scores.tolist() and not any(row["degraded"] for row in rows)


async def test_without_a_share_nothing_is_logged(start: Start, tmp_path: Path) -> None:
    async with start(request_log_dir=tmp_path / "log") as client:
        await client.rank(user=1, candidates=[5])
    assert not (tmp_path / "log").exists()


async def test_without_a_ranking_model_there_is_no_log(start: Start, tmp_path: Path) -> None:
    write_tiny_retrieval(tmp_path / "bundle")
    folder = tmp_path / "bundle" / "manifest.json" / "log"  # could not be made
    async with start(bundle=tmp_path / "bundle", log_requests=1.0, request_log_dir=folder) as client:
        assert len((await client.retrieve(user=1, top_k=3)).items) == 3


def test_a_folder_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="request log folder .*file.*; choose another"):
        RequestLog(tmp_path / "file" / "log", share=1.0)


def offer(log: RequestLog, features: FeatureSet = FEATURES) -> None:
    encoded = encode_request(
        features, user_key=1, user_columns={}, request_values={}, events=None, item_keys=np.array([1]), item_columns={}
    )
    log.offer(
        encoded,
        features=features,
        history_events=0,
        time_ms=1,
        sent=[],
        degraded=False,
        model="m",
        model_version="v",
        scores=np.zeros(1, np.float32),
    )


def test_what_a_slow_disk_cannot_take_is_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_log, "_QUEUE_REQUESTS", 5)
    monkeypatch.setattr(RequestLog, "_write", lambda self: None)
    log = RequestLog(tmp_path, share=1.0)
    for _ in range(8):
        offer(log)
    assert log.dropped == 3


def test_a_full_disk_is_named_and_what_it_cannot_take_is_counted_and_leaves_no_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = RequestLog(tmp_path, share=1.0)
    offer(log)
    with files_up_to(100):
        log.close()
    assert (log.dropped, list(tmp_path.iterdir())) == (1, [])
    assert f"1 requests were not written: {tmp_path}: File too large" in caplog.text


def test_what_is_held_in_memory_is_bounded_however_large_requests_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RequestLog, "_write", lambda self: None)
    log = RequestLog(tmp_path, share=1.0)
    offer(log)
    monkeypatch.setattr(request_log, "_HELD_BYTES", 3 * log._held_bytes)
    for _ in range(7):
        offer(log)
    assert log.dropped == 5


def test_requests_of_releases_with_other_features_go_to_files_of_their_own(tmp_path: Path) -> None:
    extended = replace(FEATURES, item=(*FEATURES.item, Numeric(name="boost")))
    log = RequestLog(tmp_path, share=1.0)
    for features in (FEATURES, extended, FEATURES, extended, extended):
        offer(log, features)
    log.close()
    assert log.dropped == 0
    found = {}
    for file in tmp_path.glob("*.parquet"):
        table = pq.read_table(file)
        features = FeatureSet.from_json(table.schema.metadata[b"recsys.features"].decode())
        found[features] = (table.num_rows, "item.boost" in table.column_names)
    assert found == {FEATURES: (2, False), extended: (3, True)}


def test_a_file_is_written_when_it_is_large_enough_and_gives_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_log, "_FILE_BYTES", 1)
    log = RequestLog(tmp_path, share=1.0)
    for _ in range(3):
        offer(log)
    log.close()
    assert len(list(tmp_path.glob("*.parquet"))) == 3
    assert log.dropped == log._held_bytes == 0
