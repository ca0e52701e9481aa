"""ColumnWriter: changes the item columns of a folder. One process at a time has one (``follower.py``).

``N`` items written together.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from recsys.arrays import BoolArray, Int32Array, Int64Array, UInt8Array
from recsys.errors import NoSpaceError
from recsys.feature_store.base import IS_WITHDRAWN, NOT_STORED, STORED
from recsys.features.columns import Column
from recsys.features.feature_set import Feature
from recsys.features.hashing import MISSING
from recsys.rate_limited_log import RateLimitedLog
from recsys.serving.item_columns.generation import Generation, Values, create_generation, open_generation
from recsys.serving.item_columns.key_table import KeyTable
from recsys.serving.item_columns.layout import Layout, layout_of, same_columns
from recsys.serving.item_columns.postings import Snapshot, postings_bytes, postings_path, write_postings
from recsys.serving.item_columns.state import State

_log = logging.getLogger("recsys.serving")

_SPARE = 1.25
"""Room of a new file over what is needed."""

FEWEST_LISTED = 65_536
"""Items; fewer are looked at as fast."""

_CLOSE_S = 10.0
_MANY_CHANGES = 4_096
_PAUSES = 10
"""Times as long as making postings took, until they are made again."""


class ColumnWriter:
    """Writes values of items into columns that others read meanwhile.

    Args:
        folder: of the columns.
        filterable: features to hold, each with its entity.
        limit_bytes: most bytes of the columns.
    """

    def __init__(self, folder: Path, filterable: Sequence[tuple[str, Feature]], *, limit_bytes: int) -> None:
        self.state = State(folder)
        self.filterable = tuple(filterable)
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._left_out: set[int] = set()
        self._trouble = RateLimitedLog(_log, every_s=60.0)
        self._number = self.state.generation
        self.listing: threading.Thread | None = None
        """The thread that makes postings, or made the last."""
        self._listed = (0, 0)
        """Number of the columns that postings were made of last, and their changes then."""
        self._list_next_s = 0.0
        self._clean()
        self._filling = False
        self._current: Generation | None = None
        if self._number and not self.state.version % 2:
            with contextlib.suppress(OSError):
                self._current = open_generation(self._path(self._number))
            if self._current is not None and not same_columns(self._current.layout, layout_of(filterable, items=0)):
                self._current = None

    @property
    def ready(self) -> bool:
        """There are columns of these features, which readers have; without them all items are to be looked at."""
        return self._current is not None and not self._filling

    @property
    def generation(self) -> Generation | None:
        """The columns there are; None: none."""
        return self._current

    def begin(self, items: int) -> None:
        """Begin columns anew, with room for so many items; readers keep what they have until :meth:`publish`.

        Raises:
            NoSpaceError, ConfigError: there is no room for the columns, or no right to write them.
        """
        layout = layout_of(self.filterable, items=int(items * _SPARE))
        self._left_out.clear()
        self._current, self._filling = None, True
        self._current = self._make(layout)

    def publish(self) -> None:
        """Let readers have the columns that were begun."""
        assert self._current is not None
        if self._filling:
            self.state.switch(self._number)
            self.state.mend()
            with self.state.changing():
                self._filling = False
            self._clean()
        self.state.left_out = len(self._left_out)

    def write(self, keys: Int64Array, columns: Mapping[str, Column], stored: Mapping[str, UInt8Array]) -> None:
        """Set the values of items.

        Args:
            keys: distinct, [N].
            columns: by feature, N rows each.
            stored: by entity, what the store has of each, [N]; see ``EntityRows.stored``.
        """
        assert self._current is not None, "columns were begun"
        there = np.any([of != NOT_STORED for of in stored.values()], axis=0)
        keep = there | (self._current.items.find(keys) >= 0)
        columns = {name: _missing_unless(there, column)[keep] for name, column in columns.items()}
        keys, item = keys[keep], stored["item"][keep]
        if not len(keys):
            return
        self._make_room(keys, columns)
        with contextlib.nullcontext() if self._filling else self.state.changing():
            self._set(self._current, keys, columns, item)
        self.state.left_out = len(self._left_out)

    def list_places(self) -> None:
        """Have postings made anew, by a thread, if there are none or many places have changed since.

        Sorting ten million codes takes a second, in which writes go on.
        """
        current = self._current
        if current is None or self._filling or len(current.items) < FEWEST_LISTED:
            return
        if self.listing is not None and self.listing.is_alive():
            return
        number, since = self._listed
        if number == self._number and current.changes - since <= max(_MANY_CHANGES, len(current.items) // 256):
            return
        if time.monotonic() < self._list_next_s or not any(values.table for values in current.columns.values()):
            return
        snapshot = current.snapshot()
        self._listed = (self._number, snapshot.changes)
        if current.size_bytes + postings_bytes(snapshot) > self._limit_bytes:
            self._trouble.warning(
                "lists",
                "item columns: no room for lists of the items by value in max_item_columns_mib "
                "(RECSYS_MAX_ITEM_COLUMNS_MIB: %.0f MiB): filters look at all items, which is slower",
                self._limit_bytes / 2**20,
            )
            return
        self.listing = threading.Thread(
            target=self._list, args=(self._number, snapshot), name="item-postings", daemon=True
        )
        self.listing.start()

    def close(self) -> None:
        """Wait for postings that are being made: the next writer of the folder makes them in the same file."""
        if self.listing is not None:
            self.listing.join(_CLOSE_S)

    def _list(self, generation: int, snapshot: Snapshot) -> None:
        began_s = time.monotonic()
        number = self.state.postings + 1
        made = self._folder / "making-postings"
        kept = postings_path(self._folder, generation, number)
        try:
            write_postings(made, snapshot)
            self.state.postings = number
            made.replace(kept)
        except OSError as error:
            made.unlink(missing_ok=True)
            self._trouble.warning("lists", "item columns: no lists of the items by value: %s", error)
        for path in self._folder.glob("postings-*"):
            if path != kept:
                path.unlink(missing_ok=True)
        now_s = time.monotonic()
        self._list_next_s = now_s + _PAUSES * (now_s - began_s)

    def keys(self) -> Int64Array:
        """Keys of all items that there are."""
        if self._current is None:
            return np.empty(0, dtype=np.int64)
        return self._current.items.keys_C[: len(self._current.items)].copy()

    def stored_keys(self) -> Int64Array:
        """Keys of the items whose rows are stored and not withdrawn."""
        if self._current is None:
            return np.empty(0, dtype=np.int64)
        keys: Int64Array = self.keys()[self._current.stored[: len(self._current.items)] == STORED]
        return keys

    def _set(self, into: Generation, keys: Int64Array, columns: Mapping[str, Column], item: UInt8Array) -> None:
        places = into.items.add(keys)
        has_room = places >= 0
        self._leave_out(keys[~has_room])
        kept, places = keys[has_room], places[has_room]
        before = np.count_nonzero(into.stored[places] == IS_WITHDRAWN)
        into.note_changes(places)
        into.stored[places] = item[has_room]
        into.count_withdrawn(int(np.count_nonzero(item[has_room] == IS_WITHDRAWN)) - int(before))
        self._left_out.difference_update(kept.tolist())
        for name, values in into.columns.items():
            column = columns[name][has_room]
            if values.table is None:
                values.array[places] = column
            else:
                codes = _codes(values.table, column)
                values.array[places] = codes
                lost = ((codes == 0) & (column != MISSING)).reshape(len(kept), -1).any(axis=1)
                self._leave_out(kept[lost])

    def _leave_out(self, keys: Int64Array) -> None:
        if not len(keys):
            return
        self._left_out.update(keys.tolist())
        self._trouble.warning(
            "room",
            "item columns: no room for %d items, or for a value of theirs, in max_item_columns_mib "
            "(RECSYS_MAX_ITEM_COLUMNS_MIB: %.0f MiB) in %s: filters take their values for missing, and say degraded",
            len(self._left_out),
            self._limit_bytes / 2**20,
            self._folder,
        )

    def _make_room(self, keys: Int64Array, columns: Mapping[str, Column]) -> None:
        """See that there is room for items and their values, as far as the limit goes."""
        assert self._current is not None
        layout = self._current.layout
        needed = len(self._current.items) + int(np.count_nonzero(self._current.items.find(keys) < 0))
        items = layout.items if needed <= layout.items else int(max(needed, layout.items) * 2)
        specs = [
            replace(values.spec, values=_values_room(values, columns[name]))
            for name, values in self._current.columns.items()
        ]
        wanted = Layout(items=items, columns=tuple(specs))
        if wanted == layout:
            return
        wanted = wanted.fitting(self._limit_bytes)
        if wanted.items < len(self._current.items) or wanted.size_bytes <= layout.size_bytes:
            return
        before = self._current
        try:
            grown = self._make(wanted)
        except NoSpaceError as error:
            self._trouble.warning("space", "item columns cannot grow: %s", error)
            return
        _copy(before, grown)
        self._current = grown
        if not self._filling:
            with self.state.changing():
                self.state.switch(self._number)
            self._clean()

    def _make(self, layout: Layout) -> Generation:
        fitted = layout.fitting(self._limit_bytes)
        if fitted.items < 1:
            raise NoSpaceError(
                f"item columns need more than max_item_columns_mib (RECSYS_MAX_ITEM_COLUMNS_MIB) allows: "
                f"{self._limit_bytes / 2**20:.0f} MiB"
            )
        number = self._number + 1
        made = create_generation(self._path(number), fitted)
        self._number = number
        return made

    def _path(self, number: int) -> Path:
        return self._folder / f"columns-{number}"

    def _clean(self) -> None:
        """Remove files that count no more; who has one mapped keeps it."""
        state = self.state
        kept = {self._path(state.generation), postings_path(self._folder, state.generation, state.postings)}
        for path in [*self._folder.glob("columns-*"), *self._folder.glob("postings-*")]:
            if path not in kept:
                path.unlink(missing_ok=True)


def _missing_unless(there: BoolArray, column: Column) -> Column:
    """A column in which items of which nothing is stored any more have no number, rather than its default."""
    return np.where(there, column, np.float32(np.nan)) if column.dtype == np.float32 else column


def _codes(table: KeyTable, column: Int64Array) -> Int32Array:
    """Codes of keys, of the same shape: 0 for those that are missing, or found no room."""
    flat = column.reshape(-1)
    distinct, where = np.unique(flat, return_inverse=True)
    codes = np.zeros(len(distinct), dtype=np.int32)
    present = distinct != MISSING
    codes[present] = table.add(distinct[present]) + 1
    return codes[where.reshape(-1)].reshape(column.shape)


def _values_room(values: Values, column: Column) -> int:
    """Distinct values that a column needs room for, doubled where there is too little."""
    if values.table is None:
        return 0
    distinct = np.unique(column)
    distinct = distinct[distinct != MISSING]
    needed = len(values.table) + int(np.count_nonzero(values.table.find(distinct) < 0))
    return values.table.capacity if needed <= values.table.capacity else 2 * needed


def _copy(old: Generation, new: Generation) -> None:
    """Have a larger file hold what another holds."""
    count = len(old.items)
    new.items.load(old.items.keys_C[:count])
    new.stored[:count] = old.stored[:count]
    new.count_withdrawn(old.withdrawn)
    for name, values in old.columns.items():
        into = new.columns[name]
        into.array[:count] = values.array[:count]
        if values.table is not None and into.table is not None:
            into.table.load(values.table.keys_C[: len(values.table)])
