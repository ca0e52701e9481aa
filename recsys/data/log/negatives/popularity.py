"""Items drawn in proportion to their events up to a moment, and no later ones.

An event drawn at random from those up to a moment has its item with just that probability. Events are sorted by user,
so a draw may hit one that is later, and is then repeated; that fewer than half do is what the levels are for: level 0
are all events, and each further one those of the one before that are older than its middle. They take 8 bytes for an
event on disk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.arrays import BoolArray, Int64Array
from recsys.data.column_folder import FolderWriter
from recsys.data.log.negatives.random import Bits, below
from recsys.data.log.splits.cuts import NEVER, moments_of_ranks
from recsys.data.log.written_events import WrittenEvents

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class _Level:
    """Events before ``until_ms``: their positions, or None for all."""

    until_ms: int
    position: Int64Array | None
    size: int


class Popularity:
    """Draws items by their events up to a moment.

    Args:
        events: at least one.
        scratch: where the levels are written.
    """

    def __init__(self, events: WrittenEvents, scratch: FolderWriter) -> None:
        self._events = events
        self._levels = [_Level(NEVER, None, len(events))]
        while (level := self._older_half(scratch)) is not None:
            self._levels.append(level)
        self._until = -np.array([level.until_ms for level in self._levels], dtype=np.int64)

    def draw(self, time_ms: Int64Array, bits: Bits) -> tuple[Int64Array, BoolArray]:
        """An item for each moment, and where the draw hit a later event and is none; [B] each."""
        # The last level that has all events of the moment: levels end earlier and earlier.
        level = np.searchsorted(self._until, -time_ms, side="left") - 1
        position = np.zeros(len(time_ms), dtype=np.int64)
        for number in np.unique(level):
            rows = np.flatnonzero(level == number)
            chosen = self._levels[number]
            place = below(bits[rows], np.full(len(rows), chosen.size, dtype=np.int64))
            position[rows] = place if chosen.position is None else chosen.position[place]
        return self._events.item[position].astype(np.int64), self._events.time_ms[position] <= time_ms

    def _older_half(self, scratch: FolderWriter) -> _Level | None:
        level, times = self._levels[-1], self._events.time_ms

        def time_of(rows: slice) -> Int64Array:
            return np.asarray(times[rows if level.position is None else level.position[rows]])

        chunks = [slice(n, min(n + _CHUNK, level.size)) for n in range(0, level.size, _CHUNK)]
        spans = [(int(found.min()), int(found.max())) for found in map(time_of, chunks)]
        first, last = min(low for low, _ in spans), max(high for _, high in spans)
        (middle,) = moments_of_ranks([level.size // 2], first, last, chunks, time_of)
        if middle.before == 0:  # its first moment has more than half of its events
            return None
        name = f"level.{len(self._levels)}"
        for rows in chunks:
            older = np.flatnonzero(time_of(rows) < middle.time_ms) + rows.start
            scratch.append(name, older if level.position is None else level.position[older])
        return _Level(middle.time_ms, scratch.column(name), middle.before)
