"""Raw logs through an engine: the same bytes whatever the engine, the format and the order of the rows."""

import itertools
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.nasty_log import FORMATS, NASTY, T0, Rows, content, nasty_rows, prepare_nasty, write
from support.spark_cluster import QUICK, require_spark

import recsys.data.log.engines.duckdb
import recsys.rows.read
from recsys.data.datasets import load_dataset
from recsys.data.log.event_table import open_event_table, write_event_table
from recsys.data.log.prepare import PrepareSummary, RawInputs, prepare_log
from recsys.data.log.splits.rule import SplitRule
from recsys.data.samples.dataset import make_batch, make_dataset
from recsys.data.samples.stored import open_samples
from recsys.errors import ConfigError, DataFileError, InvalidInputError
from recsys.features.feature_set import Categorical, FeatureSet, History, Numeric
from recsys.features.hashing import integer_key, string_key
from recsys.rows.contract import ReadOptions
from recsys.rows.label_rule import parse_label


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_nasty(tmp_path_factory.mktemp("duckdb"), "parquet")


@pytest.mark.parametrize("kind", FORMATS)
def test_format_order_of_rows_and_size_of_batches_do_not_change_a_byte(
    prepared: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, value in (
        (recsys.rows.read, "_BLOCK_BYTES", 400), (recsys.rows.read, "BATCH_ROWS", 13),
        (recsys.data.log.engines.duckdb, "BATCH_ROWS", 13),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    expected, got = content(prepared), content(prepare_nasty(tmp_path, kind, seed=3))
    assert got.keys() == expected.keys() and len(expected) > 20
    assert [name for name in expected if got[name] != expected[name]] == []


@pytest.mark.parametrize("labels", [True, pytest.param(False, marks=pytest.mark.prove)])
def test_spark_writes_the_same_bytes(labels: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_spark()
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", QUICK)
    formats = {"user": "csv", "item": "jsonl", "labels": "parquet"}
    # One log in CSV, whose text the two engines read with parsers of their own.
    expected, got = (
        content(prepare_nasty(tmp_path, "csv", seed=seed, out=engine, labels=labels, engine=engine, formats=formats))
        for seed, engine in ((0, "duckdb"), (5, "spark"))
    )
    assert got.keys() == expected.keys()
    assert [name for name in expected if got[name] != expected[name]] == []


def test_the_table_is_the_one_that_the_log_in_memory_gives(prepared: Path, tmp_path: Path) -> None:
    rows = nasty_rows()
    users, items = (
        {name: [r[name] for r in sorted(rows[side], key=key)] for name in rows[side][0]}
        for side, key in (("user", lambda r: string_key(r["user"])), ("item", lambda r: integer_key(r["item_id"])))
    )
    log = {name: [r[name] for r in rows["log"]] for name in rows["log"][0] if name != "label"}
    log["arrival_ms"] = [t if a is None else a for t, a in zip(log["timestamp_ms"], log["arrival_ms"], strict=True)]
    write_event_table(NASTY, users, items, log, tmp_path / "table")
    expected, got = content(tmp_path / "table"), content(prepared / "events")
    for name in expected:
        if name != "meta.json":
            assert got[name] == expected[name], name
    assert open_event_table(prepared / "events").entities["shop"]["rank"].tolist() == [0.25, 0.5, 0.75]


def test_labelled_events_are_samples_at_their_own_position(prepared: Path) -> None:
    table, samples = open_event_table(prepared / "events"), open_samples(prepared / "samples")
    assert set(samples.label.tolist()) == {0, 1} and len(samples.label) < len(table)
    assert (np.diff(samples.position) > 0).all()
    times = np.sort(table.timestamp_ms[samples.position])
    parts = [table.timestamp_ms[samples.position[samples.splits[name]]] for name in ("train", "validation", "test")]
    for earlier, later in itertools.pairwise(parts):
        assert earlier.max() < later.min()
    # A moment here is a twenty-fifth of the time: the nearest cut is at most half of one off.
    for cut, tenths in ((len(parts[0]), 8), (len(parts[0]) + len(parts[1]), 9)):
        assert abs(cut - tenths * len(times) // 10) <= np.unique(times, return_counts=True)[1].max() / 2


def test_a_labels_log_makes_samples_that_are_no_events(prepared: Path, tmp_path: Path) -> None:
    out = prepare_nasty(
        tmp_path, "csv", labels=True, split=SplitRule(validation_from_ms=T0 + 10_000, test_from_ms=T0 + 20_000)
    )
    dataset = make_dataset(open_event_table(out / "events"), open_samples(out / "samples"))
    assert (out / "events" / "event.item.npy").read_bytes() == (prepared / "events" / "event.item.npy").read_bytes()
    assert len(dataset) == 200
    rows = sorted(nasty_rows()["labels"], key=lambda r: (string_key(r["user"]), r["timestamp_ms"]))
    assert dataset.sample_time_ms.tolist() == [r["timestamp_ms"] for r in rows]
    late = [n for n, r in enumerate(rows) if r["timestamp_ms"] >= T0 + 20_000]
    assert dataset.split("test").tolist() == late
    batch = make_batch(dataset, np.arange(200))
    assert batch.user["price"].tolist() == [1.5] * 200 and batch.history_offsets[-1] > 200


PLAIN = FeatureSet(
    name="plain",
    user_id=Categorical(name="user"),
    item_id=Categorical(name="item_id"),
    context=(Numeric(name="price"),),
    history=History(attributes=(Categorical(name="rating", storage="u8"),)),
)
LOG: Rows = [
    {"user": user, "item_id": 10 + n % 3, "timestamp_ms": T0 + 1000 * n, "rating": n % 5 + 1} for n in range(8)
    for user in (2, 1)
]  # fmt: skip


def prepare_plain(folder: Path, rows: Rows = LOG, *, kind: str = "csv", **options: Any) -> PrepareSummary:
    entities = options.pop("entities", {})
    ignore = options.pop("ignore", ())
    unknown = options.pop("unknown", "keep")
    path = write(rows, folder / f"log.{kind}")
    inputs = RawInputs(log=(str(path),), entities=entities, options=ReadOptions(ignored=ignore), unknown=unknown)
    return prepare_log(PLAIN, inputs, folder / "out", **options)


def test_without_entity_files_the_ids_of_the_log_are_the_entities(tmp_path: Path) -> None:
    summary = prepare_plain(tmp_path)
    table = open_event_table(tmp_path / "out" / "events")
    assert (table.user_keys.tolist(), table.item_keys.tolist()) == ([1, 2], [10, 11, 12])
    assert (summary.events, summary.repeated, summary.rejected, summary.samples) == (16, 0, 0, {})
    assert not (tmp_path / "out" / "samples").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.csv", "out"]


def test_a_label_expression_is_evaluated_per_row(tmp_path: Path) -> None:
    for kind in ("csv", "parquet"):
        folder = tmp_path / kind
        folder.mkdir()
        prepare_plain(folder, kind=kind, label=parse_label("rating>=4"), split=SplitRule(leave_last=True))
        samples = open_samples(folder / "out" / "samples")
        assert samples.label.tolist() == [int(n % 5 + 1 >= 4) for n in range(8)] * 2
        splits = {name: indices.tolist() for name, indices in samples.splits.items()}
        assert splits == {"train": [*range(6), *range(8, 14)], "validation": [6, 14], "test": [7, 15]}


def test_a_prepared_folder_is_a_data_set(tmp_path: Path) -> None:
    prepare_plain(tmp_path, label=parse_label("rating >= 4"))
    loaded = load_dataset(str(tmp_path / "out"), recent=2, work_dir=tmp_path)
    assert len(loaded.dataset) == 16 and not loaded.is_synthetic
    assert loaded.raw.source == f"prepared log in {tmp_path / 'out'}"
    assert np.diff(make_batch(loaded.dataset, np.array([0, 1, 7])).history_offsets).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "field", "allowed"),
    [
        ({"user": "x"}, "user", "a 64-bit integer"),
        ({"user": None}, "user", "a value, in every row"),
        ({"item_id": 1.5}, "item_id", "a 64-bit integer"),
        ({"timestamp_ms": "0x10"}, "timestamp_ms", "milliseconds since 1970"),
        ({"timestamp_ms": 10**15}, "timestamp_ms", "is it in microseconds?"),
        ({"rating": 300}, "rating", "0 to 254, which is what its storage holds"),
        ({"price": "cheap"}, "price", "a finite float32 number"),
        ({"price": "1e39"}, "price", "a finite float32 number"),
        ({"label": 2}, "label", "0 or 1"),
    ],
)
def test_a_row_that_does_not_fit_is_set_aside_or_ends_it(
    tmp_path: Path, change: dict[str, Any], field: str, allowed: str
) -> None:
    good = [{**row, "price": 1, "label": n % 2} for n, row in enumerate(LOG)]
    rows = [*good[:5], {**good[5], **change}, *good[5:]]
    with pytest.raises(DataFileError, match=r"log\.csv: row 6: .*--strict"):
        prepare_plain(tmp_path, rows, strict=True)
    assert [p.name for p in tmp_path.iterdir()] == ["log.csv"]

    summary = prepare_plain(tmp_path, rows)
    assert (summary.events, summary.rejected) == (16, 1)
    assert summary.reasons[0].startswith("1 x ") and "row 6" in summary.reasons[0]
    (line,) = Path(summary.rejects).read_text().splitlines()
    found = json.loads(line)
    assert (found["file"], found["row"], found["field"]) == (str(tmp_path / "log.csv"), 6, field)
    value = next(iter(change.values()))
    assert found["value"] == (None if value is None else str(value)) and allowed in found["allowed"] + found["reason"]
    assert str(LOG[5]["item_id"]) in found["record"] or "item_id" in change


def test_users_of_the_log_that_the_file_lacks_are_kept_or_rejected_as_told(tmp_path: Path) -> None:
    users = write([{"user": 1}], tmp_path / "users.csv")
    kept = prepare_plain(tmp_path, entities={"user": str(users)})
    assert (kept.users, kept.new_users, kept.events, kept.rejected) == (2, 1, 16, 0)
    shutil.rmtree(tmp_path / "out")
    rejected = prepare_plain(tmp_path, entities={"user": str(users)}, unknown="reject")
    assert (rejected.users, rejected.events, rejected.rejected) == (1, 8, 8)
    assert "row 1: 'user' is '2'; allowed: ids of the --users file" in rejected.reasons[0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"user": 1, "item": 2, "timestamp_ms": 3}], r"log\.csv: column 'item_id' is missing; is it 'item'\? Rename"),
        (
            [{"user": 1, "item_id": 2, "timestamp": 3}],
            r"column 'timestamp_ms', which is missing; --timestamp NAME",
        ),
        ([{**LOG[0], "ratng": 1}], r"column 'ratng' is not declared: did you mean 'rating'\? .* --ignore ratng"),
        ([], r"column 'user' is missing"),
    ],
)
def test_a_wrong_column_is_named(tmp_path: Path, rows: Rows, message: str) -> None:
    with pytest.raises(DataFileError, match=message):
        prepare_plain(tmp_path, rows)


def test_a_column_can_be_left_out(tmp_path: Path) -> None:
    assert prepare_plain(tmp_path, [{**row, "session": "x"} for row in LOG], ignore=("session",)).events == 16


def test_a_declared_column_can_be_left_out_too(tmp_path: Path) -> None:
    prepare_plain(tmp_path, [{**row, "label": 1} for row in LOG], ignore=("rating", "label"))
    assert open_event_table(tmp_path / "out" / "events").attributes["rating"].tolist() == [255] * 16
    assert not (tmp_path / "out" / "samples").exists()


def test_a_log_without_a_row_that_fits_is_an_error_with_the_commonest_reasons(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"user": 1, "item_id": 2, "timestamp_ms": 3}\n' * 1000 + '{"user": \n')
    with pytest.raises(DataFileError, match=r"log\.jsonl: no row fits\. 1,000 x .* is it in|1 x not JSON"):
        prepare_log(PLAIN, RawInputs(log=(str(tmp_path / "log.jsonl"),)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_column_of_which_no_value_fits_is_named(tmp_path: Path) -> None:
    good = {"user": [1], "item_id": [1], "timestamp_ms": [T0]}
    for change, message in (
        ({"user": [b"1"]}, r"log\.parquet: column 'user' is binary; expected int ids: cast it, or change its decl"),
        ({"item_id": [[1]]}, "column 'item_id' is list<.*>; expected int ids"),
        ({"timestamp_ms": [True]}, "column 'timestamp_ms' is bool; expected times"),
    ):
        pq.write_table(pa.table({**good, **change}), tmp_path / "log.parquet")
        with pytest.raises(DataFileError, match=message):
            prepare_log(PLAIN, RawInputs(log=(str(tmp_path / "log.parquet"),)), tmp_path / "out")


def test_of_an_entity_that_is_there_twice_one_row_is_kept_and_others_are_set_aside(tmp_path: Path) -> None:
    shops: Rows = [{"item_id": 10, "price": 2}, {"item_id": 11, "price": 1}, {"item_id": 10, "price": 1}]
    priced = replace(PLAIN, item=(Numeric(name="price", default=0.0),))
    items = write([*shops, shops[1]], tmp_path / "items.csv")
    log = write(LOG, tmp_path / "log.csv")
    inputs = RawInputs(log=(str(log),), entities={"item": str(items)})
    summary = prepare_log(priced, inputs, tmp_path / "out")
    table = open_event_table(tmp_path / "out" / "events")
    assert dict(zip(table.item_keys.tolist(), table.items["price"].tolist(), strict=True)) == {10: 1, 11: 1, 12: 0}
    assert summary.rejected == 1 and "items.csv: row 1: 'item_id' is there twice" in summary.reasons[0]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["nowhere.csv"], r"nowhere\.csv: no such file or folder; allowed: .*\.parquet, \.csv"),
        (["a.txt"], r"a\.txt: unknown format; allowed endings: \.parquet"),
        (["a.csv"], r"a\.csv: column 'item_id' is missing; found user"),
        (["wide.csv"], r"wide\.csv: is UTF-16 or UTF-32, or no text; allowed: UTF-8"),
        (["semi.csv"], r"semi\.csv: the header has ';' between names, not ','"),
        (["broken.csv.gz"], r"broken\.csv\.gz: cannot be read after row 0"),
        (["broken.parquet"], r"broken\.parquet: cannot be read as Parquet"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path: Path, names: list[str], message: str) -> None:
    for name, text in (
        ("a.txt", ""),
        ("a.csv", "user\n"),
        ("semi.csv", "user;item_id;timestamp_ms\n"),
        ("broken.csv.gz", "x"),
        ("broken.parquet", "x"),
    ):
        (tmp_path / name).write_text(text)
    (tmp_path / "wide.csv").write_text("user,item_id,timestamp_ms\n", encoding="utf-16")
    with pytest.raises(DataFileError, match=message):
        prepare_log(PLAIN, RawInputs(log=tuple(str(tmp_path / n) for n in names)), tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "dukdb"}, r"engine 'dukdb': did you mean 'duckdb'\?"),
        ({"memory_limit_bytes": 1}, r"memory limit 1 bytes; allowed: 500MB or more"),
        ({"threads": 0}, r"threads is 0; allowed: 1 or more"),
        ({"label": parse_label("ratin>=4")}, r"column 'ratin' is missing; is it 'rating'\?"),
        ({"entities": {"shop": "x.csv"}}, r"unknown entity 'shop'"),
    ],
)
def test_a_setting_out_of_range_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        prepare_plain(tmp_path, **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rating", r"label 'rating': expected COLUMN OPERATOR VALUE"),
        ("a==[1]", r"\[1\] is neither a number nor a text"),
    ],
)
def test_a_label_that_is_no_expression_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_label(text)


def test_splits_that_contradict_are_refused() -> None:
    with pytest.raises(ConfigError, match="validation_from is 9, after test_from 5"):
        SplitRule(validation_from_ms=9, test_from_ms=5)
    with pytest.raises(ConfigError, match="leave_last goes without"):
        SplitRule(leave_last=True, test_from_ms=5)


def test_a_log_without_any_label_has_no_samples(tmp_path: Path) -> None:
    assert prepare_plain(tmp_path, [{**row, "label": None} for row in LOG]).samples == {}
    assert not (tmp_path / "out" / "samples").exists()


def test_an_attribute_that_events_and_items_have_is_the_events_or_where_it_is_missing_the_items(tmp_path: Path) -> None:
    brand = Categorical(name="brand", id_type="string")
    features = replace(PLAIN, item=(brand,), history=History(attributes=(brand,)))
    rows: Rows = [{"user": 1, "item_id": n, "timestamp_ms": T0 + n} for n in range(4)]
    for row, brand_of_event in zip(rows, ["own", None, "", "own"], strict=True):
        row["brand"] = brand_of_event
    del rows[3]["brand"]
    items = write([{"item_id": n, "brand": f"item's {n}"} for n in range(4)], tmp_path / "items.jsonl")
    inputs = RawInputs(log=(str(write(rows, tmp_path / "log.jsonl")),), entities={"item": str(items)})
    prepare_log(features, inputs, tmp_path / "out")
    stored = open_event_table(tmp_path / "out" / "events").attributes["brand"].tolist()
    assert stored == [string_key(text) for text in ("own", "item's 1", "item's 2", "item's 3")]


def test_a_path_that_exists_is_that_file_and_a_folders_name_says_nothing_about_rows(tmp_path: Path) -> None:
    for name, user in (("log[1].csv", 1), ("log1.csv", 2), ("a*b.csv", 3), ("axb.csv", 4)):
        write([{"user": user, "item_id": 1, "timestamp_ms": T0}], tmp_path / name)
    (tmp_path / "user=7").mkdir()
    write([{"user": 5, "item_id": 1, "timestamp_ms": T0}], tmp_path / "user=7" / "log.parquet")
    for given, expected, matched in (
        ("log[1].csv", [1], 0), ("a*b.csv", [3], 0), ("user=7", [5], 0), ("[la]*1.csv", [2], 1),
    ):  # fmt: skip
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        summary = prepare_log(PLAIN, RawInputs(log=(str(tmp_path / given),)), tmp_path / "out")
        assert open_event_table(tmp_path / "out" / "events").user_keys.tolist() == expected
        assert len(summary.matched) == matched and all("log1.csv" in line for line in summary.matched)


def test_an_error_after_rows_were_set_aside_says_so(tmp_path: Path) -> None:
    rows: Rows = [{**LOG[0], "label": 1}, {**LOG[1], "label": 1}, {**LOG[2], "label": 7}]
    with pytest.raises(InvalidInputError, match=r"label 1.*\. 1 rows were set aside before, in .*out\.rejected\.jsonl"):
        prepare_plain(tmp_path, rows)
    assert json.loads((tmp_path / "out.rejected.jsonl").read_text())["field"] == "label"


def test_a_view_and_a_click_of_one_moment_are_a_click(tmp_path: Path) -> None:
    views: Rows = [{"user": n % 3, "item_id": 1, "timestamp_ms": T0 + n, "action": "view"} for n in range(30)]
    clicks = [{**view, "action": "click"} for view in views if view["timestamp_ms"] % 4 == 0]
    rows = [*views, *clicks]
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        out = tmp_path / str(seed)
        out.mkdir()
        summary = prepare_plain(out, rows, label=parse_label("action==click"))
        assert (summary.events, summary.repeated) == (30, len(clicks))
        assert int(open_samples(out / "out" / "samples").label.sum()) == len(clicks)


def test_entities_none_of_whose_rows_fit_are_an_error_and_ids_without_a_file_are_marked(tmp_path: Path) -> None:
    priced = replace(PLAIN, item=(Numeric(name="price"),), context=())
    log = write(LOG, tmp_path / "log.csv")
    bad = write([{"item_id": "x", "price": 1}], tmp_path / "bad.csv")
    with pytest.raises(DataFileError, match=r"bad\.csv: no row fits\. 1 x 'item_id'"):
        prepare_log(priced, RawInputs(log=(str(log),), entities={"item": str(bad)}), tmp_path / "out")
    some = write([{"item_id": 11, "price": 1}], tmp_path / "some.csv")
    prepare_log(priced, RawInputs(log=(str(log),), entities={"item": str(some)}), tmp_path / "out")
    table = open_event_table(tmp_path / "out" / "events")
    assert dict(zip(table.item_keys.tolist(), table.given["item"].tolist(), strict=True)) == {
        10: False, 11: True, 12: False,
    }  # fmt: skip
    with pytest.raises(ConfigError, match="--unknown reject holds ids against --users and --items"):
        RawInputs(log=("x",), unknown="reject")


def test_a_declared_feature_without_a_value_and_many_rejected_rows_are_said(tmp_path: Path) -> None:
    rows: Rows = [{**row, "rating": 1.5 if n % 3 else row["rating"], "page": "x"} for n, row in enumerate(LOG)]
    summary = prepare_plain(tmp_path, rows, ignore=("page",))
    assert any("of 16 events do not fit" in line for line in summary.odd)
    assert any("'price' is declared, and no row of the events has a value" in line for line in summary.odd)
    assert not any("rating" in line for line in summary.odd)
