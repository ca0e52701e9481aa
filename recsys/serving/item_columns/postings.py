"""Postings: the places of items by their values, in a file beside item columns that change from then on.

A list is as of when it was made. What changed since stands in the columns (``Generation.changed``): who takes a list
takes these places too and asks the columns of each, so the answer is exact however old the lists are.

``C`` items, ``K`` values of an item, ``D`` distinct values of a column, ``E`` entries of a list.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys.arrays import Int32Array, Int64Array
from recsys.serving.item_columns.layout import HEADER_BYTES, padded


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of all codes.

    Attributes:
        changes: number of them when it was made.
        codes: by feature; int32 [C] or [C, K], and the largest there may be.
    """

    changes: int
    codes: Mapping[str, tuple[Int32Array, int]]


class Postings:
    """Lists of places, mapped.

    Attributes:
        since: number of changes that the columns had when they were made.
    """

    def __init__(self, mapped: mmap.mmap) -> None:
        length = int.from_bytes(mapped[:8], "little")
        header = json.loads(mapped[8 : 8 + length])
        self.since = int(header["since"])
        self.size_bytes = len(mapped)
        self._lists: dict[str, tuple[Int32Array, Int32Array]] = {}
        for name, at, starts, places in _arrays(header["columns"]):
            self._lists[name] = (
                np.frombuffer(mapped, dtype="<i4", count=starts, offset=at),
                np.frombuffer(mapped, dtype="<i4", count=places, offset=at + padded(4 * starts)),
            )

    def count(self, name: str, codes: Int64Array) -> int:
        """E, of the values of a column with these codes together.

        Raises:
            KeyError: there are no lists of the column.
        """
        starts = self._lists[name][0]
        known = codes[codes < len(starts) - 1]
        return int((starts[known + 1] - starts[known]).sum())

    def places(self, name: str, codes: Int64Array) -> list[Int32Array]:
        """Places of the items with each of these values, each list ascending; of values that came later there is none.

        Raises:
            KeyError: there are no lists of the column.
        """
        starts, places = self._lists[name]
        known = codes[codes < len(starts) - 1]
        return [places[starts[code] : starts[code + 1]] for code in known.tolist()]


def postings_path(folder: Path, generation: int, number: int) -> Path:
    """File of postings of the columns of a number."""
    return folder / f"postings-{generation}-{number}"


def postings_bytes(snapshot: Snapshot) -> int:
    """Bytes, at most, of the file for the values of columns."""
    sizes = [(name, values + 2, codes.size) for name, (codes, values) in snapshot.codes.items()]
    return HEADER_BYTES + sum(padded(4 * starts) + padded(4 * places) for _, starts, places in sizes)


def write_postings(path: Path, snapshot: Snapshot) -> None:
    """Write the lists of places of all columns of ids.

    Raises:
        OSError: there is no room, or no right.
    """
    made: list[tuple[str, Int32Array, Int32Array]] = []
    for name, (codes, values) in snapshot.codes.items():
        starts, order = _lists_of(codes.reshape(-1), values)
        made.append((name, starts, order // codes.shape[1] if codes.ndim > 1 else order))
    columns = {name: [len(starts), len(places)] for name, starts, places in made}
    header = json.dumps({"since": snapshot.changes, "columns": columns}).encode()
    arrays = {name: (starts, places) for name, starts, places in made}
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name, at, count, _ in _arrays(columns):
            for start, array in zip((at, at + padded(4 * count)), arrays[name], strict=True):
                file.seek(start)
                file.write(array.astype("<i4").tobytes())
        file.truncate(max(file.tell(), HEADER_BYTES))


def open_postings(path: Path) -> Postings:
    """Map a file that :func:`write_postings` made; FileNotFoundError if it is there no more."""
    with path.open("rb") as file:
        return Postings(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _lists_of(codes: Int32Array, values: int) -> tuple[Int32Array, Int32Array]:
    """Begin of each code's list and, behind the last, its end; and the lists, of entries of ``codes``."""
    narrow = codes.astype(np.uint16) if values < 1 << 16 else codes  # numpy sorts these by radix, ten times as fast
    order = np.argsort(narrow, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=values + 1))])
    return starts.astype(np.int32), order.astype(np.int32)


def _arrays(columns: Mapping[str, list[int]]) -> Iterator[tuple[str, int, int, int]]:
    """Name, offset and the two lengths of each column's arrays."""
    at = HEADER_BYTES
    for name, (starts, places) in columns.items():
        yield name, at, starts, places
        at += padded(4 * starts) + padded(4 * places)
