"""An exact map from 62-bit keys to rows that is nothing but two int64 tensors.

A static two-choice bucketed hash table: a key lives in one of 8 slots of one of two buckets, its
two hashes name them. Looking up is gather two buckets, compare, pick: plain tensor operations,
the same in numpy, torch and ONNX, on memory-mapped data of any size, with a defined answer
(row 0) for a key that is not there.

Placement is cuckoo hashing with random-walk eviction (Fotakis et al., STACS 2003), in vectorised
rounds; at 80 % load and 8 slots it ends after a few. Legend: ``V`` keys, ``T`` buckets, ``W`` slots.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.arrays import Int64Array
from recsys.embeddings.row_maps.hash_ops import HashedRows, hash_all
from recsys.errors import InvalidInputError
from recsys.features.hashing import KEY_LIMIT, PRIME, hash_coefficients, hash_keys

SLOTS = 8
LOAD = 0.8
EMPTY = -2
"""Key of an empty slot; differs from ``MISSING``, so that a missing id finds nothing."""

_MAX_ROUNDS = 500
_MAX_SEEDS = 8


@dataclass(frozen=True)
class IdTable:
    """Keys to rows.

    Attributes:
        keys_TW: the key in each slot, ``EMPTY`` where there is none, int64. The first half of the
            buckets is addressed by the first hash, the second half by the second.
        rows_TW: the row of each slot's key, 0 where the slot is empty, int64.
        coefficients: of the two hash functions, shape [2, 3], int64.
    """

    keys_TW: Int64Array
    rows_TW: Int64Array
    coefficients: Int64Array

    def lookup(self, keys: Int64Array) -> Int64Array:
        """Row of each key, 0 for a key that is not there; same shape, int64."""
        flat = keys.reshape(-1)
        rows = np.zeros(len(flat), dtype=np.int64)
        for bucket in self.buckets(flat):
            rows += np.where(self.keys_TW[bucket] == flat[:, None], self.rows_TW[bucket], 0).sum(axis=1)
        return rows.reshape(keys.shape)

    def buckets(self, keys: Int64Array) -> tuple[Int64Array, Int64Array]:
        """The two buckets where each key may be, each of the keys' shape."""
        return _bucket_pair(keys, self.coefficients, len(self.keys_TW) // 2)

    def entries(self) -> tuple[Int64Array, Int64Array]:
        """The keys in ascending order and their rows, both [V]."""
        filled = self.keys_TW >= 0
        keys, rows = self.keys_TW[filled], self.rows_TW[filled]
        order = np.argsort(keys)
        return keys[order], rows[order]

    @property
    def capacity(self) -> int:
        """Keys that a table of this shape is built for."""
        return int(self.keys_TW.size * LOAD)

    @property
    def size_bytes(self) -> int:
        """Bytes of the two tensors."""
        return self.keys_TW.nbytes + self.rows_TW.nbytes

    def arrays(self) -> dict[str, Int64Array]:
        """The tensors by name, for storing."""
        return {"keys": self.keys_TW, "rows": self.rows_TW, "coefficients": self.coefficients}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Int64Array]) -> IdTable:
        """Inverse of :meth:`arrays`."""
        return cls(keys_TW=arrays["keys"], rows_TW=arrays["rows"], coefficients=arrays["coefficients"])


class IdTables(nn.Module):
    """:meth:`IdTable.lookup` of several tables at once, in tensor operations that export to standard ONNX operators.

    Keys and rows lie in one tensor, a bucket's next to each other, so that a bucket costs one visit to memory: most of
    what a lookup in a large table costs. The tables lie one after another, so that looking up in many is one
    operation, as in one.

    Args:
        tables: by name.
    """

    slots_TW: Tensor
    """The keys of each bucket's slots, then their rows; [T, 2 W], T the buckets of all tables."""

    def __init__(self, tables: Mapping[str, IdTable]) -> None:
        super().__init__()
        slots = [np.concatenate([table.keys_TW, table.rows_TW], axis=1) for table in tables.values()]
        self.register_buffer("slots_TW", torch.from_numpy(np.concatenate(slots)))
        self.buckets = {name: len(table.keys_TW) for name, table in tables.items()}
        self.functions = {}
        first = 0
        for name, table in tables.items():
            half = len(table.keys_TW) // 2
            self.functions[name] = tuple(
                HashedRows(coefficients=(a1, a2, b), first=first + choice * half, count=half)
                for choice, (a1, a2, b) in enumerate(table.coefficients.tolist())
            )
            first += 2 * half

    def forward(self, keys: Tensor, tables: Sequence[str]) -> Tensor:
        """int64 keys of any shape to int64 rows of that shape; of several tables, ``keys[m]`` are of ``tables[m]``."""
        buckets = hash_all(keys, list(zip(*(self.functions[table] for table in tables), strict=True)))
        # F.embedding is one Gather; indexing would export as a copy of the table and a GatherND.
        slot_keys, slot_rows = torch.split(F.embedding(buckets, self.slots_TW), SLOTS, dim=-1)
        found = slot_keys == keys[..., None]
        return torch.where(found, slot_rows, 0).sum(dim=(0, -1))


def build_id_table(keys_V: Int64Array, rows_V: Int64Array, *, capacity: int = 0, seed: int = 0) -> IdTable:
    """Place V distinct keys.

    Args:
        keys_V: distinct keys in [0, 2^62), int64.
        rows_V: their rows, positive, int64 (0 is the answer for keys that are not there).
        capacity: keys to make room for; 0 for V. Tables of one capacity have one shape, so that a
            graph can take another table in its place.
        seed: of the hash functions; the same seed gives the same table.

    Raises:
        InvalidInputError: keys out of range or not distinct, or more than ``capacity``.
    """
    if capacity and len(keys_V) > capacity:
        raise InvalidInputError(f"id table: {len(keys_V):,} keys; allowed: {capacity:,}, the capacity it was built for")
    if len(keys_V) and (keys_V.min() < 0 or keys_V.max() >= KEY_LIMIT):
        bad = keys_V[(keys_V < 0) | (keys_V >= KEY_LIMIT)][0]
        raise InvalidInputError(f"id table: key {bad} is out of range; allowed: 0 to 2^62 - 1")
    if len(np.unique(keys_V)) != len(keys_V):
        raise InvalidInputError(f"id table: {len(keys_V) - len(np.unique(keys_V))} keys are given more than once")
    room = capacity or len(keys_V)
    half = max(1, math.ceil(room / (2 * SLOTS * LOAD)))
    if half > PRIME:
        raise InvalidInputError(f"id table: room for {room:,} keys; allowed: {int(2 * SLOTS * LOAD * PRIME):,}")
    for attempt in range(_MAX_SEEDS):
        coefficients = hash_coefficients(seed + attempt, 2)
        slots_TW = _place(keys_V, coefficients, half, np.random.Generator(np.random.PCG64(seed + attempt)))
        if slots_TW is not None:
            filled = slots_TW >= 0
            table_keys = np.full(slots_TW.shape, EMPTY, dtype=np.int64)
            table_rows = np.zeros(slots_TW.shape, dtype=np.int64)
            table_keys[filled] = keys_V[slots_TW[filled]]
            table_rows[filled] = rows_V[slots_TW[filled]]
            return IdTable(table_keys, table_rows, coefficients)
    raise AssertionError(f"no placement of {len(keys_V)} keys in {2 * half} buckets after {_MAX_SEEDS} seeds")


def most_frequent(ids_V: Int64Array, counts_V: Int64Array) -> Int64Array:
    """Ids by falling count, equals by rising id."""
    return ids_V[np.lexsort((ids_V, -counts_V))]


def number_ids(ids_V: Int64Array, *, capacity: int = 0, seed: int) -> IdTable:
    """The table that numbers ids in their order, from 1."""
    return build_id_table(ids_V, np.arange(1, len(ids_V) + 1, dtype=np.int64), capacity=capacity, seed=seed)


def _bucket_pair(keys: Int64Array, coefficients: Int64Array, half: int) -> tuple[Int64Array, Int64Array]:
    return hash_keys(keys, coefficients[0], half), hash_keys(keys, coefficients[1], half) + half


def _place(keys_V: Int64Array, coefficients: Int64Array, half: int, random: np.random.Generator) -> Int64Array | None:
    """Index of the key in each slot, shape [T, W], -1 where empty; None if some key finds no place."""
    buckets_2V = np.stack(_bucket_pair(keys_V, coefficients, half))
    slots_TW = np.full((2 * half, SLOTS), -1, dtype=np.int64)
    used_T = np.zeros(2 * half, dtype=np.int64)
    waiting = np.arange(len(keys_V))
    choice = np.zeros(len(keys_V), dtype=np.int64)
    for round_number in range(_MAX_ROUNDS):
        if not len(waiting):
            return slots_TW
        bucket = buckets_2V[choice, waiting]
        order = np.argsort(bucket, kind="stable")
        waiting, choice, bucket = waiting[order], choice[order], bucket[order]
        first = np.searchsorted(bucket, bucket, side="left")
        slot = used_T[bucket] + np.arange(len(bucket)) - first
        fits = slot < SLOTS
        slots_TW[bucket[fits], slot[fits]] = waiting[fits]
        np.add.at(used_T, bucket[fits], 1)
        waiting, choice, bucket = waiting[~fits], 1 - choice[~fits], bucket[~fits]
        if round_number > 1 and len(waiting):
            # Both buckets are full: one key a bucket takes a random slot, and the slot's key moves on
            # to its own other bucket, which the same choice names: both keys were in this one.
            evicting = np.ones(len(bucket), dtype=bool)
            evicting[1:] = bucket[1:] != bucket[:-1]
            at, slot = bucket[evicting], random.integers(0, SLOTS, size=int(evicting.sum()))
            evicted = slots_TW[at, slot]
            slots_TW[at, slot] = waiting[evicting]
            waiting[evicting] = evicted
    return None
