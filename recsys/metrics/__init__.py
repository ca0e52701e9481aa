"""Metrics in numpy: what each measures, and how sure one can be of it (``docs/evaluation.md``)."""

from recsys.metrics.bootstrap import Resamples, mean_resamples, user_resamples
from recsys.metrics.lists import (
    OnePositiveLists,
    capped_recall_at_k,
    coverage,
    hit_rate_at_k,
    mrr,
    ndcg_at_k,
    one_positive_lists,
    recall_at_k,
)
from recsys.metrics.order import auc, auc_by_group, gauc
from recsys.metrics.probability import Reliability, calibration_error, log_loss, reliability

__all__ = [
    "OnePositiveLists",
    "Reliability",
    "Resamples",
    "auc",
    "auc_by_group",
    "calibration_error",
    "capped_recall_at_k",
    "coverage",
    "gauc",
    "hit_rate_at_k",
    "log_loss",
    "mean_resamples",
    "mrr",
    "ndcg_at_k",
    "one_positive_lists",
    "recall_at_k",
    "reliability",
    "user_resamples",
]
