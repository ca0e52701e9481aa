"""The names that string ids came from, by key: one file that all processes of a machine share by mapping it.

The bytes are in ``docs/specs/bundle.md``, "Names". ``R`` rows of the item table, ``K`` items asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys.arrays import Int64Array
from recsys.errors import BundleError

ITEM_NAMES = "tables/item_id.names.bin"
"""File of a bundle that holds them."""


@dataclass(frozen=True, slots=True)
class Names:
    """Names in the order of their keys; made by :func:`open_names`.

    Attributes:
        keys_R: ascending, int64.
        begins: where each name begins, and where the last one ends; [R + 1], int64.
        utf8: all names, one behind another.
    """

    keys_R: Int64Array
    begins: Int64Array
    utf8: memoryview

    def of(self, keys_K: Int64Array) -> list[str]:
        """The names of keys, each of which must be one of ``keys_R``. What is no UTF-8 is replaced by U+FFFD."""
        rows = np.searchsorted(self.keys_R, keys_K)
        begins, ends = self.begins[rows].tolist(), self.begins[rows + 1].tolist()
        return [str(self.utf8[begin:end], "utf-8", "replace") for begin, end in zip(begins, ends, strict=True)]


def write_names(file: Path, names_R: Sequence[str]) -> None:
    """Write names in the order of their keys.

    Raises:
        UnicodeEncodeError: one has a lone surrogate, which UTF-8 cannot express.
    """
    utf8 = [name.encode() for name in names_R]
    begins = np.zeros(len(utf8) + 1, dtype="<i8")
    np.cumsum([len(name) for name in utf8], out=begins[1:])
    file.write_bytes(begins.tobytes() + b"".join(utf8))


def open_names(file: Path, keys_R: Int64Array) -> Names:
    """Map the names of these keys, which must be ascending.

    Raises:
        BundleError: the file is missing, cut short or damaged, or is not of so many keys.
    """
    try:
        stored = np.asarray(np.memmap(file, dtype=np.uint8, mode="r"))
    except (OSError, ValueError) as error:  # ValueError: it is empty
        raise BundleError(f"{file}: cannot be read: {error}; export the bundle again") from error
    head_bytes = 8 * (len(keys_R) + 1)
    if len(stored) < head_bytes:
        raise BundleError(
            f"{file}: has {len(stored):,} bytes; expected {head_bytes:,} and the names of {len(keys_R):,} rows: "
            "export the bundle again"
        )
    begins = stored[:head_bytes].view("<i8")
    name_bytes = len(stored) - head_bytes
    if begins[0] != 0 or begins[-1] != name_bytes or (begins[1:] < begins[:-1]).any():
        raise BundleError(
            f"{file}: has {name_bytes:,} bytes of names, which are to begin at {begins[0]:,}, not to go back, and to "
            f"end at {begins[-1]:,}; expected 0 and {name_bytes:,}: export the bundle again"
        )
    return Names(keys_R, begins, stored.data[head_bytes:])
