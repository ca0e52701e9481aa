"""Figures: two readings of a server's page to rates, shares and percentiles of the time between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from recsys.top.page import Labels, Page

FAULTS = frozenset(
    {"INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "FAILED_PRECONDITION"}
)
"""Statuses that are not the caller's fault."""


@dataclass(frozen=True, kw_only=True)
class MethodFigures:
    """Calls of one method.

    Attributes:
        method: its name.
        calls_per_s: that ended, whatever their status.
        failed_per_s: with a status that is not the caller's fault; refused ones among them.
        rejected_per_s: with a status that is.
        refused_per_s: for want of room.
        in_flight: now.
        p50_s, p99_s: time in the program, seconds; None: no call ended.
    """

    method: str
    calls_per_s: float
    failed_per_s: float
    rejected_per_s: float
    refused_per_s: float
    in_flight: int
    p50_s: float | None
    p99_s: float | None


@dataclass(frozen=True, kw_only=True)
class ReleaseRow:
    """Calls of one release.

    Attributes:
        release, model, version, role: who it is.
        calls_per_s: that ended by its doing.
        failed_share, degraded_share: of these, and of its answers; None: there were none.
        p50_s, p99_s: time of its answers, seconds.
        mean_score: of the candidates that it scored.
        drift: of its scores (docs/operate/monitoring.md); None: too few are known.
    """

    release: str
    model: str
    version: str
    role: str
    calls_per_s: float
    failed_share: float | None
    degraded_share: float | None
    p50_s: float | None
    p99_s: float | None
    mean_score: float | None
    drift: float | None


@dataclass(frozen=True, kw_only=True)
class Figures:
    """A server, over the time between two readings.

    Attributes:
        over_s: that time.
        version: of the program.
        workers_serving, workers: processes that serve, and that are to.
        restarts: workers that were restarted, ever; ``new_restarts``: in this time.
        calls_per_s, failed_per_s, candidates_per_s: of all methods.
        in_flight: calls now.
        methods: those that were ever called; ``releases``: those that are loaded.
        degraded_per_s: answers without a part, by part; ``refused_per_s``: calls, by reason;
            ``early_ends_per_s``: those that ended before a handler had them.
        store_per_s: round trips to the store; ``store_failed_per_s``: those that failed; ``store_skipped_per_s``:
            reads that did without, as others had failed a moment before.
        store_p50_s, store_p99_s: of a round trip.
        memory_share: of candidates whose features were in memory.
    """

    over_s: float
    version: str
    workers_serving: int
    workers: int
    restarts: int
    new_restarts: int
    calls_per_s: float
    failed_per_s: float
    candidates_per_s: float
    in_flight: int
    methods: tuple[MethodFigures, ...]
    releases: tuple[ReleaseRow, ...]
    degraded_per_s: dict[str, float]
    refused_per_s: dict[str, float]
    early_ends_per_s: dict[str, float]
    store_per_s: float
    store_failed_per_s: float
    store_skipped_per_s: float
    store_p50_s: float | None
    store_p99_s: float | None
    memory_share: float | None

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON has them."""
        return dataclasses.asdict(self)


def figures_between(before: Page, now: Page) -> Figures:
    """Figures of the time between two readings. A counter that fell began anew: its server was restarted."""
    between = _Between(before, now)
    calls = between.by("recsys_requests_total", "method")
    methods = tuple(_method(between, name) for name in sorted(calls) if now.total("recsys_requests_total", method=name))
    memory, read = (between.grew("recsys_items_total", source=source) for source in ("memory", "store"))
    round_trips = {
        outcome: between.rate("recsys_store_round_trips_total", outcome=outcome)
        for outcome in ("ok", "failed", "skipped")
    }
    store_p50_s, store_p99_s = between.quantiles("recsys_store_seconds")
    build = [labels.get("version", "") for labels, _ in now.of("recsys_build_info")]
    return Figures(
        over_s=round(between.over_s, 3),
        version=build[0] if build else "",
        workers_serving=int(now.total("recsys_workers_serving")),
        workers=int(now.total("recsys_workers")),
        restarts=int(now.total("recsys_restarts_total")),
        new_restarts=int(between.grew("recsys_restarts_total")),
        calls_per_s=sum(method.calls_per_s for method in methods),
        failed_per_s=sum(method.failed_per_s for method in methods),
        candidates_per_s=between.rate("recsys_candidates_total"),
        in_flight=int(now.total("recsys_calls_in_flight")),
        methods=methods,
        releases=tuple(_release(between, labels) for labels, _ in now.of("recsys_model_info")),
        degraded_per_s=between.rates("recsys_degraded_total", "part"),
        refused_per_s=between.rates("recsys_refused_total", "reason"),
        early_ends_per_s=between.rates("recsys_early_ends_total", "reason"),
        store_per_s=round_trips["ok"] + round_trips["failed"],
        store_failed_per_s=round_trips["failed"],
        store_skipped_per_s=round_trips["skipped"],
        store_p50_s=store_p50_s,
        store_p99_s=store_p99_s,
        memory_share=_share(memory, memory + read),
    )


class _Between:
    """Growth between two readings."""

    def __init__(self, before: Page, now: Page) -> None:
        self.over_s = max(now.at_s - before.at_s, 1e-6)
        self.now = now
        self._before = {
            (name, _key(labels)): value for name, found in before.samples.items() for labels, value in found
        }

    def each(self, name: str, **labels: str) -> Iterable[tuple[Labels, float]]:
        """Growth of each of these series."""
        for own, value in self.now.of(name, **labels):
            before = self._before.get((name, _key(own)), 0.0)
            yield own, value - before if value >= before else value

    def grew(self, name: str, **labels: str) -> float:
        """Growth of all of them."""
        return sum(grown for _, grown in self.each(name, **labels))

    def change(self, name: str, **labels: str) -> float:
        """Rise or fall of all of them."""
        return sum(value - self._before.get((name, _key(own)), 0.0) for own, value in self.now.of(name, **labels))

    def rate(self, name: str, **labels: str) -> float:
        """Growth of all of them in a second."""
        return self.grew(name, **labels) / self.over_s

    def by(self, name: str, label: str) -> dict[str, float]:
        """Growth by a label."""
        found: dict[str, float] = {}
        for own, grown in self.each(name):
            found[own[label]] = found.get(own[label], 0.0) + grown
        return found

    def rates(self, name: str, label: str) -> dict[str, float]:
        """Growth in a second by a label; without those that did not grow."""
        return {value: grown / self.over_s for value, grown in self.by(name, label).items() if grown}

    def quantiles(self, name: str, **labels: str) -> tuple[float | None, float | None]:
        """Median and 99th percentile of what a histogram got."""
        buckets: dict[float, float] = {}
        for own, grown in self.each(f"{name}_bucket", **labels):
            end = float(own["le"])
            buckets[end] = buckets.get(end, 0.0) + grown
        return quantile(buckets, 0.5), quantile(buckets, 0.99)


def quantile(at_most: dict[float, float], share: float) -> float | None:
    """The value that ``share`` of a histogram stays below, linear within a bucket; None if it is empty.

    >>> quantile({1.0: 0, 2.0: 10, float("inf"): 10}, 0.5)
    1.5
    """
    ends = sorted(at_most)
    if not ends or not at_most[ends[-1]]:
        return None
    wanted, low, below = share * at_most[ends[-1]], 0.0, 0.0
    for end in ends:
        if at_most[end] >= wanted:
            inside = at_most[end] - below
            return low if end == float("inf") else low + (end - low) * ((wanted - below) / inside if inside else 1.0)
        low, below = end, at_most[end]
    return low


def _method(between: _Between, name: str) -> MethodFigures:
    codes: dict[str, float] = {}
    for own, grown in between.each("recsys_requests_total", method=name):
        codes[own["code"]] = grown / between.over_s
    p50_s, p99_s = between.quantiles("recsys_call_seconds", method=name)
    return MethodFigures(
        method=name,
        calls_per_s=sum(codes.values()),
        failed_per_s=sum(rate for code, rate in codes.items() if code in FAULTS),
        rejected_per_s=sum(rate for code, rate in codes.items() if code not in FAULTS and code != "OK"),
        refused_per_s=between.rate("recsys_refused_total", method=name),
        in_flight=int(between.now.total("recsys_calls_in_flight", method=name)),
        p50_s=p50_s,
        p99_s=p99_s,
    )


def _release(between: _Between, labels: Labels) -> ReleaseRow:
    release = labels["release"]
    answered = between.grew("recsys_release_calls_total", release=release, outcome="answered")
    failed = between.grew("recsys_release_calls_total", release=release, outcome="failed")
    scored = between.grew("recsys_release_score_count", release=release)
    p50_s, p99_s = between.quantiles("recsys_release_seconds", release=release)
    drift = [value for _, value in between.now.of("recsys_release_score_drift", release=release)]
    return ReleaseRow(
        release=release,
        model=labels["model"],
        version=labels["version"],
        role=labels["role"],
        calls_per_s=(answered + failed) / between.over_s,
        failed_share=_share(failed, answered + failed),
        degraded_share=_share(between.grew("recsys_release_degraded_total", release=release), answered),
        p50_s=p50_s,
        p99_s=p99_s,
        # A sum of scores may fall: it is no counter.
        mean_score=_share(between.change("recsys_release_score_sum", release=release), scored),
        drift=drift[0] if drift else None,
    )


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _key(labels: Labels) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))
