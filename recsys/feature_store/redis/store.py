"""RedisFeatureStore: the feature store on Redis, in one round trip per call.

``C`` candidates. The bytes are specified in ``docs/specs/redis_format.md``. Histories are in ``histories.py``, entities
in ``entities.py``, states in ``states.py``; ``rank_reader.py`` reads all three for a Rank request. Texts of ids are in
``names.py``, which items were written in ``item_changes.py``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

import numpy as np

from recsys.arrays import Float64Array, Int64Array
from recsys.backoff import backoff_s
from recsys.errors import InvalidInputError, StoreError, StoreFormatError, StoreUnavailableError
from recsys.feature_store.base import (
    AppendResult,
    EntityRows,
    HistoryRead,
    ItemChanges,
    RankInputs,
    RankRead,
    Span,
    StateRead,
    UserInputs,
)
from recsys.feature_store.item_cache import ItemCache
from recsys.feature_store.redis.damage import DamageLog
from recsys.feature_store.redis.entities import RedisEntities
from recsys.feature_store.redis.eviction import EvictionCheck
from recsys.feature_store.redis.histories import RedisHistories
from recsys.feature_store.redis.item_changes import RedisItemChanges
from recsys.feature_store.redis.keys import PREFIX, item_pattern, nothing_key, positions_key
from recsys.feature_store.redis.layouts import LayoutGuard
from recsys.feature_store.redis.link.connect import open_link
from recsys.feature_store.redis.link.protocol import Link
from recsys.feature_store.redis.link.replies import texts_of, value_of
from recsys.feature_store.redis.names import RedisNames
from recsys.feature_store.redis.rank_reader import RankReader
from recsys.feature_store.redis.scan import scan_numbers
from recsys.feature_store.redis.states import RedisStates
from recsys.feature_store.redis.trending import RedisTrending
from recsys.features.columns import Column
from recsys.features.feature_set import ITEM, FeatureSet
from recsys.features.hashing import KEY_LIMIT
from recsys.features.history.records import Events, HistoryHeader, require_history

_log = logging.getLogger(__name__)
_FOLLOW_AGAIN_S, _LONGEST_FOLLOW_AGAIN_S = 0.05, 5.0


class RedisFeatureStore:
    """The :class:`~recsys.feature_store.base.FeatureStore` of one FeatureSet.

    Args:
        features: what is stored, and under which name.
        link: the Redis to use; closed by :meth:`close`.
        cache: item features kept in this process; writes by others show after its ``max_age_s``, new items
            after a second, or both at once with :meth:`follow_items`. Older features serve while Redis cannot be read.
    """

    def __init__(self, features: FeatureSet, *, link: Link, cache: ItemCache) -> None:
        self._features = features
        self._name = features.name
        self._of_items = {entity.name for entity in features.item_entities() if entity.features}
        self._link = link
        self._cache = cache
        self._evictions = EvictionCheck(link)
        self._guard = LayoutGuard(features, link=link, evictions=self._evictions)
        damage = DamageLog()
        self._rows = RedisEntities(features, link=link, guard=self._guard, damage=damage)
        self._histories: RedisHistories | None = None
        if features.history is not None:
            self._histories = RedisHistories(features, link=link, guard=self._guard, damage=damage)
        self._trending: RedisTrending | None = None
        if features.history is not None and features.history.trending is not None:
            self._trending = RedisTrending(features, features.history.trending, link=link)
        self._states = RedisStates(features.name, link=link)
        self._names = RedisNames(features.name, link=link, damage=damage)
        self._changes = RedisItemChanges(features.name, link=link, damage=damage)
        self._ranking = RankReader(
            features,
            link=link,
            cache=cache,
            rows=self._rows,
            histories=self._histories,
            states=self._states,
            damage=damage,
        )

    @classmethod
    def connect(
        cls,
        url: str,
        features: FeatureSet,
        *,
        max_connections: int = 16,
        cached_items: int = 131_072,
        item_max_age_s: float = 60.0,
    ) -> RedisFeatureStore:
        """A store on the Redis at a URL (``docs/operate/redis.md``); connects at the first call.

        Raises:
            ConfigError: the URL is not one of a Redis.
        """
        link = open_link(url, max_connections=max_connections)
        cache = ItemCache(features.item, capacity=cached_items, max_age_s=item_max_age_s)
        return cls(features, link=link, cache=cache)

    async def append(self, user_key: int, events: Events, *, timeout_s: float) -> AppendResult:
        """As the protocol says; raises as :meth:`append_many`, and StoreFormatError if the key holds foreign bytes."""
        (result,) = await self.append_many([(user_key, events)], timeout_s=timeout_s)
        if result.refused is not None:
            raise result.refused
        return result

    async def append_many(
        self,
        batches: Sequence[tuple[int, Events]],
        *,
        source: str = "",
        offsets: Sequence[Int64Array] | None = None,
        offset_jump: int | None = None,
        restart_source: bool = False,
        timeout_s: float,
    ) -> list[AppendResult]:
        """As the protocol says. After an error just call again: nothing is added twice.

        Raises:
            InvalidInputError: no history is declared, events of another dtype, or a key out of range.
            StoreFormatError: the whole store was filled with another layout.
            StoreUnavailableError: Redis is unreachable or too slow; any of the events may have been added.
            StoreError: Redis is out of memory, or refused for another reason.
        """
        deadline_s = time.monotonic() + timeout_s
        results = await self._declared().append_many(
            batches,
            source=source,
            offsets=offsets,
            offset_jump=offset_jump,
            restart_source=restart_source,
            timeout_s=timeout_s,
        )
        if self._trending is not None:
            added = [each.new for each in results if each.new is not None]
            await self._trending.add(added, timeout_s=deadline_s - time.monotonic())
        return results

    async def trending(
        self, begins_ms: Sequence[int], *, timeout_s: float
    ) -> Mapping[int, tuple[Int64Array, Float64Array]]:
        """As the protocol says.

        Raises:
            InvalidInputError: the FeatureSet declares no trending.
            StoreFormatError: a key holds foreign bytes.
            StoreUnavailableError: Redis is unreachable or too slow.
        """
        if self._trending is None:
            raise InvalidInputError(
                f"FeatureSet {self._name!r} counts nothing that is trending: declare history.trending"
            )
        return await self._trending.read(begins_ms, timeout_s=timeout_s)

    def trending_counts(self) -> dict[str, int]:
        """Events by what became of their count, since the start (``RedisTrending.counts``); empty if none is kept."""
        return {} if self._trending is None else dict(self._trending.counts)

    async def replace_many(
        self, batches: Sequence[tuple[int, Events]], *, arrived_until_ms: int, timeout_s: float
    ) -> list[AppendResult]:
        """As the protocol says; raises as :meth:`append_many`."""
        return await self._declared().replace_many(batches, arrived_until_ms=arrived_until_ms, timeout_s=timeout_s)

    async def history(
        self,
        user_key: int,
        *,
        limit: int | None = None,
        since_ms: int | None = None,
        until_ms: int | None = None,
        timeout_s: float,
    ) -> tuple[HistoryHeader, Events]:
        """As the protocol says.

        Raises:
            InvalidInputError: no history is declared, a negative limit, or a key out of range.
            StoreFormatError: the key holds foreign bytes.
            StoreUnavailableError: Redis is unreachable or too slow.
        """
        histories = self._declared()
        return await histories.read(user_key, limit=limit, since_ms=since_ms, until_ms=until_ms, timeout_s=timeout_s)

    async def histories(
        self, user_keys: Sequence[int], *, limit: int, timeout_s: float
    ) -> list[tuple[HistoryHeader, Events]]:
        """As the protocol says; raises as :meth:`history`."""
        return [_readable(read) for read in await self.each_history(user_keys, limit=limit, timeout_s=timeout_s)]

    async def each_history(self, user_keys: Sequence[int], *, limit: int, timeout_s: float) -> list[HistoryRead]:
        """As the protocol says.

        Raises:
            InvalidInputError: no history is declared, a negative limit, or a key out of range.
            StoreUnavailableError: Redis is unreachable or too slow.
        """
        if limit < 0:
            raise InvalidInputError(f"limit is {limit}; allowed: 0 or more events")
        return await self._declared().each(user_keys, limit, timeout_s=timeout_s)

    async def put_entities(
        self, entity: str, keys: Int64Array, columns: Mapping[str, Column], *, timeout_s: float
    ) -> None:
        """As the protocol says; this process reads the new features at once. Items take a second round trip, after the
        first, to note which: in a cluster two commands of one have no order.

        Raises:
            InvalidInputError: an unknown entity, a column that is absent or of another length, or a key out of range.
            StoreFormatError: the store was filled with other features.
            StoreUnavailableError: Redis is unreachable or too slow; either all or nothing was written (in a
                Redis Cluster, of every slot). Items may have been written and not noted: call again.
            StoreError: Redis is out of memory, or refused for another reason.
        """
        deadline_s = time.monotonic() + timeout_s
        try:
            await self._rows.put(entity, keys, columns, timeout_s=timeout_s)
            if entity in self._of_items:
                await self._changes.add(keys, timeout_s=deadline_s - time.monotonic())
        finally:
            if entity == ITEM:
                self._cache.forget(keys)

    async def withdraw_items(self, keys: Int64Array, *, timeout_s: float) -> None:
        """As the protocol says; in two round trips, as :meth:`put_entities`.

        Raises:
            InvalidInputError: the FeatureSet declares no item features, so that no put could bring them back, or a key
                is out of range.
            StoreUnavailableError, StoreError: as :meth:`put_entities`.
        """
        if not self._features.item:
            raise InvalidInputError(
                f"FeatureSet {self._name!r} declares no item features: an item that is withdrawn could not be put again"
            )
        deadline_s = time.monotonic() + timeout_s
        try:
            await self._rows.withdraw(ITEM, keys, timeout_s=timeout_s)
            await self._changes.add(keys, timeout_s=deadline_s - time.monotonic())
        finally:
            self._cache.forget(keys)

    async def entities(self, entity: str, keys: Int64Array, *, timeout_s: float) -> Mapping[str, Column]:
        """As the protocol says. Not from the cache: what is read here is stored for good, a stale
        "unknown" included.

        Raises:
            InvalidInputError: an unknown entity, or a key out of range.
            StoreFormatError: a key holds foreign bytes.
            StoreUnavailableError: Redis is unreachable or too slow.
        """
        rows = await self._rows.read(entity, keys, timeout_s=timeout_s)
        for error in rows.damaged.values():
            raise error
        return rows.columns

    async def entity_rows(self, entity: str, keys: Int64Array, *, timeout_s: float) -> EntityRows:
        """As the protocol says; not from the cache either.

        Raises:
            InvalidInputError: an unknown entity, or a key out of range.
            StoreUnavailableError: Redis is unreachable or too slow.
        """
        return await self._rows.read(entity, keys, timeout_s=timeout_s)

    async def changed_items(self, since: str, *, limit: int, timeout_s: float) -> ItemChanges:
        """As the protocol says; ``item_changes.KEPT`` writes are kept.

        Raises:
            InvalidInputError: the limit is below 1.
            StoreFormatError: the key is of another Redis type.
            StoreUnavailableError: Redis is unreachable or too slow.
        """
        return await self._changes.read(since, limit=limit, timeout_s=timeout_s)

    async def item_keys(self, entity: str = ITEM) -> AsyncIterator[list[int]]:
        """As the protocol says.

        Raises:
            StoreUnavailableError: Redis is unreachable or too slow.
        """
        async for keys in scan_numbers(self._link, item_pattern(self._name, entity)):
            yield keys

    async def put_names(self, names: Mapping[int, str], *, timeout_s: float) -> None:
        """As the protocol says; what this process wrote within a minute is not sent again.

        Raises:
            StoreUnavailableError: Redis is unreachable or too slow; any of the names may have been written.
            StoreError: Redis is out of memory, or refused for another reason.
        """
        await self._names.put(names, timeout_s=timeout_s)

    async def names(self, keys: Iterable[int], *, timeout_s: float) -> dict[int, str]:
        """As the protocol says; raises StoreUnavailableError, and StoreFormatError if a key holds foreign bytes."""
        return await self._names.get(keys, timeout_s=timeout_s)

    async def span(self, user_key: int, first: int, end: int, *, header: HistoryHeader, timeout_s: float) -> Span:
        """As the protocol says; raises as :meth:`history`."""
        if not 0 <= first <= end:
            raise InvalidInputError(f"events {first} to {end}; allowed: 0 <= first <= end")
        return await self._declared().span(user_key, first, end, header=header, timeout_s=timeout_s)

    def users(self) -> AsyncIterator[list[int]]:
        """As the protocol says; raises StoreUnavailableError."""
        return self._states.users()

    async def states(self, user_keys: Sequence[int], *, version: str, timeout_s: float) -> list[bytes | None]:
        """As the protocol says; raises as :meth:`history`."""
        return await self._states.get(user_keys, version=version, timeout_s=timeout_s)

    async def put_states(
        self, states: Sequence[tuple[int, bytes]], *, version: str, ttl_s: int, timeout_s: float
    ) -> None:
        """As the protocol says.

        Raises:
            InvalidInputError: a key or ``ttl_s`` is out of range.
            StoreUnavailableError: Redis is unreachable or too slow; any of the states may have been written.
            StoreError: Redis is out of memory, or refused for another reason.
        """
        await self._states.put(states, version=version, ttl_s=ttl_s, timeout_s=timeout_s)

    async def read_for_rank(
        self,
        user_key: int,
        item_keys: Int64Array,
        *,
        time_ms: int,
        timeout_s: float,
        state: StateRead | None = None,
    ) -> RankInputs:
        """As the protocol says; item_keys has shape [C]."""
        read = RankRead(user_key, item_keys, time_ms)
        (found,) = await self.read_many_for_rank([read], timeout_s=timeout_s, state=state)
        return found

    async def read_many_for_rank(
        self, reads: Sequence[RankRead], *, timeout_s: float, state: StateRead | None = None
    ) -> list[RankInputs]:
        """As the protocol says."""
        return await self._ranking.read(reads, timeout_s=timeout_s, state=state)

    async def read_user(self, user_key: int, *, timeout_s: float, state: StateRead | None = None) -> UserInputs:
        """As the protocol says."""
        return await self._ranking.read_user(user_key, timeout_s=timeout_s, state=state)

    async def follow_items(self) -> None:
        """Let what other processes write about items show here at once, until cancelled.

        Meanwhile items are read once. Without it, or while the connection for it is away, they are read again at the
        cache's ``max_age_s``. Returns where Redis does not offer it.
        """
        prefix = f"{PREFIX}:{{{self._name}:{ITEM}:".encode()
        failures = 0
        while self._features.item:
            started_s = time.monotonic()
            try:
                try:
                    await self._link.watch(prefix, self._items_changed)
                finally:
                    self._cache.followed = False
            except StoreUnavailableError:
                failures = 1 if time.monotonic() - started_s > _LONGEST_FOLLOW_AGAIN_S else failures + 1
                wait_s = backoff_s(failures, first_s=_FOLLOW_AGAIN_S, longest_s=_LONGEST_FOLLOW_AGAIN_S, jitter=0.5)
                await asyncio.sleep(wait_s)
            except StoreError as error:
                _log.warning("cached items are renewed by age alone: %s", error)
                return

    def _items_changed(self, keys: Sequence[bytes] | None) -> None:
        if keys is None:  # from here on; or everything was deleted
            self._cache.followed = True
            self._cache.expire_all()
        else:
            numbers = [int(text) for key in keys if (text := key.rpartition(b":")[2]).isdigit()]
            self._cache.forget(np.array([n for n in numbers if n < KEY_LIMIT], dtype=np.int64))

    async def positions(self, *, timeout_s: float) -> dict[str, str]:
        """As the protocol says."""
        key = positions_key(self._name)
        (reply,) = await self._link.round_trip([(b"HGETALL", key)], timeout_s=timeout_s)
        return texts_of(key, value_of(key, reply))

    async def save_position(self, source: str, position: str, *, timeout_s: float) -> None:
        """As the protocol says."""
        key = positions_key(self._name)
        (reply,) = await self._link.round_trip([(b"HSET", key, source, position)], timeout_s=timeout_s)
        value_of(key, reply)

    async def ping(self, *, timeout_s: float) -> None:
        """As the protocol says; logs a warning if Redis drops keys or has lost what it held (docs/operate/redis.md)."""
        deadline_s = time.monotonic() + timeout_s
        dropped = self._evictions.dropped
        await self._evictions.check(timeout_s=timeout_s)
        lost = await self._guard.check(timeout_s=deadline_s - time.monotonic())
        if lost and self._evictions.dropped > dropped:
            # Keys were dropped one by one: others are still there. A Redis that was emptied waits for the next write.
            await self._guard.restore(lost, timeout_s=deadline_s - time.monotonic())

    async def check_primary(self, *, timeout_s: float) -> None:
        """As the protocol says, by a write that changes nothing: a replica refuses it, whereupon the link looks where
        its address leads now; reads alone would not be told (``docs/operate/redis.md``)."""
        await self._link.round_trip([(b"DEL", nothing_key(self._name))], timeout_s=timeout_s)

    def warning_counts(self) -> dict[str, int]:
        """Count the reasons to warn so far: keys are dropped (``evicts``), records were ``lost``."""
        return {"evicts": self._evictions.warnings, "lost": self._guard.losses}

    async def close(self) -> None:
        """Close the connections."""
        await self._link.close()

    def _declared(self) -> RedisHistories:
        require_history(self._features)
        assert self._histories is not None
        return self._histories


def _readable(read: HistoryRead) -> tuple[HistoryHeader, Events]:
    if isinstance(read, StoreFormatError):
        raise read
    return read
