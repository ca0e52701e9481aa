"""Random numbers by counting: each is a hash of what it is for, so that the order of the draws does not matter."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.arrays import Int64Array

Bits = npt.NDArray[np.uint64]

_STEP = np.uint64(0x9E3779B97F4A7C15)


def hashed(*parts: Any) -> Bits:
    """64 random bits for each row of integers (arrays or scalars, broadcast).

    SplitMix64's finalizer (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014), chained
    over the parts.

    >>> bits = hashed(1, np.arange(3))
    >>> len(set(bits.tolist())), bool((bits == hashed(1, np.arange(3))).all())
    (3, True)
    """
    state = np.zeros(1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            state = _mixed((state ^ np.asarray(part, dtype=np.int64).astype(np.uint64)) + _STEP)
    return state


def below(bits: Bits, limit: Int64Array) -> Int64Array:
    """Integers in [0, limit) from random bits; limits up to 2^53."""
    unit = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.minimum((unit * limit).astype(np.int64), limit - 1)


def _mixed(state: Bits) -> Bits:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
