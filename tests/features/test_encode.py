"""Raw values to model inputs: what goes where, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recsys.errors import InvalidInputError
from recsys.features.columns import feature_column, feature_keys, missing_column
from recsys.features.encode import EncodedRequest, encode_request
from recsys.features.entities import make_columns
from recsys.features.feature_set import Categorical, FeatureSet, History, Numeric
from recsys.features.hashing import MISSING, string_key
from recsys.features.history.records import make_events

SHOP = FeatureSet(
    name="shop",
    user_id=Categorical(name="user_id"),
    item_id=Categorical(name="item_id"),
    user=(Categorical(name="city", id_type="string"), Numeric(name="age", default=40.0)),
    item=(Categorical(name="tags", max_values=2),),
    context=(Categorical(name="hour"), Categorical(name="queries", id_type="string", max_values=2)),
    history=History(attributes=(Categorical(name="rating", storage="u8"),), recent=2),
)


def encode(**changes: Any) -> EncodedRequest:
    arguments: dict[str, Any] = {
        "user_key": 7,
        "user_columns": {},
        "request_values": {},
        "events": None,
        "item_keys": np.array([10, 20, 30]),
        "item_columns": {},
    }
    return encode_request(SHOP, **{**arguments, **changes})


def test_a_request_with_nothing_known_is_all_missing() -> None:
    request = encode()
    assert {name: column.tolist() for name, column in request.user.items()} == {
        "user_id": [7],
        "city": [MISSING],
        "age": [40.0],
        "hour": [MISSING],
        "queries": [[MISSING, MISSING]],
        "history.item_id": [MISSING],
        "history.rating": [MISSING],
    }
    assert {name: column.tolist() for name, column in request.candidates.items()} == {
        "item_id": [10, 20, 30],
        "tags": [[MISSING, MISSING]] * 3,
    }
    assert request.history_events == 0


def test_what_is_stored_for_other_releases_is_passed_over() -> None:
    others = {"hour": np.array([0.5], dtype=np.float32), "bias": np.array([1.0], dtype=np.float32)}
    request = encode(user_columns=others, item_columns={"boost": np.ones(3, dtype=np.float32)})
    assert request.user["hour"].tolist() == [MISSING] and "bias" not in request.user
    assert set(request.candidates) == {"item_id", "tags"}


def test_stored_features_are_used_and_the_request_overrides_them() -> None:
    stored = make_columns(SHOP.user, {"city": ["Oslo"], "age": [30]}, length=1)
    request = encode(user_columns=stored, request_values={"city": ["Rome"], "queries": ["a"], "hour": [9]})
    assert request.user["city"].tolist() == [string_key("Rome")]
    assert request.user["age"].tolist() == [30.0]
    assert request.user["queries"].tolist() == [[string_key("a"), MISSING]]
    assert request.user["hour"].tolist() == [9]


def test_an_empty_value_in_the_request_means_missing_even_if_one_is_stored() -> None:
    stored = make_columns(SHOP.user, {"city": ["Oslo"], "age": [30]}, length=1)
    request = encode(user_columns=stored, request_values={"city": [], "age": []})
    assert request.user["city"].tolist() == [MISSING]
    assert request.user["age"].tolist() == [40.0]


def test_only_the_recent_events_are_read() -> None:
    events = make_events(SHOP, item=[1, 2, 3], timestamp_ms=[1, 2, 3], attributes={"rating": [5, 4, None]})
    request = encode(events=events)
    assert request.history_events == 2
    assert request.user["history.item_id"].tolist() == [2, 3]
    assert request.user["history.rating"].tolist() == [4, MISSING]


def test_an_empty_history_is_no_event_but_one_missing_row() -> None:
    request = encode(events=make_events(SHOP, item=[], timestamp_ms=[]))
    assert request.history_events == 0
    assert request.user["history.item_id"].tolist() == [MISSING]


def test_candidates_keep_their_order_and_their_columns() -> None:
    columns = make_columns(SHOP.item, {"tags": [[1], [2, 3], None]}, length=3)
    request = encode(item_columns=columns)
    assert request.candidates["tags"].tolist() == [[1, MISSING], [2, 3], [MISSING, MISSING]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cty": ["Oslo"]}, "unknown feature 'cty': did you mean 'city'\\? valid: age, city, hour, queries"),
        ({"tags": [1]}, "unknown feature 'tags': "),
        ({"city": [3]}, "'city' is 3; allowed: text of up to 4,096 bytes of UTF-8; a number is none: quote it"),
        ({"city": ["a\ud800"]}, "'city' is .*; allowed: text .* without lone surrogates"),
        ({"hour": ["nine"]}, "'hour' is 'nine'; allowed: a 64-bit integer"),
        ({"hour": [9.5]}, "'hour' is 9.5; allowed: a 64-bit integer"),
        ({"hour": [2**63]}, "'hour' is 9223372036854775808; allowed: a 64-bit integer, from -2\\^63"),
        ({"age": ["old"]}, "'age' is 'old'; allowed: a finite float32 number"),
        ({"age": [1e39]}, r"'age' is 1e\+39; allowed: a finite float32 number"),
        ({"age": [10**400]}, r"'age' is 10+\.\.\. \(401 characters\); allowed: a finite float32 number"),
        ({"age": [float("-inf")]}, "'age' is -inf; allowed: a finite float32 number"),
        ({"hour": [1, 2]}, "feature 'hour': 2 values; allowed: at most 1"),
        ({"queries": ["a", "b", "c"]}, r"'queries' is \['a', 'b', 'c'\]; allowed: at most 2 ids, not 3"),
    ],
)
def test_a_bad_request_value_is_refused_with_a_reason(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        encode(request_values=values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"hour": ["9"]}, 9),
        ({"hour": [True]}, 1),
        ({"hour": [9.0]}, 9),
        ({"hour": [""]}, MISSING),
        ({"age": [True]}, 1.0),
        ({"age": ["30"]}, 30.0),
        ({"age": [float("nan")]}, 40.0),
    ],
)
def test_a_request_value_is_taken_as_in_a_file(values: dict[str, Any], expected: float) -> None:
    assert encode(request_values=values).user[next(iter(values))].tolist() == [expected]


INTEGER, STRING = Categorical(name="n"), Categorical(name="s", id_type="string")


def test_integer_ids_of_any_type_have_keys() -> None:
    smallest, largest = -(1 << 63), (1 << 63) - 1
    keys = feature_keys(INTEGER, [largest, np.int16(3), -2, None, smallest])
    assert keys.tolist() == [string_key(str(largest)), 3, string_key("-2"), MISSING, string_key(str(smallest))]
    assert feature_keys(INTEGER, np.array([3, -2], dtype=np.int8)).tolist() == keys[1:3].tolist()


@pytest.mark.parametrize("values", [[5, -1, None], (5, np.int8(-1), None), np.array([5, -1, -1], dtype=np.int16)])
def test_minus_one_is_a_missing_integer(values: Any) -> None:
    assert feature_keys(INTEGER, values).tolist() == [5, MISSING, MISSING]


@pytest.mark.parametrize("values", [[(1 << 64) - 1], np.array([(1 << 64) - 1], dtype=np.uint64), [1 << 70]])
def test_an_integer_of_more_than_64_bits_is_refused(values: Any) -> None:
    with pytest.raises(InvalidInputError, match="allowed: a 64-bit integer, from -2.63 to 2.63 - 1; longer ids are"):
        feature_keys(INTEGER, values)


def test_the_empty_text_is_missing() -> None:
    text = Categorical(name="text", id_type="string", max_values=2)
    assert feature_keys(text, [["a", ""], [""]]).tolist() == [[string_key("a"), MISSING], [MISSING, MISSING]]
    assert feature_keys(INTEGER, [""]).tolist() == [MISSING]
    with pytest.raises(InvalidInputError, match="'text' is -1; allowed: text"):
        feature_keys(text, [[-1]])


def test_numpy_strings_are_strings() -> None:
    assert feature_keys(STRING, np.array(["a", "b"])).tolist() == [string_key("a"), string_key("b")]


@pytest.mark.parametrize("values", [np.array([True]), np.array([1.0]), [np.bool_(True)], [1.0], ["1"], [" 1.0 "]])
def test_booleans_whole_floats_and_their_texts_are_integer_ids(values: Any) -> None:
    assert feature_keys(INTEGER, values).tolist() == [1]


@pytest.mark.parametrize("values", [[b"1"], np.array([1.5]), ["1.5"], [2.0**53 + 2], ["0x1"], ["1_0"], [[1]]])
def test_bytes_fractions_and_inexact_floats_are_no_integer_ids(values: Any) -> None:
    with pytest.raises(InvalidInputError, match="'n' is .*; allowed: a 64-bit integer"):
        feature_keys(INTEGER, values)


def test_a_matrix_is_no_column() -> None:
    for feature in (INTEGER, Numeric(name="x")):
        with pytest.raises(InvalidInputError, match=r"one value per row, got an array of shape \[2, 3\]"):
            feature_column(feature, np.zeros((2, 3), dtype=np.int64))


def test_an_array_number_too_large_for_float32_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"'x' is 1e\+39; allowed: a finite float32 number \(row 1\)"):
        feature_column(Numeric(name="x"), np.array([1.0, 1e39]))


@pytest.mark.parametrize("given", [[None, 1], [float("nan"), 1], np.array([np.nan, 1.0]), np.array([np.nan, 1], "f4")])
def test_a_number_that_is_none_or_nan_is_its_default_or_stays_missing(given: Any) -> None:
    assert feature_column(Numeric(name="x", default=2.5), given).tolist() == [2.5, 1.0]
    np.testing.assert_array_equal(feature_column(Numeric(name="x"), given), [np.nan, 1.0])
    np.testing.assert_array_equal(missing_column(Numeric(name="x"), 2), [np.nan, np.nan])


def test_multi_valued_rows_are_padded_with_missing() -> None:
    tags = Categorical(name="tags", max_values=3)
    rows = feature_keys(tags, [[1, 2], None, [], np.array([5]), (6, None)])
    assert rows.tolist() == [
        [1, 2, MISSING],
        [MISSING] * 3,
        [MISSING] * 3,
        [5, MISSING, MISSING],
        [6, MISSING, MISSING],
    ]
