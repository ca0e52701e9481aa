"""Counters: one worker counts its requests, answers, states of long histories and cached items in its row."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from recsys.errors import ConfigError
from recsys.serving.telemetry.families import BOUNDS_US
from recsys.serving.telemetry.layout import HISTOGRAM, open_counter_file


class Telemetry:
    """One worker's row of a counter file. Safe to use from several threads.

    Args:
        path: the file, made by :func:`recsys.serving.telemetry.layout.create_counter_file`.
        worker: the row, from 0.

    Raises:
        ConfigError: the file is not one of this program's, or has no such row.
    """

    def __init__(self, path: Path, *, worker: int = 0) -> None:
        file = open_counter_file(path)
        if not 0 <= worker < file.rows:
            raise ConfigError(f"{path} has rows for {file.rows} workers; worker {worker} has none")
        self._words = file.words
        self._row = file.first + worker * file.row
        self._places = {key: self._row + place for key, place in file.places.items()}
        self._lock = threading.Lock()

    def observe(self, stages_us: Sequence[int]) -> None:
        """Add a request's stages, in the order of ``STAGES``; some 3 us."""
        words, place = self._words, self._row
        with self._lock:
            for us in stages_us:
                words[place + bisect_left(BOUNDS_US, us)] += 1
                words[place + HISTOGRAM - 1] += us
                place += HISTOGRAM

    def count(self, name: str, *values: str, by: int = 1) -> None:
        """Add to the counter with these labels; KeyError if ``families`` has none."""
        place = self._places[(name, *values)]
        with self._lock:
            self._words[place] += by

    @contextmanager
    def polling(
        self, sources: Mapping[str, Callable[[], Mapping[str, int]]], *, every_s: float = 1.0
    ) -> Iterator[None]:
        """Add counts that others keep themselves, polled during a ``with`` block and at its end.

        Args:
            sources: family of one label -> a function of its counts so far, by the label's values. These never fall.
            every_s: time between two polls, in a thread.
        """
        seen: dict[tuple[str, str], int] = {}
        stop = threading.Event()

        def poll() -> None:
            for family, counts in sources.items():
                for value, so_far in counts().items():
                    if new := so_far - seen.get((family, value), 0):
                        self.count(family, value, by=new)
                        seen[family, value] = so_far

        def work() -> None:
            while not stop.wait(every_s):
                poll()

        thread = threading.Thread(target=work, name="telemetry", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            poll()
