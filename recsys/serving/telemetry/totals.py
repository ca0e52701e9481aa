"""Totals: the sums of all workers' counts, as histograms and counters."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys.serving.telemetry.families import BOUNDS_US, Family
from recsys.serving.telemetry.layout import HISTOGRAM, open_counter_file
from recsys.serving.telemetry.stage_timer import STAGES


@dataclass(frozen=True)
class Histogram:
    """Requests of one stage: how many took at most each of ``BOUNDS_US``, all of them, and their sum."""

    at_most: tuple[int, ...]
    count: int
    sum_us: int

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
    sums = np.frombuffer(file.words, dtype=np.uint64)[file.first :].reshape(-1, file.row).sum(axis=0).tolist()
    counters = {key: sums[place] for key, place in file.places.items()}
    return Totals(file.families, dict(_histograms(sums)), counters)


def _histograms(sums: Sequence[int]) -> Iterator[tuple[str, Histogram]]:
    for number, stage in enumerate(STAGES):
        of_stage = sums[number * HISTOGRAM :][:HISTOGRAM]
        counts = list(itertools.accumulate(of_stage[:-1]))
        yield stage, Histogram(tuple(counts[:-1]), counts[-1], of_stage[-1])
