"""Ids to keys and keys to rows: exact, in int64, and spread as the theory says."""

from __future__ import annotations

import re

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from support.paths import DOCS

from recsys.features.columns import feature_keys
from recsys.features.feature_set import Categorical
from recsys.features.hashing import (
    KEY_LIMIT,
    MISSING,
    PRIME,
    hash_coefficients,
    hash_keys,
    integer_key,
    integer_keys,
    string_key,
    string_keys,
)

SPEC = (DOCS / "specs/ids.md").read_text()
KEYS = st.integers(0, KEY_LIMIT - 1)
EDGES = [0, 1, PRIME - 1, PRIME, PRIME + 1, (1 << 31) * PRIME, KEY_LIMIT - 1, KEY_LIMIT >> 1]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_string_key_is_xxh3_of_utf8_shifted_by_2(text: str) -> None:
    assert string_key(text) == xxhash.xxh3_64_intdigest(text.encode("utf-8")) // 4
    assert 0 <= string_key(text) < KEY_LIMIT


def test_even_a_lone_surrogate_has_a_key() -> None:
    assert 0 <= string_key("\ud800") < KEY_LIMIT


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_an_integer_is_its_own_key_or_that_of_its_decimal_text(value: int) -> None:
    expected = value if 0 <= value < KEY_LIMIT else string_key(f"{value:d}")
    assert integer_key(value) == expected
    assert integer_keys(np.array([value, 1])).tolist() == [expected, 1]


@given(st.integers(0, (1 << 64) - 1))
def test_unsigned_integers_have_the_same_keys(value: int) -> None:
    assert integer_keys(np.array([value], dtype=np.uint64)).tolist() == [integer_key(value)]


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.uint8, np.uint16, np.uint32])
def test_small_integer_types_become_int64_keys(dtype: type) -> None:
    keys = integer_keys(np.array([[0, 100]], dtype=dtype))
    assert keys.dtype == np.int64 and keys.tolist() == [[0, 100]]


def test_integer_keys_do_not_write_to_their_argument() -> None:
    values = np.array([-5, 5])
    integer_keys(values)
    assert values.tolist() == [-5, 5]


def test_string_keys_are_those_of_each_string() -> None:
    assert string_keys(["a", "", "a"]).tolist() == [string_key("a"), string_key(""), string_key("a")]


@given(
    st.lists(st.sampled_from(EDGES) | KEYS, min_size=1, max_size=20),
    st.integers(0, 1 << 32),
    st.integers(1, PRIME),
)
def test_the_row_equals_exact_integer_arithmetic(keys: list[int], seed: int, rows: int) -> None:
    (coefficients,) = hash_coefficients(seed, 1)
    a1, a2, b = (int(c) for c in coefficients)
    expected = [((a1 * (k % 2**31) + a2 * (k // 2**31) + b) % PRIME) % rows for k in keys]
    assert hash_keys(np.array(keys), coefficients, rows).tolist() == expected


def test_nothing_leaves_int64_at_the_largest_values() -> None:
    largest = np.array([PRIME - 1, PRIME - 1, PRIME - 1])
    keys = np.array(EDGES)
    expected = [(((PRIME - 1) * (k % 2**31) + (PRIME - 1) * (k // 2**31) + PRIME - 1) % PRIME) % 1000 for k in EDGES]
    assert hash_keys(keys, largest, 1000).tolist() == expected


def test_missing_hashes_like_key_0() -> None:
    (coefficients,) = hash_coefficients(0, 1)
    rows = hash_keys(np.array([[MISSING, 0]]), coefficients, 10)
    assert rows.shape == (1, 2) and rows[0, 0] == rows[0, 1]


def test_coefficients_are_in_range_distinct_and_fixed_by_the_seed() -> None:
    coefficients = hash_coefficients(7, 1000)
    assert coefficients.shape == (1000, 3) and coefficients.dtype == np.int64
    assert (coefficients[:, :2] >= 1).all() and (coefficients >= 0).all() and (coefficients < PRIME).all()
    assert len(np.unique(coefficients)) > 2990
    np.testing.assert_array_equal(coefficients, hash_coefficients(7, 1000))
    np.testing.assert_array_equal(coefficients[:3], hash_coefficients(7, 3))


@pytest.mark.parametrize("pair", [(0, 1), (5, 5 + (1 << 31)), (1, KEY_LIMIT - 1), (1000, 2000)])
def test_over_random_functions_two_keys_collide_as_often_as_chance(pair: tuple[int, int]) -> None:
    rows, functions = 50, 20_000
    same = [len(set(hash_keys(np.array(pair), c, rows).tolist())) == 1 for c in hash_coefficients(1, functions)]
    mean, deviation = functions / rows, (functions / rows) ** 0.5
    assert abs(sum(same) - mean) < 4 * deviation


def test_consecutive_keys_fill_rows_evenly() -> None:
    counts = np.bincount(hash_keys(np.arange(100_000), hash_coefficients(3, 1)[0], 100), minlength=100)
    assert counts.min() > 800 and counts.max() < 1200


def test_the_specification_shows_these_keys_and_rows() -> None:
    examples = re.findall(r'^\| ("?)([\w-]+)"? \| (\d+) \|$', SPEC, re.MULTILINE)
    assert len(examples) == 5
    for quoted, raw, key in examples:
        assert int(key) == (string_key(raw) if quoted else integer_key(int(raw)))
    shown = re.search(r"^\| (\d+) \| (\d+) \| (\d+) \|$", SPEC, re.MULTILINE)
    assert shown is not None
    (first,) = hash_coefficients(0, 1)
    assert [int(n) for n in shown.groups()] == first.tolist()
    row = re.search(r"the key (\d+) is in row (\d+) of (\d+)", SPEC)
    assert row is not None
    key, expected, rows = (int(n) for n in row.groups())
    assert hash_keys(np.array([key]), first, rows).tolist() == [expected]


def test_the_specification_says_what_is_missing() -> None:
    assert '| -1, "" (the empty string), nothing | none: a missing value |' in SPEC
    for raw, feature in ((-1, Categorical(name="x")), ("", Categorical(name="x", id_type="string"))):
        assert feature_keys(feature, [raw]).tolist() == [MISSING]
