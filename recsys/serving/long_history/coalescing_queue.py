"""CoalescingQueue: work by key that nobody waits for, done by one thread in the background."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from recsys.rate_limited_log import RateLimitedLog

_log = logging.getLogger(__name__)


class CoalescingQueue:
    """One thread that does work by key: what is offered replaces what was offered before for that key and not begun.

    Args:
        name: of the thread, and in the log.
        limit: keys that may wait.
    """

    def __init__(self, name: str, *, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._waiting: OrderedDict[int, Callable[[], None]] = OrderedDict()
        self._changed = threading.Condition()
        self._busy = False
        self._closing_at_s: float | None = None
        self._trouble = RateLimitedLog(_log)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def offer(self, key: int, work: Callable[[], None]) -> bool:
        """Have it done soon; False if there is no room. Never blocks, and never raises for what the work raises."""
        with self._changed:
            if self._closing_at_s is not None or (key not in self._waiting and len(self._waiting) >= self._limit):
                return False
            self._waiting[key] = work
            self._changed.notify_all()
            return True

    def flush(self, *, timeout_s: float) -> bool:
        """Wait until nothing is left to do; whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._busy, timeout_s)

    def close(self, *, timeout_s: float = 5.0) -> None:
        """Take no more; what waits is done if there is time."""
        with self._changed:
            if self._closing_at_s is None:
                self._closing_at_s = time.monotonic() + timeout_s
            self._changed.notify_all()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting or self._closing_at_s is not None)
                late = self._closing_at_s is not None and time.monotonic() >= self._closing_at_s
                if late or not self._waiting:
                    return
                _, work = self._waiting.popitem(last=False)
                self._busy = True
            try:
                work()
            except Exception as error:  # the thread must outlive whatever one piece of work runs into
                self._trouble.warning(None, "%s: %s: %s", self._name, type(error).__name__, error)
