"""ReleaseItems: the items of the feature store that a loaded retrieval model's bundle has not, with rows made of what
they are.

The store's log of changed items says which to look at; where it has a gap, and at first, all items are looked at. ``A``
added items, ``N`` items looked at.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

import numpy as np

from recsys.arrays import Int64Array
from recsys.bundle import LARGEST
from recsys.errors import ModelError, StoreUnavailableError
from recsys.feature_store.base import IS_WITHDRAWN
from recsys.feature_store.blocking import BlockingFeatureStore
from recsys.feature_store.redis.keys import entity_key
from recsys.features.feature_set import ITEM
from recsys.rate_limited_log import RateLimitedLog
from recsys.serving.added_items.item_buffer import ItemBuffer
from recsys.serving.inference.candidate_index import AddedItems, CandidateIndex
from recsys.serving.telemetry.label_counts import LabelCounts

_log = logging.getLogger("recsys.serving")

_WRITES = 10_000
"""Entries of the log that are read at a time."""

_ITEMS = 500
"""Items whose rows are made in one run of the model: it holds up calls no longer than one of them."""

_TIMEOUT_S = 2.0
_SCAN_S = 0.2
"""Of a look at all items, at a time: the log is read in between."""

_AGAIN_S = 60.0
"""Least time from a look at all items to the next, where the log has no gap."""

_ANYWAY_S = 3600.0
"""Time to the next one where there is no cause at all: Redis may have lost the newest entries, not their rows."""

_TOLD = 10_000
"""Items that cannot be added, and were named in the log."""

_NAMED = 20
"""Of them in one line of it."""

WHY_NOT = {
    "withdrawn": "it was withdrawn",
    "no_attributes": "the store has no attributes of it, or none that the model knows",
    "not_finite": f"the model's row of it has numbers that are not finite, or beyond {LARGEST:g}",
    "damaged": "its stored attributes cannot be read",
    "no_name": "the store has no text of its id",
    "failed": "the model failed",
    "no_room": "there are more than max_added_items (RECSYS_MAX_ADDED_ITEMS), and this is none of the newest",
}
"""Outcomes of items that are not added, in words."""


class ReleaseItems:
    """The added items of one release. :meth:`step` is called by one thread at a time, :attr:`current` read by any.

    Args:
        index: the release's retrieval model, which has ``item_inputs``.
        store: read by the release's FeatureSet.
        release: its name, for messages.
        most: bound of A; the items that were written last stay, of a moment those of the smallest keys.
        counts: outcomes of items: ``added``, ``changed``, ``removed`` and those of ``WHY_NOT``.
        on_applied: gets the milliseconds from a write to its effect, for each item of it.
    """

    def __init__(
        self,
        index: CandidateIndex,
        store: BlockingFeatureStore,
        *,
        release: str,
        most: int,
        counts: LabelCounts,
        on_applied: Callable[[int], None] = lambda ms: None,
    ) -> None:
        self.current: AddedItems | None = None
        """Items that take part in searches now; replaced as a whole. None: no item."""
        self._index = index
        self._store = store
        self._release = release
        self._most = most
        self._counts = counts
        self._on_applied = on_applied
        self._features = index.features
        self._id = index.features.item_id
        self._items = ItemBuffer()
        self._position = ""
        self._must_look = True
        self._pages: Iterator[list[int]] | None = None
        self._found: list[Int64Array] = []
        self._touched: set[int] = set()
        """Items that the log named since there was a gap in it: they are as they are now."""
        self._look_at_s = 0.0
        """Moment of the next look at all items that no gap in the log asks for."""
        self._looked_s = 0.0
        self._left_out = False
        """There was no room for some item since the last look at all."""
        self._nameless: set[int] = set()
        """Items whose text was missing once: another look at all was due to it."""
        self._told: set[int] = set()
        self._untold: dict[str, list[int]] = {}
        """By outcome, items that are to be named in the log."""
        self._trouble = RateLimitedLog(_log)

    def step(self) -> bool:
        """Apply what was written since the last step, and look at a part of all items where that is due.

        Returns:
            True if there is more to do at once.

        Raises:
            StoreError: the store is away, or its log is no log; the next step begins where this one did.
            ModelError: the model's tables were changed.
        """
        if time.monotonic() >= self._look_at_s:
            self._must_look = True
        try:
            return self._step()
        except StoreUnavailableError:
            self._look_soon()  # another Redis may take its place, and lack what was written last
            raise
        finally:
            self._tell()

    def _step(self) -> bool:
        changes = self._store.changed_items(self._position, limit=_WRITES, timeout_s=_TIMEOUT_S)
        if not changes.complete:
            self._must_look, self._pages, self._touched = True, None, set()
        keys, times_ms = _newest(changes.keys, changes.times_ms)
        unknown = ~self._index.has_items(keys)
        keys, times_ms = keys[unknown], times_ms[unknown]
        if self._must_look:
            self._touched.update(keys.tolist())
        self._add(keys, times_ms)
        self._position = changes.position
        if len(keys):
            self._publish()
            if changes.complete:
                now_ms = time.time_ns() // 1_000_000
                for ms in times_ms[self._items.has(keys)].tolist():
                    self._on_applied(max(now_ms - ms, 0))
        if self._must_look and not changes.more:
            self._look()
        return changes.more or self._must_look

    def _look(self) -> None:
        """Look at a part of all items of the store; at the end, take in what was found."""
        if self._pages is None:
            self._pages, self._found = self._store.item_keys(), []
        until_s = time.monotonic() + _SCAN_S
        try:
            while time.monotonic() < until_s:
                page = next(self._pages, None)
                if page is None:
                    self._looked_s, self._left_out = time.monotonic(), False
                    self._look_at_s = self._looked_s + _ANYWAY_S
                    self._take_in(np.unique(np.concatenate([np.empty(0, dtype=np.int64), *self._found])))
                    self._pages, self._found, self._touched, self._must_look = None, [], set(), False
                    return
                self._found.append(self._unknown(np.array(page, dtype=np.int64)))
        except BaseException:
            self._pages = None  # what has failed goes on no more: begin anew
            raise

    def _take_in(self, found: Int64Array) -> None:
        """Have the items that a look at all has found, N keys in order. Of those there were, and that it has not found,
        the rows decide: a cluster whose slots move may leave some out."""
        have, times_ms = self._items.keys, self._items.times_ms
        untouched = ~np.isin(have, np.fromiter(self._touched, dtype=np.int64))
        have, times_ms = have[untouched], times_ms[untouched]
        there = np.isin(have, found)
        self._make(have[there], times_ms[there])  # they may have changed in the gap
        self._make(have[~there], times_ms[~there], empty="removed")
        new = found[~(self._items.has(found) | np.isin(found, np.fromiter(self._touched, dtype=np.int64)))]
        self._add(new, np.zeros(len(new), dtype=np.int64))
        before = 0 if self.current is None else len(self.current)
        self._publish()
        now = len(self._items)
        if now != before:
            _log.info("release %s: %d items that came after training take part in searches", self._release, now)

    def _look_soon(self) -> None:
        self._look_at_s = min(self._look_at_s, self._looked_s + _AGAIN_S)

    def _add(self, keys: Int64Array, times_ms: Int64Array) -> None:
        """Make rows of items that the bundle has not.

        Those that have a row get another; of the others the newest first, as long as there is room for one.

        Args:
            keys: distinct, [N].
            times_ms: when each was written, [N].
        """
        again = self._items.has(keys)
        self._make(keys[again], times_ms[again])
        new, new_ms = keys[~again], times_ms[~again]
        order = np.lexsort((new, -new_ms))
        new, new_ms = new[order], new_ms[order]
        for start in range(0, len(new), _ITEMS):
            first = self._items.goes_first() if len(self._items) >= self._most else None
            if first is not None and (int(new_ms[start]), -int(new[start])) < (first[0], -first[1]):
                self._refuse(new[start:], "no_room")
                break
            part = slice(start, start + _ITEMS)
            self._make(new[part], new_ms[part])
            self._refuse(self._items.beyond(self._most), "no_room")

    def _make(self, keys: Int64Array, times_ms: Int64Array, *, empty: str = "no_attributes") -> None:
        """Read the attributes of items and make their rows; an item that has none any more is added no more.

        Args:
            keys, times_ms: of the items, [N].
            empty: outcome of an item without attributes.
        """
        for start in range(0, len(keys), _ITEMS):
            part = slice(start, start + _ITEMS)
            self._make_some(keys[part], times_ms[part], empty)

    def _make_some(self, keys: Int64Array, times_ms: Int64Array, empty: str) -> None:
        columns, damaged, stored = self._store.entity_rows(ITEM, keys, timeout_s=_TIMEOUT_S)
        texts: dict[int, str] = {}
        if self._id.id_type == "string":
            texts = self._store.names(keys.tolist(), timeout_s=_TIMEOUT_S)
        try:
            made = self._index.rows({**columns, self._id.name: keys})
        except ModelError as error:
            self._trouble.warning("model", "release %s: items that came after training: %s", self._release, error)
            self._refuse(keys, "failed")
            return
        bounded = made.bounded
        for place, (key, time_ms) in enumerate(zip(keys.tolist(), times_ms.tolist(), strict=True)):
            why_not = ""
            if stored[place] == IS_WITHDRAWN:
                why_not = "withdrawn"
            elif place in damaged:
                why_not = "damaged"
            elif not made.known[place]:
                why_not = empty
            elif not bounded[place]:
                why_not = "not_finite"
            elif self._id.id_type == "string" and key not in texts:
                why_not = "no_name"
            if why_not:
                self._refuse(keys[place : place + 1], why_not)
                continue
            outcome = self._items.put(key, made.rows[place], time_ms=time_ms, name=texts.get(key, ""))
            if outcome != "same":
                self._counts.add(outcome)

    def _refuse(self, keys: Int64Array, outcome: str) -> None:
        """Count items that take no part, to be named in the log, and let others have their room."""
        if not len(keys):
            return
        self._counts.add(outcome, by=len(keys))
        had = len(self._items)
        for key in keys.tolist():
            self._items.pop(key)
        if outcome == "no_room":
            self._left_out = True
            self._touched.difference_update(keys.tolist())  # a look at all may make room
        elif len(self._items) < had and self._left_out:
            self._look_soon()
        if outcome == "no_name" and not self._nameless.issuperset(keys.tolist()):
            if len(self._nameless) >= _TOLD:
                self._nameless.clear()
            self._nameless.update(keys.tolist())
            self._look_soon()  # their texts may come after them
        if outcome in WHY_NOT:
            untold = self._untold.setdefault(outcome, [])
            new = [key for key in keys[:_TOLD].tolist() if key not in self._told]
            untold += new[: _TOLD - len(untold)]

    def _tell(self) -> None:
        """Name items that take no part, each once: some in a line, a line of each outcome in ten seconds."""
        for outcome, keys in self._untold.items():
            distinct = list(dict.fromkeys(keys))
            if not distinct or self._trouble.due(outcome) is None:
                continue
            named = distinct[:_NAMED]
            if len(self._told) >= _TOLD:
                self._told.clear()
            self._told.update(named)
            keys.clear()
            _log.warning(
                "release %s: %d items that came after training take no part in searches: %s: %s%s",
                self._release,
                len(distinct),
                WHY_NOT[outcome],
                ", ".join(entity_key(self._features.name, ITEM, key).decode() for key in named),
                f", and {len(distinct) - len(named)} more" if len(distinct) > len(named) else "",
            )

    def _publish(self) -> None:
        """Let searches have the items there are now."""
        self.current = self._items.snapshot(named=self._id.id_type == "string")

    def _unknown(self, keys: Int64Array) -> Int64Array:
        return keys[~self._index.has_items(keys)] if len(keys) else keys


def _newest(keys: Int64Array, times_ms: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Each item once, with the time of its last write."""
    distinct, last = np.unique(keys[::-1], return_index=True)
    return distinct, times_ms[::-1][last]
