"""The lookup in plain tensor operations, for export: raw ids in, vectors out.

TorchRec and FBGEMM operators have no ONNX form. The twin holds the same rows, quantised or not, and the same row maps
as modules; it answers what the trained tables answer, or what their quantised rows come back as.

Tables of one width and kind of storage lie one after another in one tensor, so that *alike* inputs, which differ in the
table alone, are looked up in one operation: a graph, and the time to make it, does not grow with the features.

Legend: ``N`` elements of one side (1 user, C candidates or S events), ``M`` alike inputs, ``K`` values, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from recsys.embeddings.numbers import NumberInputs, Side, StackedNumbers
from recsys.embeddings.quantize import QuantizedRows, QuantizedTable
from recsys.embeddings.row_maps.hash_ops import per_map
from recsys.embeddings.row_maps.row_map import UNKNOWN_ROW, RowMap, RowMapModule
from recsys.embeddings.tables import QUERY, combine
from recsys.embeddings.vectors import mean_of_present
from recsys.features.feature_set import Categorical, Feature


class Shelf(NamedTuple):
    """Tables, or id maps, that lie in one tensor.

    Attributes:
        buffer: its name in the twin.
        what: ``rows`` or ``ids``.
        name: of its file, if it holds several; no table's name has a dot or is empty.
        rows: table -> its number of rows, in order.
    """

    buffer: str
    what: str
    name: str
    rows: Mapping[str, int]


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
        self.tables = {table: _stored(weight) for table, weight in weights.items()}
        self.shelf_of = {name: f"{table.kind}_{table.width}" for name, table in self.tables.items()}
        self.rows = nn.ModuleDict()
        self.first_row: dict[str, int] = {}
        for shelf in dict.fromkeys(self.shelf_of.values()):
            names = [name for name, own in self.shelf_of.items() if own == shelf]
            self.rows[shelf] = QuantizedRows(_one_after_another([self.tables[name] for name in names]))
            ends = np.cumsum([len(self.tables[name].rows) for name in names]).tolist()
            self.first_row |= dict(zip(names, [0, *ends[:-1]], strict=True))
        self.maps = RowMapModule(row_maps)
        self.numbers = numbers

    @property
    def row_maps(self) -> Mapping[str, RowMap]:
        """Table -> its map."""
        return self.maps.row_maps

    def lookup(self, keys: Tensor, features: Sequence[Categorical]) -> Tensor:
        """Keys to vectors, [N, D], or of several alike features [N, M D].

        Args:
            keys: [N] or [N, K], -1 for missing; of several features one after another, [M, N] or [M, N, K].
            features: alike (:meth:`likeness`).
        """
        several = len(features) > 1
        rows = self.maps.rows(keys, [feature.table for feature in features])
        maps = [self.row_maps[feature.table] for feature in features]
        vectors = []
        for index, *lookups in zip(rows, *(row_map.lookups for row_map in maps), strict=True):
            first = [self.first_row[lookup.table] for lookup in lookups]
            index = index + per_map(first, index) if any(first) else index
            shelf = self.rows[self.shelf_of[lookups[0].table]]
            vectors.append(shelf(index.transpose(0, 1) if several else index))
        found = combine(vectors, maps[0].combine)
        if features[0].max_values > 1:
            found = mean_of_present(found, (keys.transpose(0, 1) if several else keys) >= 0)
        return found.flatten(1)

    def likeness(self, feature: Feature) -> tuple[object, ...]:
        """Equal for inputs that one operation looks up."""
        if not isinstance(feature, Categorical):
            return ("number",)
        row_map = self.row_maps[feature.table]
        shelves = tuple(self.shelf_of[lookup.table] for lookup in row_map.lookups)
        return (feature.max_values, shelves, row_map.form)

    def width(self, table: str) -> int:
        """Columns of a table's vectors, D."""
        row_map = self.row_maps[table]
        widths = [self.tables[lookup.table].width for lookup in row_map.lookups]
        return sum(widths) if row_map.combine == "concat" else widths[0]

    def unknown(self, feature: Categorical, length: int) -> Tensor:
        """The vector of a missing id, ``length`` times; [N, D]."""
        row_map, row = self.row_maps[feature.table], np.array([UNKNOWN_ROW])
        vectors = [torch.from_numpy(self.tables[lookup.table].lookup(row)) for lookup in row_map.lookups]
        return combine(vectors, row_map.combine).expand(length, -1)

    def shelves(self) -> list[Shelf]:
        """All tensors of rows and id maps, and the tables in each."""
        shelves = []
        for shelf in self.rows:
            tables = {n: len(table.rows) for n, table in self.tables.items() if self.shelf_of[n] == shelf}
            name = shelf.replace("none", "float32").replace("_", ".")
            shelves.append(Shelf(f"rows.{shelf}.rows", "rows", f"{name}.rows", tables))
        if self.maps.ids is not None:
            shelves.append(Shelf("maps.ids.slots_TW", "ids", "ids", self.maps.ids.buckets))
        return shelves

    @contextmanager
    def without_rows(self) -> Iterator[None]:
        """Within the block each tensor of rows or id maps has a few rows: for an exporter, which copies what it traces.

        They are random, and so unlike all else: an exporter takes equal constants for one, and this is none.
        """
        random = np.random.Generator(np.random.PCG64(0))
        whole = {shelf.buffer: self.get_buffer(shelf.buffer) for shelf in self.shelves()}

        def put(buffer: str, tensor: Tensor) -> None:
            module, _, name = buffer.rpartition(".")
            setattr(self.get_submodule(module), name, tensor)

        try:
            for few, (buffer, tensor) in enumerate(whole.items(), start=2):
                stand_in = torch.from_numpy(random.integers(1, 200, size=(few, tensor.shape[1])))
                put(buffer, stand_in.to(tensor.dtype))
            yield
        finally:
            for buffer, tensor in whole.items():
                put(buffer, tensor)


def _stored(weight: Tensor | QuantizedTable) -> QuantizedTable:
    if isinstance(weight, QuantizedTable):
        return weight
    return QuantizedTable(kind="none", rows=weight.detach().numpy(), width=weight.shape[1])


def _one_after_another(tables: Sequence[QuantizedTable]) -> QuantizedTable:
    rows = tables[0].rows if len(tables) == 1 else np.concatenate([table.rows for table in tables])
    return QuantizedTable(kind=tables[0].kind, rows=rows, width=tables[0].width)


def alike(twin: DenseTwin, inputs: Mapping[str, Feature]) -> list[tuple[str, ...]]:
    """Names of inputs of one side, those together that one operation looks up."""
    groups: dict[tuple[object, ...], list[str]] = {}
    in_order = [name for side in twin.numbers.sides.values() if isinstance(side, StackedNumbers) for name in side.names]
    ids = [name for name, feature in inputs.items() if isinstance(feature, Categorical)]
    for name in (*ids, *(name for name in in_order if name in inputs)):
        feature = inputs[name]
        groups.setdefault(twin.likeness(feature), []).append(name)
    return [tuple(names) for names in groups.values()]


class RawInputs:
    """Inputs of an exported graph: raw keys and numbers by name (``vectors.Inputs``).

    Args:
        twin: answers for the keys.
        features: of each input.
        tensors: by the names of alike inputs: of one [N] or [N, K], of several [M, N] or [M, N, K].
    """

    def __init__(
        self, twin: DenseTwin, features: Mapping[str, Feature], tensors: Mapping[tuple[str, ...], Tensor]
    ) -> None:
        self._twin, self._features = twin, features
        self._tensors = tensors
        self._found: dict[str, Tensor] = {}

    def vectors(self, name: str, feature: Categorical) -> Tensor:
        """See ``vectors.Inputs``."""
        if name.startswith(QUERY):
            names, tensor = next(iter(self._tensors.items()))
            return self._twin.unknown(feature, tensor.shape[0 if len(names) == 1 else 1])
        if name not in self._found:
            names = self._group(name)
            features = [f for f in map(self._features.__getitem__, names) if isinstance(f, Categorical)]
            vectors = self._twin.lookup(self._tensors[names], features)
            widths = [self._twin.width(f.table) for f in features]
            parts = torch.split(vectors, widths, dim=1) if len(names) > 1 else (vectors,)
            self._found |= dict(zip(names, parts, strict=True))
        return self._found[name]

    def numbers(self, side: Side) -> Tensor:
        """See ``vectors.Inputs``."""
        stacked = self._twin.numbers.sides[side]
        assert isinstance(stacked, StackedNumbers)
        names = tuple(stacked.names)
        numbers: Tensor = stacked(self._tensors[names] if len(names) > 1 else self._tensors[names][None])
        return numbers

    def _group(self, name: str) -> tuple[str, ...]:
        return next(names for names in self._tensors if name in names)
