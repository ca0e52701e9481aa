"""CandidateIndex: the interface of everything that finds a user's best items among all.

Shapes use ``K`` items found, ``N`` items to leave out, ``S`` events, ``A`` items that are not in the bundle, ``P``
rows, ``R`` columns of a row, ``D`` of an item's vector, ``L`` rows that are allowed, ``B`` bytes of a mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from recsys.arrays import BoolArray, Float32Array, Int64Array, UInt8Array
from recsys.bundle import ItemRows
from recsys.errors import InvalidInputError
from recsys.features.columns import Column
from recsys.features.feature_set import FeatureSet
from recsys.features.history.records import Events
from recsys.features.names import Names


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The best items of a user.

    Attributes:
        items: their keys, best first, distinct; int64, shape [K].
        scores: of any size, higher is better; float32, shape [K].
        known: True if the model knows the user; if not, these are the most popular items.
        history_known, history_unknown: events of the history that are of items that the model knows, and of others;
            0 where it reads none.
        segment: True if these are the items that are popular with users of the same segment, whom it does not know.
    """

    items: Int64Array
    scores: Float32Array
    known: bool
    history_known: int = 0
    history_unknown: int = 0
    segment: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class AddedItems:
    """Items that are not in the bundle and take part in a search: in histories, among what is left out, in the list.

    Attributes:
        keys: 0 or more, ascending; int64, [A]. Those that the bundle has are passed over.
        rows: as :meth:`CandidateIndex.rows` makes them, those that are usable, in any order, some perhaps no item's;
            float32, [P, R].
        names: of each row, where items are named by strings; there may be more.
        order: which row is each item's; int64, [A]; None: they are in the keys' order.

    Raises:
        InvalidInputError: keys are negative or not ascending, or there is not a place, a row or a name for each.
    """

    keys: Int64Array
    rows: Float32Array
    names: Sequence[str] | None = None
    order: Int64Array | None = None

    def __post_init__(self) -> None:
        keys = self.keys
        if keys.ndim != 1 or (len(keys) and keys[0] < 0) or (keys[1:] <= keys[:-1]).any():
            raise InvalidInputError("added items: keys must be distinct, ascending and 0 or more")
        places = self.row_places
        fit = self.rows.ndim == 2 and places.shape == keys.shape and int(places.max(initial=-1)) < len(self.rows)
        if not fit or (self.names is not None and len(self.names) < len(self.rows)):
            names = "no" if self.names is None else len(self.names)
            raise InvalidInputError(
                f"added items: rows {list(self.rows.shape)}, {names} names, {len(places)} places of {len(keys)} keys"
            )

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def row_places(self) -> Int64Array:
        """Place of each item's row; int64, [A]."""
        return np.arange(len(self.keys)) if self.order is None else self.order

    def places(self, keys: Int64Array) -> Int64Array:
        """Find the place of each key's row, -1 for keys that are none of the items.

        >>> AddedItems(np.array([3, 8]), np.zeros((2, 1), np.float32)).places(np.array([8, 5, 9]))
        array([ 1, -1, -1])
        """
        if not len(self.keys):
            return np.full(len(keys), -1)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        found: Int64Array = np.where(self.keys[place] == keys, self.row_places[place], -1)
        return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Allowed:
    """Rows that may be found; those of others are not. Exactly one of the two is given.

    Row r from 1 to M is that of the bundle's r-th item, in the order of :attr:`CandidateIndex.keys`; row ``M + 1 + a``
    is that of added item a, in the order of ``AddedItems``. Row 0 is of no item. Without any row nothing is found.

    Attributes:
        rows_L: rows, ascending; int64, [L]. A search reads these alone: it costs as much as the list is long.
        mask: one bit a row, that of row r is bit ``r % 8`` of byte ``r // 8``, as of ``np.packbits`` with
            ``bitorder="little"``, over rows 0 to M + A; uint8, [B], B = (M + A) // 8 + 1. All rows are read, coarsely.

    Raises:
        InvalidInputError: both or none is given, or it is of another type or number of dimensions, or rows are below 1
            or not ascending.

    >>> Allowed(rows_L=np.array([2, 5])).mask is None
    True
    """

    rows_L: Int64Array | None = None
    mask: UInt8Array | None = None

    def __post_init__(self) -> None:
        if (self.rows_L is None) == (self.mask is None):
            raise InvalidInputError("allowed: exactly one of rows_L and mask is to be given")
        for name, array, dtype in (("rows_L", self.rows_L, np.int64), ("mask", self.mask, np.uint8)):
            if array is not None and (array.dtype != dtype or array.ndim != 1):
                raise InvalidInputError(
                    f"allowed: {name} is {array.dtype} {list(array.shape)}; expected {np.dtype(dtype)}, one dimension"
                )
        rows_L = self.rows_L
        if rows_L is not None and len(rows_L) and (rows_L[0] < 1 or (rows_L[1:] <= rows_L[:-1]).any()):
            raise InvalidInputError("allowed: rows_L must be ascending, distinct and 1 or more")


class CandidateIndex(Protocol):
    """Finds items for a user. Safe to use from several threads."""

    @property
    def model(self) -> str:
        """Name of the retrieval model."""
        ...

    @property
    def version(self) -> str:
        """Version of the retrieval model."""
        ...

    @property
    def features(self) -> FeatureSet:
        """FeatureSet that declares the ids of users and items."""
        ...

    @property
    def names(self) -> Names | None:
        """Names of the items, where they are named by strings; else None, and a key is the item's id."""
        ...

    @property
    def history_fields(self) -> tuple[str, ...]:
        """The fields of a history's events that a user is known by; empty: users are known by their ids."""
        ...

    @property
    def user_inputs(self) -> tuple[str, ...]:
        """Features of the user that a search depends on, beside the history."""
        ...

    @property
    def item_inputs(self) -> tuple[str, ...]:
        """Attributes of an item, and perhaps its id, by which :meth:`rows` makes a row of it; empty: it makes none, and
        only items of the training data are found."""
        ...

    @property
    def keys(self) -> Int64Array:
        """Keys of the bundle's items, ascending: that of row r is at place r - 1; int64, [M]."""
        ...

    def has_items(self, keys: Int64Array) -> BoolArray:
        """True for those of these items that are in the bundle; bool, [A]."""
        ...

    def vectors(self, keys: Int64Array, added: AddedItems | None = None) -> Float32Array:
        """Vectors of items, by whose products with a user's they are found; float32, [A, D].

        Args:
            keys: of the items; one that is not in the bundle, nor among the added ones, has zeros.
            added: items beside those of the bundle.
        """
        ...

    def rows(self, columns: Mapping[str, Column]) -> ItemRows:
        """Make rows of items by their attributes.

        Args:
            columns: by name, N = A; those that are absent are missing, others are passed over.

        Raises:
            InvalidInputError: there are no :attr:`item_inputs`, or lengths differ.
        """
        ...

    def retrieve(
        self,
        user_key: int,
        seen: Int64Array,
        k: int,
        events: Events | None = None,
        added: AddedItems | None = None,
        user: Mapping[str, Column] | None = None,
        allowed: Allowed | None = None,
    ) -> Retrieved:
        """Find the k items with the highest scores; fewer where fewer are left.

        Args:
            user_key: key of the user's id; of any user.
            seen: keys of items to leave out, shape [N], N >= 0; unknown ones and repetitions do no harm.
            k: items to find, 1 or more.
            events: of the user that count, oldest first, shape [S]; looked at if there are :attr:`history_fields`.
            added: items that take part beside those of the bundle; looked at if there are :attr:`item_inputs`.
            user: columns of the user's features, N = 1; those of :attr:`user_inputs` that are absent are missing.
            allowed: rows that may be found, of M items and these added ones; None: all.

        Raises:
            InvalidInputError: k is out of range, or ``allowed`` has rows that there are not, or a mask of another
                length.
        """
        ...
