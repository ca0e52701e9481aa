"""Usage: what each worker of a server has let through of each quota, in memory that all of them map.

A worker writes its own row alone and reads those of the others, so none waits for another, not even for one that was
stopped. A row is a table of ``_SETS`` sets of ``_WAYS`` entries; a set holds the quotas of like hashes, the last used
ones. An entry is four 64-bit words: hash of the quota (0: free), amount taken so far, when it was taken from last, in
us of ``time.monotonic``, and what was left of the bucket then, in millionths, plus ``_LEVEL_0``.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from recsys.files import kept_folder

_SETS, _WAYS, _WORDS = 4_096, 8, 4
_SET = _WAYS * _WORDS
_ROW_BYTES = 8 * _SETS * _SET
_WORD = (1 << 64) - 1
_LEVEL_0 = 1 << 63
_PARTS = 1e6


class Taken(NamedTuple):
    """Share that one worker took of a quota.

    Attributes:
        amount: so far; it begins anew at 0 when the entry gave way to another quota.
        at_s: when it took from it last, ``time.monotonic`` seconds.
        level: what was left then, to its knowledge.
    """

    amount: int
    at_s: float
    level: float


NOTHING = Taken(0, 0.0, float("inf"))


@contextmanager
def usage_file(*, workers: int) -> Iterator[Path]:
    """Make an empty file with a row for each worker, for a ``with`` block; each of 1 MB, as far as it is used.

    Args:
        workers: rows.
    """
    with kept_folder("recsys-usage-") as folder:
        path = folder / "usage"
        with path.open("wb") as file:
            file.truncate(workers * _ROW_BYTES)
        yield path


class Usage:
    """One worker's view of the file. Used under the lock of its quotas.

    Args:
        path: of :func:`usage_file`.
        worker: the row, from 0.
    """

    def __init__(self, path: Path, *, worker: int) -> None:
        with path.open("r+b") as file:
            self._words = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
        row_words = _SETS * _SET
        rows = range(0, len(self._words), row_words)
        self._own = rows[worker]
        self._others = [row for row in rows if row != self._own]

    def by_others(self, quota: int) -> list[Taken]:
        """Read what the other workers have let through, one entry each.

        Args:
            quota: of :func:`quota_hash`.
        """
        place = quota % _SETS * _SET
        found = []
        for row in self._others:
            words = self._words[row + place : row + place + _SET].tolist()
            if quota in (keys := words[::_WORDS]):
                _, amount, at, level = words[_WORDS * keys.index(quota) :][:_WORDS]
                found.append(Taken(amount, at / _PARTS, (level - _LEVEL_0) / _PARTS))
            else:
                found.append(NOTHING)
        return found

    def add(self, quota: int, amount: int, *, now_s: float, level: float) -> None:
        """Count an amount that this worker lets through.

        Args:
            quota: of :func:`quota_hash`.
            amount: that is taken.
            now_s: ``time.monotonic`` seconds; the entry of a set that was used longest ago gives way.
            level: what is left.
        """
        words, place = self._words, self._own + quota % _SETS * _SET
        entries = words[place : place + _SET].tolist()
        keys, used = entries[::_WORDS], entries[2::_WORDS]
        if quota in keys:
            place += _WORDS * keys.index(quota)
        else:
            place += _WORDS * used.index(min(used))
            # In this order: who reads between two writes sees nothing of a quota, never another's amount.
            words[place], words[place + 1], words[place + 3] = 0, 0, _WORD
            words[place] = quota
        words[place + 1] = (words[place + 1] + amount) & _WORD
        words[place + 3] = min(max(0, _LEVEL_0 + round(_PARTS * level)), _WORD)
        words[place + 2] = max(1, round(_PARTS * now_s))


def quota_hash(identity: str, kind: str) -> int:
    """Name a quota by a number of 64 bits, never 0."""
    return int.from_bytes(hashlib.blake2b(f"{kind} {identity}".encode(), digest_size=8).digest(), "little") or 1
