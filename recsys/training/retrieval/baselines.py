"""Popularity and chance on the lists of a model that ranks all items.

Popularity ranks items by their training pairs, among those that the model may recommend. Where the times of pairs are
known, recent popularity stands beside it: a pair counts half after each half-life, which is the one of ``HALF_LIVES_D``
with the best recall on the validation part (30 days without one). Chance is what a random
order of these is expected to have, exactly: of ``C`` candidates, ``R`` of them relevant, each place of a list holds a
relevant one with probability R / C, and k places have none with the hypergeometric probability of k draws.

Legend: ``N`` users, ``M`` items, ``G`` ranked users, ``k`` length of a list.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import gammaln

from recsys.arrays import Float64Array, Int64Array
from recsys.data.interactions.candidates import CandidateLists
from recsys.data.interactions.pairs import Interactions, Pairs
from recsys.evaluation.evaluate import LIST_LENGTH
from recsys.evaluation.predictions import UserValues
from recsys.metrics import OnePositiveLists
from recsys.training.retrieval.ranking import RankingMetrics, metric_means, rank_users, sample_users

HALF_LIVES_D = (1.0, 7.0, 30.0, 90.0)
"""Days after which a pair counts half, of which recent popularity has the best."""

_DAY_MS = 86_400_000
_CHOOSING_USERS = 2_000


def with_baselines(
    of_users: UserValues,
    interactions: Interactions,
    relevant: Pairs,
    *,
    excluded: tuple[Pairs, ...],
    list_length: int,
    candidates: CandidateLists | None = None,
) -> tuple[UserValues, dict[str, dict[str, float]]]:
    """A model's values of its users, with those of popularity and chance; and the means of the baselines' metrics.

    Args:
        of_users: of the model.
        interactions: of the run; its training pairs are counted.
        relevant, excluded, list_length, candidates: as of the model's ranking.
    """
    train, values, means = interactions.train, {}, {}
    counts = {"popularity": np.bincount(train.item_E, minlength=interactions.num_items).astype(np.float64)}
    if train.time_ms_E is not None:
        counts["recent popularity"] = _recent(interactions, list_length=list_length)
    for name, count_M in counts.items():
        metrics, own = _by_count(count_M, interactions, relevant, excluded, list_length, candidates)
        values[name] = own.values
        means[name] = metric_means(metrics)
    by_chance, chance = expected_values(
        of_users.user_G, relevant, excluded=excluded, num_items=interactions.num_items, list_length=list_length
    )
    if candidates is not None:
        of_lists = _expected_in_lists(candidates.item_GC.shape[1])
        chance |= of_lists
        by_chance |= {name: np.full(len(of_users.user_G), value) for name, value in of_lists.items()}
    all_values = {**values, "chance": by_chance}
    return dataclasses.replace(of_users, baselines=all_values), {**means, "chance": chance}


def _recent(interactions: Interactions, *, list_length: int) -> Float64Array:
    """Training pairs of each item, [M], that count half after each half-life."""
    train, validation = interactions.train, sample_users(interactions.validation, _CHOOSING_USERS)
    assert train.time_ms_E is not None
    age_d_E = (train.time_ms_E.max() - train.time_ms_E) / _DAY_MS

    def decayed(half_life_d: float) -> Float64Array:
        weight_E = 0.5 ** (age_d_E / half_life_d)
        return np.bincount(train.item_E, weights=weight_E, minlength=interactions.num_items).astype(np.float64)

    if not len(validation):
        return decayed(30.0)
    found = [decayed(half_life_d) for half_life_d in HALF_LIVES_D]
    recalls = [_by_count(each, interactions, validation, (train,), list_length)[0].recall for each in found]
    return found[int(np.argmax(recalls))]


def _by_count(
    count_M: Float64Array,
    interactions: Interactions,
    relevant: Pairs,
    excluded: tuple[Pairs, ...],
    list_length: int,
    candidates: CandidateLists | None = None,
) -> tuple[RankingMetrics, UserValues]:
    """Metrics of the same order of items for everyone."""
    return rank_users(
        torch.ones((interactions.num_users, 1)),
        torch.from_numpy(count_M.astype(np.float32))[:, None],
        relevant=relevant,
        excluded=excluded,
        list_length=list_length,
        candidates=candidates,
    )


def _expected_in_lists(candidates: int) -> dict[str, float]:
    """Expected metrics of a random order of so many candidates, of which one is relevant."""
    lists = OnePositiveLists(group_M=np.zeros(candidates), above_G=np.zeros(1, int), tied_G=np.array([candidates - 1]))
    return {
        "hit_rate_at_10": float(lists.hit_rate_G(LIST_LENGTH)[0]),
        "ndcg_at_10": float(lists.ndcg_G(LIST_LENGTH)[0]),
    }


def expected_values(
    ranked_G: Int64Array, relevant: Pairs, *, excluded: Sequence[Pairs], num_items: int, list_length: int
) -> tuple[dict[str, Float64Array], dict[str, float]]:
    """Expected metrics of a random order: of each user, and their means.

    Args:
        ranked_G: the users, ascending.
        relevant: the items to find.
        excluded: pairs that are not recommended.
        num_items: of all.
        list_length: k.

    Returns:
        Metric -> value of each user, [G]; metric -> mean, with capped recall and coverage too.
    """
    users = int(max(ranked_G.max(initial=-1), relevant.user_E.max(initial=-1))) + 1
    barred = np.unique(np.concatenate([pairs.user_E * num_items + pairs.item_E for pairs in excluded]))
    barred = barred[np.isin(barred // num_items, ranked_G)]
    wanted = relevant.user_E * num_items + relevant.item_E
    all_G = np.bincount(relevant.user_E, minlength=users)[ranked_G].astype(np.float64)
    findable = wanted[~np.isin(wanted, barred)]
    findable_G = np.bincount(findable // num_items, minlength=users)[ranked_G].astype(np.float64)
    candidates_G = num_items - np.bincount(barred // num_items, minlength=users)[ranked_G].astype(np.float64)
    places_G = np.minimum(list_length, candidates_G)
    share_G = np.divide(findable_G, candidates_G, out=np.zeros_like(findable_G), where=candidates_G > 0)
    gains = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, list_length + 2)))])
    none_G = _none_of(places_G, findable_G, candidates_G)
    capped_G = np.minimum(all_G, list_length)
    values = {
        "recall": share_G * places_G / all_G,
        "ndcg": share_G * gains[places_G.astype(np.int64)] / gains[capped_G.astype(np.int64)],
        "hit_rate": 1.0 - none_G,
    }
    means = {name: float(of.mean()) for name, of in values.items()}
    means["capped_recall"] = float((share_G * places_G / capped_G).mean())
    means["coverage"] = _expected_coverage(ranked_G, barred, candidates_G, places_G, num_items=num_items)
    return values, means


def _none_of(draws_G: Float64Array, wanted_G: Float64Array, of_G: Float64Array) -> Float64Array:
    """Probability that draws without replacement take none of the wanted; hypergeometric, by logarithms."""

    def log_ways(n: Float64Array, k: Float64Array) -> Float64Array:
        ways: Float64Array = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
        return ways

    possible = of_G - wanted_G >= draws_G
    kept_G = np.where(possible, of_G - wanted_G, draws_G)
    none_G: Float64Array = np.where(possible, np.exp(log_ways(kept_G, draws_G) - log_ways(of_G, draws_G)), 0.0)
    return none_G


def _expected_coverage(
    ranked_G: Int64Array, barred: Int64Array, candidates_G: Float64Array, places_G: Float64Array, *, num_items: int
) -> float:
    """Share of the items that are expected in at least one list: an item is in a user's list with k / candidates."""
    with np.errstate(divide="ignore"):  # a list of all candidates leaves none out: log 0
        log_out_G = np.log1p(-np.divide(places_G, candidates_G, out=np.zeros_like(places_G), where=candidates_G > 0))
    log_out_G = np.maximum(log_out_G, -1e4)
    place = np.searchsorted(ranked_G, barred // num_items)
    log_out_M = log_out_G.sum() - np.bincount(barred % num_items, weights=log_out_G[place], minlength=num_items)
    return float((1.0 - np.exp(np.minimum(log_out_M, 0.0))).mean())
