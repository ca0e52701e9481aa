"""Two models on the same samples: differences of their metrics, and how sure one can be of the sign.

Users are resampled, and both models see the same draws (``metrics/bootstrap.py``), so that what makes a user easy or
hard for both cancels: the interval of a difference is narrower than two intervals side by side suggest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recsys.errors import InvalidInputError
from recsys.evaluation.evaluate import Metrics, Segment, measure, resample, segments, slices
from recsys.evaluation.predictions import Predictions, UserValues
from recsys.metrics import LOWER_IS_BETTER, Resamples, mean_resamples

COMPARED = ("auc", "gauc", "log_loss", "hit_rate_at_10", "ndcg_at_10", "mrr")
"""Metrics of which differences have an interval."""


@dataclass(frozen=True, kw_only=True)
class MetricDifference:
    """One metric of two models.

    Attributes:
        metric: its name.
        a, b: the models' values.
        difference: a - b.
        low, high: its 95 % interval; None where resamples do not define it.
        a_better: share of the resamples in which A is better, ties counting half. Near 1 or 0: which is better does
            not hang on which users were in the split; 0.5: nothing is known.
    """

    metric: str
    a: float
    b: float
    difference: float
    low: float | None
    high: float | None
    a_better: float | None

    @property
    def verdict(self) -> str:
        """``A`` or ``B`` if the interval lies on one side of 0, ``open`` if not; ``none`` without an interval."""
        if self.a_better is None or self.low is None or self.high is None:
            return "none"
        if self.low <= 0 <= self.high:
            return "open"
        return "A" if self.a_better > 0.5 else "B"


@dataclass(frozen=True, kw_only=True)
class SegmentPair:
    """A segment under both models, and the difference of their AUC there; None if A or B has none."""

    a: Segment
    b: Segment
    auc: MetricDifference | None


def compare_predictions(
    a: Predictions, b: Predictions, *, resamples: int = 1000, seed: int = 0
) -> list[MetricDifference]:
    """Differences of AUC, GAUC, log loss, and of the metrics of candidate lists if the samples are such lists.

    Args:
        a, b: of the same samples.
        resamples: how often users are drawn.
        seed: of the draws.

    Raises:
        InvalidInputError: not the same samples, no samples or one class only, or no resamples.
    """
    check_same_samples(a, b)
    drawn_a, drawn_b = (resample(each, resamples=resamples, seed=seed) for each in (a, b))
    return metric_differences(measure(a), measure(b), drawn_a, drawn_b)


def metric_differences(
    a: Metrics, b: Metrics, drawn_a: Mapping[str, Resamples], drawn_b: Mapping[str, Resamples]
) -> list[MetricDifference]:
    """Differences of the metrics that both models have.

    Args:
        a, b: of the same samples.
        drawn_a, drawn_b: by metric, of the same draws; a metric that is not there has no interval.
    """
    found = []
    for name in COMPARED:
        value_a, value_b = getattr(a, name), getattr(b, name)
        if value_a is not None and value_b is not None:
            found.append(_difference(name, value_a, value_b, drawn_a.get(name), drawn_b.get(name)))
    return found


def compare_segments(a: Predictions, b: Predictions, *, resamples: int = 1000, seed: int = 0) -> list[SegmentPair]:
    """The same for AUC in each segment of A's: a user may be new to one run and not to the other, trained on less.

    Raises:
        InvalidInputError: not the same samples, or no resamples.
    """
    check_same_samples(a, b)
    b = dataclasses.replace(a, logit=b.logit)
    parts = slices(a)
    pairs = []
    for of_a, of_b in zip(segments(a), segments(b), strict=True):
        difference = None
        if of_a.auc is not None and of_b.auc is not None:
            chosen = parts[of_a.name]
            drawn = [resample(each.where(chosen), resamples=resamples, seed=seed).get("auc") for each in (a, b)]
            difference = _difference("auc", of_a.auc, of_b.auc, *drawn)
        pairs.append(SegmentPair(a=of_a, b=of_b, auc=difference))
    return pairs


def compare_user_values(
    a: UserValues, b: UserValues, *, resamples: int = 1000, seed: int = 0
) -> list[MetricDifference]:
    """Differences of metrics that are means over users, such as recall of retrieved lists.

    Raises:
        InvalidInputError: not the same users, or no resamples.
    """
    if not np.array_equal(a.user_G, b.user_G):
        raise InvalidInputError(
            f"A ranked for {len(a.user_G):,} users, B for {len(b.user_G):,}, and they are not the same; "
            "compare runs of one data set and split"
        )
    found = []
    for name in a.values:
        if name in b.values:
            drawn = mean_resamples({"a": a.values[name], "b": b.values[name]}, resamples=resamples, seed=seed)
            mean_a, mean_b = (float(each.values[name].mean()) for each in (a, b))
            found.append(_difference(name, mean_a, mean_b, drawn["a"], drawn["b"]))
    return found


def shared_users(a: UserValues, b: UserValues) -> tuple[UserValues, UserValues]:
    """The values of the users of both, where one of two runs was measured on a sample of the other's users.

    The lists of popularity tell that data and split are the same: of each shared user they have the same recall.

    Raises:
        InvalidInputError: neither has all users of the other, or they are not of the same data and split.
    """
    if np.array_equal(a.user_G, b.user_G):
        return a, b
    shared = np.intersect1d(a.user_G, b.user_G)
    parts = [each.where(np.isin(each.user_G, shared)) for each in (a, b)]
    popular = [each.baselines.get("popularity", {}).get("recall") for each in parts]
    same = popular[0] is not None and popular[1] is not None and np.array_equal(popular[0], popular[1])
    if not same or len(shared) < min(len(a.user_G), len(b.user_G)) or not len(shared):
        raise InvalidInputError(
            f"A ranked for {len(a.user_G):,} users, B for {len(b.user_G):,}, and they are not the same; "
            "compare runs of one data set and split"
        )
    return parts[0], parts[1]


def check_same_samples(a: Predictions, b: Predictions) -> None:
    """Refuse to compare what was measured on different samples.

    Raises:
        InvalidInputError: they differ in number, users, items, moments or labels.
    """
    if len(a) != len(b):
        raise InvalidInputError(
            f"A has {len(a):,} samples, B {len(b):,}; compare runs of one data set, split and label"
        )
    for name in ("user_key", "item_key", "time_ms", "label"):
        differing = int((getattr(a, name) != getattr(b, name)).sum())
        if differing:
            raise InvalidInputError(
                f"A and B are not of the same samples: {name} differs in {differing:,} of {len(a):,}; "
                "compare runs of one data set, split and label"
            )


def _difference(name: str, a: float, b: float, of_a: Resamples | None, of_b: Resamples | None) -> MetricDifference:
    low = high = better = None
    if of_a is not None and of_b is not None:
        differences = of_a.minus(of_b)
        if (interval := differences.interval()) is not None:
            low, high = interval
            better = differences.share_above_zero()
            if better is not None and name in LOWER_IS_BETTER:
                better = 1.0 - better
    return MetricDifference(metric=name, a=a, b=b, difference=a - b, low=low, high=high, a_better=better)
