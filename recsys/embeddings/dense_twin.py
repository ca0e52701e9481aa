"""The lookup in plain tensor operations, for export: raw ids in, vectors out.

TorchRec and FBGEMM operators have no ONNX form. The twin holds the same rows in one tensor per
table and the same id maps as modules, and answers what the trained tables answer.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from recsys.embeddings.row_maps import UNKNOWN_ROW, RowMap
from recsys.embeddings.tables import QUERY, module_name
from recsys.embeddings.vectors import mean_of_present
from recsys.features.feature_set import Categorical


class DenseTwin(nn.Module):
    """Tables and id maps.

    Args:
        weights: table name -> rows, [V, D] float32.
        row_maps: table name -> map from keys to its rows.
    """

    def __init__(self, weights: Mapping[str, Tensor], row_maps: Mapping[str, RowMap]) -> None:
        super().__init__()
        rows = {module_name(table): nn.Parameter(w, requires_grad=False) for table, w in weights.items()}
        self.rows = nn.ParameterDict(rows)
        self.maps = nn.ModuleDict({module_name(table): row_maps[table].module() for table in weights})

    def lookup(self, keys: Tensor, feature: Categorical) -> Tensor:
        """Keys, [N] or [N, K] with -1 for missing, to vectors [N, D]."""
        rows = self.rows[module_name(feature.table)]
        index = self.maps[module_name(feature.table)](keys)
        return F.embedding(index, rows) if keys.dim() == 1 else mean_of_present(rows, index, keys >= 0)

    def unknown(self, feature: Categorical, length: Tensor) -> Tensor:
        """The unknown row, once per element of ``length``; [N, D]."""
        row: Tensor = self.rows[module_name(feature.table)][UNKNOWN_ROW]
        return row.expand(length.shape[0], -1)


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

    def numbers(self, name: str) -> Tensor:
        """See ``vectors.Inputs``."""
        return self._tensors[name]
