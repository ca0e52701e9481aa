"""Row maps: how the ids of a table become rows.

A row map is chosen per table in the recipe. It turns an id into K rows, of one or several physical
tables, and says how the K vectors become one. It is data, not code: exact ids in an
:class:`~recsys.embeddings.row_maps.id_table.IdTable`, universal hashes for the others. So every method below has one
numpy form for training (:meth:`RowMap.lookup`), one exported form into which raw ids go
(:meth:`RowMap.module`), and one file format.

=====================  ==========================================================================================
``vocabulary``         a row of its own for every id seen often enough
``hash``               one universal hash
``double_hash``        the sum of two hashed rows
``frequency``          a row of its own for the most frequent ids, one hash for the rest
``double_frequency``   the same with the sum of two hashed rows for the rest (Zhang et al., RecSys 2020)
``quotient_remainder`` the product of two rows, of an id number's quotient and remainder (Shi et al., KDD 2020)
``lsh``                ids with similar neighbours in a graph of ids share rows (``graph_rows.py``)
``unified``            features share tables, each with a salt of its own (Coleman et al., NeurIPS 2023)
``graph``              ids of one cluster of a graph of ids share a row (Wu et al., WWW 2025; ``graph_rows.py``)
``double_graph``       the sum of the cluster's row and a hashed one (likewise)
=====================  ==========================================================================================

Row 0 of every physical table answers for a missing id, and for one that a map does not know.

It is longer than most files here, so that a method is read beside what it is made of.

Legend: ``V`` ids, ``N`` values, ``K`` lookups.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recsys.arrays import Int64Array
from recsys.embeddings.row_maps.hash_ops import HashedRows, hash_all
from recsys.embeddings.row_maps.id_table import IdTable, IdTableModule, build_id_table
from recsys.errors import InvalidInputError
from recsys.features.hashing import PRIME, hash_coefficients, hash_keys

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
        return RowMapModule(self)

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
    """:meth:`RowMap.lookup` in tensor operations that export to standard ONNX operators."""

    def __init__(self, row_map: RowMap) -> None:
        super().__init__()
        self.lookups = row_map.lookups
        self.ids = None if row_map.ids is None else IdTableModule(row_map.ids)

    def rows(self, keys: Tensor) -> list[Tensor]:
        """One int64 tensor of the keys' shape per lookup."""
        of_lookups = [each.hashed for each in self.lookups if each.hashed is not None]
        # Not together with the id map's own hashes: looking up is one operator in a server (recsys.operators).
        others = iter(hash_all(keys, of_lookups) if of_lookups else ())
        numbers = None if self.ids is None else self.ids(keys)
        found = []
        for lookup in self.lookups:
            rows = torch.zeros_like(keys)
            if lookup.hashed is not None:
                rows = torch.where(keys >= 0, next(others), UNKNOWN_ROW)
            if numbers is not None and lookup.exact != "none":
                own = _rows_of_number_tensors(lookup, numbers)
                rows = own if lookup.hashed is None else torch.where(numbers > 0, own, rows)
            found.append(rows)
        return found

    def forward(self, keys: Tensor) -> Tensor:
        """int64 keys of any shape to int64 rows, [..., K]."""
        return torch.stack(self.rows(keys), dim=-1)


def vocabulary(
    table: str,
    ids_V: Int64Array,
    counts_V: Int64Array,
    *,
    min_count: int = 1,
    unknown_rows: int = 0,
    spare_rows: int = 0,
    seed: int = 0,
) -> RowMap:
    """A row for each id seen ``min_count`` times; the others share row 0, or hash to ``unknown_rows`` rows.

    Rows are in order of falling count, so that the rows of frequent ids share memory pages.

    Args:
        table: the table whose ids these are.
        ids_V: distinct keys in training data, int64.
        counts_V: how often each occurs, int64. Rarer ids train the unknown rows, which so learn what a rare id is like.
        min_count: 1 or more.
        unknown_rows: rows for ids without one of their own.
        spare_rows: rows kept for ids that are admitted after training.
        seed: of the hash functions.

    Raises:
        InvalidInputError: a number is out of range, or an id is given twice.

    >>> rows = vocabulary("movie_id", np.array([3, 7, 9]), np.array([2, 3, 1]), min_count=2)
    >>> rows.lookup(np.array([7, 3, 9, 8, -1]))[:, 0].tolist()
    [1, 2, 0, 0, 0]
    """
    if min_count < 1:
        raise InvalidInputError(f"min_count is {min_count}; allowed: 1 or more")
    for name, value in (("unknown_rows", unknown_rows), ("spare_rows", spare_rows)):
        if value < 0:
            raise InvalidInputError(f"table {table!r}: {name} is {value}; allowed: 0 or more")
    kept = _most_frequent(ids_V[counts_V >= min_count], counts_V[counts_V >= min_count])
    first_unknown = 1 + len(kept) + spare_rows
    lookup = Lookup(
        table=table,
        num_rows=first_unknown + unknown_rows,
        exact="row",
        hashed=hashed_rows((seed, table), first=first_unknown, count=unknown_rows) if unknown_rows else None,
    )
    return RowMap(
        kind="vocabulary",
        lookups=(lookup,),
        ids=_numbered(kept, capacity=len(kept) + spare_rows, seed=seed),
        spare_rows=np.arange(1 + len(kept), first_unknown, dtype=np.int64),
    )


def hash_rows(table: str, *, rows: int, functions: int = 1, seed: int = 0) -> RowMap:
    """Ids hashed to ``rows`` rows, one of them for missing ids; with two functions the sum of two rows.

    Raises:
        InvalidInputError: fewer than 2 rows, or no function.

    >>> hash_rows("movie_id", rows=100).lookup(np.array([-1]))
    array([[0]])
    """
    _check_rows(table, rows, functions)
    lookups = tuple(
        Lookup(table=table, num_rows=rows, hashed=hashed_rows((seed, table, k), first=1, count=rows - 1))
        for k in range(functions)
    )
    return RowMap(kind="hash" if functions == 1 else "double_hash", lookups=lookups)


def frequency_hash(
    table: str,
    ids_V: Int64Array,
    counts_V: Int64Array,
    *,
    rows: int,
    frequent: float = 0.5,
    functions: int = 1,
    seed: int = 0,
) -> RowMap:
    """Rows of their own for the most frequent ids, hashed ones for all others, of ``rows`` in total.

    With two functions an infrequent id is the sum of two hashed rows. A frequent one is then twice its own row: a
    map has one number of lookups.

    Args:
        table: the table whose ids these are.
        ids_V, counts_V: distinct keys in training data and how often each occurs, int64.
        rows: of the table, row 0 included.
        frequent: share of the rows that belong to frequent ids.
        functions: hash functions for the others.
        seed: of the hash functions.

    Raises:
        InvalidInputError: too few rows, no function, a share out of range, or an id given twice.
    """
    _check_rows(table, rows, functions)
    if not 0 <= frequent < 1:
        raise InvalidInputError(f"table {table!r}: the share of rows for frequent ids is {frequent}; allowed: 0 to < 1")
    kept = _most_frequent(ids_V, counts_V)[: int((rows - 1) * frequent)]
    first = 1 + len(kept)
    lookups = tuple(
        Lookup(
            table=table,
            num_rows=rows,
            exact="row",
            hashed=hashed_rows((seed, table, k), first=first, count=rows - first),
        )
        for k in range(functions)
    )
    kind = "frequency" if functions == 1 else "double_frequency"
    return RowMap(kind=kind, lookups=lookups, ids=_numbered(kept, seed=seed))


def quotient_remainder(table: str, ids_V: Int64Array, counts_V: Int64Array, *, rows: int, seed: int = 0) -> RowMap:
    """The product of a quotient's and a remainder's row, so that no two known ids have the same pair.

    The id with the n-th highest count has quotient n // R and remainder n % R, n from 0; R is as large as ``rows`` in
    total allow. An unknown id hashes to a row of each table (Shi et al., KDD 2020, section 3).

    Raises:
        InvalidInputError: ``rows`` do not suffice for distinct pairs, or an id is given twice.
    """
    number = max(1, len(ids_V))
    usable = rows - 2  # both tables have a row 0
    # R + ceil(V / R) is smallest near the square root, and grows with R from there on.
    remainders = next((r for r in range(usable - 1, 0, -1) if r + -(-number // r) <= usable), 0)
    if remainders == 0:
        least = 2 + min(r + -(-number // r) for r in range(1, int(number**0.5) + 2))
        raise InvalidInputError(
            f"table {table!r}: {rows} rows for quotients and remainders of {number:,} ids; allowed: {least} or more"
        )
    quotients = -(-number // remainders)
    parts: tuple[tuple[str, Exact, int], ...] = (
        (f"{table}__quotient", "quotient", quotients),
        (f"{table}__remainder", "remainder", remainders),
    )
    lookups = tuple(
        Lookup(
            table=name,
            num_rows=count + 1,
            exact=part,
            divisor=remainders,
            hashed=hashed_rows((seed, name), first=1, count=count),
        )
        for name, part, count in parts
    )
    ids = _numbered(_most_frequent(ids_V, counts_V), seed=seed)
    return RowMap(kind="quotient_remainder", lookups=lookups, combine="product", ids=ids)


def unified_rows(
    tables: Sequence[str], *, rows: int, chunks: Mapping[str, int], num_tables: int = 1, seed: int = 0
) -> dict[str, RowMap]:
    """Feature multiplexing: every table's ids hash into shared tables, with a salt per table and chunk.

    Args:
        tables: whose ids share; their order decides which physical tables each uses.
        rows: of each physical table ``unified_0``, ``unified_1``, ..., row 0 included.
        chunks: table -> its number of lookups; its vector is all of them, one after another.
        num_tables: physical tables; chunks take them in turn.
        seed: of the salts.

    Returns:
        A map per table.

    Raises:
        InvalidInputError: a table is given twice or has no number of chunks, or a number is out of range.
    """
    _check_rows("unified_0", rows)
    if num_tables < 1:
        raise InvalidInputError(f"unified: {num_tables} shared tables; allowed: 1 or more")
    maps: dict[str, RowMap] = {}
    turn = 0
    for table in tables:
        if table in maps:
            raise InvalidInputError(f"unified: table {table!r} is declared twice")
        if chunks.get(table, 0) < 1:
            raise InvalidInputError(f"unified: {chunks.get(table, 0)} chunks for table {table!r}; allowed: 1 or more")
        lookups = []
        for chunk in range(chunks[table]):
            shared = f"unified_{turn % num_tables}"
            hashed = hashed_rows((seed, table, chunk), first=1, count=rows - 1)
            lookups.append(Lookup(table=shared, num_rows=rows, hashed=hashed))
            turn += 1
        maps[table] = RowMap(kind="unified", lookups=tuple(lookups), combine="concat")
    return maps


def hashed_rows(salt: Sequence[int | str], *, first: int, count: int) -> HashedRows:
    """Rows by a hash function of its own for each salt."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in salt]
    a1, a2, b = hash_coefficients(words, 1)[0].tolist()
    return HashedRows(coefficients=(a1, a2, b), first=first, count=count)


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


def _rows_of_number_tensors(lookup: Lookup, numbers: Tensor) -> Tensor:
    if lookup.exact == "quotient":
        return torch.floor_divide(numbers - 1, lookup.divisor) + 1
    if lookup.exact == "remainder":
        return torch.remainder(numbers - 1, lookup.divisor) + 1
    return numbers


def _most_frequent(ids_V: Int64Array, counts_V: Int64Array) -> Int64Array:
    """Ids by falling count, equals by rising id."""
    return ids_V[np.lexsort((ids_V, -counts_V))]


def _numbered(ids_V: Int64Array, *, capacity: int = 0, seed: int) -> IdTable:
    return build_id_table(ids_V, np.arange(1, len(ids_V) + 1, dtype=np.int64), capacity=capacity, seed=seed)


def _check_rows(table: str, rows: int, functions: int = 1) -> None:
    if not 2 <= rows <= PRIME:
        raise InvalidInputError(
            f"table {table!r}: {rows} rows; allowed: 2 to {PRIME:,}, of which one is for missing ids"
        )
    if functions < 1:
        raise InvalidInputError(f"table {table!r}: {functions} hash functions; allowed: 1 or more")


def _lookup_from_dict(values: Mapping[str, Any]) -> Lookup:
    hashed = values["hashed"]
    if hashed is not None:
        hashed = HashedRows(**{**hashed, "coefficients": tuple(hashed["coefficients"])})
    return Lookup(**{**values, "hashed": hashed})
