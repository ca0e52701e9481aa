"""Rows of items by their attributes, fitted to those of the items that a closed form has learnt.

Ridge regression of each item's row, what it adds to a user's vector and what that is multiplied with, on its
attributes. Its weight is that with the smallest error on items that were held out of the fit.

What a regression explains little of it predicts close to the mean: such items would score below all learnt ones and be
in no list. So what an item is multiplied with gets the length by which held-out items have their share of the places
(``new_items/length.py``; ``benchmarks/retrieval_models.py --only cold`` measures it).

Legend: ``M`` items, ``F`` fitted items, ``R`` columns of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from recsys.arrays import BoolArray, Float32Array, Int64Array
from recsys.data.interactions.pairs import Interactions, ids_of
from recsys.features.columns import Column
from recsys.features.feature_set import Categorical, Feature
from recsys.features.number_transform import NumberTransform, fit_number, transforms_from_dict, transforms_to_dict
from recsys.models.retrieval.attributes import AttributeRows, Encoding
from recsys.models.retrieval.ridge import ridge
from recsys.training.retrieval.new_items.length import Length

ENOUGH_PAIRS = 5
"""Training pairs of an item from which its row is fitted to: rows of fewer are mostly chance."""

LEAST_ITEMS = 20
"""Items with so many pairs below which those with fewer are fitted to, too."""

MOST_VALUES = 20_000
"""Most values of all attributes together; the rarest beyond are not read."""

LEAST_EXPLAINED = 0.01
"""Share of held-out items' rows that attributes must explain: rows by those that do not are chance."""

WEIGHTS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
HELD_OUT = 0.1


def fit_item_rows(
    rows_MR: Float32Array,
    pairs_M: Float32Array,
    interactions: Interactions,
    *,
    notes: list[str],
    length_of: Callable[[Int64Array, Float32Array], Length] = lambda items, rows: Length(),
    report: Callable[[int, int], None] = lambda done, of: None,
) -> AttributeRows | None:
    """Fit rows to attributes; None where items have none, or, and a note says so, none that tells of their rows.

    Args:
        rows_MR: of all items.
        pairs_M: training pairs of each.
        interactions: with the attributes.
        notes: gets a sentence on what was fitted and left out.
        length_of: chooses the length of what new items are multiplied with, by some items and predictions of their
            rows.
        report: called with the fits done, and all.
    """
    features = ids_of(interactions).features.item
    if not features:
        return None
    fitted_M = pairs_M >= ENOUGH_PAIRS
    if np.count_nonzero(fitted_M) < LEAST_ITEMS:
        fitted_M = pairs_M > 0
    encoding = encode(features, interactions.item_columns, fitted_M, notes)
    if not encoding.features or np.count_nonzero(fitted_M) < 2:
        notes.append(
            "no feature of items has a value that two items of the training pairs share: an item that came after "
            "training cannot be found"
        )
        return None
    design_MP, _ = encoding.design(interactions.item_columns, len(pairs_M))
    design_FP, rows_FR = design_MP[fitted_M], rows_MR[fitted_M]
    held_F = np.random.Generator(np.random.PCG64(0)).random(len(rows_FR)) < HELD_OUT
    held_F[:2] = True, False
    variance = float(np.square(rows_FR[held_F] - rows_FR[~held_F].mean(axis=0)).sum())
    errors, predictions = list[float](), list[Float32Array]()
    for number, weight in enumerate(WEIGHTS):
        weights_PR, base_R = ridge(design_FP[~held_F], rows_FR[~held_F], weight)
        predicted_FR = design_FP[held_F] @ weights_PR + base_R
        errors.append(float(np.square(predicted_FR - rows_FR[held_F]).sum()))
        if errors[-1] == min(errors):
            predictions = [predicted_FR]
        report(number + 1, len(WEIGHTS) + 1)
    best, read = int(np.argmin(errors)), ", ".join(each.name for each in encoding.features)
    explained = 1 - errors[best] / max(variance, 1e-30)
    if explained < LEAST_EXPLAINED:
        notes.append(
            f"{read}: they explain {explained:.1%} of the rows of {np.count_nonzero(held_F):,} items that were held "
            f"out, less than {LEAST_EXPLAINED:.0%}: an item that came after training cannot be found"
        )
        return None
    weights_PR, base_R = ridge(design_FP, rows_FR, WEIGHTS[best], notes=notes)
    length, half = length_of(np.flatnonzero(fitted_M)[held_F], predictions[0]), rows_MR.shape[1] // 2
    weights_PR[:, half:] *= np.float32(length.times)
    base_R[half:] *= np.float32(length.times)
    report(len(WEIGHTS) + 1, len(WEIGHTS) + 1)
    notes.append(
        f"items that come after training get rows by {read}: fitted to "
        f"{len(rows_FR):,} items, weight {WEIGHTS[best]:g} chosen on {np.count_nonzero(held_F):,} of them, of whose "
        f"rows it explains {explained:.1%}"
    )
    notes.append(str(length))
    return AttributeRows(encoding=encoding, weights_PR=weights_PR, base_R=base_R)


def encode(
    features: tuple[Feature, ...], columns: Mapping[str, Column], fitted_M: BoolArray, notes: list[str]
) -> Encoding:
    """Columns of the features that tell fitted items apart: values that two of them have, numbers that differ."""
    keys: dict[str, Int64Array] = {}
    counts: dict[str, Int64Array] = {}
    numbers: dict[str, NumberTransform] = {}
    for feature in features:
        values = np.asarray(columns[feature.name])[fitted_M]
        if isinstance(feature, Categorical):
            rows = np.repeat(np.arange(len(values)), feature.max_values)
            pairs = np.unique(np.stack([values.reshape(-1), rows]), axis=1)[0]  # an item's value counts once
            found, count = np.unique(pairs[pairs >= 0], return_counts=True)
            keys[feature.name], counts[feature.name] = found[count > 1], count[count > 1]
        else:
            numbers[feature.name] = fit_number(feature, values)
    every = np.concatenate([*counts.values(), np.zeros(0, dtype=np.int64)])
    if len(every) > MOST_VALUES:
        counted = np.zeros(len(every), dtype=np.bool_)
        counted[np.argsort(-every, kind="stable")[:MOST_VALUES]] = True
        ends = np.cumsum([len(of) for of in keys.values()])[:-1]
        keys = {name: of[own] for (name, of), own in zip(keys.items(), np.split(counted, ends), strict=True)}
        notes.append(
            f"features of items have {len(every):,} values: the {MOST_VALUES:,} that most items have count, those with "
            f"{every[counted].min()} or more"
        )
    useful = tuple(
        each for each in features if (len(keys[each.name]) if each.name in keys else numbers[each.name].scale)
    )
    if idle := [each.name for each in features if each not in useful]:
        notes.append(
            f"features of items that tell none apart, or each from all others, are not read: {', '.join(idle)}"
        )
    names = {each.name for each in useful}
    return Encoding(
        features=useful,
        keys={name: of for name, of in keys.items() if name in names},
        numbers={name: of for name, of in numbers.items() if name in names},
    )


def attributes_to_dict(attributes: AttributeRows) -> dict[str, Any]:
    """Values of a checkpoint."""
    encoding = attributes.encoding
    return {
        "features": [each.name for each in encoding.features],
        "keys": {name: torch.from_numpy(keys) for name, keys in encoding.keys.items()},
        "numbers": transforms_to_dict(encoding.numbers),
        "weights_PR": torch.from_numpy(attributes.weights_PR),
        "base_R": torch.from_numpy(attributes.base_R),
    }


def attributes_from_dict(values: Mapping[str, Any], features: tuple[Feature, ...]) -> AttributeRows:
    """Inverse of :func:`attributes_to_dict`; KeyError, TypeError or ValueError if they are malformed.

    Args:
        values: as stored.
        features: of items, as the data declares them.
    """
    declared = {each.name: each for each in features}
    return AttributeRows(
        encoding=Encoding(
            features=tuple(declared[name] for name in values["features"]),
            keys={name: keys.numpy() for name, keys in values["keys"].items()},
            numbers=transforms_from_dict(values["numbers"]),
        ),
        weights_PR=values["weights_PR"].numpy(),
        base_R=values["base_R"].numpy(),
    )
