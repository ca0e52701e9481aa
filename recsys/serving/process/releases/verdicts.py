"""Verdicts on the figures of a release that went live, against those of the release before it.

A figure that is beyond its bound by chance alone is no reason to go back: each verdict asks how sure that is.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from recsys.serving.settings import Settings
from recsys.serving.telemetry.families import BOUNDS_US
from recsys.serving.telemetry.release_figures import ReleaseFigures
from recsys.serving.telemetry.totals import Histogram

Figure = Literal["errors", "p99", "degraded", "drift"]
FIGURES: tuple[Figure, ...] = ("errors", "p99", "degraded", "drift")

FEW = 20
"""Fewer calls are no ground for a verdict."""

FEW_FOR_P99 = 1_000
"""Fewer calls say little of the slowest hundredth of them."""

_DEVIATIONS = 4.0
"""Standard deviations that a figure must be beyond its bound: it is looked at hundreds of times."""

_DEVIATIONS_BEFORE = 2.5
"""Of the p99 before: it is drawn once."""

_SLOWEST = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A figure that is beyond its bound.

    Attributes:
        figure: which.
        sure: so far beyond, over so many calls, that it is not by chance.
        text: the figure, what it was before, the bound, and its setting.
    """

    figure: Figure
    sure: bool
    text: str


def verdict(before: ReleaseFigures, since: ReleaseFigures, bounds: Settings) -> str:
    """Decide if a release is worse than the one before it.

    Args:
        before: figures of the release before, over its last minutes.
        since: of the release in question, over some time since it is live.
        bounds: ``release_max_errors``, ``_slowdown``, ``_degraded`` and ``_drift``.

    Returns:
        The reason to go back; empty: there is none, or nothing that is sure.
    """
    return "; ".join(finding.text for finding in findings(before, since, bounds) if finding.sure)


def findings(before: ReleaseFigures, since: ReleaseFigures, bounds: Settings) -> Iterator[Finding]:
    """List the figures that are beyond their bounds, surely or not. Arguments as :func:`verdict`."""
    found = (
        _errors(before, since, bounds.release_max_errors),
        _p99(before, since, bounds.release_max_slowdown),
        _degraded(before, since, bounds.release_max_degraded),
        _drift(before, since, bounds.release_max_drift),
    )
    return (finding for finding in found if finding is not None)


def surely_beyond(before: tuple[int, int], since: tuple[int, int], bound: float) -> bool:
    """Decide if a share has surely grown by more than a bound, by Newcombe's interval of a difference of shares.

    R. G. Newcombe, "Interval estimation for the difference between independent proportions", 1998, method 10.

    Args:
        before: how many of how many. Of fewer than ``FEW`` nothing is known: the share before counts as 0.
        since: the same.
        bound: of the growth.
    """
    if since[1] < FEW:
        return False
    share, low = since[0] / since[1], _wilson(*since)[0]
    share_before, high_before = 0.0, 0.0
    if before[1] >= FEW:
        share_before, high_before = before[0] / before[1], _wilson(*before)[1]
    reach = math.hypot(share - low, high_before - share_before)
    return share - share_before - reach > bound


def share_above(histogram: Histogram, limit_us: float) -> float:
    """Estimate the share of requests that took longer, linear within a bucket; 0 if there were none."""
    if not histogram.count:
        return 0.0
    number = bisect_left(BOUNDS_US, limit_us)
    if number == len(BOUNDS_US):
        return 1.0 - histogram.at_most[-1] / histogram.count
    low_us, below = (BOUNDS_US[number - 1], histogram.at_most[number - 1]) if number else (0, 0)
    inside: float = (histogram.at_most[number] - below) * (limit_us - low_us) / (BOUNDS_US[number] - low_us)
    return 1.0 - (below + inside) / histogram.count


def _errors(before: ReleaseFigures, since: ReleaseFigures, bound: float) -> Finding | None:
    if since.error_share - _share(before.failed, before.calls) <= bound:
        return None
    return Finding(
        figure="errors",
        sure=surely_beyond((before.failed, before.calls), (since.failed, since.calls), bound),
        text=f"{_percent(since.error_share)} of {since.calls:,} calls failed, "
        f"{_before(before.failed, before.calls)}; allowed: {_percent(bound)} more (RECSYS_RELEASE_MAX_ERRORS)",
    )


def _degraded(before: ReleaseFigures, since: ReleaseFigures, bound: float) -> Finding | None:
    if since.degraded_share - _share(before.degraded, before.answered) <= bound:
        return None
    return Finding(
        figure="degraded",
        sure=surely_beyond((before.degraded, before.answered), (since.degraded, since.answered), bound),
        text=f"{_percent(since.degraded_share)} of {since.answered:,} answers are degraded, "
        f"{_before(before.degraded, before.answered)}; allowed: {_percent(bound)} more (RECSYS_RELEASE_MAX_DEGRADED)",
    )


def _p99(before: ReleaseFigures, since: ReleaseFigures, bound: float) -> Finding | None:
    """Compare by the share of calls that take longer than the bound allows, which scatters less than a p99 does."""
    known = before.latency.count
    if known < FEW_FOR_P99 or not since.latency.count:
        return None
    # The p99 before is itself known up to so much.
    reach = _DEVIATIONS_BEFORE * math.sqrt(_SLOWEST * (1 - _SLOWEST) / known)
    limit_us = bound * before.latency.quantile_us(1 - max(_SLOWEST - reach, 0.0))
    slow = share_above(since.latency, limit_us)
    if slow <= _SLOWEST:
        return None
    count = since.latency.count
    return Finding(
        figure="p99",
        sure=count >= FEW_FOR_P99 and _wilson(slow * count, count)[0] > _SLOWEST,
        text=f"p99 of {count:,} calls is {since.latency.quantile_us(0.99) / 1000:.1f} ms, before "
        f"{before.latency.quantile_us(0.99) / 1000:.1f} ms; allowed: {bound:g} times as much "
        "(RECSYS_RELEASE_MAX_SLOWDOWN)",
    )


def _drift(before: ReleaseFigures, since: ReleaseFigures, bound: float) -> Finding | None:
    old, new = before.mean_score, since.mean_score
    if old is None or new is None or not abs(new - old) > bound:
        return None
    reach = _DEVIATIONS * math.hypot(_deviation(old, before.answered), _deviation(new, since.answered))
    return Finding(
        figure="drift",
        sure=min(before.answered, since.answered) >= FEW and abs(new - old) - reach > bound,
        text=f"the mean score of {since.scored:,} candidates is {new:.3f}, before {old:.3f}; allowed: a difference of "
        f"{bound:g} (RECSYS_RELEASE_MAX_DRIFT)",
    )


def _deviation(mean: float, calls: int) -> float:
    """Most that the mean of scores between 0 and 1 can scatter: those of one call may all be the same."""
    inside = min(max(mean, 0.0), 1.0)
    return math.sqrt(inside * (1 - inside) / max(calls, 1))


def _wilson(successes: float, count: int) -> tuple[float, float]:
    """Wilson's interval of a share."""
    square = _DEVIATIONS**2
    share = successes / count
    middle = (share + square / (2 * count)) / (1 + square / count)
    reach = _DEVIATIONS / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return max(middle - reach, 0.0), min(middle + reach, 1.0)


def _share(some: int, count: int) -> float:
    return some / count if count >= FEW else 0.0


def _before(some: int, count: int) -> str:
    if count < FEW:
        return f"before there were only {count:,} calls, and it counts as none"
    return f"before {_percent(some / count)} of {count:,}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
