"""Numeric features to the columns that a network reads: the transforms of ``features/number_transform.py`` in torch.

One module for training and for the exported graph, so both compute the same. All numbers of one side are
transformed together, so that a graph's size does not depend on how many there are.

Legend: ``N`` rows, ``F`` numbers of one side, ``Q`` quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from recsys.embeddings.tables import ITEM
from recsys.features.feature_set import FeatureSet, Numeric
from recsys.features.number_transform import RAW, Kind, NumberTransform

Side = Literal["user", "item"]
"""``user``: of the user and the context."""

_IN_ORDER: tuple[Kind, ...] = ("none", "standardise", "signed_log", "quantile")


def number_names(features: FeatureSet) -> dict[Side, list[str]]:
    """Input names of each side's numeric features, in declared order."""
    user, item = (
        [f.name for f in side if isinstance(f, Numeric)]
        for side in ((*features.user, *features.context), features.item)
    )
    return {"user": user, "item": [f"{ITEM}{name}" for name in item]}


class NumberInputs(nn.Module):
    """The numbers of both sides.

    Args:
        features: declare them.
        transforms: by input name; a number that is not there is read as it comes (``RAW``).
    """

    def __init__(self, features: FeatureSet, transforms: Mapping[str, NumberTransform]) -> None:
        super().__init__()
        self.sides = nn.ModuleDict()
        for side, names in number_names(features).items():
            if names:
                self.sides[side] = StackedNumbers(names, [transforms.get(name, RAW) for name in names])

    def forward(self, side: Side, columns: Mapping[str, Tensor]) -> Tensor:
        """The side's numbers in declared order, [N, F]; ``columns``: by input name, [N] float32 each."""
        stacked = self.sides[side]
        assert isinstance(stacked, StackedNumbers)
        transformed: Tensor = stacked(torch.stack([columns[name] for name in stacked.names]))
        return transformed


class StackedNumbers(nn.Module):
    """Transforms of several numbers as one, [F, N] to [N, F].

    Args:
        names: of the columns.
        transforms: one for each.

    Attributes:
        names: of the rows that are transformed, in their order, which may be another.
    """

    centre: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    fill: Tensor
    per_unit: Tensor
    boundaries_FQ: Tensor

    def __init__(self, names: Sequence[str], transforms: Sequence[NumberTransform]) -> None:
        super().__init__()
        order = sorted(range(len(names)), key=lambda place: _IN_ORDER.index(transforms[place].kind))
        self.names = [names[place] for place in order]
        self.back: list[int] | None = [order.index(place) for place in range(len(order))]
        if self.back == sorted(order):
            self.back = None
        ordered = [transforms[place] for place in order]
        counts = [sum(transform.kind == kind for transform in ordered) for kind in _IN_ORDER]
        self.plain, self.logs, self.quantiles = counts[0] + counts[1], counts[2], counts[3]
        self.as_they_come = counts[0] == len(ordered)
        for name in ("centre", "scale", "low", "high", "fill"):
            self.register_buffer(name, torch.tensor([[getattr(transform, name)] for transform in ordered]))
        units = [[1.0 / transform.unit] for transform in ordered if transform.kind == "signed_log"]
        self.register_buffer("per_unit", torch.tensor(units))
        boundaries = [list(transform.boundaries) for transform in ordered if transform.kind == "quantile"]
        self.register_buffer("boundaries_FQ", torch.tensor(boundaries))

    def forward(self, x_FN: Tensor) -> Tensor:
        """The numbers in the order in which they were named, [N, F]; ``x_FN``: as :attr:`names` says, float32."""
        known_FN = ~torch.isnan(x_FN)
        if self.as_they_come:
            y_FN = x_FN
        else:
            g_FN = self._bent(torch.where(known_FN, x_FN, 0.0))
            clipped_FN = torch.minimum(torch.maximum(g_FN, self.low), self.high)
            y_FN = (clipped_FN - self.centre) * self.scale
        y_FN = torch.where(known_FN, y_FN, self.fill)
        return (y_FN if self.back is None else y_FN[self.back]).t()

    def _bent(self, x_FN: Tensor) -> Tensor:
        """g of each kind; the kinds stand one after another."""
        plain, logs, quantiles = torch.split(x_FN, [self.plain, self.logs, self.quantiles])
        parts = [plain] if self.plain else []
        if self.logs:
            parts.append(torch.sign(logs) * torch.log(1.0 + torch.abs(logs) * self.per_unit))
        if self.quantiles:
            parts.append(torch.sign(quantiles[:, :, None] - self.boundaries_FQ[:, None, :]).sum(dim=2))
        return parts[0] if len(parts) == 1 else torch.cat(parts)
