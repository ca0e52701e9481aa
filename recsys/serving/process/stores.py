"""Feature store clients of a server: an async one for the store's own calls, a blocking one for Rank."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass

from recsys.errors import StoreError, StoreUnavailableError
from recsys.feature_store.blocking import BlockingFeatureStore
from recsys.feature_store.item_cache import ItemCache
from recsys.feature_store.redis.link.connect import open_link
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.feature_set import FeatureSet
from recsys.serving.settings import Settings

_log = logging.getLogger("recsys.serving")

_CHECK_TIMEOUT_S = 0.5
_TRY_EVERY_S = 1.0
_CHECK_EVERY_S = 30.0
_CLOSE_S = 5.0


@dataclass(frozen=True, slots=True)
class Stores:
    """Two stores on one Redis, with one cache of items.

    Attributes:
        async_store: for use on ``loop`` only.
        blocking_store: for any thread without an event loop.
        loop: runs in a thread of its own.
        cache: of both.
    """

    async_store: RedisFeatureStore
    blocking_store: BlockingFeatureStore
    loop: asyncio.AbstractEventLoop
    cache: ItemCache


@contextlib.contextmanager
def open_stores(
    url: str, features: FeatureSet, settings: Settings, *, loop: asyncio.AbstractEventLoop
) -> Iterator[Stores]:
    """The stores for the duration of a ``with`` block; at its end, calls that still run are cut off.

    Redis may be away: it is then asked again until it answers.

    Raises:
        ConfigError: the URL is malformed.
        StoreFormatError: the store was filled for another layout of the same FeatureSet.
    """
    cache = ItemCache(features.item, max_age_s=settings.item_max_age_s)
    async_store = RedisFeatureStore(features, link=open_link(url), cache=cache)
    blocking_store = BlockingFeatureStore.connect(url, features, loop=loop, cache=cache)
    tasks = []
    try:
        answered = asyncio.run_coroutine_threadsafe(_checked(async_store), loop).result()
        tasks.append(
            asyncio.run_coroutine_threadsafe(_check_again(async_store, blocking_store, answered=answered), loop)
        )
        if settings.item_tracking == "auto" and settings.item_max_age_s:
            tasks.append(asyncio.run_coroutine_threadsafe(async_store.follow_items(), loop))
        yield Stores(async_store, blocking_store, loop, cache)
    finally:
        for task in tasks:
            task.cancel()
        blocking_store.close()
        asyncio.run_coroutine_threadsafe(async_store.close(), loop).result(_CLOSE_S)


async def _checked(store: RedisFeatureStore) -> bool:
    """Ask the store for its layout; False if it is away. StoreFormatError if it was filled for another layout."""
    try:
        await store.ping(timeout_s=_CHECK_TIMEOUT_S)
    except StoreUnavailableError as error:
        _log.warning("feature store: %s; starting without it, answers are degraded", error)
        return False
    return True


async def _check_again(store: RedisFeatureStore, blocking_store: BlockingFeatureStore, *, answered: bool) -> None:
    """Ask again: soon, until it has answered once, then now and then, as it may be emptied or told to drop keys.

    If it does not fit then, its data reads as unavailable: no reason to stop.
    """
    shown = ""
    while True:
        await asyncio.sleep(_CHECK_EVERY_S if answered else _TRY_EVERY_S)
        try:
            await store.check_primary(timeout_s=_CHECK_TIMEOUT_S)
            await asyncio.to_thread(blocking_store.check_primary, timeout_s=_CHECK_TIMEOUT_S)
            await store.ping(timeout_s=_CHECK_TIMEOUT_S)
        except StoreUnavailableError:
            continue
        except StoreError as error:
            if str(error) != shown:
                _log.error("feature store: %s", error)
            shown = str(error)
        else:
            if not answered:
                _log.warning("feature store: answers again")
            shown = ""
        answered = True
