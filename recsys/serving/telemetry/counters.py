"""Counters of a server: stages of requests, answers, states of long histories, cached items.

The numbers lie in one memory-mapped file that all worker processes share, a row for each. A worker that dies leaves its
row, and the one that takes its place goes on counting in it: no number ever falls while the server lives.
``prometheus.py`` shows the sums of the rows. The file lives as long as the server and is nobody else's business.
"""

from __future__ import annotations

import itertools
import mmap
import threading
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recsys.errors import ConfigError
from recsys.files import write_atomically
from recsys.serving.telemetry.stage_timer import STAGES

BOUNDS_US = (*(step * 10**power // 10 for power in range(1, 7) for step in (10, 15, 20, 30, 50, 70)), 10_000_000)
"""Upper ends of the histograms' buckets, 10 us to 10 s, six to a factor of ten. One more holds what is longer."""

METHODS = (
    "Rank", "RankBatch", "Retrieve", "Recommend", "AppendEvents", "AppendEventStream", "PutEntities", "GetFeatures",
    "GetHistory", "GetHistories",
)  # fmt: skip
CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION", "INTERNAL", "UNAVAILABLE",
)  # fmt: skip


@dataclass(frozen=True)
class Family:
    """Counters of one name: one for each combination of the labels' values."""

    name: str
    meaning: str
    labels: Mapping[str, Sequence[str]]

    def combinations(self) -> list[tuple[str, ...]]:
        """The values of the labels, one counter after another."""
        return list(itertools.product(*self.labels.values()))


FAMILIES = (
    Family("requests", "Calls that were answered, by method and gRPC status.", {"method": METHODS, "code": CODES}),
    Family("candidates", "Candidates that were scored.", {}),
    Family(
        "degraded",
        "Answers worse than they could be, by what was missing.",
        {"part": ("user", "items", "history_partial")},
    ),
    Family(
        "states",
        "States of long histories, by what became of them.",
        {
            "outcome": (
                "used",
                "without",
                "refused",
                "read",
                "partial",
                "computed",
                "written",
                "dropped",
                "failed",
            )
        },
    ),
    Family(
        "items",
        "Candidates whose features were in the server's memory, or had to be read.",
        {"source": ("memory", "store")},
    ),
    Family("restarts", "Workers that were restarted, by the end of the one before.", {"reason": ("died", "hung")}),
)

_WORD_BYTES = 8
_MAGIC = 0x5253544C
_HEADER = 2  # magic, layout
_HISTOGRAM = len(BOUNDS_US) + 2  # buckets, what is longer, sum in us
_COUNTERS = {
    (family.name, *values): number
    for number, (family, values) in enumerate(
        (family, values) for family in FAMILIES for values in family.combinations()
    )
}
_ROW = -(-(len(STAGES) * _HISTOGRAM + len(_COUNTERS)) // 8) * 8  # whole cache lines: workers do not share one
_LAYOUT = zlib.crc32(repr((BOUNDS_US, STAGES, list(_COUNTERS))).encode())


def create_counter_file(path: Path, *, workers: int) -> Path:
    """Create a file of zeros with a row for each worker."""
    words = np.zeros(_HEADER + workers * _ROW, dtype=np.uint64)
    words[:_HEADER] = _MAGIC, _LAYOUT
    write_atomically(path, words.tobytes())
    return path


class Telemetry:
    """One worker's row of a file made by :func:`create_counter_file`. Safe to use from several threads.

    Args:
        path: the file.
        worker: the row, from 0.

    Raises:
        ConfigError: the file is not one of this program's, or has no such row.
    """

    def __init__(self, path: Path, *, worker: int = 0) -> None:
        self._words = _map(path)
        rows = (len(self._words) - _HEADER) // _ROW
        if not 0 <= worker < rows:
            raise ConfigError(f"{path} has rows for {rows} workers; worker {worker} has none")
        self._stages = _HEADER + worker * _ROW
        self._counters = self._stages + len(STAGES) * _HISTOGRAM
        self._lock = threading.Lock()

    def observe(self, stages_us: Sequence[int]) -> None:
        """Add a request's stages, in the order of ``STAGES``; some 3 us."""
        words, place = self._words, self._stages
        with self._lock:
            for us in stages_us:
                words[place + bisect_left(BOUNDS_US, us)] += 1
                words[place + _HISTOGRAM - 1] += us
                place += _HISTOGRAM

    def count(self, name: str, *values: str, by: int = 1) -> None:
        """Add to the counter with these labels; KeyError if ``FAMILIES`` has none."""
        place = self._counters + _COUNTERS[(name, *values)]
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


@dataclass(frozen=True)
class Histogram:
    """Of one stage: how many requests took at most each of ``BOUNDS_US``, all of them, and their sum."""

    at_most: tuple[int, ...]
    count: int
    sum_us: int

    def quantile_us(self, share: float) -> float:
        """The time that ``share`` of the requests stay below, straight within a bucket; 0 if there were none."""
        if not self.count:
            return 0.0
        wanted = share * self.count
        number = bisect_left(self.at_most, wanted)
        if number == len(BOUNDS_US):
            return float(BOUNDS_US[-1])
        low_us, below = (BOUNDS_US[number - 1], self.at_most[number - 1]) if number else (0.0, 0)
        inside = self.at_most[number] - below
        return float(low_us + (BOUNDS_US[number] - low_us) * ((wanted - below) / inside if inside else 1.0))


@dataclass(frozen=True)
class Totals:
    """The sums over all workers.

    Attributes:
        stages: stage -> histogram.
        counters: (family, *label values) -> how many.
    """

    stages: Mapping[str, Histogram]
    counters: Mapping[tuple[str, ...], int]


def read_totals(path: Path) -> Totals:
    """Sum the counts of all workers so far, the dead ones too.

    Raises:
        ConfigError: the file is not one of this program's.
    """
    words = np.frombuffer(_map(path), dtype=np.uint64)[_HEADER:].reshape(-1, _ROW).sum(axis=0)
    return Totals(dict(_histograms(words)), {key: int(words[_first_counter() + n]) for key, n in _COUNTERS.items()})


def _first_counter() -> int:
    return len(STAGES) * _HISTOGRAM


def _histograms(words: npt.NDArray[np.uint64]) -> Iterator[tuple[str, Histogram]]:
    for number, stage in enumerate(STAGES):
        of_stage = words[number * _HISTOGRAM :][:_HISTOGRAM].tolist()
        counts = list(itertools.accumulate(of_stage[:-1]))
        yield stage, Histogram(tuple(counts[:-1]), counts[-1], of_stage[-1])


def _map(path: Path) -> memoryview:
    """The file as 64-bit words. Writing an item of a memoryview takes a third of the time of one of an array."""
    with path.open("r+b") as file:
        try:
            words = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
        except (ValueError, TypeError):  # an empty file; one of no whole words
            words = memoryview(b"").cast("Q")
    if len(words) < _HEADER or tuple(words[:_HEADER]) != (_MAGIC, _LAYOUT):
        raise ConfigError(f"{path} does not hold this program's counts; remove it, a server makes its own")
    return words
