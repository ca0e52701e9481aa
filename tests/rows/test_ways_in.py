"""Every way in gives the same verdict on a row: each format, through `prepare`, `ingest`, streams and gRPC messages."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from contracts.row_contract import (
    ABSENT,
    ATTRIBUTES,
    CONTEXT,
    ODD,
    ONE_TYPE,
    REFUSED,
    T0_MS,
    TEXT_ONLY,
    Case,
    as_text,
    check,
    documented_differences,
    event_cases,
    event_row,
    item_cases,
    item_row,
    key_of,
    text_only,
    time_of,
    utf8,
)

from recsys.data.log.event_table import EventTable, open_event_table
from recsys.data.log.prepare import RawInputs, prepare_log
from recsys.data.samples.stored import open_samples
from recsys.errors import DataFileError, InvalidInputError
from recsys.feature_store.redis.link.connect import open_link
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.encode import encode_request
from recsys.features.hashing import MISSING
from recsys.features.history.records import attribute_keys
from recsys.ingest.dead_letters import DeadLetterFile
from recsys.ingest.files import file_source
from recsys.ingest.redis_stream import RedisStreamSource
from recsys.ingest.run import ingest
from recsys.ingest.source import Pace
from recsys.proto.feature_store_pb2 import AppendEventsRequest, EventColumns, FeatureColumn, PutEntitiesRequest
from recsys.proto.ranker_pb2 import FeatureValue, Id, Ids
from recsys.rows.contract import entity_rows, event_rows
from recsys.rows.files import find_files
from recsys.rows.read import read_rows
from recsys.serving.rpc.convert.entities import put_request
from recsys.serving.rpc.convert.events import append_request
from recsys.serving.rpc.convert.rank import feature_values

EVENTS, ITEMS = event_cases(), item_cases()
FORMATS = ("csv", "tsv", "jsonl", "parquet")
Rows = list[tuple[int, dict[str, Any]]]
"""Numbers of cases, and their rows."""


def test_the_suite_has_more_than_a_hundred_odd_rows_of_every_kind() -> None:
    assert len(EVENTS) + len(ITEMS) > 500
    assert {case.field for case in EVENTS} >= {"user", "item", "timestamp_ms", "arrival_ms", "label", *CONTEXT}
    assert all(sum(c.expected is REFUSED for c in EVENTS if c.field == f) > 2 for f in ("user", "page", "dwell"))


def test_every_difference_is_documented() -> None:
    assert {TEXT_ONLY, ONE_TYPE} <= documented_differences()


def expressible(kind: str, cases: Sequence[Case]) -> list[int]:
    """Cases that a format of text can hold."""
    fits = (lambda case: True) if kind == "jsonl" else (lambda case: utf8(case.value))
    return [number for number, case in enumerate(cases) if fits(case)]


def write_text(kind: str, rows: Rows, path: Path) -> list[tuple[Path, list[int]]]:
    """One file of all rows; returns it with the cases of its rows."""
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        if kind == "jsonl":
            file.write("".join(json.dumps(row) + "\n" for _, row in rows))
        else:
            writer = csv.writer(file, delimiter="\t" if kind == "tsv" else ",", lineterminator="\n")
            writer.writerow(names)
            writer.writerows([as_text(row.get(name)) for name in names] for _, row in rows)
    return [(path, [number for number, _ in rows])]


def write_parquet(cases: Sequence[Case], row_of: Callable[[int, Case], dict[str, Any]], folder: Path) -> Any:
    """Files of rows whose odd values have one Arrow type; returns them with the cases of their rows."""
    groups: dict[tuple[str, str], tuple[pa.DataType, list[int]]] = {}
    for number, case in enumerate(cases):
        try:
            kind = pa.array([None if case.value is ABSENT else case.value]).type
        except (pa.ArrowInvalid, OverflowError, UnicodeEncodeError, pa.ArrowTypeError):
            continue  # what Arrow cannot hold no Parquet file has
        groups.setdefault((case.field, str(kind)), (kind, []))[1].append(number)
    files = []
    for place, ((field, _), (kind, numbers)) in enumerate(groups.items()):
        rows = [row_of(number, cases[number]) for number in numbers]
        names = list(dict.fromkeys(name for row in rows for name in row)) + ([] if field in rows[0] else [field])
        columns = {n: pa.array([r.get(n) for r in rows], kind if n == field else None) for n in dict.fromkeys(names)}
        pq.write_table(pa.table(columns), folder / f"{place:03}.parquet")
        files.append((folder / f"{place:03}.parquet", numbers))
    return files


def written(kind: str, cases: Sequence[Case], row_of: Callable[[int, Case], dict[str, Any]], folder: Path) -> Any:
    """Files of a format with all the cases that it can hold."""
    folder.mkdir()
    if kind == "parquet":
        return write_parquet(cases, row_of, folder)
    rows = [(number, row_of(number, cases[number])) for number in expressible(kind, cases)]
    return write_text(kind, rows, folder / f"rows.{kind}")


def files_that_can_be_read(files: Any, contract: Any) -> tuple[Any, dict[int, Any]]:
    """Files whose columns are of types that hold some value that fits; and the verdict on those of the others."""
    good, refused = [], {}
    for path, numbers in files:
        try:
            next(read_rows(find_files([str(path)])[0][0], contract))
            good.append((path, numbers))
        except DataFileError as error:
            assert "expected" in str(error)
            refused |= dict.fromkeys(numbers, REFUSED)
    return good, refused


def refused_rows(rejects: Path, files: Any) -> dict[int, Any]:
    """Cases whose rows were set aside; each names its file, row, field, and what is allowed."""
    cases = {(str(path), row): number for path, numbers in files for row, number in enumerate(numbers, start=1)}
    found = {}
    for line in rejects.read_text(encoding="utf-8").splitlines() if rejects.exists() else ():
        letter = json.loads(line)
        number = cases[letter["file"].removeprefix("file:"), letter["row"]]
        found[number] = (letter["field"], letter["allowed"])
    return found


def differs(kind: str) -> Callable[[Case], str | None]:
    """Documented differences of a format."""
    if kind in ("csv", "tsv", "entry"):
        return lambda case: TEXT_ONLY if text_only(case) else None
    if kind == "parquet":  # a NaN among texts would make a column of floats
        texts = {"maker", "page", "brand", "tags"}
        return lambda case: ONE_TYPE if case.field in texts and case.value != case.value else None
    return lambda case: None


def prepared_events(table: EventTable, labels: dict[int, int | None]) -> dict[int, dict[str, Any]]:
    """What a prepared table holds of each event, by its user's key, and by its time for odd users."""
    found: dict[int, dict[str, Any]] = {}
    for user in range(len(table.user_keys)):
        for event in range(table.offsets[user], table.offsets[user + 1]):
            stored = {
                "user": int(table.user_keys[user]),
                "item": int(table.item_keys[table.item_index[event]]),
                "timestamp_ms": int(table.timestamp_ms[event]),
                "arrival_ms": int(table.arrival_ms[event]),
                "label": labels.get(event),
            }
            for name in ATTRIBUTES:
                value = int(table.attributes[name][event])
                stored[name] = -1 if name == "action" and value == 255 else value
            for name in CONTEXT:
                stored[name] = table.context[name][event].tolist()
            found[event] = stored
    return found


def verdicts_of(events: Sequence[dict[str, Any]], refused: dict[int, Any], numbers: Sequence[int]) -> dict[int, Any]:
    """Verdict on each case from what was stored and what was set aside."""
    by_user = {event["user"]: event for event in events}
    by_time = {event["timestamp_ms"]: event for event in events if event["item"] != event["user"]}
    verdicts: dict[int, Any] = {}
    for number in numbers:
        case = EVENTS[number]
        if number in refused:
            field, allowed = refused[number]
            assert field == case.field and allowed, f"{case.name}: {field}, {allowed}"
            verdicts[number] = REFUSED
            continue
        event = by_time.get(time_of(number)) if case.field == "user" else by_user.get(10_000 + number)
        assert event is not None, f"{case.name}: neither stored nor set aside"
        value = event[case.field]
        if case.field == "arrival_ms" and case.expected is None:
            value = None if value == event["timestamp_ms"] or value > T0_MS + 10**10 else value
        if case.field == "slots":
            value = tuple(v for v in value if v != MISSING)
        verdicts[number] = value
    return verdicts


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("engine", ["duckdb", pytest.param("spark", marks=pytest.mark.prove)])
def test_prepare_gives_the_verdict_on_every_event(kind: str, engine: str, tmp_path: Path) -> None:
    files = written(kind, EVENTS, event_row, tmp_path / "log")
    files, verdicts = files_that_can_be_read(files, event_rows(ODD))
    inputs = RawInputs(log=tuple(str(path) for path, _ in files))
    summary = prepare_log(ODD, inputs, tmp_path / "out", engine=engine)
    table, samples = open_event_table(tmp_path / "out/events"), open_samples(tmp_path / "out/samples")
    labels = dict(zip(samples.position.tolist(), samples.label.tolist(), strict=True))
    numbers = [number for _, found in files for number in found]
    refused = refused_rows(Path(summary.rejects), files)
    verdicts |= verdicts_of(list(prepared_events(table, labels).values()), refused, numbers)
    assert summary.rejected == len(refused) and len(verdicts) > 250
    assert list(check(f"prepare {kind}", EVENTS, verdicts, differs=differs(kind))) == []


@pytest.mark.parametrize("kind", FORMATS)
def test_prepare_gives_the_verdict_on_every_item(kind: str, tmp_path: Path) -> None:
    files = written(kind, ITEMS, item_row, tmp_path / "items")
    files, verdicts = files_that_can_be_read(files, entity_rows(ODD, "item"))
    log = tmp_path / "log.jsonl"
    events = [{"user": 1, "item": "x", "timestamp_ms": T0_MS + n, "label": n % 2} for n in range(40)]
    log.write_text("".join(json.dumps(event) + "\n" for event in events))
    for path, _ in files:
        path.rename(tmp_path / "items" / f"all-{path.name}") if kind != "parquet" else None
    files = [(path if kind == "parquet" else path.with_name(f"all-{path.name}"), found) for path, found in files]
    for stray in set((tmp_path / "items").iterdir()) - {path for path, _ in files}:
        stray.unlink()
    summary = prepare_log(ODD, RawInputs(log=(str(log),), entities={"item": str(tmp_path / "items")}), tmp_path / "out")
    table = open_event_table(tmp_path / "out/events")
    rows = {int(key): place for place, key in enumerate(table.item_keys)}
    refused = refused_rows(Path(summary.rejects), files)
    for number in (number for _, found in files for number in found):
        case = ITEMS[number]
        if number in refused:
            assert refused[number][0] == case.field, case.name
            verdicts[number] = REFUSED
            continue
        if case.field == "item":
            expected = case.expected
            verdicts[number] = expected if expected is not REFUSED and expected in rows else "not stored"
            continue
        value = table.items[case.field][rows[key_of(f"item {number}")]].tolist()
        verdicts[number] = tuple(v for v in value if v != MISSING) if case.field == "tags" else value
    assert list(check(f"items {kind}", ITEMS, verdicts, differs=differs(kind))) == []


async def stored_events(url: str, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """What the store holds of the cases' users: the expected one of an odd user."""
    store = RedisFeatureStore.connect(url, ODD)
    try:
        found = []
        for number in numbers:
            case = EVENTS[number]
            user = case.expected if case.field == "user" else 10_000 + number
            if user is REFUSED:
                continue
            _, events = await store.history(user, limit=1_000, timeout_s=5)
            for event in events:
                stored = {"user": user, "item": int(event["item"]), "timestamp_ms": int(event["timestamp"])}
                stored |= {"arrival_ms": int(event["arrival"])} | dict.fromkeys((*CONTEXT, "label"), ...)
                for attribute in ODD.history.attributes if ODD.history else ():
                    one = events[events["timestamp"] == event["timestamp"]][:1]
                    stored[attribute.name] = int(attribute_keys(attribute, one)[0])
                found.append(stored)
        return found
    finally:
        await store.close()


def kept_by_ingest(verdicts: dict[int, Any]) -> dict[int, Any]:
    """Values that ingest checks and does not keep are taken."""
    return {n: ... if v is not REFUSED and EVENTS[n].field in (*CONTEXT, "label") else v for n, v in verdicts.items()}


@pytest.mark.parametrize("kind", FORMATS)
async def test_ingest_gives_the_verdict_on_every_event(kind: str, tmp_path: Path, redis_url: str) -> None:
    files = written(kind, EVENTS, event_row, tmp_path / "log")
    files, verdicts = files_that_can_be_read(files, event_rows(ODD))
    store = RedisFeatureStore.connect(redis_url, ODD)
    sources = [file_source(find_files([str(path)])[0][0], event_rows(ODD)) for path, _ in files]
    try:
        counts = await ingest(store, ODD, sources, dead_letters=DeadLetterFile(tmp_path / "letters.jsonl"))
    finally:
        await store.close()
    refused = refused_rows(tmp_path / "letters.jsonl", files)
    assert counts.rejected == len(refused)
    numbers = [number for _, found in files for number in found]
    verdicts |= kept_by_ingest_of(await stored_events(redis_url, numbers), refused, numbers)
    assert list(check(f"ingest {kind}", EVENTS, verdicts, differs=differs(kind))) == []


def kept_by_ingest_of(events: list[dict[str, Any]], refused: dict[int, Any], numbers: Sequence[int]) -> dict[int, Any]:
    """Verdicts of ingest: slots are checked and not kept."""
    for event in events:
        event["slots"] = (...,)
    return kept_by_ingest(verdicts_of(events, refused, numbers))


@pytest.mark.parametrize("kind", ["entry", "event"])
async def test_a_redis_stream_gives_the_verdict_on_every_event(
    kind: str, tmp_path: Path, redis_url: str, redis_admin: redis.Redis
) -> None:
    numbers = expressible("csv" if kind == "entry" else "jsonl", EVENTS)
    ids: dict[str, int] = {}
    for number in numbers:
        row = event_row(number, EVENTS[number])
        fields = {n: as_text(v) for n, v in row.items()} if kind == "entry" else {"event": json.dumps(row)}
        ids[redis_admin.xadd("odd", fields).decode()] = number  # type: ignore[union-attr, arg-type]
    link, store = open_link(redis_url), RedisFeatureStore.connect(redis_url, ODD)
    source = RedisStreamSource("odd", event_rows(ODD), link=link, group="g", consumer="c", claim_idle_s=60, pace=Pace())
    try:
        await ingest(store, ODD, [source], dead_letters=DeadLetterFile(tmp_path / "letters.jsonl"))
    finally:
        await store.close()
        await link.close()
    letters = [json.loads(line) for line in (tmp_path / "letters.jsonl").read_text().splitlines()]
    refused = {ids[letter["row"]]: (letter["field"], letter["allowed"]) for letter in letters}
    verdicts = kept_by_ingest_of(await stored_events(redis_url, numbers), refused, numbers)
    assert list(check(f"redis stream {kind}", EVENTS, verdicts, differs=differs(kind))) == []


def ids_of(value: Any) -> Ids | None:
    """A value in a message of ids, where it has a place."""
    if isinstance(value, str) and utf8(value):
        return Ids(texts=[value])
    if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
        return Ids(integers=[value])
    return None


def feature_of(value: Any, kind: type, *, many: bool) -> Any:
    """A value in a FeatureValue or FeatureColumn, where it has a place: there a multi-valued feature is a list."""
    if isinstance(value, list) != many:
        return None
    values = value if many else [value]
    if values and all(isinstance(v, str) and utf8(v) for v in values):
        return kind(texts=values)
    if values and all(isinstance(v, int) and not isinstance(v, bool) and -(2**63) <= v < 2**63 for v in values):
        return kind(integers=values)
    # numbers are float32 there: what it does not hold exactly is another value
    with np.errstate(over="ignore"):
        exact = all(isinstance(v, float) and (v != v or float(np.float32(v)) == v) for v in values)
    return kind(numbers=values) if values and exact else None


def append_of(number: int, case: Case) -> AppendEventsRequest | None:
    """An AppendEvents message with the case's event, where it can hold it."""
    ids = None if case.field in ("timestamp_ms", "arrival_ms") else ids_of(case.value)
    times = {"timestamp_ms": time_of(number)}
    if case.field in times or case.field == "arrival_ms":
        if not isinstance(case.value, int) or isinstance(case.value, bool) or not abs(case.value) < 2**63:
            return None
        times[case.field] = case.value
    elif ids is None:
        return None
    user = Id(integer=10_000 + number)
    if case.field == "user" and ids is not None:
        user = Id(text=ids.texts[0]) if ids.texts else Id(integer=ids.integers[0])
    return AppendEventsRequest(
        user=user,
        events=EventColumns(
            items=ids if case.field == "item" else Ids(texts=[f"item {number}"]),
            timestamps_ms=[times["timestamp_ms"]],
            arrivals_ms=[times["arrival_ms"]] if "arrival_ms" in times else [],
            attributes={case.field: ids} if case.field in ATTRIBUTES else {},
        ),
    )


def test_append_events_gives_the_verdict_on_every_event_that_a_message_can_hold() -> None:
    verdicts: dict[int, Any] = {}
    for number, case in enumerate(EVENTS):
        message = None if case.field in (*CONTEXT, "label") else append_of(number, case)
        if message is None:
            continue
        sent = AppendEventsRequest.FromString(message.SerializeToString())
        try:
            append = append_request(sent, ODD, future_tolerance_s=300)
        except InvalidInputError as error:
            assert case.field in str(error), case.name
            verdicts[number] = REFUSED
            continue
        event = append.events
        stored = {"user": append.user_key, "item": int(event["item"][0]), "timestamp_ms": int(event["timestamp"][0])}
        stored["arrival_ms"] = int(event["arrival"][0])
        for attribute in ODD.history.attributes if ODD.history else ():
            stored[attribute.name] = int(attribute_keys(attribute, event)[0])
        verdicts[number] = stored[case.field]
    assert len(verdicts) > 100
    assert list(check("AppendEvents", EVENTS, verdicts)) == []


def test_a_rank_request_gives_the_verdict_on_every_context_value_that_a_message_can_hold() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    verdicts: dict[int, Any] = {}
    for number, case in enumerate(EVENTS):
        value = feature_of(case.value, FeatureValue, many=case.field == "slots") if case.field in CONTEXT else None
        if value is None:
            continue
        sent = FeatureValue.FromString(value.SerializeToString())
        try:
            encoded = encode_request(
                ODD, user_key=1, user_columns={}, request_values=feature_values({case.field: sent}), events=None,
                item_keys=nothing, item_columns={},
            )  # fmt: skip
        except InvalidInputError:
            verdicts[number] = REFUSED
            continue
        column = encoded.user[case.field][0].tolist()
        verdicts[number] = tuple(v for v in column if v != MISSING) if case.field == "slots" else column
    assert len(verdicts) > 100
    assert list(check("Rank", EVENTS, verdicts)) == []


def test_put_entities_gives_the_verdict_on_every_item_that_a_message_can_hold() -> None:
    verdicts: dict[int, Any] = {}
    for number, case in enumerate(ITEMS):
        ids = ids_of(case.value) if case.field == "item" else Ids(texts=[f"item {number}"])
        column = None if case.field == "item" else feature_of(case.value, FeatureColumn, many=case.field == "tags")
        if ids is None or (case.field != "item" and column is None):
            continue
        if case.field == "tags" and column is not None:
            column.lengths.append(len(case.value))
        message = PutEntitiesRequest(
            entity="item", ids=ids, features={} if case.field == "item" else {case.field: column}
        )
        try:
            _, keys, columns = put_request(PutEntitiesRequest.FromString(message.SerializeToString()), ODD)
        except InvalidInputError:
            verdicts[number] = REFUSED
            continue
        value = keys[0].item() if case.field == "item" else columns[case.field][0].tolist()
        verdicts[number] = tuple(v for v in value if v != MISSING) if case.field == "tags" else value
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
