"""Exporter: spans wait in a bounded queue, and a thread sends them. Its trouble never reaches a call."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from recsys.rate_limited_log import RateLimitedLog
from recsys.serving.telemetry.label_counts import LabelCounts

_log = logging.getLogger("recsys.serving")

_WAITING = 4_096
_BATCH = 512
_EVERY_S = 1.0


class Sender(Protocol):
    """The part of OpenTelemetry's ``SpanExporter`` that is used."""

    def export(self, spans: Sequence[Any], /) -> Any:
        """Send spans; the result's ``name`` is SUCCESS if they were taken."""
        ...

    def shutdown(self) -> None:
        """End what it still does."""
        ...


class SpanQueue:
    """Spans on their way. Safe to use from several threads.

    Args:
        sender: sends them, in a thread of this queue's own.
        waiting: most spans that wait; more are dropped and counted.
        every_s: longest time that a span waits if nothing else comes.
    """

    def __init__(self, sender: Sender, *, waiting: int = _WAITING, every_s: float = _EVERY_S) -> None:
        self.counts = LabelCounts()
        self._sender = sender
        self._waiting = waiting
        self._every_s = every_s
        self._spans: deque[Any] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._trouble = RateLimitedLog(_log, every_s=60.0)
        self._thread = threading.Thread(target=self._work, name="spans", daemon=True)
        self._thread.start()

    def put(self, spans: Sequence[Any]) -> None:
        """Take the spans of one call, all or none; never waits."""
        with self._changed:
            fits = not self._closing and len(self._spans) + len(spans) <= self._waiting
            if fits:
                self._spans.extend(spans)
                if len(self._spans) >= _BATCH:
                    self._changed.notify()
        if not fits:
            self.counts.add("dropped", by=len(spans))

    def close(self, *, timeout_s: float = 2.0) -> None:
        """Send what waits, in at most so much time; what is left then is lost, and counted as dropped."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        with self._changed:
            left = len(self._spans)
            self._spans.clear()
        if left:
            self.counts.add("dropped", by=left)
        # In a thread: a sender that waits for its address would hold up the end of the server.
        ending = threading.Thread(target=self._sender.shutdown, name="spans end", daemon=True)
        ending.start()
        ending.join(timeout_s)

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._closing and len(self._spans) < _BATCH:
                    self._changed.wait(self._every_s)
                batch = [self._spans.popleft() for _ in range(min(_BATCH, len(self._spans)))]
                if not batch and self._closing:
                    return
            if batch:
                self._send(batch)

    def _send(self, batch: list[Any]) -> None:
        started_s = time.monotonic()
        try:
            sent = getattr(self._sender.export(batch), "name", "") == "SUCCESS"
            why = "they were not taken"
        except Exception as error:  # of a library: its trouble is not a call's
            sent, why = False, f"{type(error).__name__}: {error}"
        self.counts.add("sent" if sent else "failed", by=len(batch))
        if not sent:
            took_s = time.monotonic() - started_s
            self._trouble.warning(None, "%d spans are lost after %.1f s: %s", len(batch), took_s, why)
