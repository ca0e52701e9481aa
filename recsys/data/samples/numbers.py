"""Transforms of a data set's numeric features, fitted to its training samples and to nothing else.

A sample counts once: a user's age, or an item's price, as often as it is in the training samples.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from recsys.arrays import Float32Array
from recsys.data.samples.dataset import Dataset
from recsys.embeddings.tables import ITEM
from recsys.features.feature_set import Numeric
from recsys.features.number_transform import NumberTransform, fit_number

MOST_SAMPLES = 1 << 20
"""Training samples that are looked at; of more, as many that are spread evenly."""


def fit_numbers(dataset: Dataset) -> dict[str, NumberTransform]:
    """Fit every numeric feature of the user, the context and the item; by the name of a model's input."""
    return {name: fit_number(feature, values_M) for name, feature, values_M in training_numbers(dataset)}


def training_numbers(dataset: Dataset) -> Iterator[tuple[str, Numeric, Float32Array]]:
    """Input name, feature, and its values in the training samples, [M], one feature after another."""
    features, train = dataset.table.features, dataset.split("train")
    if len(train) > MOST_SAMPLES:
        train = train[np.linspace(0, len(train) - 1, MOST_SAMPLES).astype(np.int64)]
    sides = (
        ("", features.user, dataset.user, dataset.sample_user),
        ("", features.context, dataset.context, dataset.context_row),
        (ITEM, features.item, dataset.item, dataset.sample_item),
    )
    for prefix, declared, columns, rows in sides:
        for feature in declared:
            if isinstance(feature, Numeric):
                yield f"{prefix}{feature.name}", feature, columns[feature.name][rows[train]]
