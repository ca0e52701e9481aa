"""What an event may hold: whole batches are checked at once, and only what is wrong is refused."""

from __future__ import annotations

from typing import Any

import pytest
from support.ingest_log import EVENTS, T0_MS, make_log, packed

from recsys.errors import InvalidInputError
from recsys.features.feature_set import Categorical, FeatureSet, History
from recsys.features.hashing import string_key
from recsys.ingest.records import decode
from recsys.ingest.source import RawBatch
from recsys.rows.contract import ReadOptions, event_rows
from recsys.rows.text import parse_json

CONTRACT = event_rows(EVENTS)
NOW_MS = T0_MS + 1_000_000
GOOD: dict[str, Any] = {"user_id": 1, "item_id": 2, "timestamp_ms": T0_MS, "arrival_ms": T0_MS, "rating": 3, "genre": 4}


def batch_of(rows: list[dict[str, Any]]) -> RawBatch:
    return RawBatch(
        source="test",
        contract=CONTRACT,
        columns=CONTRACT.raw_columns(rows),
        length=len(rows),
        read_ms=NOW_MS,
        locate=lambda i: (i, rows[i]),
    )


def test_good_events_are_packed_as_they_are() -> None:
    rows = make_log(500)
    decoded = decode(EVENTS, CONTRACT, batch_of(rows), future_tolerance_s=0)
    assert decoded.refused == []
    assert decoded.events.tobytes() == packed(rows).tobytes()
    assert decoded.user_keys.tolist() == [row["user_id"] for row in rows]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"user_id": None}, "'user_id' is missing"),
        ({"user_id": -1}, "'user_id' is missing"),
        ({"item_id": None}, "'item_id' is missing"),
        ({"item_id": ""}, "'item_id' is missing"),
        ({"user_id": "x"}, "'user_id' is 'x'; allowed: a 64-bit integer"),
        ({"user_id": 1.5}, "'user_id' is 1.5; allowed: a 64-bit integer"),
        ({"user_id": 1 << 63}, "'user_id' is 9223372036854775808; allowed: a 64-bit integer, from -2^63"),
        ({"item_id": [1]}, "'item_id' is [1]; allowed: a 64-bit integer"),
        ({"rating": 255}, "'rating' is 255; allowed: 0 to 254, which is what its storage holds"),
        ({"genre": "jazz"}, "'genre' is 'jazz'; allowed: a 64-bit integer"),
        ({"timestamp_ms": None}, "'timestamp_ms' is missing"),
        ({"timestamp_ms": float("nan")}, "'timestamp_ms' is missing"),
        ({"timestamp_ms": True}, "'timestamp_ms' is True; allowed: milliseconds since 1970, or ISO 8601"),
        ({"timestamp_ms": "yesterday"}, "'timestamp_ms' is 'yesterday'; allowed: milliseconds since 1970, or ISO 8601"),
        ({"timestamp_ms": -5}, "'timestamp_ms' is -5; allowed: times from 1973-03-03T09:46:40Z to 2023-11-14T22:30:"),
        ({"timestamp_ms": T0_MS // 1000}, "counted in milliseconds it is 1970-01-20T16:13:20Z: is it in seconds?"),
        ({"timestamp_ms": T0_MS * 1000}, "is it in microseconds?"),
        ({"timestamp_ms": NOW_MS + 10_001}, "allowed: times from 1973-03-03T09:46:40Z to 2023-11-14T22:30:10Z"),
        ({"arrival_ms": NOW_MS + 10_001}, "'arrival_ms' is 1700001010001; allowed: times from"),
        ({"timestamp_ms": 10**30}, "'timestamp_ms' is 1000"),
    ],
)
@pytest.mark.parametrize("place", [0, 137, 299])
def test_one_bad_event_is_refused_and_the_others_are_not(change: dict[str, Any], reason: str, place: int) -> None:
    rows = make_log(300)
    rows[place] = {**GOOD, **change}
    decoded = decode(EVENTS, CONTRACT, batch_of(rows), future_tolerance_s=10)
    ((index, told),) = decoded.refused
    assert index == place and reason in str(told)
    others = rows[:place] + rows[place + 1 :]
    assert decoded.events.tobytes() == packed(others).tobytes()
    assert decoded.kept.tolist() == [i for i in range(300) if i != place]


def test_of_columns_with_many_kinds_of_mistakes_each_row_is_told() -> None:
    rows = [GOOD, {**GOOD, "user_id": None}, {**GOOD, "rating": 999}, {**GOOD, "timestamp_ms": -1}] * 20
    decoded = decode(EVENTS, CONTRACT, batch_of(rows), future_tolerance_s=10)
    assert [index for index, _ in decoded.refused] == [i for i in range(80) if i % 4]
    assert len(decoded.events) == 20
    nothing = decode(EVENTS, CONTRACT, batch_of(rows[1:2]), future_tolerance_s=10)
    assert (len(nothing.events), len(nothing.user_keys), len(nothing.refused)) == (0, 0, 1)


def test_an_event_arrives_when_it_is_read_unless_it_says_so() -> None:
    rows = [GOOD, {**GOOD, "arrival_ms": None}]
    assert decode(EVENTS, CONTRACT, batch_of(rows), future_tolerance_s=0).events["arrival"].tolist() == [T0_MS, NOW_MS]
    rows = [{name: value for name, value in GOOD.items() if name != "arrival_ms"}]
    assert decode(EVENTS, CONTRACT, batch_of(rows), future_tolerance_s=0).events["arrival"].tolist() == [NOW_MS]


def test_string_ids_are_keyed_as_everywhere() -> None:
    features = FeatureSet(
        name="texts",
        user_id=Categorical(name="user_id", id_type="string"),
        item_id=Categorical(name="item_id", id_type="string"),
        history=History(),
    )
    columns: dict[str, Any] = {"user_id": ["ann", 7, "", "bob"], "item_id": ["x"] * 4, "timestamp_ms": [T0_MS] * 4}
    contract = event_rows(features)
    batch = RawBatch(
        source="test", contract=contract, columns=columns, length=4, read_ms=NOW_MS, locate=lambda i: (i, None)
    )
    decoded = decode(features, contract, batch, future_tolerance_s=0)
    assert decoded.user_keys.tolist() == [string_key("ann"), string_key("bob")]
    assert decoded.events["item"].tolist() == [string_key("x")] * 2
    assert [index for index, _ in decoded.refused] == [1, 2]


@pytest.mark.parametrize(
    "change",
    [
        {"user_id": "1"},
        {"user_id": 1.0},
        {"user_id": " 1.0 "},
        {"user_id": True},
        {"timestamp_ms": str(T0_MS)},
        {"timestamp_ms": float(T0_MS)},
        {"timestamp_ms": "2023-11-14T22:13:20Z"},
        {"timestamp_ms": "2023-11-14 23:13:20.000+01:00"},
        {"rating": "3"},
        {"rating": 3.0},
    ],
)
def test_one_value_has_many_forms(change: dict[str, Any]) -> None:
    decoded = decode(EVENTS, CONTRACT, batch_of([{**GOOD, **change}]), future_tolerance_s=0)
    assert decoded.refused == [] and decoded.user_keys.tolist() == [1]
    assert decoded.events.tobytes() == packed([GOOD]).tobytes()


@pytest.mark.parametrize("nothing", [None, "", float("nan"), -1])
def test_an_attribute_without_a_value_is_missing(nothing: Any) -> None:
    decoded = decode(EVENTS, CONTRACT, batch_of([{**GOOD, "rating": nothing}]), future_tolerance_s=0)
    assert decoded.events.tobytes() == packed([{**GOOD, "rating": None}]).tobytes()


def test_a_field_that_nothing_declares_is_named() -> None:
    with pytest.raises(InvalidInputError, match="field 'ratting' is not declared: did you mean 'rating'?"):
        CONTRACT.check_names({**GOOD, "ratting": 1})
    event_rows(EVENTS, ReadOptions(ignore_unknown=True)).check_names({**GOOD, "ratting": 1})


@pytest.mark.parametrize("text", [b"", b"{", b"nan", b"[1]", b'"x"', b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_told(text: bytes) -> None:
    with pytest.raises(InvalidInputError, match="not JSON|expected a JSON object"):
        parse_json(text)
