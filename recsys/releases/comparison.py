"""Metrics of two releases beside each other: differences, margins, and what counts as worse."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from recsys.bundle import Measured, SegmentMetrics
from recsys.errors import InvalidInputError, nearest
from recsys.metrics import COUNTS, HIGHER_IS_BETTER, LOWER_IS_BETTER, worse_by

ALL = ""
"""Name of the segment of all samples."""

Verdict = Literal["better", "within", "worse", "noise", "small", "missing"]
"""``within``: not worse by more than the margin. ``noise``: worse by more, but not by more than the standard errors
that a segment is allowed. ``small``: a segment with too few samples to say. ``missing``: cannot be compared. Only
``worse`` and ``missing`` are reasons to refuse."""


@dataclass(frozen=True, kw_only=True)
class Margin:
    """Amount by which a metric may be worse: in the metric's unit, or ``relative`` to the running release's value."""

    value: float
    relative: bool

    def allowed(self, running: float) -> float:
        """In the metric's unit."""
        return abs(running) * self.value if self.relative else self.value

    def __str__(self) -> str:
        return f"{100 * self.value:g} %" if self.relative else f"{self.value:g}"


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Bounds of a promotion.

    Attributes:
        margin: by which any metric may be worse than the running release's, over all samples and in a segment.
        margins: of metrics with one of their own. By default calibration error, which is near 0 where it is good, and
            coverage, which is no quality, have wider ones.
        smallest_segment: samples; a segment with fewer in either release decides nothing.
        standard_errors: of the difference, by which a segment must be worse as well: noise is no refusal.
    """

    margin: Margin = Margin(value=0.01, relative=True)
    margins: Mapping[str, Margin] = field(
        default_factory=lambda: {
            "calibration_error": Margin(value=0.01, relative=False),
            "coverage": Margin(value=0.1, relative=True),
        }
    )
    smallest_segment: int = 100
    standard_errors: float = 3.0

    def of(self, metric: str) -> Margin:
        """The margin of a metric."""
        return self.margins.get(metric, self.margin)


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    """One metric of two releases.

    Attributes:
        part: ``ranking`` or ``retrieval``: of the release's bundles.
        segment: its name; empty for all samples.
        metric: its name.
        running, candidate: the values; None where there is none.
        worse_by: difference, above 0 where the candidate is worse; None if it cannot be said.
        allowed: the margin in the metric's unit; None without a value of the running release.
        standard_error: of the difference; None if it is not known.
        samples: of the candidate's segment, 0 where that is not known.
        verdict: see ``Verdict``.
        why: reason of a verdict that refuses.
    """

    part: str
    segment: str
    metric: str
    running: float | None
    candidate: float | None
    worse_by: float | None = None
    allowed: float | None = None
    standard_error: float | None = None
    samples: int = 0
    verdict: Verdict
    why: str = ""

    @property
    def refuses(self) -> bool:
        """A row for which a promotion is refused."""
        return self.verdict in ("worse", "missing")


def parse_bounds(margins: Iterable[str], *, smallest_segment: int, standard_errors: float) -> Bounds:
    """Bounds with margins as a command line has them: ``2%``, ``0.005``, ``auc=0.002``, ``log_loss=1%``.

    Raises:
        InvalidInputError: an unknown metric, or no number from 0.

    >>> parse_bounds(["2%", "auc=0.002"], smallest_segment=100, standard_errors=3.0).of("auc")
    Margin(value=0.002, relative=False)
    """
    common, own = Bounds().margin, dict(Bounds().margins)
    known = HIGHER_IS_BETTER | LOWER_IS_BETTER
    for text in margins:
        metric, equals, amount = text.rpartition("=")
        if equals and metric not in known:
            raise InvalidInputError(f"margin {text!r}: metric {metric!r}: {nearest(metric, known)}")
        try:
            value = float(amount.removesuffix("%"))
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise InvalidInputError(
                f"margin {text!r}; allowed: a number from 0 in the metric's unit, or a share of the running release's "
                "value as 1%, for all metrics or as METRIC=MARGIN for one"
            )
        margin = (
            Margin(value=value / 100, relative=True) if amount.endswith("%") else Margin(value=value, relative=False)
        )
        if equals:
            own[metric] = margin
        else:
            common = margin
    if not 0 <= standard_errors < math.inf:
        raise InvalidInputError(f"standard_errors is {standard_errors}; allowed: a number from 0")
    return Bounds(margin=common, margins=own, smallest_segment=smallest_segment, standard_errors=standard_errors)


def compare_measured(part: str, candidate: Measured, running: Measured, bounds: Bounds) -> list[MetricRow]:
    """Every metric of two bundles that were measured on the same samples, of all and by segment.

    A segment that only one of them has, or that is of other samples in the other, is ``missing`` if it is large enough:
    users new to one model's training may not be to the other's.
    """
    assert candidate.evaluation is not None and running.evaluation is not None
    rows = list(_rows(part, _whole(candidate), _whole(running), (candidate, running), bounds=bounds, segment=ALL))
    mine, theirs = candidate.evaluation.segments, running.evaluation.segments
    for name in dict.fromkeys((*theirs, *mine)):
        new, old = mine.get(name), theirs.get(name)
        if max(each.samples for each in (new, old) if each is not None) < bounds.smallest_segment:
            new, old = new or _empty(), old or _empty()
        elif new is None or old is None or new.data != old.data:
            counts = (f"{0 if each is None else each.samples:,}" for each in (new, old))
            why = "its {} samples are others than the running release's {}".format(*counts)
            rows.append(
                MetricRow(part=part, segment=name, metric="", running=None, candidate=None, verdict="missing", why=why)
            )
            continue
        rows += _rows(part, new, old, (candidate, running), bounds=bounds, segment=name)
    return rows


def _rows(
    part: str,
    new: SegmentMetrics,
    old: SegmentMetrics,
    whole: tuple[Measured, Measured],
    *,
    bounds: Bounds,
    segment: str,
) -> Iterator[MetricRow]:
    for metric in dict.fromkeys((*old.metrics, *new.metrics)):
        if metric in COUNTS:
            continue
        was, now = old.metrics.get(metric), new.metrics.get(metric)
        if was is None and now is None:
            continue
        row = _row(part, segment, metric, now, was, samples=min(new.samples, old.samples), bounds=bounds)
        if row.worse_by is not None:
            row = _judged(row, _error_of_difference(segment, metric, (new, old), whole), bounds=bounds)
        elif segment and row.samples < bounds.smallest_segment:
            row = replace(row, verdict="small", why="")
        yield row


def _row(
    part: str, segment: str, metric: str, now: float | None, was: float | None, *, samples: int, bounds: Bounds
) -> MetricRow:
    """A row that is judged if both values are numbers."""
    why, verdict, difference, allowed = "", "within", None, None
    for whose, value in (("the running release", was), ("this release", now)):
        if value is not None and not math.isfinite(value):
            verdict, why = "missing", f"{whose} has {value}, which is no number"
    if not why and was is None:
        verdict = "within"  # the running release's version had no such metric
    elif not why and now is None:
        verdict, why = "missing", f"this release has none, the running one {was:.4f}"
    elif not why:
        assert was is not None and now is not None
        difference, allowed = worse_by(metric, now, was), bounds.of(metric).allowed(was)
        if difference is None:
            verdict, why = "missing", "this program does not know if higher is better: upgrade it"
    return MetricRow(
        part=part,
        segment=segment,
        metric=metric,
        running=was,
        candidate=now,
        worse_by=difference,
        allowed=allowed,
        samples=samples,
        verdict=verdict,  # type: ignore[arg-type]
        why=why,
    )


def _judged(row: MetricRow, error: float | None, *, bounds: Bounds) -> MetricRow:
    assert row.worse_by is not None and row.allowed is not None
    verdict: Verdict = "worse"
    if row.segment and (row.samples < bounds.smallest_segment or error is None):
        verdict = "small"
    elif row.worse_by <= 0:
        verdict = "better"
    elif row.worse_by <= row.allowed:
        verdict = "within"
    elif row.segment and error is not None and row.worse_by <= bounds.standard_errors * error:
        verdict = "noise"
    why = ""
    if verdict == "worse":
        margin = bounds.of(row.metric)
        shown = f" ({margin})" if margin.relative else ""
        why = (
            f"{row.candidate:.4f} is {row.worse_by:.4f} worse than the running release's {row.running:.4f}; "
            f"allowed: {row.allowed:.4f}{shown}"
        )
        if error is not None:
            why += f"; standard error of the difference: {error:.4f}"
    return replace(row, verdict=verdict, standard_error=error, why=why)


def _error_of_difference(
    segment: str, metric: str, parts: tuple[SegmentMetrics, SegmentMetrics], whole: tuple[Measured, Measured]
) -> float | None:
    """Of the paired difference where both bundles have resamples of the same users, else of two independent figures."""
    drawn = [measured.resamples.get(segment, {}).get(metric) for measured in whole]
    new, old = drawn
    if new is not None and old is not None and len(new) == len(old) and parts[0].data == parts[1].data:
        differences = new.astype(np.float64) - old.astype(np.float64)
        defined = differences[np.isfinite(differences)]
        if 2 * len(defined) >= len(differences) and len(defined) > 1:
            return float(defined.std(ddof=1))
    errors = [part.standard_errors.get(metric) for part in parts]
    if errors[0] is None or errors[1] is None:
        return None
    return math.hypot(errors[0], errors[1])


def _whole(measured: Measured) -> SegmentMetrics:
    evaluation = measured.evaluation
    assert evaluation is not None
    samples = measured.metrics.get("samples") or measured.metrics.get("users") or 0
    return SegmentMetrics(
        samples=int(samples),
        data=evaluation.data,
        metrics=measured.metrics,
        standard_errors=evaluation.standard_errors,
    )


def _empty() -> SegmentMetrics:
    return SegmentMetrics(samples=0, data="")
