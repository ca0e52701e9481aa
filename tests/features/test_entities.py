"""The packed entity row: round trips, refusals, and bytes that never change.

``python tests/features/test_entities.py`` writes the golden file anew: only right together with a new
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
from recsys.features.entities import entity_dtype, make_columns, pack_rows, row_header, unpack_rows
from recsys.features.feature_set import Categorical, Feature, Numeric
from recsys.features.hashing import KEY_LIMIT, MISSING

GOLDEN = TESTS / "golden" / "entity_v1.bin"
FEATURES = (
    Categorical(name="brand", id_type="string"),
    Categorical(name="tags", max_values=3),
    Numeric(name="price", default=-1.5),
)


def golden_rows() -> list[bytes]:
    values = {"brand": ["acme", None], "tags": [[1, KEY_LIMIT - 1], []], "price": [9.75, None]}
    return pack_rows(FEATURES, make_columns(FEATURES, values, length=2))


def test_the_bytes_are_those_of_version_1() -> None:
    assert b"".join(golden_rows()) == GOLDEN.read_bytes()


def test_the_bytes_of_version_1_read_back() -> None:
    data = GOLDEN.read_bytes()
    columns = unpack_rows(FEATURES, [data[: len(data) // 2], data[len(data) // 2 :]])
    assert columns["tags"].tolist() == [[1, KEY_LIMIT - 1, MISSING], [MISSING] * 3]
    assert columns["price"].tolist() == [9.75, -1.5]
    assert columns["brand"][1] == MISSING


def test_a_row_is_8_bytes_and_its_features() -> None:
    assert entity_dtype(FEATURES).itemsize == 8 + 8 + 3 * 8 + 4


def test_a_feature_may_be_called_header() -> None:
    features = (Categorical(name="header"),)
    (row,) = pack_rows(features, make_columns(features, {"header": [5]}, length=1))
    assert unpack_rows(features, [row])["header"].tolist() == [5]


ENTITY = st.tuples(
    st.none() | st.text(max_size=4),
    st.none() | st.lists(st.integers(0, KEY_LIMIT - 1), max_size=3),
    st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@given(st.lists(st.none() | ENTITY, max_size=12))
def test_rows_unpack_to_the_columns_packed_and_unknown_ones_are_missing(
    entities: list[tuple[Any, ...] | None],
) -> None:
    blank = (None, None, None)
    names = ("brand", "tags", "price")
    values = {name: [(e or blank)[i] for e in entities] for i, name in enumerate(names)}
    columns = make_columns(FEATURES, values, length=len(entities))
    packed = pack_rows(FEATURES, columns)
    stored = [None if e is None else row for e, row in zip(entities, packed, strict=True)]
    again = unpack_rows(FEATURES, stored)
    assert set(again) == set(names)
    for name in names:
        assert again[name].dtype == columns[name].dtype
        np.testing.assert_array_equal(again[name], columns[name])


def test_absent_features_are_missing() -> None:
    columns = make_columns(FEATURES, {}, length=2)
    assert columns["brand"].tolist() == [MISSING, MISSING]
    assert columns["tags"].tolist() == [[MISSING] * 3] * 2
    assert columns["price"].tolist() == [-1.5, -1.5]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prices": [1]}, "unknown feature 'prices': did you mean 'price'\\? valid: brand, price, tags"),
        ({"brand": ["a", "b"]}, "feature 'brand': 2 values for 1 entities"),
        ({"brand": [3]}, "'brand' is 3; allowed: text of up to 4,096 bytes of UTF-8; a number is none: quote it"),
        ({"brand": ["é" * 2049]}, "'brand' is .*; allowed: text of up to 4,096 bytes of UTF-8, not 4,098"),
        ({"tags": [[1, 2, 3, 4]]}, r"'tags' is \[1, 2, 3, 4\]; allowed: at most 3 ids, not 4"),
        ({"tags": ["1|2|3|4"]}, r"'tags' is '1\|2\|3\|4'; allowed: at most 3 ids, not 4"),
        ({"tags": ["[1, 2"]}, r"'tags' is '\[1, 2'; allowed: ids with \| between them, or a list in JSON"),
        ({"tags": [[1, "ab"]]}, "'tags' is 'ab'; allowed: a 64-bit integer"),
        ({"tags": [[[1]]]}, r"'tags' is \[1\]; allowed: a 64-bit integer"),
        ({"price": [float("inf")]}, "'price' is inf; allowed: a finite float32 number"),
    ],
)
def test_bad_values_are_refused_with_a_reason(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make_columns(FEATURES, values, length=1)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (7, [7, MISSING, MISSING]),
        ("7", [7, MISSING, MISSING]),
        ("7|8", [7, 8, MISSING]),
        ("[7, 8]", [7, 8, MISSING]),
        ([7, None, "", float("nan"), 8], [7, 8, MISSING]),
        ("7||8|", [7, 8, MISSING]),
        ([None, 1, None, 2, None, 3], [1, 2, 3]),
        ([], [MISSING] * 3),
        ("", [MISSING] * 3),
    ],
)
def test_a_list_of_ids_has_many_forms_and_missing_ones_are_left_out(tags: Any, expected: list[int]) -> None:
    assert make_columns(FEATURES, {"tags": [tags]}, length=1)["tags"].tolist() == [expected]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b"junk", "item row 1: not an entity row: expected bytes that start with b'RE', found b'ju'"),
        (b"", "item row 1: not an entity row: .* found b''"),
        (struct.pack("<2sH", b"RE", 2) + bytes(40), "item row 1: row format 2, .* reads up to 1: upgrade it"),
        (b"RE\x01\x00abcd" + bytes(36), "item row 1: stored with other features"),
        (row_header(FEATURES) + bytes(35), "item row 1: 43 bytes, expected 44"),
    ],
)
def test_a_foreign_row_is_refused_by_name(row: bytes, message: str) -> None:
    with pytest.raises(StoreFormatError, match=message):
        unpack_rows(FEATURES, [None, row], entity="item")


def test_the_row_layout_changes_with_names_types_and_counts() -> None:
    variants: list[tuple[Feature, ...]] = [
        (Categorical(name="a"),),
        (Categorical(name="b"),),
        (Categorical(name="a", id_type="string"),),
        (Categorical(name="a", max_values=2),),
        (Numeric(name="a"),),
        (Numeric(name="a"), Numeric(name="b")),
        (Numeric(name="b"), Numeric(name="a")),
    ]
    assert len({row_header(v) for v in variants}) == len(variants)
    assert row_header((Numeric(name="a", default=3.0),)) == row_header((Numeric(name="a"),))


if __name__ == "__main__":
    GOLDEN.write_bytes(b"".join(golden_rows()))


def test_a_missing_number_without_a_default_stays_missing() -> None:
    features = (Numeric(name="a"), Numeric(name="b", default=2.0))
    rows = pack_rows(features, make_columns(features, {"a": [1.5, None], "b": [None, 3.0]}, length=2))
    columns = unpack_rows(features, [*rows, None])
    np.testing.assert_array_equal(columns["a"], [1.5, np.nan, np.nan])
    assert columns["b"].tolist() == [2.0, 3.0, 2.0]
