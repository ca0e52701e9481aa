"""Rows that a search may find, as the graph ``retrieve`` takes them.

Shapes use ``M`` items of the bundle, ``A`` added items, ``L`` rows of a list.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.arrays import BoolArray, UInt8Array
from recsys.bundle import ALL_ALLOWED, ALLOWS_LIST, ALLOWS_MASK
from recsys.errors import InvalidInputError
from recsys.serving.inference.candidate_index import Allowed

_LIST, _MASK = np.array(ALLOWS_LIST, dtype=np.int64), np.array(ALLOWS_MASK, dtype=np.int64)
_NO_ROW = np.zeros(1, dtype=np.int64)


def allowed_inputs(allowed: Allowed, items: int, takes_part_A: BoolArray) -> dict[str, npt.NDArray[Any]]:
    """Inputs of the graph; the rows of added items that take no part are left out, and those of the others move up.

    Args:
        allowed: rows of M + A items.
        items: M.
        takes_part_A: added items that the graph is given, in their order.

    Raises:
        InvalidInputError: rows are above M + A, or the mask is not as long as it takes.
    """
    every = items + len(takes_part_A)
    if allowed.rows_L is not None:
        rows_L = allowed.rows_L
        if len(rows_L) and rows_L[-1] > every:
            raise InvalidInputError(
                f"allowed: row {rows_L[-1]} was given; allowed: 1 to {every} ({items} items, {len(takes_part_A)} added)"
            )
        if not takes_part_A.all():
            begin = np.searchsorted(rows_L, items + 1)
            place_A = np.cumsum(takes_part_A)
            added = rows_L[begin:] - items - 1
            rows_L = np.concatenate([rows_L[:begin], items + place_A[added[takes_part_A[added]]]])
        return {**ALL_ALLOWED, "allowed": _LIST, "allowed.rows": rows_L if len(rows_L) else _NO_ROW}
    mask = allowed.mask
    assert mask is not None
    if len(mask) != every // 8 + 1:
        raise InvalidInputError(
            f"allowed: the mask has {len(mask)} bytes; expected {every // 8 + 1}, for rows 0 to {every} ({items} "
            f"items, {len(takes_part_A)} added)"
        )
    return {**ALL_ALLOWED, "allowed": _MASK, "allowed.mask": _moved_up(mask, items, takes_part_A)}


def _moved_up(mask: UInt8Array, items: int, takes_part_A: BoolArray) -> UInt8Array:
    """The mask with room for one added item at least: without any the graph is given one that is none."""
    if takes_part_A.all() and len(takes_part_A):
        return mask
    begin = (items + 1) // 8
    bits = np.unpackbits(mask[begin:], bitorder="little")
    first = items + 1 - 8 * begin
    kept = np.concatenate([bits[:first], bits[first : first + len(takes_part_A)][takes_part_A], np.zeros(1, np.uint8)])
    return np.concatenate([mask[:begin], np.packbits(kept, bitorder="little")])


def not_allowed(allowed: Allowed, items: int) -> BoolArray:
    """Tell which of the bundle's items may not be found, [M]; arguments as of :func:`count_allowed`."""
    if allowed.rows_L is not None:
        out_M = np.ones(items, dtype=np.bool_)
        out_M[allowed.rows_L[: count_allowed(allowed, items)] - 1] = False
        return out_M
    assert allowed.mask is not None
    return np.asarray(np.unpackbits(allowed.mask, bitorder="little")[1 : items + 1] == 0)


def count_allowed(allowed: Allowed, items: int) -> int:
    """Count the bundle's items that may be found.

    Args:
        allowed: the rows.
        items: of the bundle.
    """
    if allowed.rows_L is not None:
        return int(np.searchsorted(allowed.rows_L, items + 1))
    assert allowed.mask is not None
    end = (items + 1) // 8
    tail = np.unpackbits(allowed.mask[end:], bitorder="little")[: items + 1 - 8 * end]
    row_zero = int(allowed.mask[0] & 1) if len(allowed.mask) else 0
    return int(np.bitwise_count(allowed.mask[:end]).sum(dtype=np.int64)) + int(tail.sum()) - row_zero
