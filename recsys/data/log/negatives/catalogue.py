"""Items that existed at a moment: an item exists from its first event in the log on.

An item of the items file without any event is never drawn: nothing says when it came, and a model would only learn
that nobody takes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.arrays import Int32Array, Int64Array
from recsys.data.log.written_events import WrittenEvents

_CHUNK = 1 << 20
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Items in the order of their first events; 28 bytes for each.

    Attributes:
        first_ms: each item's first event, after all times if there is none; [I], int64.
        events: how many events each has; [I], int64.
        order: items with events, oldest first; of equally old ones the lower row number first; [E], int32.
        since_ms: their first events; [E], int64, rising.
    """

    first_ms: Int64Array
    events: Int64Array
    order: Int32Array
    since_ms: Int64Array

    def existing(self, time_ms: Any) -> Int64Array:
        """Number of items that existed at these times: these are ``order[:existing]``."""
        return np.asarray(np.searchsorted(self.since_ms, time_ms, side="right"), dtype=np.int64)


def make_catalogue(events: WrittenEvents) -> Catalogue:
    """Read the events once."""
    number = len(events.item_keys)
    first, counts = np.full(number, _NEVER, dtype=np.int64), np.zeros(number, dtype=np.int64)
    for begin in range(0, len(events), _CHUNK):
        item = events.item[begin : begin + _CHUNK].astype(np.int64)
        np.minimum.at(first, item, events.time_ms[begin : begin + _CHUNK])
        counts += np.bincount(item, minlength=number)
    order = np.argsort(first, kind="stable").astype(np.int32)[: int((counts > 0).sum())]
    return Catalogue(first_ms=first, events=counts, order=order, since_ms=first[order])
