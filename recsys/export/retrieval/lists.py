"""Lists of the test part as a manifest keeps them: measured, resampled, beside popularity and chance."""

from __future__ import annotations

import numpy as np

from recsys.arrays import Int64Array
from recsys.bundle import Measured
from recsys.data.interactions.ids import PairIds
from recsys.data.interactions.pairs import Interactions, Pairs, ids_of
from recsys.evaluation.predictions import UserValues
from recsys.evaluation.recorded import lists_digest, record_lists
from recsys.training.retrieval.baselines import with_baselines
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.ranking import RankingMetrics, metric_values

LISTS = 256
"""Lists that a certificate compares."""


def measured_lists(
    test: RankingMetrics,
    of_users: UserValues,
    interactions: Interactions,
    config: RetrievalRunConfig,
    *,
    excluded: tuple[Pairs, ...],
) -> tuple[Measured, dict[str, dict[str, float]]]:
    """The metrics of a model's lists with resamples and the digest of what they are of, and those of the baselines.

    Args:
        test: means over the users of the test part.
        of_users: the same by user.
        interactions, config: of the run.
        excluded: pairs that are in no list.
    """
    ids, length = ids_of(interactions), config.train.list_length
    _, baselines = with_baselines(
        of_users,
        interactions,
        interactions.test,
        excluded=excluded,
        list_length=length,
        candidates=interactions.candidates.get("test"),
    )
    pairs_N = np.bincount(interactions.train.user_E, minlength=interactions.num_users)
    measured = record_lists(
        metric_values(test),
        of_users,
        data=lists_digest(
            wanted=_keys_of(interactions.test, ids),
            items=ids.item_keys_M,
            excluded=[_keys_of(pairs, ids) for pairs in excluded],
            list_length=length,
        ),
        training_pairs_G=pairs_N[of_users.user_G],
    )
    return measured, baselines


def _keys_of(pairs: Pairs, ids: PairIds) -> tuple[Int64Array, Int64Array]:
    return ids.user_keys_N[pairs.user_E], ids.item_keys_M[pairs.item_E]
