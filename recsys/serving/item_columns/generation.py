"""Generation: a mapped file of item columns. Its room never changes: where there is too little, another file follows.

``C`` items there is room for, ``K`` values of an item, ``V`` distinct values of a column.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.arrays import Int32Array, Int64Array, UInt8Array
from recsys.errors import ConfigError, NoSpaceError
from recsys.files import no_space
from recsys.serving.item_columns.key_table import KeyTable
from recsys.serving.item_columns.layout import COUNTS_BYTES, HEADER_BYTES, ColumnSpec, Layout, layout_of_json
from recsys.serving.item_columns.postings import Postings, Snapshot

WITHDRAWN_COUNT, CHANGE_COUNT, ITEM_COUNT = range(3)
"""Places among the counts: of withdrawn items, changes, items. Those of the tables' keys follow."""


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """A column of values.

    Attributes:
        spec: of it.
        array: of ids codes, int32, 0 for none and else the place in ``table`` + 1; of numbers float32, NaN for none;
            [C] or [C, K].
        table: the distinct values of ids; None for numbers.
    """

    spec: ColumnSpec
    array: npt.NDArray[Any]
    table: KeyTable | None


class Generation:
    """Columns of items, mapped.

    Attributes:
        layout: of the file.
        items: keys of the items; an item's place is its row in all columns.
        stored: ``NOT_STORED``, ``STORED`` or ``IS_WITHDRAWN`` of each item; uint8, [C].
        columns: values by feature.
        postings: places by values; None: there are none yet.
        number, postings_number: of their files, for who looks for newer postings.
    """

    def __init__(self, layout: Layout, mapped: mmap.mmap) -> None:
        self.layout = layout
        self.postings: Postings | None = None
        self.number = self.postings_number = 0
        self._changed: tuple[int, int, Int32Array] | None = None
        arrays = {
            name: np.frombuffer(mapped, dtype=dtype, count=int(np.prod(shape)), offset=at).reshape(shape)
            for name, dtype, shape, at in layout.arrays()
        }
        self._counts = np.frombuffer(mapped, dtype="<u8", count=COUNTS_BYTES // 8, offset=HEADER_BYTES)
        self.items = KeyTable(arrays["keys"], arrays["index"], self._counts[ITEM_COUNT : ITEM_COUNT + 1])
        self.stored: UInt8Array = arrays["stored"]
        self._changes: Int32Array = arrays["changes"]
        self.columns: Mapping[str, Values] = {
            spec.name: Values(
                spec,
                arrays[f"{spec.name}.column"],
                KeyTable(arrays[f"{spec.name}.values"], arrays[f"{spec.name}.index"], self._counts[at : at + 1])
                if spec.kind == "ids"
                else None,
            )
            for at, spec in enumerate(layout.columns, start=ITEM_COUNT + 1)
        }

    @property
    def withdrawn(self) -> int:
        """Number of withdrawn items."""
        return int(self._counts[WITHDRAWN_COUNT])

    def count_withdrawn(self, more: int) -> None:
        """Add to that number."""
        self._counts[WITHDRAWN_COUNT] = max(self.withdrawn + more, 0)

    @property
    def changes(self) -> int:
        """Number of places that were written, since there is the file."""
        return int(self._counts[CHANGE_COUNT])

    def note_changes(self, places: Int64Array) -> None:
        """Add to them; of the last C / 64 the places are known."""
        before, room = self.changes, len(self._changes)
        kept = places[-room:]
        self._changes[(before + len(places) - len(kept) + np.arange(len(kept))) % room] = kept
        self._counts[CHANGE_COUNT] = before + len(places)

    @property
    def has_lists(self) -> bool:
        """True if there are postings, and all that changed since they were made is known."""
        postings = self.postings
        return postings is not None and self.knows_since(postings.since)

    def knows_since(self, since: int) -> bool:
        """True if all that changed since there were so many changes is known."""
        return 0 <= self.changes - since <= len(self._changes)

    def changed(self, since: int) -> Int32Array:
        """Places that changed since there were so many changes, ascending, distinct; all are known.

        ``since`` is of the postings that the caller has: another thread may find newer ones at any time.
        """
        until = self.changes
        kept = self._changed
        if kept is None or kept[:2] != (since, until):
            places = np.unique(self._changes[np.arange(since, until) % len(self._changes)])
            self._changed = kept = (since, until, places)
        return kept[2]

    def snapshot(self) -> Snapshot:
        """A copy of the codes of all columns of ids."""
        count = len(self.items)
        codes = {
            name: (values.array[:count].copy(), len(values.table))
            for name, values in self.columns.items()
            if values.table is not None
        }
        return Snapshot(self.changes, codes)

    @property
    def size_bytes(self) -> int:
        """Of the file."""
        return self.layout.size_bytes


def create_generation(path: Path, layout: Layout) -> Generation:
    """Make a file, all of whose room is there from the start: a write never finds the disk or the memory full.

    Raises:
        NoSpaceError: there is no room for it.
        ConfigError: the folder cannot be written.
    """
    header = layout.to_json().encode()
    if len(header) > HEADER_BYTES - 8 or 8 * (len(layout.columns) + 3) > COUNTS_BYTES:
        raise ConfigError(f"{len(layout.columns)} filterable features are too many for item columns")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, layout.size_bytes)
            os.pwrite(descriptor, len(header).to_bytes(8, "little") + header, 0)
        finally:
            os.close(descriptor)
    except OSError as error:
        path.unlink(missing_ok=True)
        if no_space(error):
            raise NoSpaceError(f"{path.parent}: no room for item columns of {layout.size_bytes:,} bytes") from error
        raise ConfigError(f"{path.parent} cannot hold item columns: {error.strerror}") from error
    made = open_generation(path)
    for values in made.columns.values():
        if values.table is None:
            values.array[:] = np.nan
    return made


def open_generation(path: Path) -> Generation:
    """Map a file that :func:`create_generation` made; FileNotFoundError if it is there no more."""
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
    length = int.from_bytes(mapped[:8], "little")
    return Generation(layout_of_json(mapped[8 : 8 + length].decode()), mapped)
