"""The packed event record: round trips, refusals, and bytes that never change.

``python tests/features/history/test_records.py`` writes the golden file anew: only right together with a new
``FORMAT_VERSION`` and a reader for the old one.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.paths import TESTS

from recsys.errors import InvalidInputError, StoreFormatError
from recsys.features.feature_set import Categorical, FeatureSet, History, Numeric
from recsys.features.hashing import KEY_LIMIT, MISSING, string_key
from recsys.features.history.records import (
    HEADER,
    MAX_TIME_MS,
    Events,
    HistoryHeader,
    attribute_keys,
    encode_history,
    event_dtype,
    layout_fingerprint,
    make_events,
    pack_header,
    unpack_events,
    unpack_header,
    upgrade_events,
)

GOLDEN = TESTS / "golden" / "history_v1.bin"


def feature_set(*attributes: Categorical, **changes: Any) -> FeatureSet:
    given = {
        "name": "shop",
        "user_id": Categorical(name="user_id"),
        "item_id": Categorical(name="item_id"),
        "history": History(attributes=attributes),
    }
    return FeatureSet(**{**given, **changes})


RATING = Categorical(name="rating", storage="u8")
SHOP = feature_set(
    Categorical(name="genre", id_type="string"),
    Categorical(name="page", storage="i32"),
    RATING,
)


HEADER_FIELDS = HistoryHeader(
    chunk=109,
    rewritten=7,
    appended=1 << 40,
    trimmed=(1 << 40) - 3,
    trimmed_until_ms=-1,
    newest_ms=MAX_TIME_MS,
)


def golden_events() -> Events:
    return make_events(
        SHOP,
        item=[1, KEY_LIMIT - 1, 3],
        timestamp_ms=[0, 1_700_000_000_000, MAX_TIME_MS],
        arrival_ms=[5, 1_700_000_000_001, MAX_TIME_MS],
        attributes={"genre": ["drama", None, "été"], "page": [0, (1 << 31) - 1, None], "rating": [254, None, 0]},
    )


def golden_bytes() -> bytes:
    return pack_header(SHOP, HEADER_FIELDS) + golden_events().tobytes()


def test_the_bytes_are_those_of_version_1() -> None:
    assert golden_bytes() == GOLDEN.read_bytes()


def test_the_bytes_of_version_1_read_back() -> None:
    data = GOLDEN.read_bytes()
    assert unpack_header(SHOP, data) == (HEADER_FIELDS, event_dtype(SHOP))
    assert unpack_events(SHOP, data[HEADER.size :]).tolist() == golden_events().tolist()


TIMES = st.integers(0, MAX_TIME_MS)
EVENT = st.tuples(
    st.integers(0, KEY_LIMIT - 1),
    TIMES,
    TIMES,
    st.none() | st.text(max_size=5),
    st.none() | st.integers(0, (1 << 31) - 1),
    st.none() | st.integers(0, 254),
)


@given(st.lists(EVENT, max_size=20))
def test_packed_events_unpack_to_what_went_in(rows: list[tuple[Any, ...]]) -> None:
    item, timestamp, arrival, genre, page, rating = ([r[i] for r in rows] for i in range(6))
    attributes = {"genre": genre, "page": page, "rating": rating}
    events = make_events(
        SHOP,
        item=item,
        timestamp_ms=np.array(timestamp, dtype=np.int64),
        arrival_ms=np.array(arrival, dtype=np.int64),
        attributes=attributes,
    )
    again = unpack_events(SHOP, events.tobytes())
    assert [again[name].tolist() for name in ("item", "timestamp", "arrival")] == [item, timestamp, arrival]
    assert SHOP.history is not None
    keys = [attribute_keys(a, again).tolist() for a in SHOP.history.attributes]
    assert keys == [
        [string_key(g) if g else MISSING for g in genre],
        [MISSING if p is None else p for p in page],
        [MISSING if r is None else r for r in rating],
    ]


@given(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1))
def test_a_packed_header_unpacks_to_its_counters(a: int, b: int) -> None:
    appended, trimmed = max(a, b), min(a, b)
    header = HistoryHeader(chunk=1, appended=appended, trimmed=trimmed)
    data = pack_header(SHOP, header)
    assert len(data) == 56
    assert unpack_header(SHOP, data) == (header, event_dtype(SHOP))


def test_a_record_is_24_bytes_and_its_attributes() -> None:
    assert event_dtype(SHOP).itemsize == 24 + 8 + 4 + 1
    assert event_dtype(SHOP).names == ("item", "timestamp", "arrival", "genre", "page", "rating")


def test_without_arrival_an_event_arrives_when_it_happens() -> None:
    assert make_events(SHOP, item=[1], timestamp_ms=[7])["arrival"].tolist() == [7]


def test_unpacking_does_not_copy() -> None:
    data = golden_events().tobytes()
    assert np.shares_memory(unpack_events(SHOP, data), np.frombuffer(data, dtype=np.uint8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"item": [1], "timestamp_ms": [-1]}, r"timestamp_ms\[0\] is -1; allowed: 0 to 253402300799999"),
        (
            {"item": [1, 2], "timestamp_ms": [1, 1_700_000_000_000_000]},
            r"timestamp_ms\[1\] is 1700000000000000; allowed: 0 to 253402300799999 \(milliseconds",
        ),
        ({"item": [1], "timestamp_ms": [1], "arrival_ms": [-2]}, r"arrival_ms\[0\] is -2"),
        ({"item": [1], "timestamp_ms": [1.5]}, "timestamp_ms: expected 1 integers .* float64"),
        ({"item": [1], "timestamp_ms": [True]}, "timestamp_ms: expected 1 integers .* bool"),
        ({"item": [1], "timestamp_ms": [1, 2]}, r"expected 1 integers .* got shape \[2\]"),
        ({"item": [1, 2], "timestamp_ms": [[1], [2, 3]]}, "timestamp_ms: expected 2 integers: "),
        ({"item": [1, None], "timestamp_ms": [1, 2]}, "event 1: 'item_id' is missing"),
        ({"item": ["x"], "timestamp_ms": [1]}, "'item_id' is 'x'; allowed: a 64-bit integer"),
        (
            {"item": [1], "timestamp_ms": [1], "attributes": {"stars": [1]}},
            "history attribute 'stars' is not declared; allowed: genre, page, rating",
        ),
        (
            {"item": [1], "timestamp_ms": [1], "attributes": {"rating": [1, 2]}},
            "history attribute 'rating': 2 values for 1 events",
        ),
        (
            {"item": [1], "timestamp_ms": [1], "attributes": {"rating": [255]}},
            "value 255 does not fit its storage 'u8'; allowed: 0 to 254",
        ),
        (
            {"item": [1], "timestamp_ms": [1], "attributes": {"page": [1 << 31]}},
            "value 2147483648 does not fit its storage 'i32'; allowed: 0 to 2147483647",
        ),
    ],
)
def test_bad_events_are_refused_with_a_reason(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make_events(SHOP, **arguments)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "k: not a history: expected a 56-byte header that starts with b'RSH1', found 0 bytes"),
        (b"hello" * 12, "found 60 bytes starting with b'hell'"),
        (struct.pack("<4sH50x", b"RSH1", 2), "k: history format 2, but this program reads up to 1: upgrade"),
        (pack_header(feature_set(RATING), HistoryHeader(chunk=1)), "k: events were stored with another layout"),
        (pack_header(SHOP, HistoryHeader(chunk=1, appended=1, trimmed=2)), "corrupt header: 2 events trimmed of 1"),
        (pack_header(SHOP, HistoryHeader(chunk=0)), "k: corrupt header: .* 0 events in a chunk"),
    ],
)
def test_a_foreign_header_is_refused_by_name(data: bytes, message: str) -> None:
    with pytest.raises(StoreFormatError, match=message):
        unpack_header(SHOP, data, key="k")


def test_a_header_from_before_an_attribute_was_added_is_read_with_its_layout() -> None:
    assert SHOP.history is not None
    older = feature_set(*SHOP.history.attributes[:2])
    header = HistoryHeader(chunk=9, appended=1, newest_ms=5)
    assert unpack_header(SHOP, pack_header(older, header)) == (header, event_dtype(older))
    events = make_events(older, item=[4], timestamp_ms=[5], attributes={"page": [6]})
    assert upgrade_events(SHOP, events).tolist() == [(4, 5, 5, MISSING, 6, 255)]


def test_a_torn_record_is_refused() -> None:
    with pytest.raises(StoreFormatError, match="k: 36 bytes of events are not a multiple of the 37-byte"):
        unpack_events(SHOP, bytes(36), key="k")


def test_the_layout_changes_with_the_record_and_with_nothing_else() -> None:
    assert SHOP.history is not None
    same = feature_set(
        *SHOP.history.attributes, name="other", user=(Numeric(name="age"),), context=(Numeric(name="hour"),)
    )
    assert layout_fingerprint(same) == layout_fingerprint(SHOP)
    different = [
        feature_set(),
        feature_set(RATING),
        feature_set(Categorical(name="rating", storage="i32")),
        feature_set(Categorical(name="stars", storage="u8")),
        feature_set(Categorical(name="rating")),
        feature_set(Categorical(name="rating", id_type="string")),
        feature_set(RATING, item_id=Categorical(name="item_id", id_type="string")),
    ]
    assert len({layout_fingerprint(f) for f in (SHOP, *different)}) == 1 + len(different)


def test_an_encoded_history_has_a_column_per_attribute() -> None:
    columns = encode_history(SHOP, golden_events())
    assert {name: column.tolist() for name, column in columns.items()} == {
        "history.item_id": [1, KEY_LIMIT - 1, 3],
        "history.genre": [string_key("drama"), MISSING, string_key("été")],
        "history.page": [0, (1 << 31) - 1, MISSING],
        "history.rating": [254, MISSING, 0],
    }
    assert all(column.dtype == np.int64 for column in columns.values())


@pytest.mark.parametrize("events", [None, make_events(SHOP, item=[], timestamp_ms=[])])
def test_an_empty_history_is_one_missing_event(events: Events | None) -> None:
    columns = encode_history(SHOP, events)
    assert sorted(columns) == ["history.genre", "history.item_id", "history.page", "history.rating"]
    assert all(column.tolist() == [MISSING] for column in columns.values())


def test_a_value_that_does_not_fit_is_shown_as_it_was_sent() -> None:
    for values in ([1, -7], np.array([1, -7])):
        with pytest.raises(InvalidInputError, match="'rating': value -7 does not fit its storage 'u8'"):
            make_events(SHOP, item=[1, 2], timestamp_ms=[1, 2], attributes={"rating": values})


if __name__ == "__main__":
    GOLDEN.write_bytes(golden_bytes())
