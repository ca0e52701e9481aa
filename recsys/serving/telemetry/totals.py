"""Totals: the sums of all workers' counts, as histograms, counters and gauges."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recsys.serving.telemetry.families import BOUNDS_US, Family
from recsys.serving.telemetry.layout import HISTOGRAM, open_counter_file, rows_of


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
        families: of the counters and gauges.
        histograms: of times.
        times: (family, *label values) of a histogram -> it.
        counters: (family, *label values) -> count, or what a gauge shows.
        workers: rows of the file.
    """

    families: tuple[Family, ...]
    histograms: tuple[Family, ...]
    times: Mapping[tuple[str, ...], Histogram]
    counters: Mapping[tuple[str, ...], int]
    workers: int = field(default=1)

    def stages(self, method: str) -> dict[str, Histogram]:
        """The histograms of a method's stages."""
        return {key[2]: found for key, found in self.times.items() if key[:2] == ("stage_seconds", method)}


def read_totals(path: Path) -> Totals:
    """Sum the counts of all workers so far, the dead ones too.

    Raises:
        ConfigError: the file is not one of this program's.
    """
    file = open_counter_file(path)
    rows = rows_of(file)
    sums: list[int] = rows.sum(axis=0).tolist()
    counters = {key: sums[place] for key, place in file.places.items()}
    times = {key: histogram_of(sums[place:][:HISTOGRAM]) for key, place in file.times.items()}
    return Totals(file.families, file.histograms, times, counters, len(rows))


def histogram_of(words: Sequence[int]) -> Histogram:
    """Make a histogram of its words in the file, ``HISTOGRAM`` of them."""
    counts = list(itertools.accumulate(words[:-1]))
    return Histogram(tuple(counts[:-1]), counts[-1], words[-1])
