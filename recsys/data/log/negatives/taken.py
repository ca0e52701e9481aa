"""Items that users took, in the whole log: these are nobody's negatives of theirs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.arrays import BoolArray, Int64Array
from recsys.data.log.negatives.catalogue import Catalogue
from recsys.data.log.written_events import WrittenEvents
from recsys.data.samples.histories import first_at_or_after

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Taken:
    """Distinct items of the users ``begin:end``.

    Attributes:
        begin: the first user.
        items: I, of all.
        pair: ``(user - begin) * I + item``, rising; [T], int64.
        offsets: where each user's pairs begin; [users + 1], int64.
        first_ms: the items' first events in the log, rising within each user; [T], int64.
    """

    begin: int
    items: int
    pair: Int64Array
    offsets: Int64Array
    first_ms: Int64Array

    def has(self, user: Int64Array, item: Int64Array) -> BoolArray:
        """True where the user took the item; [B]."""
        return member((user - self.begin) * self.items + item, self.pair)

    def existing(self, user: Int64Array, time_ms: Int64Array) -> Int64Array:
        """Number of a user's items that existed at a time; [B]."""
        begin, end = self.offsets[user - self.begin], self.offsets[user - self.begin + 1]
        return first_at_or_after(self.first_ms, time_ms + 1, begin=begin, end=end) - begin

    def of(self, user: int) -> Int64Array:
        """One user's items, rising."""
        begin, end = self.offsets[user - self.begin : user - self.begin + 2]
        return self.pair[begin:end] - (user - self.begin) * self.items


def member(values: Int64Array, rising: Int64Array) -> BoolArray:
    """True where a value is among the rising ones; [B]."""
    if len(rising) == 0:
        return np.zeros(len(values), dtype=np.bool_)
    place = np.minimum(np.searchsorted(rising, values), len(rising) - 1)
    return np.asarray(rising[place] == values)


def taken_items(events: WrittenEvents, catalogue: Catalogue, begin: int, end: int) -> Taken:
    """Distinct items of the users ``begin:end``; a user of any length is read in chunks."""
    items = len(events.item_keys)
    offsets = np.asarray(events.offsets[begin : end + 1])
    pair = np.zeros(0, dtype=np.int64)
    for first in range(int(offsets[0]), int(offsets[-1]), _CHUNK):
        last = min(first + _CHUNK, int(offsets[-1]))
        user = np.searchsorted(offsets, np.arange(first, last), side="right") - 1
        pair = np.union1d(pair, user * items + events.item[first:last])
    user = pair // max(items, 1)
    first_ms = catalogue.first_ms[pair - user * items]
    return Taken(
        begin=begin,
        items=items,
        pair=pair,
        offsets=np.searchsorted(user, np.arange(end - begin + 1)).astype(np.int64),
        first_ms=first_ms[np.lexsort((first_ms, user))],
    )
