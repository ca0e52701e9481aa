"""The universal hash of ``features/hashing.py`` in tensor operations that export to standard ONNX operators.

An operator on a few hundred keys costs mostly its own overhead, so there are few of them: all functions are computed
at once, and the high half of a key is never taken. Modulo the Mersenne prime P = 2^31 - 1 a key low + 2^31 high is
low + high, so a1 low + a2 high is (a1 - a2) low + a2 key.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recsys.features.hashing import HALF_MASK, PRIME, hash_coefficients


@dataclass(frozen=True, kw_only=True)
class HashedRows:
    """``first`` + a universal hash of the key mod ``count``.

    ``coefficients``: (a1, a2, b) of :func:`recsys.features.hashing.hash_keys`.
    """

    coefficients: tuple[int, int, int]
    first: int
    count: int


def hashed_rows(salt: Sequence[int | str], *, first: int, count: int) -> HashedRows:
    """Rows by a hash function that the salt alone decides."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in salt]
    a1, a2, b = hash_coefficients(words, 1)[0].tolist()
    return HashedRows(coefficients=(a1, a2, b), first=first, count=count)


def hash_all(keys: Tensor, functions: Sequence[Sequence[HashedRows]]) -> Tensor:
    """Several functions of every key, int64 [len(functions), *keys.shape].

    What a negative key gets is not defined but for its range, [first, first + count).

    Args:
        keys: int64, of any shape.
        functions: each is one function for all keys, or one for each ``keys[m]``.
    """
    # Neither sum can overflow: both factors are at most P, so that two products and b are below 2^63.
    low, folded = torch.bitwise_and(keys, HALF_MASK), torch.remainder(keys, PRIME)

    def column(value: Callable[[HashedRows], int]) -> Tensor:
        # One constant: in a graph, stacking would be work.
        return per_map([value(f) for each in functions for f in each], keys, functions=len(functions))

    of_low = column(lambda f: (f.coefficients[0] - f.coefficients[1]) % PRIME)
    of_folded = column(lambda f: f.coefficients[1])
    mixed = low * of_low + folded * of_folded + column(lambda f: f.coefficients[2])
    hashed = torch.remainder(torch.remainder(mixed, PRIME), column(lambda f: f.count))
    return hashed + column(lambda f: f.first)


def per_map(values: Sequence[int], keys: Tensor, *, functions: int | None = None) -> Tensor:
    """One value for all keys, or one for each ``keys[m]``, to be broadcast, int64; of several functions, one after
    another."""
    shape = (-1, *(1 for _ in keys.shape[1:]))
    return torch.tensor(values, dtype=torch.int64).view(shape if functions is None else (functions, *shape))
