"""StoreSlot: the store as calls to it have it, replaceable while calls run.

A call converts and writes by one FeatureSet, from its start. When the store is extended meanwhile, by this process or
another one, what the narrower FeatureSet reads and writes is refused, and then done again by the wider one. It loses
nothing: what is written twice counts once.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from recsys.errors import StoreFormatError, StoreUnavailableError
from recsys.feature_store.base import FeatureStore
from recsys.features.feature_set import FeatureSet

_CHECK_TIMEOUT_S = 0.5


class ServedStore(NamedTuple):
    """A store, and the FeatureSet that messages are converted by."""

    store: FeatureStore
    features: FeatureSet


class StoreSlot:
    """Holds the store of a server's own calls. Safe to use from several threads.

    Args:
        store: the first one; closed by its owner, as those that follow.
        features: of the store.
    """

    def __init__(self, store: FeatureStore, features: FeatureSet) -> None:
        self._lock = threading.Lock()
        self._current = ServedStore(store, features)
        self._next: ServedStore | None = None

    def current(self) -> ServedStore:
        """The store there is now; a call keeps it."""
        return self._current

    def prepare(self, following: ServedStore) -> None:
        """Have a store of a wider FeatureSet ready, for :meth:`take_over` or for when the Redis is found extended."""
        with self._lock:
            self._next = None if following.features == self._current.features else following

    def take_over(self) -> None:
        """Use what was prepared, if anything was."""
        with self._lock:
            if self._next is not None:
                self._current, self._next = self._next, None

    async def after_refusal(self, used: ServedStore) -> ServedStore | None:
        """The store to ask again, after one refused because of what is stored; None: there is no other.

        The one prepared is taken over if it is the Redis that was extended, not one user's bytes that are foreign.
        """
        if self._current is used and self._next is not None:
            try:
                await used.store.ping(timeout_s=_CHECK_TIMEOUT_S)
            except StoreFormatError:
                self.take_over()
            except StoreUnavailableError:
                pass
        return None if self._current is used else self._current
