"""Metrics in numpy: what each measures, and how sure one can be of it (``docs/guides/evaluation.md``).

::

    order.py          positives above negatives: AUC
    probability.py    log loss, calibration
    lists.py          recall, NDCG and others of lists
    bootstrap.py      intervals by resampling users
    direction.py      which are better when lower
    checks.py         checks of arguments

To add a metric: a function in one of these with its source and an example, its name here and in ``direction.py``, a
test of it from the definition in ``tests/metrics``; then where it is reported (``recsys/evaluation``,
``recsys/training/retrieval``).
"""

from recsys.metrics.bootstrap import Resamples, mean_resamples, user_resamples
from recsys.metrics.direction import COUNTS, HIGHER_IS_BETTER, LOWER_IS_BETTER, worse_by
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
    "COUNTS",
    "HIGHER_IS_BETTER",
    "LOWER_IS_BETTER",
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
    "worse_by",
]
