"""A column of ids becomes codes whose rows are those of its ids, whatever the map."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recsys.arrays import Int64Array
from recsys.data.samples.row_codes import encode_ids
from recsys.embeddings.row_maps.frequency import frequency_hash
from recsys.embeddings.row_maps.hashing import hash_rows
from recsys.embeddings.row_maps.vocabulary import vocabulary
from recsys.errors import InvalidInputError
from recsys.features.hashing import KEY_LIMIT, MISSING

keys = st.one_of(st.just(MISSING), st.integers(0, 30), st.integers(0, KEY_LIMIT - 1))
shapes = st.one_of(st.tuples(st.integers(0, 8)), st.tuples(st.integers(0, 5), st.integers(1, 3)))
columns = st.dictionaries(st.text(max_size=3), hnp.arrays(np.int64, shapes, elements=keys), max_size=4)

IDS = np.arange(20)
LOOKUPS = {
    "one row": vocabulary("t", IDS, IDS + 1, min_count=5).lookup,
    "two rows": frequency_hash("t", IDS, IDS, rows=7, functions=2).lookup,
    "three rows": hash_rows("t", rows=4, functions=3).lookup,
}


@pytest.mark.parametrize("map_name", LOOKUPS)
@given(columns)
def test_the_rows_of_a_code_are_those_of_its_id(map_name: str, columns: dict[str, Int64Array]) -> None:
    lookup = LOOKUPS[map_name]
    codes, rows_TK = encode_ids("t", columns, lookup)
    assert set(codes) == set(columns)
    for name, column in columns.items():
        assert codes[name].shape == column.shape and codes[name].dtype == np.int32
        np.testing.assert_array_equal(codes[name] == MISSING, column == MISSING)
        present = column != MISSING
        np.testing.assert_array_equal(rows_TK[codes[name][present]], lookup(column[present]))


@pytest.mark.parametrize("map_name", LOOKUPS)
@given(columns)
def test_no_two_codes_have_the_same_rows_and_code_0_is_the_missing_id(
    map_name: str, columns: dict[str, Int64Array]
) -> None:
    lookup = LOOKUPS[map_name]
    codes, rows_TK = encode_ids("t", columns, lookup)
    assert rows_TK.dtype == np.int64
    assert len(np.unique(rows_TK, axis=0)) == len(rows_TK)
    if codes:  # a lookup of no keys has its number of columns, too
        assert rows_TK[0].tolist() == [0] * lookup(IDS).shape[1]
    present = [column[column != MISSING] for column in columns.values()]
    wanted = {tuple(row) for each in present for row in lookup(each).tolist()}
    assert {tuple(row) for row in rows_TK.tolist()} == wanted | {tuple(rows_TK[0].tolist())}, "and none is unused"


def test_an_id_is_looked_up_once_however_many_columns_and_rows_hold_it() -> None:
    asked: list[int] = []

    def lookup(keys: Int64Array) -> Int64Array:
        asked.extend(keys.tolist())
        return keys[:, None]

    encode_ids("t", {"a": np.array([7, 7, MISSING]), "b": np.array([[9, 7], [MISSING, 9]])}, lookup)
    assert asked == [7, 9]


def test_an_unknown_id_has_code_0_and_a_missing_one_stays_missing() -> None:
    codes, _ = encode_ids("t", {"a": np.array([3, 77, MISSING])}, vocabulary("t", np.array([3]), np.array([1])).lookup)
    assert codes["a"].tolist() == [1, 0, MISSING]


def test_ids_at_both_ends_of_the_range_are_told_apart() -> None:
    column = np.array([0, KEY_LIMIT - 1, MISSING, KEY_LIMIT - 2, 1])
    lookup = vocabulary("t", column[column != MISSING], np.array([4, 3, 2, 1])).lookup
    codes, rows_TK = encode_ids("t", {"a": column}, lookup)
    assert rows_TK[codes["a"]][[0, 1, 3, 4], 0].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("lookup", "message"),
    [
        (lambda keys: keys, r"lookup of table 't': .* of shape \[2, lookups\], got shape \[2\] of int64"),
        (lambda keys: keys[:1, None], r"expected integers of shape \[2, lookups\], got shape \[1, 1\] of int64"),
        (lambda keys: keys[:, None] / 2, r"expected integers of shape \[2, lookups\], got shape \[2, 1\] of float64"),
        (lambda keys: np.array([[1, 0], [2, -1]]), r"lookup of table 't': row -1; allowed: 0 or more"),
    ],
)
def test_a_lookup_that_returns_no_rows_is_refused(lookup: object, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        encode_ids("t", {"a": np.array([5, 6, MISSING])}, lookup)  # type: ignore[arg-type]
