"""Rows by attributes: one-hot columns, the mean of several values, numbers as they are transformed."""

from __future__ import annotations

import numpy as np

from recsys.features.feature_set import Categorical, Numeric
from recsys.features.hashing import MISSING
from recsys.features.number_transform import NumberTransform
from recsys.models.retrieval.attributes import AttributeRows, Encoding

FEATURES = (Categorical(name="brand"), Categorical(name="tags", max_values=3), Numeric(name="size", default=None))
ENCODING = Encoding(
    features=FEATURES,
    keys={"brand": np.array([3, 7]), "tags": np.array([1, 2, 9])},
    numbers={"size": NumberTransform(kind="standardise", centre=1.0, scale=2.0)},
)


def test_a_row_is_the_sum_of_what_the_items_values_add() -> None:
    weights_PR = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    made = AttributeRows(encoding=ENCODING, weights_PR=weights_PR, base_R=np.ones(4, dtype=np.float32))
    columns = {
        "brand": np.array([7, 5, MISSING]),
        "tags": np.array([[9, 1, MISSING], [4, 2, MISSING], [MISSING] * 3]),
        "size": np.array([5.0, np.nan, 1.0], dtype=np.float32),
    }
    rows_AR, known_A = made.rows(columns, 3)
    expected = np.ones((3, 4))
    expected[0] += weights_PR[1] + (weights_PR[4] + weights_PR[2]) / 2 + 8 * weights_PR[5]
    expected[1] += weights_PR[3] / 2  # an unknown tag counts among the item's tags, and adds nothing
    np.testing.assert_allclose(rows_AR, expected, rtol=1e-5)
    assert known_A.tolist() == [3, 1, 1]
    np.testing.assert_array_equal(made.weights_of(FEATURES[1]), weights_PR[2:5])
    absent, known_A = made.rows({}, 2)
    assert known_A.tolist() == [0, 0] and np.allclose(absent, 1.0)
