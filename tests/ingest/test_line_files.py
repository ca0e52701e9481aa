"""Files of lines: packed ones, encodings, lines and quotes that do not end, rows' numbers; and what commands say."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from support.ingest_log import EVENTS, T0_MS, Row, assert_store_holds, ingested, ingesting, make_log, packed
from typer.testing import CliRunner

from recsys.cli import app
from recsys.errors import DataFileError
from recsys.feature_store.redis.keys import positions_key
from recsys.features.feature_set import Categorical, FeatureSet, History, Numeric
from recsys.features.hashing import string_key
from recsys.features.history.records import Events
from recsys.ingest import lines as line_files
from recsys.ingest.lines import LineSource
from recsys.ingest.parquet import ParquetSource
from recsys.ingest.records import decode
from recsys.ingest.source import Pace, Source
from recsys.rows import read as row_files
from recsys.rows.contract import ReadOptions, event_rows
from recsys.rows.files import raw_file
from recsys.rows.read import read_rows

LOG = make_log(600)
CONTRACT = event_rows(EVENTS)
TEXTS = FeatureSet(
    name="texts",
    user_id=Categorical(name="user"),
    item_id=Categorical(name="item", id_type="string"),
    context=(Categorical(name="hour"), Numeric(name="dwell")),
    history=History(),
)
FORMATS = ("csv", "tsv", "jsonl", "ndjson", "json")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read in many blocks, whose ends are anywhere."""
    monkeypatch.setattr(line_files, "_READ_BYTES", 700)
    monkeypatch.setattr(line_files, "_BLOCK_BYTES", 2_000)
    monkeypatch.setattr(row_files, "_BLOCK_BYTES", 900)


def text_of(rows: Sequence[Row], ending: str) -> bytes:
    """The text of a file with that ending."""
    if "json" in ending:
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, rows[0].keys(), delimiter="\t" if "tsv" in ending else ",", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def write(path: Path, data: bytes) -> Path:
    """The bytes, packed as the path's ending says."""
    if path.suffix == ".gz":
        data = gzip.compress(data)
    if path.suffix == ".zst":
        data = pa.Codec("zstd").compress(data, asbytes=True)
    path.write_bytes(data)
    return path


def lines(path: Path, **options: Any) -> LineSource:
    return LineSource(raw_file(path), CONTRACT, pace=Pace(), **options)


@dataclass
class Read:
    """All that a source gave: events and their (row, reason, record) of refusals; position after each batch."""

    events: list[Events] = field(default_factory=list)
    refused: list[tuple[Any, str, Any]] = field(default_factory=list)
    positions: list[tuple[int, str]] = field(default_factory=list)
    left: str | None = None

    @property
    def stored(self) -> Events:
        return np.concatenate(self.events)


async def read(source: Source, *, position: str = "", features: FeatureSet = EVENTS) -> Read:
    """A source from a position to its end."""
    found = Read()
    await source.start({source.name: position} if position else {})
    while (batch := await source.read()) is not None:
        decoded = decode(features, batch.contract, batch, future_tolerance_s=0)
        found.events.append(decoded.events)
        found.refused += [(refusal.row, str(refusal.error), refusal.event) for refusal in batch.refused]
        found.refused += [(batch.locate(i)[0], str(error), batch.locate(i)[1]) for i, error in decoded.refused]
        found.positions.append((sum(map(len, found.events)), batch.position))
    found.left = source.left()
    await source.close()
    return found


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", FORMATS)
async def test_a_file_of_any_format_and_packing_is_taken_up_where_it_was_left(
    kind: str, packing: str, tmp_path: Path, small_blocks: None
) -> None:
    file = write(tmp_path / f"log.{kind}{packing}", text_of(LOG, kind))
    found = await read(lines(file))
    assert found.stored.tobytes() == packed(LOG).tobytes() and not found.refused and found.left is None
    assert len(found.positions) > 5
    for done, position in found.positions[:: len(found.positions) // 3]:
        rest = await read(lines(file), position=position)
        assert np.concatenate([*rest.events, packed([])]).tobytes() == packed(LOG[done:]).tobytes()


async def test_a_packed_file_that_was_written_anew_is_read_from_its_start(tmp_path: Path, small_blocks: None) -> None:
    file = write(tmp_path / "log.csv.gz", text_of(LOG, "csv"))
    _, position = (await read(lines(file))).positions[2]
    write(file, text_of(LOG[:100], "csv"))
    assert (await read(lines(file), position=position)).stored.tobytes() == packed(LOG[:100]).tobytes()


@pytest.mark.parametrize("head_bytes", [100, line_files.MAX_LINE_BYTES])
@pytest.mark.parametrize("ending", ["csv.gz", "csv.zst"])
async def test_a_packed_file_that_is_cut_off_is_told(
    ending: str, head_bytes: int, tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_files, "MAX_LINE_BYTES", head_bytes)  # so far a file is read at the start
    file = write(tmp_path / f"log.{ending}", text_of(LOG, "csv"))
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(DataFileError, match=rf"log\.{ending}: cannot be read after row"):
        await read(lines(file))
    with pytest.raises(DataFileError, match=rf"log\.{ending}: cannot be read after row"):
        list(read_rows(raw_file(file), CONTRACT))


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
async def test_a_byte_order_mark_is_no_part_of_a_name(kind: str, tmp_path: Path) -> None:
    file = write(tmp_path / f"log.{kind}", b"\xef\xbb\xbf" + text_of(LOG[:5], kind))
    assert (await read(lines(file))).stored.tobytes() == packed(LOG[:5]).tobytes()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "csv.gz"])
async def test_utf_16_is_named(kind: str, encoding: str, tmp_path: Path) -> None:
    file = write(tmp_path / f"log.{kind}", text_of(LOG[:5], kind).decode().encode(encoding))
    for reading in (lambda: read(lines(file)), None):
        with pytest.raises(DataFileError, match="is UTF-16 or UTF-32, or no text; allowed: UTF-8"):
            list(read_rows(raw_file(file), CONTRACT)) if reading is None else await reading()


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
async def test_a_last_line_without_an_end_is_left_until_it_has_one(kind: str, tmp_path: Path) -> None:
    data = text_of(LOG[:7], kind)
    file = tmp_path / f"log.{kind}"
    for cut in (1, 2, 9):  # the end of the line, of the last number, of a name before it
        write(file, data[:-cut])
        found = await read(lines(file))
        assert found.stored.tobytes() == packed(LOG[:6]).tobytes() and not found.refused
        assert found.left == f"{file}: the last line has no end yet; it is read once it has one, or with --complete"
        said: list[str] = []
        assert sum(rows.length for rows in read_rows(raw_file(file), CONTRACT, unended=said.append)) == 6
        assert said == [str(file)]
        write(file, data)
        rest = await read(lines(file), position=found.positions[-1][1])
        assert rest.stored.tobytes() == packed(LOG[6:7]).tobytes() and rest.left is None
    write(file, data[:-1])
    whole = await read(lines(file, complete=True))
    assert whole.stored.tobytes() == packed(LOG[:7]).tobytes() and whole.left is None
    assert sum(rows.length for rows in read_rows(raw_file(file), CONTRACT, complete=True)) == 7


@pytest.mark.parametrize("kind", ["csv.gz", "jsonl.zst"])
async def test_of_a_packed_file_a_last_line_without_an_end_is_whole(kind: str, tmp_path: Path) -> None:
    found = await read(lines(write(tmp_path / f"log.{kind}", text_of(LOG[:7], kind)[:-1])))
    assert found.stored.tobytes() == packed(LOG[:7]).tobytes() and found.left is None


async def test_spaces_at_the_end_are_no_line(tmp_path: Path) -> None:
    found = await read(lines(write(tmp_path / "log.jsonl", text_of(LOG[:7], "jsonl") + b" \n \r\n  ")))
    assert found.stored.tobytes() == packed(LOG[:7]).tobytes() and found.left is None and not found.refused


def items_csv(items: Sequence[str]) -> bytes:
    """Events of a user with these items, as the csv module writes them."""
    return text_of([{"user": 1, "item": item, "timestamp_ms": T0_MS + n} for n, item in enumerate(items)], "csv")


def text_lines(path: Path, *, complete: bool = False) -> LineSource:
    return LineSource(raw_file(path), event_rows(TEXTS), pace=Pace(), complete=complete)


async def test_line_breaks_and_quotes_in_quotes_are_part_of_an_id_wherever_a_block_ends(
    tmp_path: Path, small_blocks: None
) -> None:
    odd = ['say "no"', "two\nlines", "a\r\nb", "1,5", " x ", "\n" * 40, '"', "tail\n"]
    items = [f"{odd[n % len(odd)]}{n}" for n in range(300)]
    file = write(tmp_path / "log.csv", items_csv(items))
    found = await read(text_lines(file), features=TEXTS)
    assert found.stored["item"].tolist() == [string_key(item) for item in items] and not found.refused
    assert len(found.positions) > 4
    done, position = found.positions[2]
    rest = await read(text_lines(file), position=position, features=TEXTS)
    assert rest.stored["item"].tolist() == [string_key(item) for item in items[done:]]
    batches = [rows for rows in read_rows(raw_file(file), event_rows(TEXTS)) if rows.length]
    assert [item for rows in batches for item in rows.columns["item"]] == items and len(batches) > 5
    assert np.concatenate([rows.numbers for rows in batches]).tolist() == list(range(1, 301))


async def test_of_a_quote_that_does_not_end_one_line_is_refused(tmp_path: Path) -> None:
    good = items_csv(["a", "b", "c"])
    bad = b'1,"d,' + str(T0_MS).encode() + b"\n"
    file = write(tmp_path / "log.csv", good + bad + good.partition(b"\n")[2])
    found = await read(text_lines(file, complete=True), features=TEXTS)
    assert [string_key(item) for item in "abcabc"] == found.stored["item"].tolist()
    assert found.refused == [(4, "a quoted value does not end", bad.decode().strip())]
    # While the file may grow, what follows may end the quote: the row is left, and said.
    found = await read(text_lines(file), features=TEXTS)
    assert [string_key(item) for item in "abc"] == found.stored["item"].tolist()
    assert found.refused == [] and found.left is not None


async def test_a_row_in_quotes_that_goes_on_in_a_line_without_an_end_is_left_with_it(tmp_path: Path) -> None:
    data = items_csv(["a", "b", "two\nlines"])
    file = write(tmp_path / "log.csv", data[: data.index(b"lines") + 2])
    found = await read(text_lines(file), features=TEXTS)
    assert found.stored["item"].tolist() == [string_key("a"), string_key("b")] and not found.refused and found.left
    said: list[str] = []
    batches = list(read_rows(raw_file(file), event_rows(TEXTS), unended=said.append))
    assert sum(rows.length for rows in batches) == 2 and said == [str(file)]
    assert not any(rows.malformed for rows in batches)
    write(file, data)
    rest = await read(text_lines(file), position=found.positions[-1][1], features=TEXTS)
    assert rest.stored["item"].tolist() == [string_key("two\nlines")] and rest.left is None


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
async def test_rows_have_their_numbers_in_the_file_after_it_was_taken_up(kind: str, tmp_path: Path) -> None:
    bad = {**LOG[0], "rating": 300}
    rows = [*LOG[:3], bad, *LOG[3:6]]
    file = write(tmp_path / f"log.{kind}", text_of(rows, kind))
    first = await read(lines(file))
    assert [row for row, _, _ in first.refused] == [4]
    write(file, text_of([*rows, LOG[6], bad], kind))
    ((row, reason, record),) = (await read(lines(file), position=first.positions[-1][1])).refused
    assert row == 9 and reason.startswith("'rating' is") and "300" in record


@pytest.mark.parametrize(
    ("kind", "times"),
    [
        ("csv", lambda ms: f"{ms // 1000}"),
        ("csv", lambda ms: f"{ms / 1000:.3f}"),
        ("jsonl", lambda ms: ms / 1000),
        ("csv", lambda ms: np.datetime64(ms, "ms").item().isoformat() + "Z"),
        ("jsonl", lambda ms: np.datetime64(ms, "ms").item().isoformat() + "+00:00"),
    ],
)
async def test_times_are_seconds_or_iso_8601_in_a_column_of_any_name(kind: str, times: Any, tmp_path: Path) -> None:
    rows = [{"user_id": 1, "item_id": 2, "when": times(row["timestamp_ms"] // 1000 * 1000)} for row in LOG[:50]]
    contract = event_rows(EVENTS, ReadOptions(timestamp="when", unit="s"))
    file = write(tmp_path / f"log.{kind}", text_of(rows, kind))
    found = await read(LineSource(raw_file(file), contract, pace=Pace()))
    assert found.stored["timestamp"].tolist() == [row["timestamp_ms"] // 1000 * 1000 for row in LOG[:50]]


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC", "Europe/Oslo")),
        pa.date32(),
        pa.date64(),
    ],
    ids=str,
)
async def test_parquet_timestamps_need_no_unit(kind: pa.DataType, tmp_path: Path) -> None:
    step = 86_400_000 if pa.types.is_date(kind) else 1000
    expected = [row["timestamp_ms"] // step * step for row in LOG[:50]]
    when = pa.array(expected, pa.timestamp("ms", "UTC")).cast(pa.timestamp("ms")).cast(kind)
    if pa.types.is_timestamp(kind) and kind.tz:
        when = pa.array(expected, pa.timestamp("ms", "UTC")).cast(kind)
    pq.write_table(pa.table({"user_id": [1] * 50, "item_id": [2] * 50, "when": when}), tmp_path / "log.parquet")
    contract = event_rows(EVENTS, ReadOptions(timestamp="when", unit="s"))
    found = await read(ParquetSource(tmp_path / "log.parquet", contract, batch_events=20))
    assert found.stored["timestamp"].tolist() == expected


async def test_context_features_and_labels_of_the_same_log_are_checked_and_not_kept(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"user": 1, "item": "a", "timestamp_ms": T0_MS, "hour": 9, "dwell": 1.5, "label": 1},
        {"user": 1, "item": "b", "timestamp_ms": T0_MS, "hour": "noon", "dwell": 1.5, "label": 1},
        {"user": 1, "item": "c", "timestamp_ms": T0_MS, "hour": 9, "dwell": 1.5, "label": 2},
    ]
    for kind in ("csv", "jsonl"):
        found = await read(text_lines(write(tmp_path / f"log.{kind}", text_of(rows, kind))), features=TEXTS)
        assert found.stored["item"].tolist() == [string_key("a")]
        assert [(row, reason.partition(" is ")[0]) for row, reason, _ in found.refused] == [
            (2, "'hour'"),
            (3, "'label'"),
        ]


def letters_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]


def ingest(url: str, folder: Path, *arguments: str | Path) -> Any:
    """`recsys ingest`, as a user types it, to its end."""
    (folder / "features.json").write_text(EVENTS.to_json())
    given = ["ingest", *map(str, arguments), "--features", str(folder / "features.json"), "--redis-url", url]
    return CliRunner().invoke(app, [*given, "--dead-letters", str(folder / "letters.jsonl")], env={"COLUMNS": "300"})


def test_the_command_says_how_many_were_rejected_the_commonest_reasons_and_what_was_left(
    redis_url: str, tmp_path: Path
) -> None:
    bad: list[Row] = [{**LOG[0], "rating": 300 + n} for n in range(4)] + [{**LOG[0], "user_id": None}] * 3
    bad += [{**LOG[0], "genre": "x"}] * 2 + [{**LOG[0], "arrival_ms": 5}]
    file = write(tmp_path / "log.jsonl", text_of([*LOG[:5], *bad, LOG[5]], "jsonl")[:-1])
    done = ingest(redis_url, tmp_path, file)
    assert done.exit_code == 0, done.output
    assert f"15 events, 5 of them new, 10 rejected ({tmp_path / 'letters.jsonl'})" in done.stdout
    said = done.stderr.splitlines()
    assert said[0].startswith("4 x 'rating': allowed: 0 to 254") and f"first: {file}: row 6: 'rating' is 300" in said[0]
    assert said[1].startswith("3 x 'user_id' is missing; first: ") and said[2].startswith("2 x 'genre'")
    assert said[3] == "1 for other reasons"
    assert said[4] == f"{file}: the last line has no end yet; it is read once it has one, or with --complete"
    done = ingest(redis_url, tmp_path, file, "--complete")
    assert "1 events, 1 of them new" in done.stdout and done.stderr == ""
    assert_store_holds(redis_url, LOG[:6])


def test_strict_ends_at_the_first_event_that_does_not_fit(redis_url: str, tmp_path: Path) -> None:
    file = write(tmp_path / "log.jsonl", text_of([LOG[0], {**LOG[1], "rating": 300}], "jsonl"))
    done = ingest(redis_url, tmp_path, file, "--strict")
    assert isinstance(done.exception, DataFileError) and not (tmp_path / "letters.jsonl").exists()
    assert str(done.exception).startswith(f"{file}: row 2: 'rating' is 300; allowed: 0 to 254")
    assert "--strict: the first event that does not fit ends it" in str(done.exception)
    assert ingest(redis_url, tmp_path, file).exit_code == 0, "what strict refused is read again"
    assert json.loads((tmp_path / "letters.jsonl").read_text())["row"] == 2


def test_options_name_the_time_and_leave_columns_out(redis_url: str, tmp_path: Path) -> None:
    rows: list[Row] = [
        {**{n: v for n, v in row.items() if n != "timestamp_ms"}, "when": row["timestamp_ms"] / 1000, "page": "x"}
        for row in LOG[:50]
    ]
    file = write(tmp_path / "log.csv", text_of(rows, "csv"))
    refused = ingest(redis_url, tmp_path, file, "--timestamp", "when", "--time-unit", "s")
    assert isinstance(refused.exception, DataFileError) and "leave it out with --ignore page" in str(refused.exception)
    for options in (("--ignore", "page"), ("--ignore-unknown", "--restart")):
        given = [{**row, "arrival_ms": row["arrival_ms"] // 1000} for row in rows]
        write(file, text_of(given, "csv"))
        done = ingest(redis_url, tmp_path, file, "--timestamp", "when", "--time-unit", "s", *options)
        assert done.exit_code == 0 and "50 events" in done.stdout and "rejected" not in done.stdout, done.output
    file = write(tmp_path / "other.csv", file.read_bytes())
    wrong = ingest(redis_url, tmp_path, file, "--timestamp", "when", "--ignore-unknown")
    assert isinstance(wrong.exception, DataFileError) and "no event fits" in str(wrong.exception)
    assert "counted in milliseconds it is 1970-" in str(wrong.exception)
    # Nothing is remembered as read, so the right options read it.
    right = ingest(redis_url, tmp_path, file, "--timestamp", "when", "--time-unit", "s", "--ignore-unknown")
    assert "50 events" in right.stdout and "rejected" not in right.stdout, right.output
    again = ingest(redis_url, tmp_path, file, "--timestamp", "when", "--time-unit", "s", "--ignore-unknown")
    assert "0 events" in again.stdout and "nothing new since it was read; --restart" in again.stderr
    assert "is it in seconds?" in (tmp_path / "letters.jsonl").read_text()


def test_patterns_say_what_they_matched_and_a_path_that_exists_is_none(redis_url: str, tmp_path: Path) -> None:
    write(tmp_path / "log[1].csv", text_of(LOG[:5], "csv"))
    write(tmp_path / "log1.csv", text_of(LOG[5:], "csv"))
    done = ingest(redis_url, tmp_path, tmp_path / "log[1].csv")
    assert "5 events" in done.stdout and done.stderr == ""
    assert_store_holds(redis_url, LOG[:5])
    done = ingest(redis_url, tmp_path, tmp_path / "log[0-9].csv")
    assert done.stderr == f"{tmp_path}/log[0-9].csv matched 1 file: {tmp_path / 'log1.csv'}\n"
    assert_store_holds(redis_url, LOG)


def test_a_follower_takes_a_line_when_it_has_an_end(redis_url: str, redis_admin: redis.Redis, tmp_path: Path) -> None:
    data = text_of([{**LOG[0], "genre": 12}, {**LOG[1], "genre": 1234}], "csv")
    file = write(tmp_path / "log.csv", data[:-3])

    def offset() -> int:
        for value in redis_admin.hgetall(positions_key(EVENTS.name)).values():  # type: ignore[union-attr]
            return int(json.loads(value)["offset"])
        return 0

    with ingesting(file, "--follow", "--flush-ms", "10", url=redis_url, cwd=tmp_path) as process:
        first, deadline_s = data[:-3].rfind(b"\n") + 1, time.monotonic() + 60
        while offset() < first:
            assert process.poll() is None and time.monotonic() < deadline_s
            time.sleep(0.01)
        time.sleep(0.2)
        assert offset() == first, "the 12 of 1234 is no event"
        with file.open("ab") as grown:
            grown.write(data[-3:])
        while offset() < len(data):
            assert process.poll() is None and time.monotonic() < deadline_s
            time.sleep(0.01)
    assert_store_holds(redis_url, [{**LOG[0], "genre": 12}, {**LOG[1], "genre": 1234}])
    assert not (tmp_path / "rejected.jsonl").exists()


def test_of_standard_input_that_ended_the_last_line_is_whole(redis_url: str, tmp_path: Path) -> None:
    with ingesting("-", url=redis_url, cwd=tmp_path, stdin=subprocess.PIPE) as process:
        out, err = process.communicate(text_of(LOG[:9], "jsonl")[:-1].decode(), timeout=60)
    assert process.returncode == 0, err
    assert (json.loads(out)["events"], json.loads(out)["left"]) == (9, [])
    assert_store_holds(redis_url, LOG[:9])


def test_entries_of_a_stream_that_are_not_utf_8_or_no_events_are_dead_letters(
    redis_url: str, redis_admin: redis.Redis, tmp_path: Path
) -> None:
    texts = {name: str(value) for name, value in LOG[0].items()}
    redis_admin.xadd("clicks", texts)  # type: ignore[arg-type]
    bad: list[dict[Any, Any]] = [
        {**texts, "genre": b"\xff"},
        {"event": json.dumps(LOG[0]).encode() + b"\xff"},
        {**texts, "page": "1"},
        {**texts, "rating": "300"},
    ]
    ids = [redis_admin.xadd("clicks", entry).decode() for entry in bad]  # type: ignore[union-attr]
    counts = ingested("--redis-stream", "clicks", url=redis_url, cwd=tmp_path)
    assert (counts["events"], counts["rejected"]) == (5, 4)
    letters = {one["row"]: one["reason"] for one in letters_in(tmp_path)}
    wanted = ["not UTF-8", "not JSON", "'page' is not declared", "'rating' is '300'"]
    assert all(reason in letters[entry] for entry, reason in zip(ids, wanted, strict=True)), letters
    assert_store_holds(redis_url, LOG[:1])


def test_messages_of_a_topic_that_are_no_events_are_dead_letters(redis_url: str, tmp_path: Path) -> None:
    kafka = pytest.importorskip("confluent_kafka")
    producer = kafka.Producer({"test.mock.num.brokers": 1, "linger.ms": 5})
    found = producer.list_topics("events", timeout=10).brokers.values()
    brokers = ",".join(f"{broker.host}:{broker.port}" for broker in found)
    good = {**LOG[0], "user_id": str(LOG[0]["user_id"]), "rating": float(LOG[0]["rating"])}
    bad: list[Any] = [b"{", b"\xff\xfe", None, *(json.dumps(one) for one in ({**LOG[0], "page": 1}, [1]))]
    bad.append(json.dumps({**LOG[0], "timestamp_ms": T0_MS // 1000}))
    for value in (json.dumps(good), *bad):
        producer.produce("events", value, partition=0)
    assert producer.flush(30) == 0
    counts = ingested("--kafka", "events", "--brokers", brokers, "--group", "g", url=redis_url, cwd=tmp_path)
    assert (counts["events"], counts["rejected"]) == (7, 6)
    letters = {one["row"]: one for one in letters_in(tmp_path)}
    wanted = [
        "not JSON",
        "not JSON",
        "not JSON",
        "'page' is not declared",
        "expected a JSON object",
        "is it in seconds?",
    ]
    assert all(reason in letters[row]["reason"] for row, reason in enumerate(wanted, start=1)), letters
    assert letters[6]["file"] == "kafka:events/0" and letters[6]["field"] == "timestamp_ms"
    assert_store_holds(redis_url, LOG[:1])
