"""ColumnFollower: the thread of each worker that has the item columns follow the store, in one worker at a time.

Who holds the lock of the folder's file ``writer`` writes; the system lets go of it when that process ends, and another
takes over where it was. The store's log of changed items says which to read; where it has a gap, and at first, all
items are looked at (docs/adr/0036).
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from recsys.arrays import Int64Array
from recsys.errors import ConfigError, NoSpaceError, RecsysError, StoreUnavailableError
from recsys.feature_store.blocking import BlockingFeatureStore
from recsys.features.columns import Column
from recsys.features.feature_set import FeatureSet
from recsys.rate_limited_log import RateLimitedLog
from recsys.serving.item_columns.writer import ColumnWriter
from recsys.serving.scheduling import short_turns

_log = logging.getLogger("recsys.serving")

INTERVAL_S = 0.2
"""Time between two looks at the store's log."""

_WRITES = 1_000
_ITEMS = 1_000
_TIMEOUT_S = 2.0
_TURN_S = 0.2
"""Of a look at all items, at a time: the log is read in between."""

_NO_ROOM_S = 5.0
"""Time to the next try where there was no room for any columns."""

_AGAIN_S = 60.0
_ANYWAY_S = 3_600.0
_STORED_S = 30.0
_CLOSE_S = 5.0


class ColumnFollower:
    """Keeps the columns of a folder current until :meth:`close`.

    Args:
        folder: of the columns, shared by the workers.
        features: gives the FeatureSet that the store is read by now.
        store: read for it.
        limit_bytes: most bytes of the columns.
        enabled: as of ``ItemColumns``; while not, nothing is read.
        interval_s: between two looks at the store's log.
        on_applied: gets the milliseconds from a write to its effect, for each item of it.
    """

    def __init__(
        self,
        folder: Path,
        features: Callable[[], FeatureSet],
        store: BlockingFeatureStore,
        *,
        limit_bytes: int,
        enabled: Callable[[], bool] = lambda: True,
        interval_s: float = INTERVAL_S,
        on_applied: Callable[[int], None] = lambda ms: None,
    ) -> None:
        self._folder, self._features, self._store = folder, features, store
        self._limit_bytes, self._interval_s, self._on_applied = limit_bytes, interval_s, on_applied
        self._enabled = enabled
        self._lock: int | None = None
        self.writer: ColumnWriter | None = None
        """The writer, if it is this process's; None: another one has it."""
        self.tried = threading.Event()
        """Set once there are columns, or there could be none."""
        self._closing = threading.Event()
        self._pages: Iterator[list[int]] | None = None
        self._found: list[Int64Array] = []
        self._left: Int64Array | None = None
        self._must_look = True
        self._gap = True
        """All items are to be looked at because some writes were missed."""
        self._look_at_s = 0.0
        self._looked_s = 0.0
        self._next_s = 0.0
        """No step before: there was no room."""
        self.stored = np.empty(0, dtype=np.int64)
        """Keys of the items that are stored and not withdrawn, as of half a minute ago at most; of the writer."""
        self._stored_next_s = 0.0
        self._stored_changed = True
        self._trouble = RateLimitedLog(_log)
        self._thread = threading.Thread(target=self._run, name="item-columns", daemon=True)
        self._thread.start()

    @property
    def writes(self) -> bool:
        """This process has the writer."""
        return self._lock is not None

    def close(self) -> None:
        """Stop, and let another process write."""
        self._closing.set()
        self._thread.join(_CLOSE_S)
        if self._lock is not None and not self._thread.is_alive():
            if self.writer is not None:
                self.writer.close()
            os.close(self._lock)
            self._lock = None

    def _run(self) -> None:
        more = False
        while not self._closing.wait(0.0 if more else self._interval_s if self.tried.is_set() else 0.001):
            more = False
            try:
                if self._enabled() and self._may_write() and time.monotonic() >= self._next_s:
                    with short_turns():
                        more = self._step()
                else:
                    self.tried.set()
            except RecsysError as error:
                self.tried.set()
                if isinstance(error, StoreUnavailableError):
                    self._look_soon()
                if isinstance(error, NoSpaceError | ConfigError):
                    self._next_s = time.monotonic() + _NO_ROOM_S
                self._trouble.warning(type(error).__name__, "item columns: not current: %s", error)
            except Exception as error:  # whatever it runs into: the thread goes on
                self.tried.set()
                self._start_over()
                self._trouble.warning("other", "item columns: not current: %s: %s", type(error).__name__, error)

    def _may_write(self) -> bool:
        """Hold the lock, or try to get it."""
        if self._lock is not None:
            return True
        descriptor = os.open(self._folder / "writer", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._lock = descriptor
        return True

    def _opened(self) -> ColumnWriter:
        filterable = self._features().filterable()
        if self.writer is None or self.writer.filterable != filterable:
            self._start_over()
            self.writer = ColumnWriter(self._folder, filterable, limit_bytes=self._limit_bytes)
            self._must_look = not self.writer.ready
            self._look_at_s = time.monotonic() + _AGAIN_S
        return self.writer

    def _start_over(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.writer, self._pages, self._found, self._left, self._must_look = None, None, [], None, True

    def _step(self) -> bool:
        """Apply what was written since the last step, and look at some of all items where that is due; True if there is
        more to do at once."""
        writer, began_s = self._opened(), time.monotonic()
        changes = self._store.changed_items(writer.state.position, limit=_WRITES, timeout_s=_TIMEOUT_S)
        gap = not changes.complete
        if gap or began_s >= self._look_at_s:
            if gap:
                self._pages, self._found, self._left = None, [], None
            self._must_look = True
            self._look_at_s = float("inf")
            self._gap |= gap
        keys, last = np.unique(changes.keys[::-1], return_index=True)
        if self._must_look and self._left is None:
            self._found.append(keys)
        if writer.generation is not None:
            self._read(writer, keys)
        writer.state.position = changes.position
        if writer.ready and not gap:
            now_ms = time.time_ns() // 1_000_000
            for ms in changes.times_ms[::-1][last].tolist():
                self._on_applied(max(now_ms - ms, 0))
        if self._must_look and not changes.more:
            self._look(writer, until_s=time.monotonic() + _TURN_S)
        if writer.ready and not changes.more and not (self._must_look and self._gap):
            writer.state.is_current(began_s)
            writer.list_places()
            self.tried.set()
        self._stored_changed |= bool(len(keys)) or self._must_look
        if self._stored_changed and not self._must_look and began_s >= self._stored_next_s:
            self.stored, self._stored_changed = writer.stored_keys(), False
            self._stored_next_s = began_s + _STORED_S
        return changes.more or self._must_look

    def _look(self, writer: ColumnWriter, *, until_s: float) -> None:
        """Look at all items of the store, for a while: gather their keys first, then read their rows."""
        try:
            if self._left is None:
                if not self._gather(until_s):
                    return
                found = np.unique(np.concatenate([writer.keys(), *self._found]).astype(np.int64))
                self._found, self._left = [], found
                if not writer.ready:
                    writer.begin(len(found))
            while len(self._left):
                self._read(writer, self._left[:_ITEMS])
                self._left = self._left[_ITEMS:]
                if time.monotonic() > until_s:
                    return
        except BaseException:
            self._pages, self._found, self._left = None, [], None  # begin anew
            raise
        writer.publish()
        self._pages, self._left, self._must_look, self._gap = None, None, False, False
        self._looked_s = time.monotonic()
        self._look_at_s = self._looked_s + _ANYWAY_S

    def _gather(self, until_s: float) -> bool:
        """Gather the keys of all items; True at the end."""
        if self._pages is None:
            self._pages = self._item_keys()
        for page in self._pages:
            self._found.append(np.array(page, dtype=np.int64))
            if time.monotonic() > until_s:
                return False
        return True

    def _item_keys(self) -> Iterator[list[int]]:
        for entity in self._features().item_entities():
            if entity.features:
                yield from self._store.item_keys(entity.name)

    def _read(self, writer: ColumnWriter, keys: Int64Array) -> None:
        """Read the rows of items, and write their values."""
        wanted = {"item", *(entity for entity, _ in writer.filterable)}
        for start in range(0, len(keys), _ITEMS):
            part = keys[start : start + _ITEMS]
            rows = {entity: self._store.entity_rows(entity, part, timeout_s=_TIMEOUT_S) for entity in wanted}
            columns: dict[str, Column] = {f.name: rows[entity].columns[f.name] for entity, f in writer.filterable}
            writer.write(part, columns, {entity: read.stored for entity, read in rows.items()})

    def _look_soon(self) -> None:
        self._look_at_s = min(self._look_at_s, self._looked_s + _AGAIN_S)
