"""Direction of each metric: lists by which a difference is called better or worse, and what is no metric at all."""

from __future__ import annotations

LOWER_IS_BETTER = frozenset({"log_loss", "calibration_error"})

HIGHER_IS_BETTER = frozenset(
    {
        *("auc", "gauc", "hit_rate_at_10", "ndcg_at_10", "mrr"),
        *("recall", "capped_recall", "ndcg", "hit_rate", "coverage"),
    }
)

COUNTS = frozenset(
    {"samples", "positives", "lists", "long_lists", "shortest_list", "longest_list", "users", "candidates"},
)
"""Reported beside metrics: how much they were measured on."""


def worse_by(metric: str, value: float, than: float) -> float | None:
    """Difference in the metric's unit, above 0 where ``value`` is worse; None for a metric of unknown direction.

    >>> worse_by("log_loss", 0.5, 0.25)
    0.25
    >>> worse_by("auc", 0.75, 0.5)
    -0.25
    """
    if metric in LOWER_IS_BETTER:
        return value - than
    return than - value if metric in HIGHER_IS_BETTER else None
