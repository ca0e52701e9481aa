"""The form of every row map: how the ids of a table become rows.

A row map is chosen per table in the recipe (``registry.py``). It turns an id into K rows, of one or several physical
tables, and says how the K vectors become one. It is data, not code: exact ids in an
:class:`~recsys.embeddings.row_maps.id_table.IdTable`, universal hashes for the others. So every method has one numpy
form for training (:meth:`RowMap.lookup`), one exported form into which raw ids go (:meth:`RowMap.module`), and one file
format.

Row 0 of every physical table answers for a missing id, and for one that a map does not know.

Legend: ``K`` lookups.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recsys.arrays import Int64Array
from recsys.embeddings.row_maps.hash_ops import HashedRows, hash_all, per_map
from recsys.embeddings.row_maps.id_table import IdTable, IdTables
from recsys.features.hashing import hash_keys

UNKNOWN_ROW = 0

Combine = Literal["sum", "product", "concat"]
Exact = Literal["row", "quotient", "remainder", "none"]


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """One of the rows of an id.

    Attributes:
        table: the physical table; several lookups and several maps may share one.
        num_rows: rows of that table; lookups answer in [0, num_rows).
        exact: what an id that the map's ``ids`` holds with number n >= 1 gets: row n; row 1 + (n - 1) // divisor;
            row 1 + (n - 1) % divisor; or, ``none``, what any other id gets.
        divisor: of quotient and remainder.
        hashed: what any other id gets; row 0 without.
    """

    table: str
    num_rows: int
    exact: Exact = "none"
    divisor: int = 1
    hashed: HashedRows | None = None


@dataclass(frozen=True, kw_only=True)
class RowMap:
    """Ids to rows; the same bits in numpy, torch and ONNX.

    Attributes:
        kind: the name of the method.
        lookups: K of them.
        combine: how K looked-up vectors become the id's: their sum, their product, or all, one after another.
        ids: ids that are known exactly, with their numbers.
        spare_rows: rows that belong to no id yet, ascending; ids admitted later take them (``growth.py``).
    """

    kind: str
    lookups: tuple[Lookup, ...]
    combine: Combine = "sum"
    ids: IdTable | None = None
    spare_rows: Int64Array = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def lookup(self, keys: Int64Array) -> Int64Array:
        """Rows of each key, int64 [..., K]; ``UNKNOWN_ROW`` for ``MISSING``, and for ids the map does not know."""
        numbers = None if self.ids is None else self.ids.lookup(keys)
        present = keys >= 0
        rows = np.empty((*keys.shape, len(self.lookups)), dtype=np.int64)
        for k, lookup in enumerate(self.lookups):
            rows[..., k] = np.where(present, _rows_of_others(lookup, keys), UNKNOWN_ROW)
            if numbers is not None and lookup.exact != "none":
                rows[..., k] = np.where(numbers > 0, _rows_of_numbers(lookup, numbers), rows[..., k])
        return rows

    def module(self) -> RowMapModule:
        """:meth:`lookup` as a module of exportable tensor operations."""
        return RowMapModule({"": self})

    @property
    def form(self) -> tuple[object, ...]:
        """All that maps have in common which one operation looks up in: how many rows an id has, and which of the
        steps lead to each."""
        steps = tuple((lookup.exact, lookup.hashed is not None) for lookup in self.lookups)
        return self.combine, self.ids is not None, steps

    @property
    def size_bytes(self) -> int:
        """Bytes that the map itself needs, beside its tables."""
        return 0 if self.ids is None else self.ids.size_bytes

    def table_rows(self) -> dict[str, int]:
        """Physical table -> its number of rows."""
        return {lookup.table: lookup.num_rows for lookup in self.lookups}

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Everything needed to rebuild the map, by name."""
        about = {"kind": self.kind, "combine": self.combine, "lookups": [asdict(each) for each in self.lookups]}
        arrays: dict[str, npt.NDArray[Any]] = {"map": np.array(json.dumps(about)), "spare_rows": self.spare_rows}
        if self.ids is not None:
            arrays |= {f"ids_{name}": array for name, array in self.ids.arrays().items()}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> RowMap:
        """Inverse of :meth:`arrays`.

        Raises:
            KeyError, TypeError, ValueError: these are not a map's arrays.
        """
        about = json.loads(str(arrays["map"]))
        ids = {name.removeprefix("ids_"): array for name, array in arrays.items() if name.startswith("ids_")}
        return cls(
            kind=about["kind"],
            lookups=tuple(_lookup_from_dict(values) for values in about["lookups"]),
            combine=about["combine"],
            ids=IdTable.from_arrays(ids) if ids else None,
            spare_rows=arrays["spare_rows"],
        )


class RowMapModule(nn.Module):
    """:meth:`RowMap.lookup` of several maps, in tensor operations that export to standard ONNX operators.

    Maps of one form (:attr:`RowMap.form`) are one operation, however many they are.

    Args:
        row_maps: by the name of the table whose ids they are of.
    """

    def __init__(self, row_maps: Mapping[str, RowMap]) -> None:
        super().__init__()
        self.row_maps = dict(row_maps)
        ids = {table: row_map.ids for table, row_map in row_maps.items() if row_map.ids is not None}
        self.ids = IdTables(ids) if ids else None

    def rows(self, keys: Tensor, tables: Sequence[str] = ("",)) -> list[Tensor]:
        """One int64 tensor of the keys' shape per lookup.

        Args:
            keys: int64, of any shape.
            tables: one, or of several ``keys[m]`` are of ``tables[m]``; their maps are of one form.
        """
        maps = [self.row_maps[table] for table in tables]
        lookups = list(zip(*(row_map.lookups for row_map in maps), strict=True))  # of each, all maps'
        of_lookups = [[each.hashed for each in same if each.hashed is not None] for same in lookups]
        # Not together with the id map's own hashes: looking up is one operator in a server (recsys.operators).
        others = iter(hash_all(keys, hashed) if (hashed := [same for same in of_lookups if same]) else ())
        numbers = None if self.ids is None or maps[0].ids is None else self.ids(keys, tables)
        found = []
        for same in lookups:
            rows = torch.zeros_like(keys)
            if same[0].hashed is not None:
                rows = torch.where(keys >= 0, next(others), UNKNOWN_ROW)
            if numbers is not None and same[0].exact != "none":
                own = _rows_of_number_tensors(same, numbers)
                rows = own if same[0].hashed is None else torch.where(numbers > 0, own, rows)
            found.append(rows)
        return found

    def forward(self, keys: Tensor) -> Tensor:
        """int64 keys of any shape to int64 rows, [..., K], of the only map."""
        return torch.stack(self.rows(keys), dim=-1)


def _rows_of_others(lookup: Lookup, keys: Int64Array) -> Int64Array:
    if lookup.hashed is None:
        return np.full(keys.shape, UNKNOWN_ROW, dtype=np.int64)
    coefficients = np.array(lookup.hashed.coefficients, dtype=np.int64)
    return lookup.hashed.first + hash_keys(keys, coefficients, lookup.hashed.count)


def _rows_of_numbers(lookup: Lookup, numbers: Int64Array) -> Int64Array:
    if lookup.exact == "quotient":
        return 1 + (numbers - 1) // lookup.divisor
    if lookup.exact == "remainder":
        return 1 + (numbers - 1) % lookup.divisor
    return numbers


def _rows_of_number_tensors(lookups: Sequence[Lookup], numbers: Tensor) -> Tensor:
    """The same of one lookup, or of one for each ``numbers[m]``."""
    if lookups[0].exact == "row":
        return numbers
    divide = torch.floor_divide if lookups[0].exact == "quotient" else torch.remainder
    return divide(numbers - 1, per_map([lookup.divisor for lookup in lookups], numbers)) + 1


def _lookup_from_dict(values: Mapping[str, Any]) -> Lookup:
    hashed = values["hashed"]
    if hashed is not None:
        hashed = HashedRows(**{**hashed, "coefficients": tuple(hashed["coefficients"])})
    return Lookup(**{**values, "hashed": hashed})
