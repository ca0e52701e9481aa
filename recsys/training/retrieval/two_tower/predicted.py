"""Attributes of items as numbers of their values, for heads that predict them (``two_tower/heads.py``).

Legend: ``M`` items, ``T`` of them, ``K`` values that an item has at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from recsys.arrays import Int64Array
from recsys.errors import ConfigError
from recsys.features.feature_set import Categorical
from recsys.training.retrieval.two_tower.data import TowerData

MOST_VALUES = 20_000
"""Values of an attribute that is predicted: a step multiplies all its targets with all of them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Predicted:
    """Attributes that are predicted.

    Attributes:
        value_MK: attribute -> numbers of each item's values from 0 on, -1: none that training knows.
        counts: values of each attribute.
        notes: a sentence each on attributes that are predicted or left out.
    """

    value_MK: Mapping[str, Int64Array] = field(default_factory=dict)
    counts: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    def of_items(self, items_T: Int64Array) -> list[Tensor]:
        """Values of some items, [T, K] of each attribute."""
        return [torch.from_numpy(value_MK[items_T]) for value_MK in self.value_MK.values()]


def predicted_attributes(data: TowerData) -> Predicted:
    """Number the values of each categorical feature of items of which the tables know two or more.

    Raises:
        ConfigError: no feature is left.
    """
    found, counts, too_many = {}, [], []
    for feature in data.features.item:
        if not isinstance(feature, Categorical):
            continue
        code_MK = data.item[feature.name].reshape(len(data.item[feature.name]), -1)
        codes = np.unique(code_MK[code_MK > 0])  # code 0 has the unknown row
        if len(codes) > MOST_VALUES:
            too_many.append(f"{feature.name} ({len(codes):,})")
        elif len(codes) > 1:
            place_MK = np.minimum(np.searchsorted(codes, code_MK), len(codes) - 1)
            found[feature.name] = np.where(code_MK > 0, place_MK, -1)
            counts.append(len(codes))
    if not found:
        raise ConfigError(
            "model.multi_task_weight is set, but no categorical feature of items has from 2 to "
            f"{MOST_VALUES:,} values that the tables know; set it to 0, or declare such a feature"
        )
    notes = [f"beside the next item, training predicts its {', '.join(found)}"]
    if too_many:
        notes.append(f"not predicted, because of more than {MOST_VALUES:,} values: {', '.join(too_many)}")
    return Predicted(value_MK=found, counts=tuple(counts), notes=tuple(notes))
