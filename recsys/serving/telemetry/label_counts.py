"""LabelCounts: counts by label, kept by what counts and polled for telemetry."""

from __future__ import annotations

import threading
from collections import Counter


class LabelCounts:
    """Counts that any thread adds to and that never fall, for ``Telemetry.polling``.

    >>> counts = LabelCounts()
    >>> counts.add("read"); counts.add("read")
    >>> counts.read()
    {'read': 2}
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, label: str, *, by: int = 1) -> None:
        """Count so many more."""
        with self._lock:
            self._counts[label] += by

    def read(self) -> dict[str, int]:
        """Copy the counts so far."""
        with self._lock:
            return dict(self._counts)
