"""Verdict on a ranking model's order beside the candidates' own."""

import numpy as np
import pytest

from recsys.evaluation.predictions import UserValues
from recsys.training.retrieval.end_to_end import EndToEnd, recall_change
from recsys.training.retrieval.ranking import RankingMetrics


def of_users(recall_G: np.ndarray) -> tuple[RankingMetrics, UserValues]:  # type: ignore[type-arg]
    mean = float(recall_G.mean())
    metrics = RankingMetrics(recall=mean, capped_recall=mean, ndcg=0.0, hit_rate=0.0, coverage=0.0, users=len(recall_G))
    return metrics, UserValues(user_G=np.arange(len(recall_G)), values={"recall": recall_G})


@pytest.mark.parametrize(
    ("gain", "said"),
    [(0.1, "better than the candidates' own"), (-0.1, "worse than the candidates' own"), (0.0, "no clear difference")],
)
def test_an_order_that_lowers_the_recall_of_users_is_called_worse(gain: float, said: str) -> None:
    random = np.random.default_rng(0)
    recall_G = random.uniform(0.3, 0.6, 400)
    (metrics, before), (both, after) = of_users(recall_G), of_users(recall_G + random.normal(gain, 0.2, 400))
    interval = recall_change(before, after)
    assert interval is not None and interval[0] < both.recall - metrics.recall < interval[1]
    assert interval[1] - interval[0] == pytest.approx(2 * 1.96 * 0.2 / 20, rel=0.15)
    found = EndToEnd(retrieval=metrics, both=both, candidates=9, candidate_recall=1.0, recall_change=interval)
    assert found.verdict.endswith(said)
