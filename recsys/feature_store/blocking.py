"""BlockingFeatureStore: the feature store for threads without an event loop. Each call blocks until Redis has answered.

The store's coroutines are driven over a link that never suspends (ADR 18), so a call costs no event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from recsys.arrays import Float64Array, Int64Array
from recsys.feature_store.base import (
    AppendResult,
    EntityRows,
    FeatureStore,
    ItemChanges,
    RankInputs,
    RankRead,
    Span,
    StateRead,
    UserInputs,
)
from recsys.feature_store.item_cache import ItemCache
from recsys.feature_store.redis.link.blocking import BlockingLink
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.columns import Column
from recsys.features.feature_set import ITEM, FeatureSet
from recsys.features.history.records import Events, HistoryHeader

T = TypeVar("T")


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits for an event loop, and return its result.

    Raises:
        RuntimeError: it does wait for one.

    >>> async def answer() -> int:
    ...     return 42
    >>> run_sync(answer())
    42
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    name = getattr(coroutine, "__qualname__", "a coroutine")
    raise RuntimeError(f"{name} waits for an event loop; here only a BlockingLink may be waited for")


class BlockingFeatureStore:
    """The calls of :class:`~recsys.feature_store.base.FeatureStore` that handlers and tools make, as plain methods.

    Never to be called on an event loop: it would stand still meanwhile. Safe to use from several threads.

    Args:
        store: over a link that never suspends; closed by :meth:`close`.
    """

    def __init__(self, store: FeatureStore) -> None:
        self._store = store

    @classmethod
    def connect(
        cls, url: str, features: FeatureSet, *, loop: asyncio.AbstractEventLoop, cache: ItemCache
    ) -> BlockingFeatureStore:
        """Make a store on the Redis at a URL; it connects at the first call.

        Args:
            url: of any kind of Redis.
            features: the FeatureSet stored there.
            loop: runs in another thread until :meth:`close` has returned.
            cache: item features kept in this process.

        Raises:
            ConfigError: the URL is malformed.
        """
        return cls(RedisFeatureStore(features, link=BlockingLink(url, loop=loop), cache=cache))

    def use(self, store: FeatureStore) -> None:
        """Make calls of another store over the same link from now on; those that run end on the one they began with."""
        self._store = store

    def append_many(self, batches: Sequence[tuple[int, Events]], *, timeout_s: float) -> list[AppendResult]:
        """Append events, as ``FeatureStore.append_many``."""
        return run_sync(self._store.append_many(batches, timeout_s=timeout_s))

    def put_entities(self, entity: str, keys: Int64Array, columns: Mapping[str, Column], *, timeout_s: float) -> None:
        """Store features, as ``FeatureStore.put_entities``."""
        run_sync(self._store.put_entities(entity, keys, columns, timeout_s=timeout_s))

    def entity_rows(self, entity: str, keys: Int64Array, *, timeout_s: float) -> EntityRows:
        """Read features, as ``FeatureStore.entity_rows``."""
        return run_sync(self._store.entity_rows(entity, keys, timeout_s=timeout_s))

    def changed_items(self, since: str, *, limit: int, timeout_s: float) -> ItemChanges:
        """Read which items were written, as ``FeatureStore.changed_items``."""
        return run_sync(self._store.changed_items(since, limit=limit, timeout_s=timeout_s))

    def withdraw_items(self, keys: Int64Array, *, timeout_s: float) -> None:
        """Withdraw items, as ``FeatureStore.withdraw_items``."""
        run_sync(self._store.withdraw_items(keys, timeout_s=timeout_s))

    def item_keys(self, entity: str = ITEM) -> Iterator[list[int]]:
        """Read the keys of all items with features, some at a time, as ``FeatureStore.item_keys``."""
        items = self._store.item_keys(entity)
        while (some := run_sync(_next(items))) is not None:
            yield some

    def read_many_for_rank(
        self, reads: Sequence[RankRead], *, timeout_s: float, state: StateRead | None = None
    ) -> list[RankInputs]:
        """Read the inputs of Rank requests, as ``FeatureStore.read_many_for_rank``."""
        return run_sync(self._store.read_many_for_rank(reads, timeout_s=timeout_s, state=state))

    def read_user(self, user_key: int, *, timeout_s: float, state: StateRead | None = None) -> UserInputs:
        """Read a user's part of a request, as ``FeatureStore.read_user``."""
        return run_sync(self._store.read_user(user_key, timeout_s=timeout_s, state=state))

    def history(self, user_key: int, *, timeout_s: float) -> tuple[HistoryHeader, Events]:
        """Read a user's whole history, as ``FeatureStore.history``."""
        return run_sync(self._store.history(user_key, timeout_s=timeout_s))

    def histories(
        self, user_keys: Sequence[int], *, limit: int, timeout_s: float
    ) -> list[tuple[HistoryHeader, Events]]:
        """Read the newest events of many users, as ``FeatureStore.histories``."""
        return run_sync(self._store.histories(user_keys, limit=limit, timeout_s=timeout_s))

    def span(self, user_key: int, first: int, end: int, *, header: HistoryHeader, timeout_s: float) -> Span:
        """Read events by their numbers, as ``FeatureStore.span``."""
        return run_sync(self._store.span(user_key, first, end, header=header, timeout_s=timeout_s))

    def trending(self, begins_ms: Sequence[int], *, timeout_s: float) -> Mapping[int, tuple[Int64Array, Float64Array]]:
        """Read counts of items in parts of the time, as ``FeatureStore.trending``."""
        return run_sync(self._store.trending(begins_ms, timeout_s=timeout_s))

    def states(self, user_keys: Sequence[int], *, version: str, timeout_s: float) -> list[bytes | None]:
        """Read users' states, as ``FeatureStore.states``."""
        return run_sync(self._store.states(user_keys, version=version, timeout_s=timeout_s))

    def put_states(self, states: Sequence[tuple[int, bytes]], *, version: str, ttl_s: int, timeout_s: float) -> None:
        """Store users' states, as ``FeatureStore.put_states``."""
        run_sync(self._store.put_states(states, version=version, ttl_s=ttl_s, timeout_s=timeout_s))

    def names(self, keys: Iterable[int], *, timeout_s: float) -> dict[int, str]:
        """Read the texts of string ids, as ``FeatureStore.names``."""
        return run_sync(self._store.names(keys, timeout_s=timeout_s))

    def users(self) -> Iterator[list[int]]:
        """Read the keys of all users with a history, some at a time, as ``FeatureStore.users``."""
        users = self._store.users()
        while (some := run_sync(_next(users))) is not None:
            yield some

    def ping(self, *, timeout_s: float) -> None:
        """Check that the store answers and has this layout, as ``FeatureStore.ping``."""
        run_sync(self._store.ping(timeout_s=timeout_s))

    def check_primary(self, *, timeout_s: float) -> None:
        """See who takes writes, as ``FeatureStore.check_primary``."""
        run_sync(self._store.check_primary(timeout_s=timeout_s))

    def close(self) -> None:
        """Close the connections; callers that still wait get an error."""
        run_sync(self._store.close())


async def _next(batches: AsyncIterator[list[int]]) -> list[int] | None:
    return await anext(batches, None)
