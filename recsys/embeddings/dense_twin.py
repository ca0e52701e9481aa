"""The lookup in plain tensor operations, for export: raw ids in, vectors out.

TorchRec and FBGEMM operators have no ONNX form. The twin holds the same rows in one tensor per
physical table, quantised or not, and the same row maps as modules; it answers what the trained tables answer,
or what their quantised rows come back as.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recsys.embeddings.numbers import NumberInputs, Side
from recsys.embeddings.quantize import QuantizedRows, QuantizedTable
from recsys.embeddings.row_maps.row_map import UNKNOWN_ROW, RowMap, RowMapModule
from recsys.embeddings.tables import QUERY, combine, module_name
from recsys.embeddings.vectors import mean_of_present
from recsys.features.feature_set import Categorical


class DenseTwin(nn.Module):
    """Tables, row maps, and transforms of numbers.

    Args:
        weights: physical table -> rows, [V, D] float32, or as they are stored.
        row_maps: table -> map from keys to rows of physical tables.
        numbers: the trained model's.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor | QuantizedTable],
        row_maps: Mapping[str, RowMap],
        numbers: NumberInputs,
    ) -> None:
        super().__init__()
        self.rows = nn.ModuleDict({module_name(table): QuantizedRows(_stored(w)) for table, w in weights.items()})
        self.maps = nn.ModuleDict({module_name(table): row_map.module() for table, row_map in row_maps.items()})
        self.numbers = numbers
        self.combine = {table: row_map.combine for table, row_map in row_maps.items()}

    def lookup(self, keys: Tensor, feature: Categorical) -> Tensor:
        """Keys, [N] or [N, values] with -1 for missing, to vectors [N, D]."""
        row_map = self._map(feature)
        vectors = self._gather(row_map.rows(keys), feature)
        return vectors if keys.dim() == 1 else mean_of_present(vectors, keys >= 0)

    def unknown(self, feature: Categorical, length: Tensor) -> Tensor:
        """The vector of a missing id, once per element of ``length``; [N, D]."""
        row = torch.tensor([UNKNOWN_ROW])
        return self._gather([row for _ in self._map(feature).lookups], feature).expand(length.shape[0], -1)

    def _gather(self, rows: list[Tensor], feature: Categorical) -> Tensor:
        lookups = self._map(feature).lookups
        vectors = [self.rows[module_name(lookup.table)](index) for index, lookup in zip(rows, lookups, strict=True)]
        return combine(vectors, self.combine[feature.table])

    def _map(self, feature: Categorical) -> RowMapModule:
        row_map = self.maps[module_name(feature.table)]
        assert isinstance(row_map, RowMapModule)
        return row_map


def _stored(weight: Tensor | QuantizedTable) -> QuantizedTable:
    if isinstance(weight, QuantizedTable):
        return weight
    return QuantizedTable(kind="none", rows=weight.detach().numpy(), width=weight.shape[1])


class RawInputs:
    """Inputs of an exported graph: raw keys and numbers by name (``vectors.Inputs``)."""

    def __init__(self, twin: DenseTwin, tensors: Mapping[str, Tensor]) -> None:
        self._twin = twin
        self._tensors = tensors

    def vectors(self, name: str, feature: Categorical) -> Tensor:
        """See ``vectors.Inputs``."""
        if name.startswith(QUERY):
            return self._twin.unknown(feature, next(iter(self._tensors.values())))
        return self._twin.lookup(self._tensors[name], feature)

    def numbers(self, side: Side) -> Tensor:
        """See ``vectors.Inputs``."""
        transformed: Tensor = self._twin.numbers(side, self._tensors)
        return transformed
