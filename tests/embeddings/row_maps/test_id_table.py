"""The static hash table is a dict, whatever the keys."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recsys.embeddings.row_maps.id_table as module
from recsys.arrays import Int64Array
from recsys.embeddings.row_maps.id_table import EMPTY, LOAD, SLOTS, build_id_table
from recsys.errors import InvalidInputError
from recsys.features.hashing import KEY_LIMIT, MISSING, PRIME, hash_coefficients, hash_keys

keys_in_range = st.one_of(st.integers(0, 40), st.integers(0, KEY_LIMIT - 1), st.just(KEY_LIMIT - 1))


def rows_for(keys: Int64Array) -> Int64Array:
    return np.arange(1, len(keys) + 1, dtype=np.int64)


@settings(max_examples=200, deadline=None)
@given(st.lists(keys_in_range, unique=True, max_size=120), st.lists(keys_in_range, max_size=20), st.integers(0, 5))
def test_it_answers_what_a_dict_answers(keys: list[int], asked: list[int], seed: int) -> None:
    rows = [3 * i + 1 for i in range(len(keys))]
    table = build_id_table(np.array(keys, dtype=np.int64), np.array(rows, dtype=np.int64), seed=seed)
    reference = dict(zip(keys, rows, strict=True))
    every = np.array([*keys, *asked, MISSING, EMPTY], dtype=np.int64)
    assert table.lookup(every).tolist() == [reference.get(int(key), 0) for key in every]


@pytest.mark.parametrize("keys", [[], [0], [KEY_LIMIT - 1], [0, KEY_LIMIT - 1]])
def test_few_keys_and_both_ends_of_the_range_are_found(keys: list[int]) -> None:
    given_keys = np.array(keys, dtype=np.int64)
    table = build_id_table(given_keys, rows_for(given_keys))
    assert table.lookup(given_keys).tolist() == list(range(1, len(keys) + 1))
    assert table.lookup(np.array([1, KEY_LIMIT - 2, MISSING])).tolist() == [0, 0, 0]


@pytest.mark.parametrize("spread", ["consecutive", "random", "same low half"])
def test_two_hundred_thousand_keys_are_all_found(spread: str) -> None:
    n = 200_000
    random = np.random.Generator(np.random.PCG64(2))
    keys = {
        "consecutive": np.arange(n),
        "random": np.unique(random.integers(0, KEY_LIMIT, size=n)),
        "same low half": np.arange(n) << 31,
    }[spread]
    table = build_id_table(keys, rows_for(keys))
    np.testing.assert_array_equal(table.lookup(keys), rows_for(keys))
    assert len(keys) / table.keys_TW.size == pytest.approx(LOAD, abs=1e-3)


def test_the_same_keys_and_seed_give_the_same_table() -> None:
    keys = np.arange(1000, dtype=np.int64) ** 2
    first, second = build_id_table(keys, rows_for(keys), seed=3), build_id_table(keys, rows_for(keys), seed=3)
    for name, array in first.arrays().items():
        np.testing.assert_array_equal(array, second.arrays()[name])
    assert not np.array_equal(first.coefficients, build_id_table(keys, rows_for(keys), seed=4).coefficients)


def test_keys_chosen_against_a_seed_are_placed_with_another() -> None:
    keys = keys_that_share_both_buckets()
    table = build_id_table(keys, rows_for(keys), seed=0)
    assert not np.array_equal(table.coefficients, hash_coefficients(0, 2))
    np.testing.assert_array_equal(table.lookup(keys), rows_for(keys))


def test_running_out_of_seeds_is_an_error_not_a_table_with_keys_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_SEEDS", 1)
    keys = keys_that_share_both_buckets()
    with pytest.raises(AssertionError, match="no placement of 40 keys in 8 buckets after 1 seeds"):
        build_id_table(keys, rows_for(keys), seed=0)


def keys_that_share_both_buckets() -> Int64Array:
    """40 keys, which get 2 * 4 buckets of 8 slots; 20 of them have the same two buckets, 16 slots, under seed 0."""
    coefficients = hash_coefficients(0, 2)
    candidates = np.arange(5000, dtype=np.int64)
    first, second = (hash_keys(candidates, c, 4) for c in coefficients)
    together = (first == 0) & (second == 0)
    keys = np.concatenate([candidates[together][: 2 * SLOTS + 4], candidates[~together][:20]])
    assert len(keys) == 40
    return keys


@given(st.integers(1, 3000))
def test_a_table_has_room_for_its_capacity_and_one_of_that_capacity_has_its_shape(room: int) -> None:
    none = np.zeros(0, dtype=np.int64)
    table = build_id_table(none, none, capacity=room)
    assert room <= table.capacity < room + 2 * SLOTS
    assert build_id_table(none, none, capacity=table.capacity).keys_TW.shape == table.keys_TW.shape


def test_tables_of_one_capacity_have_one_shape_and_the_same_hashes() -> None:
    few, many = (np.arange(n, dtype=np.int64) for n in (3, 400))
    first, second = (build_id_table(keys, rows_for(keys), capacity=400) for keys in (few, many))
    assert first.keys_TW.shape == second.keys_TW.shape and first.size_bytes == second.size_bytes
    np.testing.assert_array_equal(first.coefficients, second.coefficients)
    assert first.lookup(many).tolist() == [1, 2, 3] + [0] * 397


def test_more_keys_than_the_capacity_are_refused() -> None:
    keys = np.arange(5, dtype=np.int64)
    with pytest.raises(InvalidInputError, match="id table: 5 keys; allowed: 4, the capacity it was built for"):
        build_id_table(keys, rows_for(keys), capacity=4)


def test_room_for_more_keys_than_the_hash_has_buckets_is_refused() -> None:
    keys, most = np.arange(5, dtype=np.int64), int(2 * SLOTS * LOAD * PRIME)
    with pytest.raises(InvalidInputError, match=f"id table: room for {most + 100:,} keys; allowed: {most:,}"):
        build_id_table(keys, rows_for(keys), capacity=most + 100)


@given(st.dictionaries(keys_in_range, st.integers(1, 1 << 40), max_size=60))
def test_the_entries_are_what_was_put_in_by_rising_key(given_rows: dict[int, int]) -> None:
    keys, rows = (np.array(list(each), dtype=np.int64) for each in (given_rows, given_rows.values()))
    found_keys, found_rows = build_id_table(keys, rows).entries()
    assert dict(zip(found_keys.tolist(), found_rows.tolist(), strict=True)) == given_rows
    assert found_keys.tolist() == sorted(given_rows)


def test_its_size_is_that_of_its_keys_and_rows() -> None:
    table = build_id_table(np.arange(100), rows_for(np.arange(100)))
    assert table.size_bytes == 8 * 2 * table.keys_TW.size == table.keys_TW.nbytes + table.rows_TW.nbytes


def test_repeated_and_out_of_range_keys_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="id table: 2 keys are given more than once"):
        build_id_table(np.array([5, 5, 5, 6]), np.arange(1, 5))
    for bad in (-1, KEY_LIMIT):
        with pytest.raises(InvalidInputError, match=rf"id table: key {bad} is out of range; allowed: 0 to 2\^62 - 1"):
            build_id_table(np.array([3, bad]), np.arange(1, 3))
