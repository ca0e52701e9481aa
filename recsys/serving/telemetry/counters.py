"""Counters: one worker counts its requests, answers, states of long histories and cached items in its row."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path

import numpy as np

from recsys.arrays import Float32Array
from recsys.errors import ConfigError
from recsys.serving.telemetry.families import BOUNDS_US, SCORE_BOUNDS, SCORE_BUCKETS
from recsys.serving.telemetry.layout import HISTOGRAM, PARTS, RELEASE_COUNTS, open_counter_file
from recsys.serving.telemetry.stage_timer import STAGES

_FAILED, _DEGRADED, _SCORES, _SCORE_SUM, _OFFERED, _SCORED, _DROPPED, _FAILED_SHADOW = map(
    RELEASE_COUNTS.index,
    ("failed", "degraded", "scores", "score_sum", "offered", "scored", "dropped", "failed_shadow"),
)
_COMPARED, _DIFFERENCE_SUM, _OVERLAP_SUM, _RETRIEVED, _ITEMS_OVERLAP_SUM = map(
    RELEASE_COUNTS.index, ("compared", "difference_sum", "overlap_sum", "retrieved", "items_overlap_sum")
)
_ANSWERS, _SHADOW = len(RELEASE_COUNTS), len(RELEASE_COUNTS) + HISTOGRAM
_WORD = (1 << 64) - 1
_SCORE_ENDS = np.asarray(SCORE_BOUNDS, dtype=np.float32)
_LOOK_EVERY = 32


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
        self._releases = self._row + file.releases
        self._slot_words = file.slot_words
        self._places = {key: self._row + place for key, place in file.places.items()}
        self._times = {key: self._row + place for key, place in file.times.items()}
        self._slot_places = file.slot_places
        self._gauges = [key for family in file.families if family.gauge for key in family.keys()]
        self._lock = threading.Lock()
        self._looks = 0

    def observe(self, method: str, stages_us: Sequence[int]) -> None:
        """Add the stages of a call of a method of ``families.STAGED``, in the order of ``STAGES``; some 3 us."""
        words, place = self._words, self._times["stage_seconds", method, STAGES[0]]
        assert len(stages_us) == len(STAGES)
        with self._lock:
            for us in stages_us:
                words[place + bisect_left(BOUNDS_US, us)] += 1
                words[place + HISTOGRAM - 1] += us
                place += HISTOGRAM

    def observe_time(self, name: str, *values: str, us: int) -> None:
        """Add to the histogram with these labels; KeyError if ``histograms`` has none."""
        place = self._times[(name, *values)]
        with self._lock:
            _observe(self._words, place, us)

    def call_began(self, method: str) -> None:
        """Count a call that begins: it is in flight."""
        place = self._places["calls_in_flight", method]
        with self._lock:
            self._words[place] += 1

    def call_ended(self, method: str, us: int, *, refused: str = "") -> None:
        """Count a call that ends: it took so long.

        Args:
            method: its name, as of :meth:`call_began`.
            us: time that it took.
            refused: why there was no room for it (``current_call.REFUSALS``); empty: there was.
        """
        words, in_flight, place = (
            self._words,
            self._places["calls_in_flight", method],
            self._times["call_seconds", method],
        )
        with self._lock:
            words[in_flight] -= words[in_flight] > 0  # a drain that ends before its calls clears it
            _observe(words, place, us)
            if refused:
                words[self._places["refused", method, refused]] += 1

    def round_trip(self, link: str, outcome: str, us: int) -> None:
        """Count a round trip to the store (``families.STORE_LINKS``), and its time, unless Redis was not asked at all:
        microseconds among the times of a Redis that is away would make it look fast."""
        words, place = self._words, self._times["store_seconds", link]
        ended = self._places["store_round_trips", link, outcome]
        with self._lock:
            words[ended] += 1
            if outcome != "skipped":
                _observe(words, place, us)

    def count(self, name: str, *values: str, by: int = 1) -> None:
        """Add to the counter with these labels; KeyError if ``families`` has none."""
        place = self._places[(name, *values)]
        with self._lock:
            self._words[place] += by

    def set(self, name: str, *values: str, to: int) -> None:
        """Set the gauge with these labels to a number of 0 or more; KeyError if ``families`` has none."""
        place = self._places[(name, *values)]
        with self._lock:
            self._words[place] = to

    def set_serving(self, serves: bool) -> None:
        """Say if this worker answers calls: one that hangs does not, though it is there."""
        self.set("workers_serving", to=int(serves))

    def clear_gauges(self) -> None:
        """Set all gauges of the row to 0: its worker has ended, or begins."""
        for key in self._gauges:
            self.set(*key, to=0)

    def answered(self, slot: int, us: int, *, degraded: bool, scores: int, score_sum: float) -> None:
        """Count an answer to its release; some 2 us.

        Args:
            slot: the release's place, from 0.
            us: time that the whole call took.
            degraded: the answer lacks a part.
            scores: number of candidates scored; 0 for an answer whose scores are of any size.
            score_sum: of their scores; one that is not finite is not counted, nor are its candidates.
        """
        words, place = self._words, self._block(slot)
        if not isfinite(score_sum):
            scores, score_sum = 0, 0.0
        with self._lock:
            words[place] += 1
            words[place + _DEGRADED] += degraded
            words[place + _SCORES] += scores
            _add_parts(words, place + _SCORE_SUM, score_sum)
            _observe(words, place + _ANSWERS, us)

    def failed(self, slot: int) -> None:
        """Count a call that failed to its release."""
        self._add(slot, _FAILED)

    def count_slot(self, slot: int, name: str, *values: str, by: int = 1) -> None:
        """Add to what is counted of a release with these labels; KeyError if ``slot_families`` has none."""
        self._add(slot, self._slot_places[(name, *values)], by)

    def looks(self) -> bool:
        """Decide if a request is looked into, for its ids, its features and its scores: the first of every 32."""
        with self._lock:
            self._looks += 1
            return self._looks % _LOOK_EVERY == 1

    def look(self, slot: int, counts: Mapping[tuple[str, str], int], scores: Float32Array) -> None:
        """Count what was seen in a request that is looked into; some 15 us.

        Args:
            slot: the release's place, from 0.
            counts: (family, table) -> number to add (``missing.lookups``).
            scores: of all candidates, [C]; those that are not finite are not counted.
        """
        finite = scores[np.isfinite(scores)]
        buckets = np.bincount(np.searchsorted(_SCORE_ENDS, finite), minlength=len(SCORE_BUCKETS)).tolist()
        block, places, words = self._block(slot), self._slot_places, self._words
        first = block + places["release_scores", SCORE_BUCKETS[0]]
        with self._lock:
            for key, number in counts.items():
                words[block + places[key]] += number
            for place, number in enumerate(buckets, first):
                if number:
                    words[place] += number

    def shadow_offered(self, slot: int) -> None:
        """Count a request that a release was to score beside the one that answers."""
        self._add(slot, _OFFERED)

    def shadow_dropped(self, slot: int) -> None:
        """Count such a request that it had no time for."""
        self._add(slot, _DROPPED)

    def shadow_failed(self, slot: int) -> None:
        """Count such a request that it failed to score."""
        self._add(slot, _FAILED_SHADOW)

    def shadow_scored(self, slot: int, us: int, *, candidates: int, difference_sum: float, overlap: float) -> None:
        """Count such a request that it has scored.

        Args:
            slot: the release's place, from 0.
            us: time that the scoring took.
            candidates: whose scores were compared.
            difference_sum: absolute differences of their scores to those that were answered, summed.
            overlap: share of the best candidates that the two have in common.
        """
        words, place = self._words, self._block(slot)
        with self._lock:
            words[place + _SCORED] += 1
            words[place + _COMPARED] += candidates
            _add_parts(words, place + _DIFFERENCE_SUM, difference_sum)
            _add_parts(words, place + _OVERLAP_SUM, overlap)
            _observe(words, place + _SHADOW, us)

    def shadow_retrieved(self, slot: int, us: int, *, overlap: float) -> None:
        """As :meth:`shadow_scored`, of a request whose items it has retrieved.

        Args:
            slot: the release's place, from 0.
            us: time that it took.
            overlap: share of the items that the two have in common.
        """
        words, place = self._words, self._block(slot)
        with self._lock:
            words[place + _SCORED] += 1
            words[place + _RETRIEVED] += 1
            _add_parts(words, place + _ITEMS_OVERLAP_SUM, overlap)
            _observe(words, place + _SHADOW, us)

    def _block(self, slot: int) -> int:
        return self._releases + slot * self._slot_words

    def _add(self, slot: int, count: int, by: int = 1) -> None:
        with self._lock:
            self._words[self._block(slot) + count] += by

    @contextmanager
    def polling(
        self,
        sources: Mapping[str, Callable[[], Mapping[str, int]]],
        *,
        gauges: Mapping[str, Callable[[], int]] | None = None,
        every_s: float = 1.0,
    ) -> Iterator[None]:
        """Add counts that others keep themselves, polled during a ``with`` block and at its end.

        Args:
            sources: family of one label -> a function of its counts so far, by the label's values. These never fall.
            gauges: family without labels -> a function of what it is now.
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
            for family, value_now in (gauges or {}).items():
                self.set(family, to=value_now())

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

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Say that this worker serves, for the duration of a ``with`` block. The gauges of one before are cleared."""
        self.clear_gauges()
        self.set_serving(True)
        try:
            yield
        finally:
            self.clear_gauges()


def _observe(words: memoryview, place: int, us: int) -> None:
    words[place + bisect_left(BOUNDS_US, us)] += 1
    words[place + HISTOGRAM - 1] += us


def _add_parts(words: memoryview, place: int, amount: float) -> None:
    words[place] = (words[place] + round(amount * PARTS)) & _WORD
