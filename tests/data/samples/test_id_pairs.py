"""The pairs of a graph are the ids of two tables in each positive sample."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.data.log.event_table import EventTable
from recsys.data.samples.dataset import Dataset, make_dataset
from recsys.data.samples.id_pairs import id_pairs
from recsys.data.samples.stored import Samples
from recsys.errors import InvalidInputError
from recsys.features.hashing import string_key

LABELS = [1, 0, 1, 1, 1]


@pytest.fixture
def dataset(shop_table: EventTable) -> Dataset:
    """Events by user, then time: (10, item 7), (10, 5), (10, 6), (30, 5), (30, 7); the second is negative."""
    samples = Samples(position=np.arange(5), label=np.array(LABELS, dtype=np.uint8), splits={})
    return make_dataset(shop_table, samples)


def pairs(dataset: Dataset, indices: list[int], left: str, right: str) -> list[tuple[int, int]]:
    left_E, right_E = id_pairs(dataset, np.array(indices), left=left, right=right)
    return list(zip(left_E.tolist(), right_E.tolist(), strict=True))


def test_a_pair_is_the_two_ids_of_a_positive_sample_in_the_samples_order(dataset: Dataset) -> None:
    assert pairs(dataset, [0, 1, 2, 3, 4], "user", "item_id") == [(10, 7), (10, 6), (30, 5), (30, 7)]
    assert pairs(dataset, [4, 0, 0], "item_id", "user") == [(7, 30), (7, 10), (7, 10)]


def test_features_of_the_user_the_item_and_the_context_count(dataset: Dataset) -> None:
    assert pairs(dataset, [0, 2], "city", "hour") == [(string_key("Bonn"), 10), (string_key("Bonn"), 9)]
    assert pairs(dataset, [0, 3], "brand", "user") == [(3, 10), (1, 30)]


def test_a_sample_without_one_of_the_ids_is_no_pair(dataset: Dataset) -> None:
    # Item 6 has no brand.
    assert pairs(dataset, [0, 2, 3], "user", "brand") == [(10, 3), (30, 1)]
    with pytest.raises(InvalidInputError, match="graph of 'user' and 'brand': no positive sample has ids of both"):
        pairs(dataset, [2], "user", "brand")


@pytest.mark.parametrize("indices", [[], [1]])
def test_nothing_positive_is_refused(dataset: Dataset, indices: list[int]) -> None:
    chosen = np.array(indices, dtype=np.int64)
    with pytest.raises(InvalidInputError, match="graph of 'user' and 'item_id': no positive sample has ids of both"):
        id_pairs(dataset, chosen, left="user", right="item_id")


@pytest.mark.parametrize("table", ["tag", "action", "nonsense"])
def test_a_table_of_many_values_or_of_events_alone_is_refused(dataset: Dataset, table: str) -> None:
    with pytest.raises(InvalidInputError, match=f"table '{table}' has no single-valued feature of the user, the item"):
        pairs(dataset, [0], "user", table)


def test_impressions_bring_the_context_of_the_sample(dataset: Dataset) -> None:
    shown = replace(dataset, context={"hour": np.array([1, 2, 3, 4, 5])}, context_row=np.arange(5))
    assert pairs(shown, [4, 3], "hour", "user") == [(5, 30), (4, 30)]
