"""The pages of a table, given back to the system: a search after it reads from disk."""

from __future__ import annotations

import os
import time
from pathlib import Path

_SAMPLED = 64
_PAGE = 4096
_MOST_HELD = 0.1
_TRIES, _PAUSE_S = 20, 0.01


def drop_pages(file: Path) -> bool:
    """Ask the system to forget what it holds of a file; False if it cannot, or did not: another process may map it.

    What this process maps of the file has to be given back before (``TableGuard.let_pages_go``).
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    with file.open("rb") as opened:
        for _ in range(_TRIES):
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            held = _held(opened.fileno(), file.stat().st_size)
            if held is None:
                return False
            if held <= _MOST_HELD:
                return True
            time.sleep(_PAUSE_S)  # what is being read ahead just now is not dropped
    return False


def _held(descriptor: int, size_bytes: int) -> float | None:
    """Share of some pages that are in memory, and are not read for it; None where the system does not tell (Linux)."""
    if not hasattr(os, "RWF_NOWAIT"):
        return None
    pages = -(-size_bytes // _PAGE)
    sampled = sorted({pages * place // _SAMPLED for place in range(_SAMPLED)})
    held = 0
    for page in sampled:
        try:
            held += os.preadv(descriptor, [bytearray(1)], page * _PAGE, os.RWF_NOWAIT) > 0
        except BlockingIOError:
            continue
        except OSError:
            return None
    return held / max(1, len(sampled))
