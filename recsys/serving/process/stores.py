"""Stores: a server's clients of its Redis. Each release reads by its own policy; the store's own calls write.

All share connections and one cache of items, and read the bytes of the widest FeatureSet among the releases
(``features/extension.py``). A change to a wider one has two steps, as any switch: first every process of the server
reads by it, then the first one writes by it. So nobody meets bytes that it does not know.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

from recsys.errors import BundleError, InvalidInputError, StoreError, StoreFormatError, StoreUnavailableError
from recsys.feature_store.blocking import BlockingFeatureStore
from recsys.feature_store.item_cache import ItemCache
from recsys.feature_store.redis.link.blocking import BlockingLink
from recsys.feature_store.redis.link.connect import open_link
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.extension import extension_problem, stored_as, widest
from recsys.features.feature_set import FeatureSet
from recsys.serving.handlers.store_slot import ServedStore, StoreSlot
from recsys.serving.settings import Settings
from recsys.serving.telemetry.counters import Telemetry
from recsys.serving.telemetry.tracing.timed_link import TimedLink

_log = logging.getLogger("recsys.serving")

_CHECK_TIMEOUT_S = 0.5
_TRY_EVERY_S = 1.0
_CHECK_EVERY_S = 30.0
_CLOSE_S = 5.0


class Stores:
    """Clients of one Redis. Made by :func:`open_stores`; safe to use from several threads.

    Args:
        url: of the Redis.
        features: that are stored there.
        settings: the server's.
        loop: runs in a thread of its own.
        others: reads the FeatureSets of more releases, by name: the Redis may have been extended for one of them.
        telemetry: counts round trips; None for none.

    Attributes:
        blocking_store: for any thread without an event loop; of the same FeatureSet.
        slot: holds the store of the server's own calls, for use on ``loop`` only.
        cache: of all of them.
        name: of the Redis, without secrets.
    """

    def __init__(
        self,
        url: str,
        features: FeatureSet,
        settings: Settings,
        *,
        loop: asyncio.AbstractEventLoop,
        others: Callable[[], Mapping[str, FeatureSet]] = dict,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.loop = loop
        self._others = others
        self.cache = ItemCache(features.item, max_age_s=settings.item_max_age_s)
        self._features = features
        self._links = (
            TimedLink(open_link(url), "calls", telemetry),
            TimedLink(BlockingLink(url, loop=loop), "rank", telemetry),
        )
        self.name = self._links[0].name
        self._lock = threading.Lock()
        self._readers: dict[BlockingFeatureStore, FeatureSet | None] = {}
        self._tasks: dict[str, concurrent.futures.Future[None]] = {}
        self._follows = settings.item_tracking == "auto" and settings.item_max_age_s > 0
        self.blocking_store = self._reader(None)
        self._writers = [self._writer(features)]
        self.slot = StoreSlot(self._writers[0], features)

    @contextlib.contextmanager
    def reader(self, features: FeatureSet) -> Iterator[BlockingFeatureStore]:
        """The store as a release of ``features`` reads it, for the duration of a ``with`` block.

        It goes on being read by what is stored; calls that outlast the block end as they began.
        """
        with self._lock:
            made = self._reader(features)
        try:
            yield made
        finally:
            with self._lock:
                del self._readers[made]

    def widest(self, releases: Mapping[str, FeatureSet]) -> FeatureSet:
        """The FeatureSet of a store that these releases share, with what is stored already.

        Args:
            releases: FeatureSets of all that are to be loaded, by the release's name; those to go by first.

        Raises:
            BundleError: there is none; it says what differs.
        """
        return widest_of(releases, self.slot.current().features)

    def read_as(self, features: FeatureSet) -> None:
        """Read by this FeatureSet from now on, and be ready to write by it: :meth:`StoreSlot.take_over`.

        Args:
            features: from :meth:`widest`.

        Raises:
            StoreFormatError: the store was filled with another layout; nothing is changed.
        """
        with self._lock:
            if features == self._features:
                return
            writer = self._writer(features)
            if extension_problem(self._features, features):
                with contextlib.suppress(StoreUnavailableError):
                    self._run(writer.ping(timeout_s=_CHECK_TIMEOUT_S))
            self._use(writer, features)

    def _use(self, writer: RedisFeatureStore, features: FeatureSet) -> None:
        self._writers.append(writer)
        self._features = features
        for reader, own in self._readers.items():
            reader.use(self._client(own))
        # After the readers: what a narrower one has read is not for the cache any more.
        self.cache.hold(features.item)
        self.slot.prepare(ServedStore(writer, features))
        self._follow_items()

    @property
    def features(self) -> FeatureSet:
        """The FeatureSet by which the store is read now."""
        return self._features

    def warning_counts(self) -> dict[str, int]:
        """Count the reasons to warn so far, as ``RedisFeatureStore.warning_counts``; these never fall."""
        counts: Counter[str] = Counter({"evicts": 0, "lost": 0})
        for writer in self._writers:
            counts.update(writer.warning_counts())
        return dict(counts)

    def trending_counts(self) -> dict[str, int]:
        """Count events by what became of their count for Trending; these never fall."""
        counts: Counter[str] = Counter()
        for writer in self._writers:
            counts.update(writer.trending_counts())
        return dict(counts)

    def start(self) -> None:
        """Look at the Redis, now and then from now on.

        Raises:
            StoreFormatError: it was filled for another layout of the same FeatureSet.
        """
        try:
            answered = self._run(_checked(self._writers[0]))
        except StoreFormatError:
            if not self._run(self._extended()):
                raise
            answered = True
        self._start("check", self._check_again(answered=answered))
        self._follow_items()

    def close(self) -> None:
        """Close the connections; calls that still run are cut off."""
        for task in self._tasks.values():
            task.cancel()
        self.blocking_store.close()
        self._run(self._links[0].close(), timeout_s=_CLOSE_S)

    def _reader(self, own: FeatureSet | None) -> BlockingFeatureStore:
        made = BlockingFeatureStore(self._client(own))
        self._readers[made] = own
        return made

    def _client(self, own: FeatureSet | None) -> RedisFeatureStore:
        features = self._features if own is None else stored_as(own, self._features)
        return RedisFeatureStore(features, link=self._links[1], cache=self.cache)

    def _writer(self, features: FeatureSet) -> RedisFeatureStore:
        return RedisFeatureStore(features, link=self._links[0], cache=self.cache)

    def _follow_items(self) -> None:
        if self._follows and self._features.item and "items" not in self._tasks:
            self._start("items", self._writers[-1].follow_items())

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._tasks[name] = asyncio.run_coroutine_threadsafe(work, self.loop)

    def _run(self, work: Coroutine[Any, Any, Any], *, timeout_s: float | None = None) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout_s)

    async def _extended(self) -> bool:
        """Go over to the FeatureSet for which the Redis was extended, if it is that of a release that is not loaded."""
        before = self._features
        for name, other in (await asyncio.to_thread(self._others)).items():
            if not extension_problem(before, other) or extension_problem(other, before):
                continue
            features = widest({"served": before}, stored=other)
            writer = self._writer(features)
            try:
                await writer.ping(timeout_s=_CHECK_TIMEOUT_S)
            except StoreError:
                continue
            # In a thread: whoever holds the lock may wait for the loop.
            if await asyncio.to_thread(self._go_over, before, writer, features):
                _log.warning(
                    "feature store: extended for release %r, which is not served; read by its FeatureSet, of which "
                    "this server knows from that release alone: keep it in the store of releases",
                    name,
                )
            return True
        return False

    def _go_over(self, before: FeatureSet, writer: RedisFeatureStore, features: FeatureSet) -> bool:
        with self._lock:
            if self._features is not before:
                return False  # a switch is under way
            self._use(writer, features)
            self.slot.take_over()
            return True

    async def _check_again(self, *, answered: bool) -> None:
        """Ask again: soon, until it has answered once, then now and then, as it may be emptied or told to drop keys.

        If it does not fit then, its data reads as unavailable: no reason to stop.
        """
        shown = ""
        while True:
            await asyncio.sleep(_CHECK_EVERY_S if answered else _TRY_EVERY_S)
            served = self.slot.current()
            try:
                await served.store.check_primary(timeout_s=_CHECK_TIMEOUT_S)
                await asyncio.to_thread(self.blocking_store.check_primary, timeout_s=_CHECK_TIMEOUT_S)
                await served.store.ping(timeout_s=_CHECK_TIMEOUT_S)
            except StoreUnavailableError:
                continue
            except StoreError as error:
                if await self.slot.after_refusal(served) is not None:
                    continue  # extended by another server of the same releases
                if isinstance(error, StoreFormatError) and await self._extended():
                    continue
                if str(error) != shown:
                    _log.error("feature store: %s", error)
                shown = str(error)
            else:
                if not answered:
                    _log.warning("feature store: answers again")
                shown = ""
            answered = True


@contextlib.contextmanager
def open_stores(
    url: str,
    features: FeatureSet,
    settings: Settings,
    *,
    loop: asyncio.AbstractEventLoop,
    others: Callable[[], Mapping[str, FeatureSet]] = dict,
    telemetry: Telemetry | None = None,
) -> Iterator[Stores]:
    """The stores for the duration of a ``with`` block; at its end, calls that still run are cut off.

    Redis may be away: it is then asked again until it answers. It may have been extended for one of the ``others``: the
    FeatureSets of releases by name. ``telemetry`` counts round trips.

    Raises:
        ConfigError: the URL is malformed.
        StoreFormatError: the store was filled for another layout of the same FeatureSet.
    """
    stores = Stores(url, features, settings, loop=loop, others=others, telemetry=telemetry)
    try:
        stores.start()
        yield stores
    finally:
        stores.close()


def widest_of(releases: Mapping[str, FeatureSet], stored: FeatureSet | None = None) -> FeatureSet:
    """The FeatureSet of a store that releases share, by name, with what is ``stored`` already.

    Raises:
        BundleError: there is none; it says what differs.
    """
    named = {f"release {name!r}": features for name, features in releases.items()}
    try:
        return widest(named, stored=stored)
    except InvalidInputError as error:
        raise BundleError(
            f"{error}. Releases of one server have FeatureSets of one name, in which new features are added at the end "
            "alone; serve others by a server of their own"
        ) from None


async def _checked(store: RedisFeatureStore) -> bool:
    """Ask the store for its layout; False if it is away. StoreFormatError if it was filled for another layout."""
    try:
        await store.ping(timeout_s=_CHECK_TIMEOUT_S)
    except StoreUnavailableError as error:
        _log.warning("feature store: %s; starting without it, answers are degraded", error)
        return False
    return True
