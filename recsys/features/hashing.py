"""Ids to 62-bit keys, and the universal hash that turns keys into rows.

Both are the same everywhere: a key is computed once at the edge (here), and the
universal hash uses int64 arithmetic only, so numpy, torch and ONNX give the same
bits (see ``docs/specs/ids.md``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from recsys.arrays import Int64Array
from recsys.errors import InvalidInputError

KEY_LIMIT = 1 << 62
"""Keys are in [0, KEY_LIMIT)."""

MISSING = -1
"""Stands for "no value" wherever a key is expected; no key equals it."""

PRIME = (1 << 31) - 1
"""The Mersenne prime of the universal hash."""

HALF_BITS = 31
HALF_MASK = (1 << HALF_BITS) - 1


def check_key(key: int) -> int:
    """The key, or InvalidInputError if it is none.

    >>> check_key(7)
    7
    """
    if not 0 <= key < KEY_LIMIT:
        raise InvalidInputError(f"key is {key}; allowed: 0 to 2^62 - 1 (see features/hashing.py)")
    return key


def string_key(value: str) -> int:
    """The 62-bit key of a string id: XXH3-64 of its UTF-8 bytes, shifted right by 2.

    >>> 0 <= string_key("B00005N7P0") < KEY_LIMIT
    True
    """
    return xxhash.xxh3_64_intdigest(value.encode("utf-8", "surrogatepass")) >> 2


def integer_key(value: int) -> int:
    """The 62-bit key of an integer id: itself in [0, 2^62), else the key of its decimal text.

    >>> integer_key(1193)
    1193
    >>> integer_key(-7) == string_key("-7")
    True
    """
    return value if 0 <= value < KEY_LIMIT else string_key(str(value))


def integer_keys(values: npt.NDArray[Any]) -> Int64Array:
    """:func:`integer_key` of every element of an integer array; same shape, int64."""
    if values.dtype == np.uint64:
        in_range = values < KEY_LIMIT
    else:
        values = values.astype(np.int64, copy=False)
        in_range = (values >= 0) & (values < KEY_LIMIT)
    if in_range.all():
        return values.astype(np.int64, copy=False)
    keys = values.astype(np.int64)
    keys[~in_range] = [integer_key(int(v)) for v in values[~in_range]]
    return keys


def string_keys(values: Sequence[str]) -> Int64Array:
    """:func:`string_key` of every element; shape [N], int64."""
    return np.fromiter((string_key(v) for v in values), dtype=np.int64, count=len(values))


def equal_keys(keys: Int64Array) -> tuple[int, int] | None:
    """Places of two equal keys, the lower first; None if all are distinct.

    >>> equal_keys(np.array([5, 7, 3, 7])), equal_keys(np.array([5, 7]))
    ((1, 3), None)
    """
    order = np.argsort(keys, kind="stable")
    found = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    return (int(order[found[0]]), int(order[found[0] + 1])) if len(found) else None


def hash_coefficients(seed: int | Sequence[int], functions: int) -> Int64Array:
    """Random coefficients (a1, a2, b) of Carter-Wegman hash functions, shape [functions, 3].

    a1 and a2 are in [1, PRIME), b in [0, PRIME): ((a1 lo + a2 hi + b) mod PRIME) mod rows is a
    universal family over pairs of 31-bit halves (Carter and Wegman, JCSS 1979).
    """
    random = np.random.Generator(np.random.PCG64(seed))
    low = np.array([1, 1, 0], dtype=np.int64)
    return random.integers(low, PRIME, size=(functions, 3), dtype=np.int64)


def hash_keys(keys: Int64Array, coefficients: Int64Array, rows: int) -> Int64Array:
    """Universal hash of keys to [0, rows), same shape, int64.

    Intermediate values stay below 2^63: each product is below 2^62, and the products are
    reduced before they are added. ``MISSING`` hashes like key 0; callers mask it.

    Args:
        keys: any shape, int64.
        coefficients: (a1, a2, b), shape [3], from :func:`hash_coefficients`.
        rows: in [1, PRIME].
    """
    a1, a2, b = (int(c) for c in coefficients)
    keys = np.maximum(keys, 0)
    low = keys & HALF_MASK
    high = keys >> HALF_BITS
    hashed: Int64Array = ((low * a1) % PRIME + (high * a2) % PRIME + b) % PRIME % rows
    return hashed
