"""Metrics of a run, and the comparison of two, as tables for people, JSON for programs, and a reliability plot."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Column, Table

from recsys.evaluation.baselines import Baseline
from recsys.evaluation.comparison import MetricDifference, SegmentPair
from recsys.evaluation.evaluate import Metrics, Segment
from recsys.evaluation.predictions import Predictions
from recsys.metrics import Resamples, reliability
from recsys.plots import Bars, Chart, Series

LABELS = {
    "auc": "AUC",
    "gauc": "GAUC",
    "log_loss": "log loss",
    "calibration_error": "calibration error",
    "hit_rate_at_10": "HR@10",
    "ndcg_at_10": "NDCG@10",
    "mrr": "MRR",
    "recall": "recall",
    "ndcg": "NDCG",
    "hit_rate": "hit rate",
}
"""What people call the metrics."""


def metrics_json(
    metrics: Metrics, *, drawn: dict[str, Resamples] | None = None, parts: Sequence[Segment] | None = None
) -> dict[str, Any]:
    """One split's metrics, with 95 % intervals and segments where they were asked for."""
    values: dict[str, Any] = dataclasses.asdict(metrics)
    if drawn is not None:
        values["intervals"] = {name: each.interval() for name, each in drawn.items()}
    if parts is not None:
        values["segments"] = [dataclasses.asdict(part) for part in parts]
    return values


def metrics_table(
    split: str, metrics: Metrics, baselines: Sequence[Baseline] = (), drawn: dict[str, Resamples] | None = None
) -> Table:
    """One metric per line beside its baselines, those without a value as "none"; with its 95 % interval if users were
    resampled."""
    table = Table("metric", split, *(each.name for each in baselines), box=None)
    if drawn is not None:
        table.add_column("95 % interval, users resampled")
    for name, label in LABELS.items():
        if not hasattr(metrics, name):  # of models that rank all items
            continue
        value = getattr(metrics, name)
        if value is None and name in ("hit_rate_at_10", "ndcg_at_10", "mrr"):
            continue  # `lists_note` says why
        interval = None if drawn is None or name not in drawn else drawn[name].interval()
        cells = [label, _number(value), *(_number(each.values.get(name)) for each in baselines)]
        if drawn is not None:
            cells.append("" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}")
        table.add_row(*cells)
    table.add_row("samples", f"{metrics.samples:,}")
    table.add_row("positives", f"{metrics.positives:,}")
    return table


def lists_note(metrics: Metrics) -> str:
    """The length of the candidate lists that HR@10 and NDCG@10 are of, or why these figures are left out."""
    if not metrics.lists:
        return (
            "HR@10, NDCG@10 and MRR are left out: the samples are no lists of candidates, one for each user and moment "
            "with exactly one positive"
        )
    short, long = metrics.shortest_list, metrics.longest_list
    length = f"{short:,}" if short == long else f"{short:,} to {long:,}"
    found = f"{metrics.lists:,} {'list' if metrics.lists == 1 else 'lists'} of {length} candidates"
    if not metrics.long_lists:
        return f"HR@10 and NDCG@10 are left out: {found}, and in a list of 10 or fewer the positive is always a hit"
    if metrics.long_lists == metrics.lists:
        return f"HR@10, NDCG@10 and MRR are of {found}"
    return f"MRR is of {found}; HR@10 and NDCG@10 are of the {metrics.long_lists:,} with more than 10"


def verdict_lines(baselines: Sequence[Baseline]) -> list[str]:
    """Sentences on which metrics tell the model from popularity and from chance, by the 95 % interval of its lead."""
    lines = []
    for baseline in baselines:
        if better := [_label(each.metric) for each in baseline.lead if each.verdict == "A"]:
            lines.append(f"better than {baseline.name} by {', '.join(better)}")
        if undecided := [_label(each.metric) for each in baseline.lead if each.verdict == "none"]:
            lines.append(
                f"not known if better than {baseline.name} by {', '.join(undecided)}: too few users for an interval"
            )
        for each in baseline.lead:
            if each.verdict in ("open", "B"):
                worse = "worse, " if each.verdict == "B" else ""
                lines.append(
                    f"no better than {baseline.name} by {_label(each.metric)}: {worse}"
                    f"difference {each.difference:+.4f}, 95 % interval {each.low:+.4f} to {each.high:+.4f}"
                )
    return lines


def beside_table(differences: Sequence[MetricDifference], baselines: Sequence[Baseline]) -> Table:
    """The metrics of two runs beside their baselines."""
    table = Table("metric", "A", "B", *(each.name for each in baselines), box=None, pad_edge=False)
    for each in differences:
        beside = (_number(baseline.values.get(each.metric)) for baseline in baselines)
        table.add_row(_label(each.metric), f"{each.a:.4f}", f"{each.b:.4f}", *beside)
    return table


def segments_table(parts: Sequence[Segment]) -> Table:
    """One segment per line; ECE is the calibration error."""
    numbers = ("samples", "positives", "AUC", "GAUC", "log loss", "ECE")
    table = Table(Column("segment", no_wrap=True), *numbers, box=None, pad_edge=False)
    for part in parts:
        values = (part.auc, part.gauc, part.log_loss, part.calibration_error)
        table.add_row(part.name, f"{part.samples:,}", f"{part.positives:,}", *map(_number, values))
    return table


def comparison_table(differences: Sequence[MetricDifference]) -> Table:
    """One metric per line: A, B, their difference with its interval, and in how many resamples A is better."""
    table = Table("metric", "A", "B", "A - B", "95 % interval", "A better in", "better", box=None, pad_edge=False)
    for each in differences:
        table.add_row(_label(each.metric), f"{each.a:.4f}", f"{each.b:.4f}", *_difference_cells(each))
    return table


def segment_comparison_table(pairs: Sequence[SegmentPair]) -> Table:
    """AUC of both models in each segment. B's is A's less the difference: eight columns are too wide for a terminal."""
    numbers = ("samples", "AUC of A", "A - B", "95 % interval", "better")
    table = Table(Column("segment", no_wrap=True), *numbers, box=None, pad_edge=False)
    for pair in pairs:
        difference, interval, _, verdict = ("none",) * 4 if pair.auc is None else _difference_cells(pair.auc)
        table.add_row(pair.a.name, f"{pair.a.samples:,}", _number(pair.a.auc), difference, interval, verdict)
    return table


def comparison_json(
    differences: Sequence[MetricDifference], pairs: Sequence[SegmentPair] | None = None
) -> dict[str, Any]:
    """Everything that was compared. What has no value is null."""
    values: dict[str, Any] = {each.metric: _difference_json(each) for each in differences}
    if pairs is not None:
        values["segments"] = [
            {**dataclasses.asdict(pair), "auc": None if pair.auc is None else _difference_json(pair.auc)}
            for pair in pairs
        ]
    return values


def reliability_charts(predictions: Predictions, *, title: str, bins: int = 15) -> list[Chart | Bars]:
    """Predicted against observed, in bins of equally many samples, and how many samples each tenth of 0 to 1 has.

    Error bars are 1.96 standard errors of the share of positives among so many independent samples.
    """
    table = reliability(predictions.label, predictions.probability, bins=bins)
    error = 1.96 * np.sqrt(table.observed_K * (1 - table.observed_K) / table.samples_K)
    low = min(table.predicted_K.min(initial=1.0), table.observed_K.min(initial=1.0))
    high = max(table.predicted_K.max(initial=0.0), table.observed_K.max(initial=0.0))
    curve = Chart(
        title=f"{title}: reliability",
        x_label="mean predicted probability of the bin",
        y_label="share of positives in it",
        series=[
            Series("perfect", x=[low, high], y=[low, high], line=True),
            Series(
                f"{len(table.samples_K)} bins of equally many samples",
                x=table.predicted_K.tolist(),
                y=table.observed_K.tolist(),
                error=error.tolist(),
            ),
        ],
    )
    counts, edges = np.histogram(predictions.probability, bins=10, range=(0.0, 1.0))
    labels = [f"{first:.1f} to {last:.1f}" for first, last in zip(edges[:-1], edges[1:], strict=True)]
    return [curve, Bars(title="samples by predicted probability", labels=labels, values=counts.tolist())]


def _difference_json(each: MetricDifference) -> dict[str, Any]:
    return {**dataclasses.asdict(each), "better": each.verdict}


def _difference_cells(each: MetricDifference) -> tuple[str, str, str, str]:
    interval = "none" if each.low is None or each.high is None else f"{each.low:+.4f} to {each.high:+.4f}"
    better = "none" if each.a_better is None else f"{each.a_better:.1%}"
    return f"{each.difference:+.4f}", interval, better, each.verdict


def _label(metric: str) -> str:
    return LABELS.get(metric, metric)


def _number(value: float | None) -> str:
    return "none" if value is None or math.isnan(value) else f"{value:.4f}"
