"""Proposals for logs: roles of columns, samples, times; what changes, what is an outcome, what cannot be placed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data.proposal import look
from recsys.data.proposal.ids import Role
from recsys.data.proposal.look import ROWS
from recsys.data.proposal.propose import Proposal, Told, propose
from recsys.errors import ConfigError, DataFileError
from recsys.features.feature_set import Categorical, FeatureSet, Numeric
from recsys.features.values import is_missing

ROW = 600
USERS, ITEMS = 30, 25
START = 1_600_000_000


def columns(**more: Callable[[int, int, int], Any]) -> dict[str, list[Any]]:
    """Columns of a log: user, item, time in seconds, and more, each a function of row, user and item."""
    draw = random.Random(0)
    rows = [(n, draw.randrange(USERS), draw.randrange(ITEMS)) for n in range(ROW)]
    base = {
        "user_id": [u for _, u, _ in rows],
        "item_id": [i for _, _, i in rows],
        "ts": [START + 60 * n for n, _, _ in rows],
    }
    return {**base, **{name: [make(*row) for row in rows] for name, make in more.items()}}


def as_csv(path: Path, table: Mapping[str, Sequence[Any]]) -> str:
    def text(value: Any) -> str:
        found = "|".join(map(str, value)) if isinstance(value, list) else "" if is_missing(value) else str(value)
        return f'"{found}"' if "," in found else found

    lines = [",".join(table), *(",".join(map(text, row)) for row in zip(*table.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def as_jsonl(path: Path, table: Mapping[str, Sequence[Any]]) -> str:
    rows = (dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def as_parquet(path: Path, table: Mapping[str, Sequence[Any]]) -> str:
    pq.write_table(pa.table(dict(table)), path, row_group_size=100)
    return str(path)


def proposed(tmp_path: Path, table: Mapping[str, Sequence[Any]], **told: Any) -> Proposal:
    return propose([as_csv(tmp_path / "log.csv", table)], "shop", Told(**told))


def role(proposal: Proposal, column: str) -> Role:
    return next(one for one in proposal.roles if one.column == column)


def role_of(tmp_path: Path, make: Callable[[int, int, int], Any], name: str = "x") -> Role:
    """Role of one more column."""
    return role(proposed(tmp_path, columns(**{name: make})), name)


SHOP = columns(
    brand=lambda n, u, i: f"brand {i % 4}",
    tags=lambda n, u, i: ["new", "red", "wool"][: 1 + i % 3],
    price=lambda n, u, i: 9.5 + i,
    city=lambda n, u, i: "Bonn" if u % 3 else "Kiel",
    age=lambda n, u, i: 20 + u,
    device=lambda n, u, i: ("phone", "tablet", "desktop")[n % 3],
    rating=lambda n, u, i: 1 + (n + i) % 5,
)


@pytest.mark.parametrize(
    ("ending", "write"),
    [("csv", as_csv), ("jsonl", as_jsonl), ("parquet", as_parquet)],
    ids=["csv", "jsonl", "parquet"],
)
def test_a_log_gives_the_same_feature_set_in_every_format(
    ending: str, write: Callable[[Path, Mapping[str, Sequence[Any]]], str], tmp_path: Path
) -> None:
    proposal = propose([write(tmp_path / f"log.{ending}", SHOP)], "shop", Told())
    brand = Categorical(name="brand", id_type="string")
    features = proposal.features
    assert features.user_id == Categorical(name="user_id") and features.item_id == Categorical(name="item_id")
    assert features.item == (brand, Categorical(name="tags", id_type="string", max_values=4), Numeric(name="price"))
    assert features.user == (Categorical(name="city", id_type="string"), Numeric(name="age"))
    assert features.context == (Categorical(name="device", id_type="string"),)
    assert features.history is not None
    assert features.history.attributes == (brand, Categorical(name="rating", storage="u8"))
    assert proposal.label.options == ("--label", "rating>=4")
    assert (proposal.reading.timestamp, proposal.reading.unit) == ("ts", "s")
    assert proposal.reading.ignored == ("tags", "price", "city", "age"), "they are in the files of items and users"
    assert (proposal.sample.rows, proposal.refused) == (ROW, 0)
    assert all(one.reason for one in proposal.roles)


def test_files_of_attributes_hold_each_entity_once_as_its_values_came(tmp_path: Path) -> None:
    proposal = proposed(tmp_path, SHOP)
    proposal.write_entities({"item": tmp_path / "items.jsonl", "user": tmp_path / "users.jsonl"})
    items = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    users = [json.loads(line) for line in (tmp_path / "users.jsonl").read_text().splitlines()]
    assert sorted(int(row["item_id"]) for row in items) == sorted(set(SHOP["item_id"]))
    assert sorted(int(row["user_id"]) for row in users) == sorted(set(SHOP["user_id"]))
    seven = next(row for row in items if row["item_id"] == "7")
    assert seven == {"item_id": "7", "brand": "brand 3", "tags": "new|red", "price": "16.5"}


def test_an_attribute_of_items_that_changes_is_left_out_unless_told_and_then_is_the_newest(tmp_path: Path) -> None:
    table = columns(price=lambda n, u, i: 10 + i + (i == 3 and n > 500))
    found = role(proposed(tmp_path, table), "price")
    assert found.role == "ignored" and f"{1 - 1 / ITEMS:.0%} of the items have always the same" in found.reason
    assert "--as price=item" in found.near
    shuffled = {name: values[::-1] for name, values in table.items()}  # the newest is not the last row
    proposal = proposed(tmp_path, shuffled, roles={"price": "item"})
    assert role(proposal, "price").role == "item" and "1 of" in role(proposal, "price").reason
    proposal.write_entities({"item": tmp_path / "items.jsonl"})
    rows = map(json.loads, (tmp_path / "items.jsonl").read_text().splitlines())
    assert {row["item_id"]: row["price"] for row in rows}["3"] == "14"


@pytest.mark.parametrize("first", ["older", "newer"])
def test_the_newest_value_is_taken_from_whichever_file_has_it(first: str, tmp_path: Path) -> None:
    later = "b" if first == "older" else "a"
    for name in ("a", "b"):
        moved = [moment + 86_400 * (name == later) for moment in columns()["ts"]]
        as_csv(
            tmp_path / f"{name}.csv", {**columns(price=lambda n, u, i, name=name: f"1{name == later:d}"), "ts": moved}
        )
    proposal = propose([str(tmp_path)], "shop", Told(roles={"price": "item"}))
    proposal.write_entities({"item": tmp_path / "items.jsonl"})
    assert {json.loads(line)["price"] for line in (tmp_path / "items.jsonl").read_text().splitlines()} == {"11"}
    assert f"{ITEMS} of {ITEMS} items have several values" in role(proposal, "price").reason


def test_what_changes_beyond_the_rows_looked_at_is_found_in_the_whole_log(tmp_path: Path) -> None:
    rows = 3 * ROWS
    lines = (f"{n % 50},{n % 19},{START + n},kind {(n % 19 + (n == rows // 3)) % 5}" for n in range(rows))
    (tmp_path / "log.csv").write_text("user_id,item_id,ts,kind\n" + "\n".join(lines) + "\n")
    proposal = propose([str(tmp_path / "log.csv")], "shop", Told())
    assert proposal.sample.rows < rows
    assert role(proposal, "kind").role == "ignored" and "it changes for 1 of 19 items" in role(proposal, "kind").reason
    assert proposal.entities == {} and proposal.reading.ignored == ("kind",)


@pytest.mark.parametrize(
    ("name", "make", "expected"),
    [
        ("city", lambda n, u, i: f"city {u % 5}" if n < 590 else "elsewhere", "context"),
        ("device_type", lambda n, u, i: 1 + (n % 297 == 0), "context"),
        ("hour", lambda n, u, i: n % 24, "context"),
        ("daytime", lambda n, u, i: ("day", "night")[n % 2], "context"),
        ("dwell_s", lambda n, u, i: n * 37 % 101 / 7, "ignored"),
        ("review_language", lambda n, u, i: f"language {n * n % 11}", "history"),
        ("event", lambda n, u, i: ("view", "cart", "purchase")[u % 3], "history"),
        ("product_type", lambda n, u, i: ("shoe", "hat", "tie")[n % 3], "history"),
        ("product_type", lambda n, u, i: ("shoe", "hat", "tie")[i % 3], "item, history"),
        ("tags", lambda n, u, i: [f"tag {i % 4}", "new"][:: 1 if n % 2 else -1], "item"),
        ("quantity", lambda n, u, i: 1 + n % 3, "ignored"),
        ("amount", lambda n, u, i: n * 13 % 900, "ignored"),
        ("x", lambda n, u, i: n * 37 % 101 / 7, "ignored"),
        ("x", lambda n, u, i: f"kind {n * n % 11}", "history"),
        ("x", lambda n, u, i: n * n % 11, "history"),
        ("session_id", lambda n, u, i: n // 3, "ignored"),
        ("x", lambda n, u, i: f"row {n}", "ignored"),
        ("x", lambda n, u, i: "always", "ignored"),
        ("x", lambda n, u, i: None, "ignored"),
        ("two words", lambda n, u, i: f"kind {i % 3}", "ignored"),
        ("label2", lambda n, u, i: f"kind {i % 3}", "item, history"),
        ("Timestamp", lambda n, u, i: f"kind {i % 3}", "ignored"),
        ("item", lambda n, u, i: f"kind {n * n % 11}", "ignored"),
        ("created_at", lambda n, u, i: START + 61 * n, "ignored"),
        ("arrival_ms", lambda n, u, i: START + 61 * n, "arrival"),
    ],
)  # fmt: skip
def test_a_column_has_the_role_that_its_values_and_its_name_give_it(
    name: str, make: Callable[[int, int, int], Any], expected: str, tmp_path: Path
) -> None:
    found = role_of(tmp_path, make, name)
    assert found.role == expected and found.reason


def test_an_outcome_is_never_context_unless_told(tmp_path: Path) -> None:
    table = columns(dwell_s=lambda n, u, i: n * 37 % 101 / 7)
    assert "--as dwell_s=context" in role(proposed(tmp_path, table), "dwell_s").near
    assert proposed(tmp_path, table, roles={"dwell_s": "context"}).features.context == (Numeric(name="dwell_s"),)
    with pytest.raises(ConfigError, match="--as dwell_s=history: numbers .* an event holds one id"):
        proposed(tmp_path, table, roles={"dwell_s": "history"})


def test_objects_and_mixed_types_are_left_out_by_name(tmp_path: Path) -> None:
    table = columns(page=lambda n, u, i: {"x": n % 3}, mixed=lambda n, u, i: (n % 3, "two")[n % 2])
    proposal = propose([as_jsonl(tmp_path / "log.jsonl", table)], "shop", Told())
    assert proposal.reading.ignored == ("page", "mixed") and proposal.refused == 0


@pytest.mark.parametrize(
    ("unit", "make"),
    [
        ("s", lambda n: START + n),
        ("s", lambda n: START + n + 0.25),
        ("ms", lambda n: (START + n) * 1000),
        ("us", lambda n: (START + n) * 10**6),
        ("ns", lambda n: (START + n) * 10**9),
        ("ms", lambda n: f"2026-01-{1 + n % 28:02}T12:00:{n % 60:02}+02:00"),
        ("ms", lambda n: f"2026-01-{1 + n % 28:02}"),
    ],
)
def test_the_unit_of_times_follows_from_their_size(unit: str, make: Callable[[int], Any], tmp_path: Path) -> None:
    table = {**columns(), "ts": [make(n) for n in range(ROW)]}
    proposal = proposed(tmp_path, table)
    assert (proposal.reading.timestamp, proposal.reading.unit, proposal.refused) == ("ts", unit, 0)


def test_times_in_quotes_are_times(tmp_path: Path) -> None:
    table = {**columns(), "ts": [str(START + n) for n in range(ROW)]}
    proposal = propose([as_jsonl(tmp_path / "log.jsonl", table)], "shop", Told())
    assert (proposal.reading.timestamp, proposal.reading.unit, proposal.refused) == ("ts", "s", 0)


@pytest.mark.parametrize("kind", ["s", "ms", "us", "ns", "date32"])
def test_typed_times_of_parquet_are_times(kind: str, tmp_path: Path) -> None:
    table = pa.table(columns())
    typed = table["ts"].cast(pa.timestamp("s")).cast(pa.date32() if kind == "date32" else pa.timestamp(kind))
    pq.write_table(table.set_column(2, "seen", typed), tmp_path / "log.parquet")
    proposal = propose([str(tmp_path / "log.parquet")], "shop", Told())
    assert proposal.reading.timestamp == "seen" and proposal.refused == 0


@pytest.mark.parametrize(
    ("name", "make", "options"),
    [
        ("label", lambda n, u, i: n % 2, ()),
        ("clicked", lambda n, u, i: n % 2, ("--label", "clicked==1")),
        ("is_click", lambda n, u, i: ("true", "false")[n % 2], ("--label", "is_click==1")),
        ("rating", lambda n, u, i: 1 + n % 10, ("--label", "rating>=8")),
        ("stars", lambda n, u, i: 0.5 + n % 10 / 2, ("--label", "stars>=4")),
        ("event", lambda n, u, i: ("impression", "click")[n % 2], ("--label", 'event=="click"')),
        ("event", lambda n, u, i: ("show", "click", "buy")[n % 3], ("--label", 'event!="show"')),
        ("event_type", lambda n, u, i: ("view", "cart", "purchase")[n % 3], ("--negatives", "4")),
        ("product_type", lambda n, u, i: ("shoe", "hat")[i % 2], ("--negatives", "4")),
        ("x", lambda n, u, i: n % 2, ("--negatives", "4")),
    ],
)
def test_samples_come_from_what_the_log_says_of_takes(
    name: str, make: Callable[[int, int, int], Any], options: tuple[str, ...], tmp_path: Path
) -> None:
    proposal = proposed(tmp_path, columns(**{name: make}))
    assert proposal.label.options == options and proposal.refused == 0
    if name in ("clicked", "event", "event_type"):
        assert "history" in role(proposal, name).role
    if name in ("stars", "label"):
        assert role(proposal, name).role == "label"


@pytest.mark.parametrize(
    ("make", "id_type"),
    [
        (lambda n: n % 30, "int"),
        (lambda n: f"{n % 30}.0", "int"),
        (lambda n: f"{n % 30:05}", "string"),
        (lambda n: 10**19 + n % 30, "string"),
        (lambda n: f"u{n % 30}", "string"),
    ],
)
def test_ids_are_integers_only_if_nothing_of_their_text_is_lost(
    make: Callable[[int], Any], id_type: str, tmp_path: Path
) -> None:
    proposal = proposed(tmp_path, {**columns(), "user_id": [make(n) for n in range(ROW)]})
    assert proposal.features.user_id.id_type == id_type and proposal.refused == 0


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("userId", "movieId", "timestamp"), ("userId", "movieId", "timestamp")),
        (("visitorid", "itemid", "time"), ("visitorid", "itemid", "time")),
        (("CustomerID", "StockCode", "InvoiceDate"), ("CustomerID", "StockCode", "InvoiceDate")),
        (("reviewerID", "asin", "unixReviewTime"), ("reviewerID", "asin", "unixReviewTime")),
        (("user", "song", "a"), ("user", "song", "a")),
    ],
)
def test_common_names_of_ids_and_times_are_known(
    names: tuple[str, str, str], found: tuple[str, str, str], tmp_path: Path
) -> None:
    proposal = proposed(tmp_path, dict(zip(names, columns().values(), strict=True)))
    features = proposal.features
    assert (features.user_id.name, features.item_id.name, proposal.reading.timestamp) == found


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("who", "item_id", "ts"), r"no column looks like the user's id \(who, item_id\): pass --user COLUMN"),
        (("user_id", "what", "ts"), "no column looks like the item's id .* pass --item COLUMN"),
    ],
)
def test_what_cannot_be_found_is_named_with_the_option_to_pass(
    names: tuple[str, str, str], message: str, tmp_path: Path
) -> None:
    table = dict(zip(names, columns().values(), strict=True))
    with pytest.raises(ConfigError, match=message):
        proposed(tmp_path, table)
    told = {"user": names[0], "item": names[1]}
    features = proposed(tmp_path, table, **told).features
    assert (features.user_id.name, features.item_id.name) == names[:2]


def test_a_log_without_plausible_times_is_refused_with_the_values_that_are_none(tmp_path: Path) -> None:
    table = columns()
    for values in ([f"{1 + n % 12}/1/2010 8:26" for n in range(ROW)], list(range(ROW))):
        with pytest.raises(
            ConfigError, match="no column looks like the time .* 'ts': .* is no plausible time; allowed"
        ):
            proposed(tmp_path, {**table, "ts": values})


def test_rows_that_do_not_fit_the_draft_are_counted(tmp_path: Path) -> None:
    table = columns()
    table["ts"][5] = 17
    proposal = proposed(tmp_path, table)
    assert proposal.refused == 1 and "'ts' is '17'" in proposal.reasons[0] and "(1 rows)" in proposal.reasons[0]


def test_files_of_several_formats_and_files_without_rows_are_refused(tmp_path: Path) -> None:
    as_csv(tmp_path / "a.csv", columns())
    as_jsonl(tmp_path / "b.jsonl", columns())
    with pytest.raises(DataFileError, match="several formats"):
        propose([str(tmp_path)], "shop", Told())
    (tmp_path / "b.jsonl").write_text("\n")
    with pytest.raises(DataFileError, match="no row to look at"):
        propose([str(tmp_path / "b.jsonl")], "shop", Told())


def test_the_readable_json_is_the_feature_set(tmp_path: Path) -> None:
    from recsys.data.proposal.document import readable_json

    features = proposed(tmp_path, SHOP).features
    assert FeatureSet.from_json(readable_json(features)) == features


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_of_a_large_file_the_middle_and_the_end_are_looked_at_too(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look, "_HEAD_BYTES", 4_000)
    monkeypatch.setattr(look, "_PART_BYTES", 2_000)
    file = {"csv": as_csv, "jsonl": as_jsonl}[ending](tmp_path / f"log.{ending}", columns())
    places = [(int(value) - START) // 60 for value in look.look([file]).columns["ts"]]
    assert places[0] == 0 and places[-1] == ROW - 1 and len(places) < ROW
    assert any(0.4 * ROW < place < 0.6 * ROW for place in places)
    assert len(set(places)) == len(places)


def test_both_models_that_find_candidates_by_history_are_named_if_there_is_one(tmp_path: Path) -> None:
    from recsys.data.proposal.document import page

    proposal = proposed(tmp_path, SHOP)
    line = "    recsys train two_tower data.dataset=./shop --run-dir runs/shop-retrieval\n"
    assert line in page(proposal, tmp_path / "shop.json", {})
    assert line.replace("two_tower", "linear") in page(proposal, tmp_path / "shop.json", {})
    bare = replace(proposal, features=replace(proposal.features, history=None))
    assert "two_tower" not in page(bare, tmp_path / "shop.json", {})
