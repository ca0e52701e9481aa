"""RedisTrending: time-decayed counts of events by item (``features/trending.py``), in Redis hashes.

An event is counted after the append that added it, and because it added it: one that comes twice is added once, so it
counts once. The count is a second write, for a history and the counts are in different slots of a cluster. If it fails,
or its writer dies before it, the events of that append are in their histories and not counted. While a primary is
replaced, a count that it took, but did not answer, may be sent again to the next one: those are counted twice.

Legend: ``E`` events.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

import numpy as np
from redis.exceptions import NoScriptError

from recsys.arrays import Float64Array, Int64Array
from recsys.errors import StoreError, StoreFormatError
from recsys.feature_store.redis.keys import trending_key
from recsys.feature_store.redis.link.protocol import Command, Link, Reply
from recsys.feature_store.redis.link.replies import value_of
from recsys.feature_store.redis.scripts import COUNT
from recsys.features.feature_set import FeatureSet
from recsys.features.history.records import Events, attribute_keys
from recsys.features.trending import PARTS, Trending
from recsys.features.values import id_key
from recsys.rate_limited_log import RateLimitedLog

SHARDS = 16
"""Hashes of a part: an item is in the one of its key modulo this. In a cluster they are in different slots."""

MOST_ITEMS = 65_536
"""Items of a hash, about 6 MB: a million items of a part."""

_log = RateLimitedLog(logging.getLogger(__name__))


class RedisTrending:
    """The counts that a FeatureSet declares.

    Attributes:
        declared: what is kept.
        counts: events by outcome, since the start: ``counted``; ``late``, older than all parts; ``no_room``, of an item
            for which the hash has no room; ``lost``, as Redis did not take the write. These never fall.
    """

    def __init__(self, features: FeatureSet, declared: Trending, *, link: Link) -> None:
        self.declared = declared
        self._name = features.name
        self._link = link
        self.counts = {"counted": 0, "late": 0, "no_room": 0, "lost": 0}
        history = features.history
        assert history is not None
        self._attribute = next((each for each in history.attributes if each.name == declared.attribute), None)
        self._weights: dict[int, float] = {}
        if self._attribute is not None:
            self._weights = {id_key(self._attribute, value): weight for value, weight in declared.weights}

    async def add(self, added: Sequence[Events], *, timeout_s: float) -> None:
        """Count events that were added to histories, in one round trip; never raises for the store's sake.

        An event counts at its time or its arrival, whichever is earlier: one of the future counts as of now.
        """
        events = np.concatenate(added) if added else None
        if events is None or not len(events):
            return
        now_ms = time.time_ns() // 1_000_000
        begin_E, count_E = self.declared.counted(
            np.minimum(events["timestamp"], events["arrival"]).astype(np.int64), self._weight_of(events)
        )
        oldest_ms = self.declared.begins_ms(now_ms)[-1]
        kept_E = (begin_E >= oldest_ms) & (count_E > 0)
        self.counts["late"] += int(np.count_nonzero((begin_E < oldest_ms) & (count_E > 0)))
        calls: list[Command] = []
        events_of: list[dict[int, int]] = []  # of each call: item -> its events
        for begin in np.unique(begin_E[kept_E]).tolist():
            own_E = kept_E & (begin_E == begin)
            items, place_E = np.unique(events["item"][own_E], return_inverse=True)
            counts, events_I = np.bincount(place_E, weights=count_E[own_E]), np.bincount(place_E)
            shards = items % SHARDS
            for shard in np.unique(shards).tolist():
                own = shards == shard
                calls.append(self._call(begin, shard, items[own], counts[own]))
                events_of.append(dict(zip(items[own].tolist(), events_I[own].tolist(), strict=True)))
        if not calls:
            return
        number = int(np.count_nonzero(kept_E))
        try:
            replies = await self._round_trip(calls, timeout_s=timeout_s)
            refused = [value_of("trending", reply) for reply in replies]
            no_room = sum(of[int(item)] for of, items in zip(events_of, refused, strict=True) for item in items)
        except StoreError as error:
            self.counts["lost"] += number
            _log.warning("trending", "trending: %d events or some of them are not counted: %s", number, error)
            return
        self.counts["no_room"] += no_room
        self.counts["counted"] += number - no_room

    async def read(self, begins_ms: Sequence[int], *, timeout_s: float) -> dict[int, tuple[Int64Array, Float64Array]]:
        """Read parts, in one round trip: begin -> keys of its items and their counts in it.

        Raises:
            StoreFormatError: a hash holds something else.
            StoreUnavailableError: Redis is unreachable or too slow.
        """
        keys = [self._key(begin, shard) for begin in begins_ms for shard in range(SHARDS)]
        replies = await self._link.round_trip([(b"HGETALL", key) for key in keys], timeout_s=timeout_s)
        found = {}
        for place, begin in enumerate(begins_ms):
            items: list[int] = []
            counts: list[float] = []
            for key, reply in list(zip(keys, replies, strict=True))[place * SHARDS : (place + 1) * SHARDS]:
                pairs = _pairs(value_of(key, reply))
                try:
                    items += map(int, pairs)
                    counts += map(float, pairs.values())
                except ValueError:
                    raise StoreFormatError(f"{key.decode()}: corrupt: a field is no item or no number") from None
            found[begin] = np.array(items, dtype=np.int64), np.array(counts, dtype=np.float64)
        return found

    async def _round_trip(self, calls: list[Command], *, timeout_s: float) -> list[Reply]:
        deadline_s = time.monotonic() + timeout_s
        replies = await self._link.round_trip(calls, timeout_s=timeout_s)
        while again := [place for place, reply in enumerate(replies) if isinstance(reply, NoScriptError)]:
            first, *others = (calls[place] for place in again)
            commands = [COUNT.call_with_text(first), *others]
            found = await self._link.round_trip(commands, timeout_s=deadline_s - time.monotonic())
            for place, reply in zip(again, found, strict=True):
                replies[place] = reply
        return replies

    def _call(self, begin_ms: int, shard: int, items: Int64Array, counts: Float64Array) -> Command:
        # A part is read until it is the oldest of PARTS; a little longer, for clocks differ.
        until_s = (begin_ms + (PARTS + 1) * self.declared.half_life_ms) // 1000
        numbers = [
            text for item, count in zip(items.tolist(), counts.tolist(), strict=True) for text in (item, repr(count))
        ]
        return COUNT.call((self._key(begin_ms, shard),), (until_s, MOST_ITEMS, *numbers))

    def _key(self, begin_ms: int, shard: int) -> bytes:
        return trending_key(self._name, self.declared.half_life_s, shard, begin_ms // 1000)

    def _weight_of(self, events: Events) -> Float64Array:
        weight_E = np.full(len(events), self.declared.other)
        if self._attribute is not None:
            keys_E = attribute_keys(self._attribute, events)
            for key, weight in self._weights.items():
                weight_E[keys_E == key] = weight
        return weight_E


def _pairs(reply: Reply) -> Mapping[bytes, bytes]:
    """A hash, as either protocol of Redis gives it."""
    return reply if isinstance(reply, Mapping) else dict(zip(reply[::2], reply[1::2], strict=True))
