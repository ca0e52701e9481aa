"""Figures of releases under simulated traffic: Poisson arrivals, log-normal times, shares of failures, mean scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from recsys.arrays import Float64Array
from recsys.serving.process.releases.watch import RecentFigures, Watch
from recsys.serving.settings import Settings
from recsys.serving.telemetry.families import BOUNDS_US
from recsys.serving.telemetry.release_figures import ReleaseFigures
from recsys.serving.telemetry.totals import Histogram


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Calls of one release in a second.

    Attributes:
        rate: mean number of calls a second.
        median_ms, spread: of their times, a log-normal's.
        failed, degraded: shares.
        score: mean score of the candidates; that of a call scatters by 0.15.
        slow_times: probability of a second in which everything takes three times as long, as on a busy machine.
    """

    rate: float = 100.0
    median_ms: float = 5.0
    spread: float = 0.5
    failed: float = 0.001
    degraded: float = 0.01
    score: float = 0.3
    slow_times: float = 0.0

    def second(self, random: np.random.Generator) -> ReleaseFigures:
        """Draw the figures of a second."""
        calls = int(random.poisson(self.rate))
        failed = int(random.binomial(calls, self.failed))
        answered = calls - failed
        median_us = 1_000 * self.median_ms * (3.0 if random.random() < self.slow_times else 1.0)
        counts = random.multinomial(answered, _bucket_shares(median_us, self.spread))
        at_most = tuple(np.cumsum(counts)[:-1].tolist())
        scores = np.clip(random.normal(self.score, 0.15, answered), 0, 1)
        return ReleaseFigures(
            answered=answered,
            failed=failed,
            degraded=int(random.binomial(answered, self.degraded)),
            latency=Histogram(at_most, answered, 0),
            scored=50 * answered,
            score_sum=50 * float(scores.sum()),
        )


def _bucket_shares(median_us: float, spread: float) -> Float64Array:
    below = [0.5 * (1 + math.erf(math.log(bound / median_us) / (spread * math.sqrt(2)))) for bound in BOUNDS_US]
    return np.diff([0.0, *below, 1.0])


@dataclass(kw_only=True)
class Simulation:
    """A release that goes live after another, its figures read every second.

    Attributes:
        before: traffic of the old one.
        since: of the new one, by the seconds since it went live.
        seed: of the random numbers.
        before_s: how long the old one was live.
    """

    before: Traffic
    since: Callable[[float], Traffic]
    settings: Settings
    seed: int = 0
    before_s: int = 300
    watch: Watch = field(init=False)

    def run(self) -> tuple[float, str]:
        """The seconds until a verdict, and it; or those of the whole watch, and nothing."""
        for second, verdict in self.seconds():
            if verdict:
                return second, verdict
        return self.settings.release_watch_s, ""

    def seconds(self) -> Iterator[tuple[float, str]]:
        """Look every second."""
        random = np.random.Generator(np.random.PCG64(self.seed))
        recent, old, new = RecentFigures(), ReleaseFigures(), ReleaseFigures()
        recent.add([old, new], 0.0)
        for second in range(1, self.before_s + 1):
            old += self.before.second(random)
            recent.add([old, new], float(second))
        began_s = float(self.before_s)
        self.watch = Watch(
            recent,
            model="feed",
            release="new",
            slot=1,
            previous="old",
            previous_slot=0,
            settings=self.settings,
            now_s=began_s,
        )
        elapsed_s = 0.0
        while not self.watch.finished(began_s + elapsed_s):
            elapsed_s += 1.0
            new += self.since(elapsed_s).second(random)
            recent.add([old, new], began_s + elapsed_s)
            yield elapsed_s, self.watch.look(began_s + elapsed_s)
