"""Malloc: what the C library keeps of the memory that was freed."""

from __future__ import annotations

import contextlib
import ctypes
import gc

_M_ARENA_MAX = -8
_ARENAS = 4


def limit_arenas() -> None:
    """Have threads share a few arenas; before they are started (glibc).

    An arena keeps what its threads ever needed at a time, and once a model has been closed, glibc returns less of it:
    what it takes for large grows with the largest piece freed. With an arena for each thread, a worker grew by 8 MB
    for each of its 14 busy threads over ten switches.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library has no such call
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)


def give_memory_back() -> None:
    """Return the memory of what was closed to the system: the C library keeps freed pieces between used ones."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
