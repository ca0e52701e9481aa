"""Totals: the sums of all workers' counts, as histograms and counters."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recsys.serving.telemetry.families import BOUNDS_US, Family
from recsys.serving.telemetry.layout import HISTOGRAM, open_counter_file, sum_of_rows
from recsys.serving.telemetry.stage_timer import STAGES


@dataclass(frozen=True)
class Histogram:
    """Requests of one stage: how many took at most each of ``BOUNDS_US``, all of them, and their sum."""

    at_most: tuple[int, ...]
    count: int
    sum_us: int

    def __add__(self, other: Histogram) -> Histogram:
        """The requests of both."""
        at_most = tuple(mine + theirs for mine, theirs in zip(self.at_most, other.at_most, strict=True))
        return Histogram(at_most, self.count + other.count, self.sum_us + other.sum_us)

    def __sub__(self, earlier: Histogram) -> Histogram:
        """The requests since an earlier reading of the same."""
        at_most = tuple(mine - theirs for mine, theirs in zip(self.at_most, earlier.at_most, strict=True))
        return Histogram(at_most, self.count - earlier.count, self.sum_us - earlier.sum_us)

    def quantile_us(self, share: float) -> float:
        """Estimate the time that ``share`` of the requests stay below, linear within a bucket; 0 if there were none."""
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
        families: of the counters.
        stages: stage -> histogram.
        counters: (family, *label values) -> count.
    """

    families: tuple[Family, ...]
    stages: Mapping[str, Histogram]
    counters: Mapping[tuple[str, ...], int]


def read_totals(path: Path) -> Totals:
    """Sum the counts of all workers so far, the dead ones too.

    Raises:
        ConfigError: the file is not one of this program's.
    """
    file = open_counter_file(path)
    sums = sum_of_rows(file)
    counters = {key: sums[place] for key, place in file.places.items()}
    return Totals(file.families, dict(_histograms(sums)), counters)


def histogram_of(words: Sequence[int]) -> Histogram:
    """Make a histogram of its words in the file, ``HISTOGRAM`` of them."""
    counts = list(itertools.accumulate(words[:-1]))
    return Histogram(tuple(counts[:-1]), counts[-1], words[-1])


def _histograms(sums: Sequence[int]) -> Iterator[tuple[str, Histogram]]:
    for number, stage in enumerate(STAGES):
        yield stage, histogram_of(sums[number * HISTOGRAM :][:HISTOGRAM])
