"""Count of the numbers that an item was given, in an exported graph.

Legend: ``A`` items, ``F`` numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from recsys.embeddings.dense_twin import DenseTwin
from recsys.embeddings.numbers import StackedNumbers
from recsys.embeddings.tables import ITEM
from recsys.features.feature_set import Numeric


def given_numbers(twin: DenseTwin, named: Mapping[tuple[str, ...], Tensor], features: Sequence[Numeric]) -> Tensor:
    """Count the numbers of each item that are neither missing nor the declared default, [A], int64.

    Args:
        twin: says in which order the numbers stand.
        named: tensors by the names of alike inputs.
        features: the numbers.
    """
    stacked = twin.numbers.sides["item"]
    assert isinstance(stacked, StackedNumbers)
    names = tuple(stacked.names)
    x_FA = named[names] if len(names) > 1 else named[names][None]
    missing = {f"{ITEM}{each.name}": each.missing for each in features}
    # Of a number without a default this is NaN, which nothing equals.
    default_F1 = torch.tensor([[missing[name]] for name in names], dtype=torch.float32)
    return (~torch.isnan(x_FA) & (x_FA != default_F1)).to(torch.int64).sum(dim=0)
