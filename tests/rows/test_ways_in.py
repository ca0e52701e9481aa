"""Every way in gives the same verdict on a row: each format, through `prepare`, `ingest`, streams and gRPC messages."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pytest
from contracts.row_contract import CONTEXT, ODD, ONE_TYPE, REFUSED, TEXT_ONLY, check, documented_differences, event_row
from contracts.ways_in import (
    EVENTS,
    FORMATS,
    ITEMS,
    appended_verdicts,
    differs,
    ingested_verdicts,
    prepared_event_verdicts,
    prepared_item_verdicts,
    prepared_label_verdicts,
    put_verdicts,
    ranked_verdicts,
    streamed_verdicts,
    written,
)

from recsys.data.log.prepare import RawInputs, prepare_log


def test_the_suite_has_more_than_five_hundred_odd_rows_of_every_kind() -> None:
    assert len(EVENTS) + len(ITEMS) > 500
    assert {case.field for case in EVENTS} >= {"user", "item", "timestamp_ms", "arrival_ms", "label", *CONTEXT}
    assert all(sum(c.expected is REFUSED for c in EVENTS if c.field == f) > 2 for f in ("user", "page", "dwell"))


def test_every_difference_is_documented() -> None:
    assert {TEXT_ONLY, ONE_TYPE} < documented_differences()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("engine", ["duckdb", pytest.param("spark", marks=pytest.mark.prove)])
def test_prepare_gives_the_verdict_on_every_event(kind: str, engine: str, tmp_path: Path) -> None:
    verdicts = prepared_event_verdicts(kind, tmp_path, engine=engine)
    assert len(verdicts) > 250
    assert list(check(f"prepare {kind}", EVENTS, verdicts, differs=differs(kind))) == []


@pytest.mark.parametrize("kind", FORMATS)
def test_prepare_gives_the_verdict_on_every_impression(kind: str, tmp_path: Path) -> None:
    verdicts = prepared_label_verdicts(kind, tmp_path)
    assert len(verdicts) > 150
    assert list(check(f"labels {kind}", EVENTS, verdicts, differs=differs(kind))) == []


@pytest.mark.parametrize("kind", FORMATS)
def test_prepare_gives_the_verdict_on_every_item(kind: str, tmp_path: Path) -> None:
    verdicts = prepared_item_verdicts(kind, tmp_path)
    assert len(verdicts) > 100
    assert list(check(f"items {kind}", ITEMS, verdicts, differs=differs(kind))) == []


@pytest.mark.parametrize("kind", FORMATS)
async def test_ingest_gives_the_verdict_on_every_event(kind: str, tmp_path: Path, redis_url: str) -> None:
    verdicts = await ingested_verdicts(kind, tmp_path, redis_url)
    assert len(verdicts) > 250
    assert list(check(f"ingest {kind}", EVENTS, verdicts, differs=differs(kind))) == []


@pytest.mark.parametrize("kind", ["entry", "event"])
async def test_a_redis_stream_gives_the_verdict_on_every_event(kind: str, tmp_path: Path, redis_url: str) -> None:
    verdicts = await streamed_verdicts(kind, tmp_path, redis_url)
    assert len(verdicts) > 250
    assert list(check(f"redis stream {kind}", EVENTS, verdicts, differs=differs(kind))) == []


def test_append_events_gives_the_verdict_on_every_event_that_a_message_can_hold() -> None:
    verdicts = appended_verdicts()
    assert len(verdicts) > 100
    assert list(check("AppendEvents", EVENTS, verdicts)) == []


def test_a_rank_request_gives_the_verdict_on_every_context_value_that_a_message_can_hold() -> None:
    verdicts = ranked_verdicts()
    assert len(verdicts) > 100
    assert list(check("Rank", EVENTS, verdicts)) == []


def test_put_entities_gives_the_verdict_on_every_item_that_a_message_can_hold() -> None:
    verdicts = put_verdicts()
    assert len(verdicts) > 60
    assert list(check("PutEntities", ITEMS, verdicts)) == []


def test_a_packed_file_and_a_byte_order_mark_change_nothing(tmp_path: Path) -> None:
    ((path, numbers),) = written("csv", EVENTS, event_row, tmp_path / "log")
    data = path.read_bytes()
    summaries = []
    for name, content in (("a.csv", data), ("b.csv", b"\xef\xbb\xbf" + data), ("c.csv.gz", gzip.compress(data))):
        (tmp_path / name).write_bytes(content)
        out = tmp_path / name.partition(".")[0]
        summary = prepare_log(ODD, RawInputs(log=(str(tmp_path / name),)), out)
        summaries.append((summary.events, summary.rejected, (out / "events/event.timestamp.npy").read_bytes()))
    with pa.CompressedOutputStream(str(tmp_path / "d.csv.zst"), "zstd") as packed:
        packed.write(data)
    summary = prepare_log(ODD, RawInputs(log=(str(tmp_path / "d.csv.zst"),)), tmp_path / "d")
    summaries.append((summary.events, summary.rejected, (tmp_path / "d/events/event.timestamp.npy").read_bytes()))
    assert summaries[1:] == summaries[:1] * 3 and len(numbers) == summaries[0][0] + summaries[0][1]
