"""Lists of each moment: the positives of a user and, for each, items that existed and that the user never took.

A function of the set of events, the positives and the seed: a draw is a hash of the user's key, the time and its
number in the list. Memory holds a block of rows and 28 bytes for every item; and the items of one user, or one
moment, where these are larger than a block.

``N`` events, ``I`` items; of a block ``P`` positives, ``M`` moments, ``S`` negatives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys.arrays import BoolArray, Int64Array
from recsys.data.column_folder import FolderWriter
from recsys.data.log.negatives.catalogue import Catalogue, make_catalogue
from recsys.data.log.negatives.popularity import Popularity
from recsys.data.log.negatives.random import Bits, below, hashed
from recsys.data.log.negatives.rule import POPULARITY, DrawnNegatives
from recsys.data.log.negatives.taken import Taken, member, taken_items
from recsys.data.log.written_events import WrittenEvents, changes, user_groups
from recsys.data.samples.histories import ranges
from recsys.data.samples.stored import Impressions

_BLOCK_ROWS = 1 << 18
_ROUNDS = 64
_FEW = 4
"""Share of the items below which all that would be left are looked at, and none drawn: a quarter."""


def lists_with_negatives(
    events: WrittenEvents,
    positives: Int64Array | None,
    *,
    scratch: FolderWriter,
    drawn: DrawnNegatives,
) -> Iterator[tuple[Impressions, npt.NDArray[np.uint8]]]:
    """Impressions and their labels, 1 and 0, sorted by (user, time, item), a block of whole moments at a time.

    A negative has the user, timestamp and context of its positive. Within a list items are distinct, but for a user who
    took one twice at a moment. A user who took nearly all that existed has shorter lists.

    Args:
        events: where items and users come from.
        positives: positions of the positive events, rising; None: all of them.
        scratch: a folder for what is needed meanwhile.
        drawn: has the rule; counts are added to it.
    """
    if len(events) == 0:
        return
    rule, catalogue = drawn.rule, make_catalogue(events)
    popularity = Popularity(events, scratch) if rule.by == POPULARITY else None
    block = _Block(events, catalogue, popularity, drawn)
    for begin, end in user_groups(events.offsets, events=_BLOCK_ROWS):
        first, last = int(events.offsets[begin]), int(events.offsets[end])
        if positives is not None:
            first, last = (int(place) for place in np.searchsorted(positives, (first, last)))
        taken = taken_items(events, catalogue, begin, end) if first < last else None
        while first < last:
            stop = _end_of_moment(events, positives, min(first + _BLOCK_ROWS // (1 + rule.per_positive), last - 1))
            position = np.arange(first, stop) if positives is None else np.asarray(positives[first:stop])
            assert taken is not None
            yield block.lists(position, taken)
            first = stop


def _end_of_moment(events: WrittenEvents, positives: Int64Array | None, place: int) -> int:
    """The first positive after the moment of positive ``place``."""
    position = place if positives is None else int(positives[place])
    user = int(np.searchsorted(events.offsets, position, side="right")) - 1
    begin, end = (int(offset) for offset in events.offsets[user : user + 2])
    after = begin + int(np.searchsorted(events.time_ms[begin:end], events.time_ms[position], side="right"))
    return after if positives is None else int(np.searchsorted(positives, after))


@dataclass(frozen=True, slots=True)
class _Moments:
    """M moments of a block: user, key and time; items that existed, and negatives wanted; [M] each."""

    user: Int64Array
    key: Int64Array
    time_ms: Int64Array
    existing: Int64Array
    wanted: Int64Array


class _Block:
    def __init__(
        self,
        events: WrittenEvents,
        catalogue: Catalogue,
        popularity: Popularity | None,
        drawn: DrawnNegatives,
    ) -> None:
        self._events = events
        self._catalogue = catalogue
        self._popularity = popularity
        self._rule = drawn.rule
        self._drawn = drawn
        self._last_short_user = -1

    def lists(self, position: Int64Array, taken: Taken) -> tuple[Impressions, npt.NDArray[np.uint8]]:
        """The lists of whole moments."""
        events = self._events
        user = np.searchsorted(events.offsets, position, side="right") - 1
        time_ms = np.asarray(events.time_ms[position])
        begins = np.flatnonzero(changes(user) | changes(time_ms))
        number = np.diff(np.append(begins, len(position)))
        moments = self._moments(user[begins], time_ms[begins], number, taken)
        slot_moment = np.repeat(np.arange(len(begins)), moments.wanted)
        slot = ranges(np.zeros_like(moments.wanted), moments.wanted)[0]
        item = self._draw(moments, slot_moment, slot, taken)
        row = np.concatenate([np.arange(len(position)), begins[slot_moment] + slot % number[slot_moment]])
        items = np.concatenate([events.item[position].astype(np.int64), item])
        order = np.lexsort((items, np.repeat(np.arange(len(begins)), number)[row]))
        row, label = row[order], (order < len(position)).astype(np.uint8)
        shown = Impressions(
            user=user[row].astype(np.int32),
            item=items[order].astype(np.int32),
            time_ms=time_ms[row],
            context={name: column[position[row]] for name, column in events.context.items()},
        )
        self._drawn.positives += len(position)
        self._drawn.negatives += len(item)
        self._drawn.moments += len(begins)
        return shown, label

    def _moments(self, user: Int64Array, time_ms: Int64Array, number: Int64Array, taken: Taken) -> _Moments:
        existing = self._catalogue.existing(time_ms)
        asked = self._rule.per_positive * number
        wanted = np.minimum(asked, existing - taken.existing(user, time_ms))
        short = np.unique(user[wanted < asked])
        if len(short):
            self._drawn.short_moments += int((wanted < asked).sum())
            self._drawn.short_users += len(short) - int(short[0] == self._last_short_user)
            self._last_short_user = int(short[-1])
        key = np.asarray(self._events.user_keys[user])
        return _Moments(user=user, key=key, time_ms=time_ms, existing=existing, wanted=wanted)

    def _draw(self, moments: _Moments, slot_moment: Int64Array, slot: Int64Array, taken: Taken) -> Int64Array:
        """Distinct items for each moment's slots; [S]."""
        item = np.full(len(slot), -1, dtype=np.int64)
        base = hashed(self._rule.seed, moments.key[slot_moment], moments.time_ms[slot_moment], slot).view(np.int64)
        left = moments.existing - taken.existing(moments.user, moments.time_ms) - moments.wanted
        pending = np.flatnonzero((_FEW * left >= moments.existing)[slot_moment])
        got = np.zeros(0, dtype=np.int64)
        for number in range(_ROUNDS):
            if len(pending) == 0:
                break
            moment = slot_moment[pending]
            found, fits = self._items(moments, moment, hashed(base[pending], number))
            key = moment * taken.items + found
            fits &= ~taken.has(moments.user[moment], found) & ~member(key, got)
            rows = np.flatnonzero(fits)
            rows = rows[np.sort(np.unique(key[rows], return_index=True)[1])]  # of equal ones the first slot's
            item[pending[rows]] = found[rows]
            got = np.sort(np.concatenate([got, key[rows]]))
            pending = np.delete(pending, rows)
        rest = np.flatnonzero(item < 0)
        item[rest] = self._of_all_left(moments, slot_moment[rest], taken, got)
        return item

    def _items(self, moments: _Moments, moment: Int64Array, bits: Bits) -> tuple[Int64Array, BoolArray]:
        if self._popularity is not None:
            return self._popularity.draw(moments.time_ms[moment], bits)
        place = below(bits, moments.existing[moment])
        return self._catalogue.order[place].astype(np.int64), np.ones(len(place), dtype=np.bool_)

    def _of_all_left(self, moments: _Moments, slot_moment: Int64Array, taken: Taken, got: Int64Array) -> Int64Array:
        """Items for slots (rising by moment), chosen among all that are left; by popularity in the whole log."""
        distinct, wanted = np.unique(slot_moment, return_counts=True)
        chosen = [np.zeros(0, dtype=np.int64)]
        work = np.concatenate([[0], np.cumsum(moments.existing[distinct])])
        for begin, end in user_groups(work, events=_BLOCK_ROWS):
            places, offsets = ranges(np.zeros(end - begin, dtype=np.int64), moments.existing[distinct[begin:end]])
            local = np.repeat(np.arange(begin, end), np.diff(offsets))
            moment, item = distinct[local], self._catalogue.order[places].astype(np.int64)
            free = ~taken.has(moments.user[moment], item) & ~member(moment * taken.items + item, got)
            local, moment, item = local[free], moment[free], item[free]
            bits = hashed(self._rule.seed, moments.key[moment], moments.time_ms[moment], self._events.item_keys[item])
            # The smallest of exponential times at the rate of the weights (Efraimidis, Spirakis, 2006).
            wait = -np.log1p(-((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53))
            if self._popularity is not None:
                wait /= self._catalogue.events[item]
            order = np.lexsort((wait, local))
            local, item = local[order], item[order]
            rank = np.arange(len(local)) - np.searchsorted(local, local)
            chosen.append(item[rank < wanted[local]])
        return np.concatenate(chosen)
