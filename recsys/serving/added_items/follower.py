"""ItemFollower: one thread of a worker that keeps the added items of its loaded releases current."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from recsys.errors import ModelError, RecsysError
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

    def __init__(self, items: ReleaseItems, release: str) -> None:
        self.items = items
        self.release = release
        self.lock = threading.Lock()
        """Held during a step, which a release that closes waits for."""
        self.closed = False
        """No further step begins."""
        self.tried = threading.Event()
        """Set once the first steps are done, or could not be."""
        self.current_s = time.monotonic()
        """Moment at which it was current last."""


class ItemFollower:
    """Keeps added items current until :meth:`close`. There is no thread before there is a release to follow.

    Args:
        interval_s: time between two reads of the store's log.
        most: added items of a release.
        telemetry: gets the times from writes to their effects; None for none. It polls the rest.
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
        are were looked at, or could not be, or after 2 s; the log says what it begins without.
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
        followed = _Followed(items, release)
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

    def count(self) -> int:
        """Number of added items, of all releases."""
        with self._changed:
            now = [followed.items.current for followed in self._followed]
        return sum(len(items) for items in now if items is not None)

    def behind(self) -> int:
        """1 if a release has not been current for ``BEHIND_S``, whatever holds up the thread; else 0."""
        since_s = time.monotonic() - BEHIND_S
        with self._changed:
            return int(any(followed.current_s < since_s for followed in self._followed))

    def close(self) -> None:
        """Stop."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        more = False
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._followed)
                new = any(not followed.tried.is_set() for followed in self._followed)
                if not (new or more or self._closing):
                    self._changed.wait(self._interval_s)
                if self._closing:
                    return
                every = list(self._followed)
            more = any([self._keep_current(every.pop()) for _ in range(len(every))])  # no reference outlasts its turn

    def _keep_current(self, followed: _Followed) -> bool:
        """Let a release have what was written: a step, and at first as many as 2 s allow; True if there is more."""
        new = not followed.tried.is_set()
        until_s = time.monotonic() + _FIRST_S if new else 0.0
        more = True
        try:
            with short_turns():
                while more:
                    with followed.lock:
                        more = not followed.closed and followed.items.step()
                    if self._closing or time.monotonic() > until_s:
                        break  # the others have their turns
            if not more:
                followed.current_s = time.monotonic()
            elif new:
                _log.warning(
                    "release %s begins without some of the items that came after training: they are looked for still",
                    followed.release,
                )
        except RecsysError as error:
            more = False
            self._not_current(followed, "model" if isinstance(error, ModelError) else "store", str(error))
        except Exception as error:  # whatever it runs into: the thread goes on for the others
            more = False
            self._not_current(followed, "other", f"{type(error).__name__}: {error}")
        followed.tried.set()
        return more

    def _not_current(self, followed: _Followed, kind: str, why: str) -> None:
        self._trouble.warning(
            kind, "release %s: items that came after training: not current: %s", followed.release, why
        )

    def _applied(self, ms: int) -> None:
        if self._telemetry is not None:
            self._telemetry.observe_time("added_item_seconds", us=ms * 1000)
