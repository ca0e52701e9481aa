"""ItemColumns: the item columns as handlers read them, each time as they are now."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from recsys.arrays import Int64Array
from recsys.feature_store.base import IS_WITHDRAWN
from recsys.operators import memory_fence
from recsys.serving.item_columns.generation import Generation, open_generation
from recsys.serving.item_columns.postings import open_postings, postings_path
from recsys.serving.item_columns.state import State

STALE_S = 2.0
"""Columns that were current last so long ago are too old: an answer by them says that it is degraded."""

_TRIES = 40
_PAUSE_S = 0.0005

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """A result of a reading.

    Attributes:
        found: by the function that reads; None: there are no columns yet.
        age_s: of what was read.
        whole: nothing was changed meanwhile, and there was room for all items.
    """

    found: T | None
    age_s: float
    whole: bool

    @property
    def degraded(self) -> bool:
        """It may not be what the store has."""
        return self.found is None or not self.whole or self.age_s > STALE_S


class ItemColumns:
    """Reads the columns of a folder. Safe to use from several threads.

    Args:
        folder: of the columns, shared by the workers.
        enabled: says if there are to be columns at all: the store has features of items, and something asks for them.
    """

    def __init__(self, folder: Path, *, enabled: Callable[[], bool] = lambda: True) -> None:
        self.enabled = enabled
        self.state = State(folder)
        self._folder = folder
        self._lock = threading.Lock()
        self._mapped: tuple[int, Generation] | None = None

    def read(self, reads: Callable[[Generation, int], T]) -> Reading[T]:
        """Call a function with the columns and their version, again if they were changed while it ran.

        Args:
            reads: gets what must not be kept: a :class:`Generation` is another one after some time.
        """
        found: T | None = None
        for attempt in range(_TRIES):
            version, age_s = self.state.version, self.state.age_s
            if version % 2 and attempt < _TRIES - 1:
                time.sleep(_PAUSE_S)
                continue
            memory_fence()
            generation = self._generation()
            if generation is None:
                return Reading(None, age_s, whole=False)
            self._find_postings(generation)
            found = reads(generation, version)
            memory_fence()
            if version == self.state.version and not version % 2:
                return Reading(found, age_s, whole=not self.state.left_out)
        return Reading(found, self.state.age_s, whole=False)

    def withdrawn_keys(self) -> tuple[Int64Array, bool]:
        """Keys of the withdrawn items, int64 [N], and if they may be other ones than the store has."""
        if not self.enabled():
            return np.empty(0, dtype=np.int64), False

        def keys(generation: Generation, version: int) -> Int64Array:
            if not generation.withdrawn:
                return np.empty(0, dtype=np.int64)
            count = len(generation.items)
            found: Int64Array = generation.items.keys_C[:count][generation.stored[:count] == IS_WITHDRAWN]
            return found

        reading = self.read(keys)
        return np.empty(0, dtype=np.int64) if reading.found is None else reading.found, reading.degraded

    @property
    def items(self) -> int:
        """Number of items."""
        generation = self._generation()
        return 0 if generation is None else len(generation.items)

    @property
    def size_bytes(self) -> int:
        """Memory of all of them, which the workers share."""
        generation = self._generation()
        if generation is None:
            return 0
        self._find_postings(generation)
        return generation.size_bytes + (0 if generation.postings is None else generation.postings.size_bytes)

    @property
    def withdrawn(self) -> int:
        """Number of withdrawn items, as far as it is known."""
        generation = self._generation()
        return 0 if generation is None else generation.withdrawn

    def _find_postings(self, generation: Generation) -> None:
        """Have the columns know the postings that there are now."""
        number = self.state.postings
        if number != generation.postings_number:
            try:
                generation.postings = open_postings(postings_path(self._folder, generation.number, number))
            except FileNotFoundError:  # they are of other columns, or others follow
                return
            generation.postings_number = number

    def _generation(self) -> Generation | None:
        for _ in range(3):
            number = self.state.generation
            if not number:
                return None
            mapped = self._mapped
            if mapped is not None and mapped[0] == number:
                return mapped[1]
            with self._lock:
                if self._mapped is not None and self._mapped[0] == number:  # another thread was faster
                    return self._mapped[1]
                try:
                    opened = open_generation(self._folder / f"columns-{number}")
                except FileNotFoundError:
                    continue  # another follows
                opened.number = number
                self._mapped = (number, opened)
                return opened
        return None
