"""Prometheus endpoint: an HTTP page that sums the workers' rows each time it is asked for."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from recsys import __version__
from recsys.certificates import CertificateWatch
from recsys.errors import ConfigError
from recsys.serving.telemetry.certificate_end import CertificateCollector
from recsys.serving.telemetry.families import BOUNDS_US, CALL_OUTCOMES, RELEASE_FAMILIES, SHADOW_OUTCOMES, Family
from recsys.serving.telemetry.in_service import InService, ReleaseCounts, Use
from recsys.serving.telemetry.page_server import page_server
from recsys.serving.telemetry.release_figures import ReleaseFigures
from recsys.serving.telemetry.slots import read_slots
from recsys.serving.telemetry.totals import Histogram, Totals, read_totals

_PREFIX = "recsys_"
_SHOWN_WHEN_COUNTED = frozenset({"requests", "release_requests"})
"""Families of many labels: what was never counted is left out, but for the statuses of ``_ALWAYS``."""

_ALWAYS = frozenset(
    {"OK", "UNKNOWN", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "INTERNAL", "UNAVAILABLE"}
)
"""Statuses of requests that are there from the start. Prometheus sees no step from nothing to a number: the first fault
of a night would be neither in a graph nor in an alert."""


class TotalsCollector(Collector):
    """Collect a counter file for ``prometheus_client``.

    Args:
        path: made by ``layout.create_counter_file``.
        in_service: the releases of that file's slots.
    """

    def __init__(self, path: Path, in_service: InService) -> None:
        self._path = path
        self._in_service = in_service
        self._slot_families, _ = read_slots(path)

    def collect(self) -> Iterator[Metric]:
        """Yield all families. A status that no call has ended with is left out, if it is a caller's fault."""
        totals = read_totals(self._path)
        yield from _times(totals)
        yield from _counters(totals)
        uses, counts = self._in_service.uses(), self._in_service.counts()
        models = {use.release: use.model for use in reversed(uses)}
        # One that came in between is on the next page.
        counts = {name: found for name, found in counts.items() if name in models}
        yield from _of_releases({name: found.figures for name, found in counts.items()}, models)
        yield from _of_slots(self._slot_families, counts, models)
        yield _models(uses)
        yield from _of_server(totals)


def _times(totals: Totals) -> Iterator[Metric]:
    for family in totals.histograms:
        shown = HistogramMetricFamily(f"{_PREFIX}{family.name}", family.help, labels=list(family.labels))
        for values in family.combinations():
            histogram = totals.times[(family.name, *values)]
            if family.name == "stage_seconds" and not histogram.count:
                continue  # most servers answer calls of one or two methods
            shown.add_metric(values, _buckets(histogram), sum_value=histogram.sum_us / 1e6)
        yield shown


def _counters(totals: Totals) -> Iterator[Metric]:
    for family in totals.families:
        kind = GaugeMetricFamily if family.gauge else CounterMetricFamily
        shown = kind(f"{_PREFIX}{family.name}", family.help, labels=list(family.labels))
        for values in family.combinations():
            amount = totals.counters[(family.name, *values)]
            if (
                amount
                or family.name not in _SHOWN_WHEN_COUNTED
                or (family.name == "requests" and values[-1] in _ALWAYS)
            ):
                shown.add_metric(values, amount)
        yield shown


def _of_server(totals: Totals) -> Iterator[Metric]:
    yield GaugeMetricFamily(f"{_PREFIX}workers", "Worker processes that the server is to have.", value=totals.workers)
    build = InfoMetricFamily(f"{_PREFIX}build", "The program.", labels=["version"])
    build.add_metric([__version__], {})
    yield build


def _models(uses: Sequence[Use]) -> Metric:
    names = ["model", "version", "release", "role"]
    info = InfoMetricFamily(f"{_PREFIX}model", "The models that are loaded, and what for.", labels=names)
    for use in uses:
        info.add_metric([use.model, use.version, use.release, use.role], {})
    return info


def _of_slots(
    families: Sequence[Family], counts: Mapping[str, ReleaseCounts], models: Mapping[str, str]
) -> Iterator[Metric]:
    """Families of ``slot_families``, and the drift that comes of one; the scores are a histogram without a sum."""
    for family in families:
        if family.name == "release_scores":
            yield _scores(family, counts, models)
            continue
        shown = CounterMetricFamily(f"{_PREFIX}{family.name}", family.help, labels=["release", "model", *family.labels])
        for release, found in counts.items():
            for values in family.combinations():
                amount = found.slot.of(family.name, *values)
                if amount or family.name not in _SHOWN_WHEN_COUNTED:
                    shown.add_metric([release, models[release], *values], amount)
        yield shown
    name = "release_score_drift"
    drift = GaugeMetricFamily(f"{_PREFIX}{name}", RELEASE_FAMILIES[name], labels=["release", "model"])
    for release, found in counts.items():
        if found.drift is not None:
            drift.add_metric([release, models[release]], found.drift)
    yield drift


def _scores(family: Family, counts: Mapping[str, ReleaseCounts], models: Mapping[str, str]) -> Metric:
    shown = HistogramMetricFamily(f"{_PREFIX}{family.name}", family.help, labels=["release", "model"])
    for release, found in counts.items():
        at_most = itertools.accumulate(found.slot.scores())
        buckets = [(end, float(count)) for end, count in zip(family.labels["bucket"], at_most, strict=True)]
        shown.add_metric([release, models[release]], buckets, sum_value=None)
    return shown


def _of_releases(figures: Mapping[str, ReleaseFigures], models: Mapping[str, str]) -> Iterator[Metric]:
    """Families of ``RELEASE_FAMILIES``; those of shadows only of releases that were offered a request."""
    labels = ["release", "model"]

    def named(name: str) -> tuple[str, str]:
        return f"{_PREFIX}{name}", RELEASE_FAMILIES[name]

    calls = CounterMetricFamily(*named("release_calls"), labels=[*labels, "outcome"])
    degraded = CounterMetricFamily(*named("release_degraded"), labels=labels)
    seconds = HistogramMetricFamily(*named("release_seconds"), labels=labels)
    score = SummaryMetricFamily(*named("release_score"), labels=labels)
    shadow = CounterMetricFamily(*named("release_shadow"), labels=[*labels, "outcome"])
    shadow_seconds = HistogramMetricFamily(*named("release_shadow_seconds"), labels=labels)
    difference = SummaryMetricFamily(*named("release_shadow_difference"), labels=labels)
    overlap = SummaryMetricFamily(*named("release_shadow_overlap"), labels=labels)
    items_overlap = SummaryMetricFamily(*named("release_shadow_items_overlap"), labels=labels)
    for release, found in figures.items():
        values = [release, models[release]]
        for outcome, count in zip(CALL_OUTCOMES, (found.answered, found.failed), strict=True):
            calls.add_metric([*values, outcome], count)
        degraded.add_metric(values, found.degraded)
        seconds.add_metric(values, _buckets(found.latency), sum_value=found.latency.sum_us / 1e6)
        score.add_metric(values, found.scored, found.score_sum)
        if not found.shadow_offered:
            continue
        ends = (found.shadow_offered, found.shadow_scored, found.shadow_dropped, found.shadow_failed)
        for outcome, count in zip(SHADOW_OUTCOMES, ends, strict=True):
            shadow.add_metric([*values, outcome], count)
        of_shadow = found.shadow_latency
        shadow_seconds.add_metric(values, _buckets(of_shadow), sum_value=of_shadow.sum_us / 1e6)
        difference.add_metric(values, found.compared, found.difference_sum)
        overlap.add_metric(values, found.shadow_ranked, found.overlap_sum)
        items_overlap.add_metric(values, found.shadow_retrieved, found.items_overlap_sum)
    yield from (calls, degraded, seconds, score, shadow, shadow_seconds, difference, overlap, items_overlap)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    ends = [f"{bound / 1e6:g}" for bound in BOUNDS_US] + ["+Inf"]
    return list(zip(ends, [*histogram.at_most, histogram.count], strict=True))


@contextmanager
def metrics_server(
    path: Path,
    *,
    host: str,
    port: int,
    in_service: InService,
    certificates: CertificateWatch | None = None,
    secured: bool = False,
) -> Iterator[int]:
    """Answer ``GET /metrics`` in a thread for the duration of a ``with`` block; yields the port, which 0 leaves open.

    Args:
        path: of the counter file.
        host: as gRPC takes it: an IPv6 address may be in brackets.
        port: of the page.
        in_service: the releases.
        certificates: the server's, which are shown; None: it has none.
        secured: the page is behind them, too.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    registry = CollectorRegistry()
    registry.register(TotalsCollector(path, in_service))
    if certificates is not None:
        registry.register(CertificateCollector(certificates))
    with contextlib.ExitStack() as stack:
        app, behind = make_wsgi_app(registry), certificates if secured else None
        try:
            bound = stack.enter_context(page_server(app, host=host.strip("[]"), port=port, certificates=behind))
        except OSError as error:
            raise ConfigError(
                f"metrics cannot be offered on {host}:{port}: {error.strerror}; choose another port"
            ) from error
        yield bound
