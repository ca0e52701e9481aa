"""Vocabulary: the contract of every row map, and what is its own."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from contracts.row_map_contract import *  # noqa: F403

from recsys.embeddings.row_maps import Vocabulary, build_vocabulary
from recsys.errors import InvalidInputError
from recsys.features.hashing import KEY_LIMIT, Int64Array


@pytest.fixture(scope="module")
def known() -> Int64Array:
    random = np.random.Generator(np.random.PCG64(1))
    small, large = random.integers(0, 5000, size=2000), random.integers(0, KEY_LIMIT, size=2000)
    return np.unique(np.concatenate([small, large, [0, KEY_LIMIT - 1]]))


@pytest.fixture(scope="module")
def unknown(known: Int64Array) -> Int64Array:
    return np.setdiff1d(np.concatenate([known + 1, np.arange(5000)]), known)


@pytest.fixture(scope="module")
def row_map(known: Int64Array) -> Vocabulary:
    return build_vocabulary(known, np.arange(len(known)) % 5 + 1)


@pytest.fixture(scope="module")
def from_arrays() -> Callable[[Any], Vocabulary]:
    return Vocabulary.from_arrays


def test_every_frequent_id_has_a_row_of_its_own(row_map: Vocabulary, known: Int64Array) -> None:
    assert sorted(row_map.lookup(known)) == list(range(1, len(known) + 1))
    assert row_map.num_rows == len(known) + 1


def test_rows_are_in_order_of_falling_count_then_rising_id() -> None:
    vocabulary = build_vocabulary(np.array([9, 4, 7, 1]), np.array([2, 5, 2, 3]))
    assert vocabulary.lookup(np.array([4, 1, 7, 9])).tolist() == [1, 2, 3, 4]


def test_ids_below_min_count_share_row_0() -> None:
    vocabulary = build_vocabulary(np.array([1, 2, 3]), np.array([3, 2, 1]), min_count=3)
    assert vocabulary.lookup(np.array([1, 2, 3])).tolist() == [1, 0, 0]
    assert vocabulary.num_rows == 2


def test_a_vocabulary_of_nothing_has_the_unknown_row() -> None:
    empty = build_vocabulary(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    assert empty.num_rows == 1
    assert empty.lookup(np.array([0, 5, -1])).tolist() == [0, 0, 0]
    assert empty.module()(torch.tensor([[0, 5]])).tolist() == [[0, 0]]  # noqa: F405


def test_min_count_below_one_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="min_count is 0; allowed: 1 or more"):
        build_vocabulary(np.array([1]), np.array([1]), min_count=0)
