"""Layout: which columns a file of item columns has, for how many items, and where each array stands in it.

A file: its layout in JSON, then counts, then the arrays, each at a multiple of 64 bytes. ``C`` items it has room for,
``K`` values of an item, ``V`` distinct values of a column that it has room for, ``H`` slots of an index.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from recsys.features.feature_set import Categorical, Feature
from recsys.serving.item_columns.key_table import index_size

HEADER_BYTES = 32_768
COUNTS_BYTES = 8_192
_LINE = 64

FEWEST_ITEMS, FEWEST_VALUES, FEWEST_CHANGES = 1_024, 256, 16_384


@dataclass(frozen=True, kw_only=True)
class ColumnSpec:
    """A column.

    Attributes:
        entity, name: whose feature it holds.
        kind: ``ids``, as codes of distinct values, or ``number``.
        id_type: of ids, as their feature declares it.
        width: K.
        values: V; 0 for numbers.
    """

    entity: str
    name: str
    kind: Literal["ids", "number"]
    id_type: str = "int"
    width: int = 1
    values: int = 0


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The columns of a file, and how many items it has room for: C = ``items``."""

    items: int
    columns: tuple[ColumnSpec, ...]

    def to_json(self) -> str:
        """Text, from which :func:`layout_of_json` makes an equal one."""
        return json.dumps({"items": self.items, "columns": [vars(column) for column in self.columns]})

    def arrays(self) -> Iterator[tuple[str, np.dtype[np.generic], tuple[int, ...], int]]:
        """Name, type, shape and offset of each array."""
        at = HEADER_BYTES + COUNTS_BYTES
        for name, kind, shape in self._shapes():
            dtype = np.dtype(kind)
            yield name, dtype, shape, at
            at += padded(int(np.prod(shape)) * dtype.itemsize)

    @property
    def size_bytes(self) -> int:
        """Of the file."""
        *_, (_, dtype, shape, at) = self.arrays()
        return at + padded(int(np.prod(shape)) * dtype.itemsize)

    def fitting(self, limit_bytes: int) -> Layout:
        """As it is, or with room for as many items as ``limit_bytes`` hold; it may be none."""
        if self.size_bytes <= limit_bytes:
            return self
        few, many = 0, self.items
        while many - few > 1:
            middle = (few + many) // 2
            few, many = (middle, many) if replace(self, items=middle).size_bytes <= limit_bytes else (few, middle)
        return replace(self, items=few)

    def _shapes(self) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        yield "keys", "<i8", (self.items,)
        yield "index", "<i4", (index_size(self.items),)
        yield "stored", "u1", (self.items,)
        yield "changes", "<i4", (max(FEWEST_CHANGES, self.items // 64),)
        for column in self.columns:
            shape = (self.items,) if column.width == 1 else (self.items, column.width)
            yield f"{column.name}.column", "<i4" if column.kind == "ids" else "<f4", shape
            if column.kind == "ids":
                yield f"{column.name}.values", "<i8", (column.values,)
                yield f"{column.name}.index", "<i4", (index_size(column.values),)


def padded(size_bytes: int) -> int:
    """Bytes from the begin of an array to that of the next one, which is a multiple of 64."""
    return -(-size_bytes // _LINE) * _LINE


def layout_of_json(text: str) -> Layout:
    """Inverse of :meth:`Layout.to_json`."""
    values = json.loads(text)
    return Layout(items=values["items"], columns=tuple(ColumnSpec(**column) for column in values["columns"]))


def layout_of(filterable: Sequence[tuple[str, Feature]], *, items: int) -> Layout:
    """Columns of filterable features, each with its entity, for so many items at least."""
    columns = [
        ColumnSpec(
            entity=entity,
            name=feature.name,
            kind="ids",
            id_type=feature.id_type,
            width=feature.max_values,
            values=FEWEST_VALUES,
        )
        if isinstance(feature, Categorical)
        else ColumnSpec(entity=entity, name=feature.name, kind="number")
        for entity, feature in filterable
    ]
    return Layout(items=max(items, FEWEST_ITEMS), columns=tuple(columns))


def same_columns(one: Layout, other: Layout) -> bool:
    """True if two layouts have the same columns, whatever they have room for."""
    return [replace(c, values=0) for c in one.columns] == [replace(c, values=0) for c in other.columns]
