"""The interface of a method: what it may ask of the training data, and the row maps that it makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from recsys.arrays import Int64Array
from recsys.embeddings.row_maps.row_map import RowMap

Counts = tuple[Int64Array, Int64Array]
"""Distinct ids of a table in training and how often each occurs, both [V]."""


class MapSettings(Protocol):
    """The settings ``rows.*`` of a recipe that methods read (``RowConfig`` in ``training/config.py``)."""

    @property
    def budget(self) -> float:
        """Rows of a table, as a share of its distinct ids."""
        ...

    @property
    def rows(self) -> Mapping[str, int]:
        """Number of rows by table, instead of the budget."""
        ...

    @property
    def min_count(self) -> int:
        """Count below which an id has no row of its own."""
        ...

    @property
    def unknown_rows(self) -> int:
        """Rows for ids without one of their own."""
        ...

    @property
    def spare_rows(self) -> float:
        """Room for ids admitted after training, as a share of the ids."""
        ...

    @property
    def frequent(self) -> float:
        """Share of the rows that belong to the most frequent ids."""
        ...

    @property
    def chunks(self) -> int:
        """Lookups per id of shared tables."""
        ...

    @property
    def chunks_of(self) -> Mapping[str, int]:
        """Lookups per id by table."""
        ...

    @property
    def seed(self) -> int:
        """Of hash functions and clustering."""
        ...


class TrainingIds(Protocol):
    """The ids of the training samples and their histories, and the recipe's settings."""

    @property
    def settings(self) -> MapSettings:
        """The recipe's ``rows``."""
        ...

    @property
    def counts(self) -> Mapping[str, Counts]:
        """Table -> its ids and their counts."""
        ...

    def budgeted_rows(self, table: str) -> int:
        """Rows that a table may have: for its ids, and row 0.

        Raises:
            ConfigError: the budget is below one row.
        """
        ...

    def width(self, table: str) -> int:
        """Width of a table of its own."""
        ...

    def shared_widths(self) -> tuple[int, ...]:
        """Width of each shared table.

        Raises:
            ConfigError: the tables' width cannot be divided as asked.
        """
        ...

    def pairs(self, table: str) -> tuple[Int64Array, Int64Array]:
        """Keys of a table that met keys of the other side of its graph, both [E]."""
        ...

    def clusters(self, table: str) -> tuple[Int64Array, Int64Array]:
        """Keys of a table, and the cluster of each in its graph, -1 for none; both [V]."""
        ...


Method = Callable[[Sequence[str], TrainingIds], dict[str, RowMap]]
"""Makes the maps of all tables that chose it."""


def per_table(build: Callable[[str, TrainingIds], RowMap]) -> Method:
    """The method that makes each table's map by itself."""
    return lambda tables, training: {table: build(table, training) for table in tables}
