"""ItemFollower: one thread of a worker that keeps the added items of its loaded releases current."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from recsys.errors import RecsysError
from recsys.feature_store.blocking import BlockingFeatureStore
from recsys.rate_limited_log import RateLimitedLog
from recsys.serving.added_items.release_items import ReleaseItems
from recsys.serving.inference.candidate_index import AddedItems, CandidateIndex
from recsys.serving.scheduling import short_turns
from recsys.serving.telemetry.counters import Telemetry
from recsys.serving.telemetry.label_counts import LabelCounts

_log = logging.getLogger("recsys.serving")

BEHIND_S = 10.0
"""A release whose added items were last current so long ago is behind."""

_FIRST_S = 2.0
"""Longest wait for a new release's added items, before it answers without some of them."""

_CLOSE_S = 5.0

Current = Callable[[], AddedItems | None]
"""Gives the added items to search with."""


class _Followed:
    """A release that is kept current."""

    def __init__(self, items: ReleaseItems) -> None:
        self.items = items
        self.lock = threading.Lock()
        """Held during a step, which a release that closes waits for."""
        self.closed = False
        """No further step begins."""
        self.tried = threading.Event()
        """Set once the first steps are done, or could not be."""
        self.current_s = time.monotonic()
        """When it was current last."""


class ItemFollower:
    """Keeps added items current until :meth:`close`. There is no thread before there is a release to follow.

    Args:
        interval_s: time between two reads of the store's log.
        most: added items of a release.
        telemetry: gets what is counted, but for :attr:`counts`; None for none.
    """

    def __init__(self, *, interval_s: float, most: int, telemetry: Telemetry | None = None) -> None:
        self.counts = LabelCounts()
        """Outcomes of items, as of ``ReleaseItems``."""
        self._interval_s = interval_s
        self._most = most
        self._telemetry = telemetry
        self._followed: list[_Followed] = []
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._trouble = RateLimitedLog(_log)

    @contextmanager
    def following(self, index: CandidateIndex, store: BlockingFeatureStore, *, release: str) -> Iterator[Current]:
        """Keep the added items of a release current for the duration of a ``with`` block.

        A model that makes no rows of items has none, and nothing is read for it. The block begins when the items there
        are were looked at, or could not be, or after 2 s.
        """
        if not index.item_inputs or not self._most:
            yield lambda: None
            return
        items = ReleaseItems(
            index,
            store,
            release=release,
            most=self._most,
            counts=self.counts,
            on_applied=self._applied,
        )
        followed = _Followed(items)
        with self._changed:
            self._followed.append(followed)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="added-items", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        followed.tried.wait(_FIRST_S)
        try:
            yield lambda: items.current
        finally:
            with self._changed:
                self._followed.remove(followed)
            followed.closed = True
            if followed.lock.acquire(timeout=_CLOSE_S):
                items.current = None
                followed.lock.release()

    def close(self) -> None:
        """Stop."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._followed)
                new = any(not followed.tried.is_set() for followed in self._followed)
                if not new and not self._closing:
                    self._changed.wait(self._interval_s)
                if self._closing:
                    return
                every = list(self._followed)
            behind = [self._keep_current(every.pop()) for _ in range(len(every))]  # no reference outlasts its turn
            if self._telemetry is not None:
                self._telemetry.set("added_items", to=self._count())
                self._telemetry.set("added_items_behind", to=int(any(behind)))

    def _keep_current(self, followed: _Followed) -> bool:
        """Let a release have what was written; True if it is behind."""
        until_s = 0.0 if followed.tried.is_set() else time.monotonic() + _FIRST_S
        try:
            with short_turns():
                more = True
                while more:
                    with followed.lock:
                        more = not followed.closed and followed.items.step()
                    if self._closing or time.monotonic() > until_s:
                        break  # the others have their turns
            if not more:
                followed.current_s = time.monotonic()
        except RecsysError as error:
            self._trouble.warning("store", "items that came after training: not current: %s", error)
        except Exception as error:  # whatever it runs into: the thread goes on for the others
            what = f"{type(error).__name__}: {error}"
            self._trouble.warning("other", "items that came after training: not current: %s", what)
        followed.tried.set()
        return time.monotonic() - followed.current_s > BEHIND_S

    def _count(self) -> int:
        with self._changed:
            now = [followed.items.current for followed in self._followed]
        return sum(len(items) for items in now if items is not None)

    def _applied(self, ms: int) -> None:
        if self._telemetry is not None:
            self._telemetry.observe_time("added_item_seconds", us=ms * 1000)
