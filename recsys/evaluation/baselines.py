"""Baselines that every metric stands beside: popularity, which knows nothing of users, and chance, which knows nothing.

Both are scores of the same samples, so the metrics' own rules for ties give what is to be expected of them: one score
for all has AUC 0.5, HR@k k / length, and the exact mean of NDCG over all orders of a list; as a probability, the share
of positives in training, it has the log loss of a model without features. What a model is better by has an interval
from the same draws of users for both (``comparison.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recsys.arrays import Float32Array, Float64Array
from recsys.evaluation.comparison import MetricDifference, compare_user_values, metric_differences
from recsys.evaluation.evaluate import Metrics, measure, resample
from recsys.evaluation.predictions import Predictions, UserValues

RESAMPLES = 200
"""Draws of users where nobody asked for a number: enough for the sign of a difference, and a fifth of the time."""

LEAST_USERS = 10
"""Fewer have no interval: the draws of one user are all the same, and would make any difference a sure one."""

METRICS = ("auc", "gauc", "log_loss", "calibration_error", "hit_rate_at_10", "ndcg_at_10", "mrr")


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A baseline on the samples of a split.

    Attributes:
        name: ``popularity`` or ``chance``.
        values: its metrics by name; None where a metric has no value.
        lead: of the model over it, model less baseline.
    """

    name: str
    values: Mapping[str, float | None]
    lead: tuple[MetricDifference, ...]


def baselines_of(
    predictions: Predictions, metrics: Metrics | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Baseline, ...]:
    """Popularity and chance on a split, and the model's lead over them.

    Args:
        predictions: of the model.
        metrics: of it, where they are known.
        resamples, seed: of users, for the intervals of the lead.

    Raises:
        InvalidInputError: there are no samples, all labels are equal, or there are no resamples.
    """
    metrics = metrics or measure(predictions)
    enough = len(np.unique(predictions.user_key)) >= LEAST_USERS
    drawn = resample(predictions, resamples=resamples, seed=seed) if enough else {}
    found = []
    for name, probability in (("popularity", predictions.popularity), ("chance", predictions.chance)):
        scored = replace(predictions, logit=_logits(probability))
        values = measure(scored)
        drawn_own = resample(scored, resamples=resamples, seed=seed) if enough else {}
        lead = metric_differences(metrics, values, drawn, drawn_own)
        found.append(Baseline(name=name, values=metric_values(values), lead=tuple(lead)))
    return tuple(found)


def baselines_of_lists(
    of_users: UserValues, values: Mapping[str, Mapping[str, float]], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Baseline, ...]:
    """The same of a model that ranks all items.

    Args:
        of_users: with the baselines' values.
        values: baseline -> metric -> its mean.
        resamples, seed: of users.

    Raises:
        InvalidInputError: there are no resamples.
    """
    found = []
    for name, own in of_users.baselines.items():
        other = UserValues(user_G=of_users.user_G, values=own)
        lead = compare_user_values(of_users, other, resamples=resamples, seed=seed)
        if len(of_users.user_G) < LEAST_USERS:
            lead = [replace(each, low=None, high=None, a_better=None) for each in lead]
        found.append(Baseline(name=name, values=values[name], lead=tuple(lead)))
    return tuple(found)


def baselines_of_stored_lists(
    of_users: UserValues, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Baseline, ...]:
    """The same of values that a run keeps, by their means; none for those that an older version wrote.

    Raises:
        InvalidInputError: there are no resamples.
    """
    means = {
        name: {metric: float(value_G.mean()) for metric, value_G in own.items()}
        for name, own in of_users.baselines.items()
    }
    return baselines_of_lists(of_users, means, resamples=resamples, seed=seed)


def metric_values(metrics: Metrics) -> dict[str, float | None]:
    """The metrics by name, without the numbers of samples and lists."""
    return {name: getattr(metrics, name) for name in METRICS}


def baselines_json(baselines: Sequence[Baseline]) -> dict[str, Any]:
    """By baseline: its metrics, and ``lead``: the model's difference, its interval and which of them is better."""
    words = {"A": "model", "open": "open", "none": "none"}
    found: dict[str, Any] = {}
    for each in baselines:
        lead = {
            d.metric: {
                "difference": d.difference,
                "low": d.low,
                "high": d.high,
                "better": words.get(d.verdict, each.name),
            }
            for d in each.lead
        }
        found[each.name] = {**dict(each.values), "lead": lead}
    return found


def baseline_values(baselines: Sequence[Baseline]) -> dict[str, dict[str, float | None]]:
    """The baselines' metrics by name, for what is stored."""
    return {each.name: dict(each.values) for each in baselines}


def _logits(probability: Float64Array) -> Float32Array:
    kept = np.clip(probability, 1e-7, 1 - 1e-7)
    logits: Float32Array = (np.log(kept) - np.log1p(-kept)).astype(np.float32)
    return logits
