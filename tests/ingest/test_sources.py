"""Every source gives the same events; what was read is not read again; what is wrong goes to the dead letters."""

from __future__ import annotations

import asyncio
import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from support.ingest_log import (
    EVENTS,
    T0_MS,
    Row,
    assert_holds,
    assert_store_holds,
    ingested,
    ingesting,
    make_log,
    packed,
    write_jsonl,
    write_parquet,
)

from recsys.errors import DataFileError, InvalidInputError
from recsys.feature_store.redis.link.connect import open_link
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.entities import make_columns
from recsys.features.feature_set import ITEM
from recsys.ingest.dead_letters import DeadLetterFile, DeadLetterStream
from recsys.ingest.lines import MAX_LINE_BYTES, LineSource
from recsys.ingest.parquet import ParquetSource
from recsys.ingest.redis_stream import RedisStreamSource
from recsys.ingest.run import IngestCounts, ingest
from recsys.ingest.source import Pace, Source
from recsys.rows.contract import event_rows
from recsys.rows.files import raw_file

LOG = make_log(2_500)
CONTRACT = event_rows(EVENTS)
PACE = Pace(flush_events=300, flush_s=0.05)


def write_csv(path: Path, rows: list[Row]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


def lines(path: Path) -> LineSource:
    return LineSource(raw_file(path), CONTRACT, pace=PACE)


async def run(url: str, *sources: Source, letters: Path, restart: bool = False) -> IngestCounts:
    store = RedisFeatureStore.connect(url, EVENTS)
    try:
        return await ingest(store, EVENTS, sources, dead_letters=DeadLetterFile(letters), restart=restart)
    finally:
        await store.close()


def letters_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
async def test_a_file_is_read_once_and_again_when_it_changed(kind: str, redis_url: str, tmp_path: Path) -> None:
    file, letters = tmp_path / f"log.{kind}", tmp_path / "letters"

    def source() -> Source:
        return ParquetSource(file, CONTRACT, batch_events=600) if kind == "parquet" else lines(file)

    def write(rows: list[Row]) -> None:
        {"parquet": write_parquet, "csv": write_csv, "jsonl": write_jsonl}[kind](file, rows)

    write(LOG)
    counts = await run(redis_url, source(), letters=letters)
    await assert_holds(redis_url, LOG)
    assert counts.events == len(LOG) and counts.rejected == 0
    assert counts.newest_ms == max(row["timestamp_ms"] for row in LOG)
    assert (await run(redis_url, source(), letters=letters)).events == 0
    again = await run(redis_url, source(), letters=letters, restart=True)
    assert (again.events, again.added) == (len(LOG), 0)
    other = make_log(1_000, seed=1)
    write(other)
    assert (await run(redis_url, source(), letters=letters)).events == len(other)
    await assert_holds(redis_url, LOG + other)
    assert not letters.exists()


async def test_a_parquet_file_is_taken_up_at_any_row(redis_url: str, tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "log.parquet", LOG, group_rows=400)
    source = ParquetSource(file, CONTRACT, batch_events=330)
    await source.start({})
    rows: list[int] = []
    while (batch := await source.read()) is not None:
        assert batch.length == min(330, len(LOG) - len(rows))
        other = ParquetSource(file, CONTRACT, batch_events=10_000)
        await other.start({source.name: batch.position})
        rest = await other.read()
        rows += np.asarray(batch.columns["timestamp_ms"]).tolist()
        left = [] if rest is None else np.asarray(rest.columns["timestamp_ms"]).tolist()
        assert rows + left == [row["timestamp_ms"] for row in LOG]
        assert rest is None or rest.locate(0) == (len(rows) + 1, LOG[len(rows)])


def test_standard_input_is_read_as_json_lines(redis_url: str, tmp_path: Path) -> None:
    with ingesting("-", url=redis_url, cwd=tmp_path, stdin=subprocess.PIPE) as process:
        out, err = process.communicate("".join(json.dumps(row) + "\n" for row in LOG), timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["events"] == len(LOG)
    assert_store_holds(redis_url, LOG)


async def test_bad_lines_go_to_the_dead_letters_with_their_place(redis_url: str, tmp_path: Path) -> None:
    good, letters = [json.dumps(row) for row in LOG[:3]], tmp_path / "letters"
    bad = ["not json", json.dumps({**LOG[0], "rating": 300}), "x" * (MAX_LINE_BYTES + 1), json.dumps({"user_id": 1})]
    file = tmp_path / "log.jsonl"
    file.write_text("\n".join([good[0], bad[0], good[1], bad[1], "", bad[2], good[2], bad[3], ""]))
    counts = await run(redis_url, lines(file), letters=letters)
    assert (counts.events, counts.rejected) == (7, 4)
    await assert_holds(redis_url, LOG[:3])
    found = sorted(letters_in(letters), key=lambda letter: int(letter["row"]))
    reasons = ["not JSON", "'rating' is 300; allowed: 0 to 254", "longer than 1,048,576 bytes", "'item_id' is missing"]
    assert [letter["row"] for letter in found] == [2, 4, 5, 7], "empty lines are no rows"
    for letter, text, reason in zip(found, bad, reasons, strict=True):
        assert letter["file"] == str(file) and reason in letter["reason"]
        assert text.startswith(letter["record"]) and letter["time_ms"] > T0_MS
    assert found[1]["record"] == bad[1]
    assert [letter["field"] for letter in found] == [None, "rating", None, "item_id"]
    assert (found[1]["value"], found[1]["allowed"]) == (300, "0 to 254, which is what its storage holds")


async def test_bad_rows_of_csv_and_parquet_are_refused_alone(redis_url: str, tmp_path: Path) -> None:
    table = tmp_path / "log.csv"
    write_csv(table, LOG[:2])
    with table.open("a") as file:
        file.write(f'1,2\r\n1,2,{T0_MS},,5,x\r\n"1,2\r\n')
    complete = LineSource(raw_file(table), CONTRACT, pace=PACE, complete=True)
    counts = await run(redis_url, complete, letters=tmp_path / "a")
    assert (counts.events, counts.rejected) == (5, 3)
    told = " ".join(letter["reason"] for letter in letters_in(tmp_path / "a"))
    assert "2 values for 6 columns" in told and "'genre' is 'x'" in told and "a quoted value does not end" in told
    rows = [LOG[0], {**LOG[1], "user_id": None}, {**LOG[2], "rating": 300}, {**LOG[3], "timestamp_ms": 10**15}]
    counts = await run(
        redis_url,
        ParquetSource(write_parquet(tmp_path / "log.parquet", rows), CONTRACT, batch_events=3),
        letters=tmp_path / "b",
    )
    assert (counts.events, counts.rejected) == (4, 3)
    assert [letter["row"] for letter in letters_in(tmp_path / "a")] == [3, 5, 4], "of a batch malformed ones first"
    assert [letter["row"] for letter in letters_in(tmp_path / "b")] == [2, 3, 4]
    assert letters_in(tmp_path / "b")[0]["record"] == rows[1]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{**LOG[0], "ratting": 1}], "column 'ratting' is not declared: did you mean 'rating'?"),
        ([{"item_id": 1, "timestamp_ms": 1}], "column 'user_id' is missing"),
        ([{**LOG[0], "user_id": b"x"}], "column 'user_id' is binary; expected int ids: cast it, or change its"),
        ([{**LOG[0], "timestamp_ms": True}], "column 'timestamp_ms' is bool; expected times: cast it"),
        ([{"user_id": 1, "item_id": 1, "timestamp": 1}], "column 'timestamp_ms', which is missing; --timestamp NAME"),
    ],
)
async def test_a_file_that_does_not_fit_is_refused_at_the_start(
    rows: list[Row], reason: str, redis_url: str, tmp_path: Path
) -> None:
    file = write_parquet(tmp_path / "log.parquet", rows)
    with pytest.raises(InvalidInputError) as told:
        await run(redis_url, ParquetSource(file, CONTRACT, batch_events=9), letters=tmp_path / "letters")
    assert reason in str(told.value)


async def test_what_is_no_parquet_file_is_told(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "log.parquet").write_bytes(b"PAR0")
    with pytest.raises(DataFileError, match="not a Parquet file"):
        await run(redis_url, ParquetSource(tmp_path / "log.parquet", CONTRACT, batch_events=9), letters=tmp_path / "l")


async def test_an_attribute_without_a_value_is_the_items(redis_url: str, tmp_path: Path) -> None:
    store = RedisFeatureStore.connect(redis_url, EVENTS)
    items = np.arange(10)
    await store.put_entities(ITEM, items, make_columns(EVENTS.item, {"genre": items + 50}, length=10), timeout_s=5)
    await store.close()
    sent = [row for row in LOG if row["item_id"] < 10 and row["genre"]][:100]
    rows: list[Row] = [
        {n: v for n, v in row.items() if n != "genre"} if i % 3 == 0 else row if i % 3 == 1 else {**row, "genre": None}
        for i, row in enumerate(sent)
    ]
    expected = [{**row, "genre": row.get("genre") or row["item_id"] + 50} for row in rows]
    await run(redis_url, lines(write_jsonl(tmp_path / "log.jsonl", rows)), letters=tmp_path / "letters")
    await assert_holds(redis_url, expected)
    assert packed(expected).tobytes() != packed(sent).tobytes()


async def test_a_stream_is_read_to_its_end_and_what_a_dead_consumer_left_is_taken_over(
    redis_url: str, redis_admin: redis.Redis, tmp_path: Path
) -> None:
    for i, row in enumerate(LOG[:600]):
        # Either form of an entry: one field of JSON, or a field per field.
        redis_admin.xadd("clicks", {"event": json.dumps(row)} if i % 2 else row)
    redis_admin.xadd("clicks", {"event": "{"})
    redis_admin.xgroup_create("clicks", "g", id="0")
    redis_admin.xreadgroup("g", "dead", {"clicks": ">"}, count=100)
    while redis_admin.xpending_range("clicks", "g", "-", "+", 1)[0]["time_since_delivered"] < 500:  # type: ignore[index]
        await asyncio.sleep(0.01)
    link = open_link(redis_url)

    def source(consumer: str) -> RedisStreamSource:
        return RedisStreamSource(
            "clicks", CONTRACT, link=link, group="g", consumer=consumer, claim_idle_s=0.5, pace=PACE
        )

    counts = await run(redis_url, source("living"), letters=tmp_path / "letters")
    assert (counts.events, counts.rejected) == (601, 1)
    await assert_holds(redis_url, LOG[:600])
    assert redis_admin.xpending("clicks", "g")["pending"] == 0  # type: ignore[index]
    assert (await run(redis_url, source("other"), letters=tmp_path / "letters")).events == 0
    await link.close()


async def test_dead_letters_may_go_to_a_stream(redis_url: str, redis_admin: redis.Redis, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "log.jsonl", LOG[:1])
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write("nonsense\n")
    store, link = RedisFeatureStore.connect(redis_url, EVENTS), open_link(redis_url)
    await ingest(store, EVENTS, [lines(tmp_path / "log.jsonl")], dead_letters=DeadLetterStream("dead", link))
    await store.close()
    await link.close()
    ((_, entry),) = redis_admin.xrange("dead")  # type: ignore[misc]
    assert json.loads(entry[b"dead_letter"])["record"] == "nonsense"


def test_the_command_reads_folders_and_says_what_it_did(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    write_parquet(tmp_path / "logs" / "a.parquet", LOG[:1000])
    write_csv(tmp_path / "logs" / "b.csv", LOG[1000:])
    counts = ingested(tmp_path / "logs", url=redis_url, cwd=tmp_path)
    assert (counts["events"], counts["rejected"]) == (len(LOG), 0)
    assert_store_holds(redis_url, LOG)
