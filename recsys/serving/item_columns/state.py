"""State: which file of item columns counts, how current it is, and whether it is being changed, for all processes.

A version that is odd says that a change is under way (a sequence lock, as of Linux's seqlock.h): whoever reads looks
at it before and after, with a fence at each side, for arm64 lets writes be seen in another order than they were made.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from recsys.operators import memory_fence

_SIZE = 4_096
_MAGIC = 0x52534943
_VERSION, _GENERATION, _CURRENT_MS, _LEFT_OUT, _POSITION_BYTES, _POSTINGS = range(1, 7)
_POSITION_AT, _MOST_POSITION = 512, 256


class State:
    """The state file of a folder of item columns; made by whoever opens it first.

    Args:
        folder: of the columns.
    """

    def __init__(self, folder: Path) -> None:
        descriptor = os.open(folder / "state", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _SIZE)
            self._mapped = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)
        self._words = np.frombuffer(self._mapped, dtype="<u8", count=_POSITION_AT // 8)
        self._words[0] = _MAGIC

    @property
    def version(self) -> int:
        """Grows by two with every change; odd while one is under way."""
        return int(self._words[_VERSION])

    @property
    def generation(self) -> int:
        """Number of the file that counts; 0: there is none yet."""
        return int(self._words[_GENERATION])

    @property
    def postings(self) -> int:
        """Number of the file of postings; whether it is of the columns that count, its name tells."""
        return int(self._words[_POSTINGS])

    @postings.setter
    def postings(self, number: int) -> None:
        self._words[_POSTINGS] = number

    @property
    def left_out(self) -> int:
        """Number of items, or of their values, that there was no room for."""
        return int(self._words[_LEFT_OUT])

    @left_out.setter
    def left_out(self, count: int) -> None:
        self._words[_LEFT_OUT] = count

    @property
    def age_s(self) -> float:
        """Time since all that the store's log had was in the columns; infinite before the first time."""
        current_ms = int(self._words[_CURRENT_MS])
        return time.monotonic() - current_ms / 1000 if current_ms else float("inf")

    def is_current(self, at_s: float) -> None:
        """Note that they are as of a moment, ``time.monotonic`` seconds, which all processes share."""
        self._words[_CURRENT_MS] = int(at_s * 1000)

    @property
    def position(self) -> str:
        """Place up to which the store's log was read; empty: nowhere."""
        length = min(int(self._words[_POSITION_BYTES]), _MOST_POSITION)
        return self._mapped[_POSITION_AT : _POSITION_AT + length].decode()

    @position.setter
    def position(self, text: str) -> None:
        data = text.encode()[:_MOST_POSITION]
        self._words[_POSITION_BYTES] = 0
        self._mapped[_POSITION_AT : _POSITION_AT + len(data)] = data
        self._words[_POSITION_BYTES] = len(data)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Have readers wait, or read again, for the duration of a ``with`` block."""
        self._words[_VERSION] += np.uint64(1)
        memory_fence()
        yield
        memory_fence()
        self._words[_VERSION] += np.uint64(1)  # not where the block raised: what it left is for the next writer to mend

    def mend(self) -> None:
        """Let readers in again after a writer that died in a change: the columns have been replaced."""
        self._words[_VERSION] += self._words[_VERSION] & np.uint64(1)

    def switch(self, generation: int) -> None:
        """Let another file count."""
        self._words[_GENERATION] = generation
