"""Confidence intervals by resampling users, and the paired comparison of two models on the same samples.

Samples of one user depend on each other, so users are drawn, not samples (the cluster bootstrap: Field and Welsh,
"Bootstrapping clustered data", 2007); DeLong's variance of AUC (1988) takes samples for independent. Each resample
draws as many users as there are, with replacement; both models of a comparison see the same draws.

Legend: ``N`` samples, ``U`` users, ``R`` resamples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recsys.errors import InvalidInputError
from recsys.metrics.checks import Array, checked


@dataclass(frozen=True, kw_only=True, eq=False)
class Resamples:
    """Values of one metric over resamples, [R]; NaN where a resample does not define it.

    Attributes:
        values_R: one per resample; the same position is the same draw of users for every metric and model.
    """

    values_R: Array

    def interval(self, share: float = 0.95) -> tuple[float, float] | None:
        """The percentile interval; None if fewer than half of the resamples define the metric."""
        defined = self.values_R[np.isfinite(self.values_R)]
        if 2 * len(defined) < len(self.values_R) or not len(defined):
            return None
        tail = (1 - share) / 2
        low, high = np.quantile(defined, [tail, 1 - tail])
        return float(low), float(high)

    def minus(self, other: Resamples) -> Resamples:
        """Paired differences."""
        return Resamples(values_R=self.values_R - other.values_R)

    def share_above_zero(self) -> float | None:
        """Share of the resamples with a value above 0, half of those at 0 included; None if none defines it."""
        defined = self.values_R[np.isfinite(self.values_R)]
        return float(((defined > 0) + 0.5 * (defined == 0)).mean()) if len(defined) else None


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightedAuc:
    """A model's samples sorted once, so that AUC under any weights of users is one pass without sorting.

    Attributes:
        user_of_negative, user_of_positive: by ascending score.
        below, not_above: for each positive, how many negatives score less, and how many no more; one array where
            nothing ties.
    """

    user_of_negative: Array
    user_of_positive: Array
    below: Array
    not_above: Array

    @classmethod
    def of(cls, labels: Array, scores: Array, user_N: Array) -> WeightedAuc:
        """Prepare samples; ``user_N`` numbers the users from 0."""
        order = np.argsort(scores, kind="stable")
        labels, scores, user_N = labels[order], scores[order], user_N[order]
        negatives, positives = scores[labels == 0], scores[labels == 1]
        below, not_above = (np.searchsorted(negatives, positives, side=side) for side in ("left", "right"))
        return cls(
            user_of_negative=user_N[labels == 0],
            user_of_positive=user_N[labels == 1],
            below=below,
            not_above=below if np.array_equal(below, not_above) else not_above,
        )

    def __call__(self, weight_U: Array) -> float:
        """AUC where each user's samples count so often; NaN if a class has no weight."""
        negatives = np.zeros(len(self.user_of_negative) + 1)
        np.cumsum(np.take(weight_U, self.user_of_negative), out=negatives[1:])
        positives = np.take(weight_U, self.user_of_positive)
        pairs = float(negatives[-1] * positives.sum())
        if not pairs:
            return float("nan")
        won = float(positives @ np.take(negatives, self.below))
        if self.not_above is not self.below:
            won = 0.5 * (won + float(positives @ np.take(negatives, self.not_above)))
        return won / pairs


def user_resamples(
    labels: Array,
    scores: Array,
    users: Array,
    *,
    means: dict[str, tuple[Array, Array]],
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Resamples]:
    """AUC and metrics that are weighted means, under resampling of users.

    Calls with the same users, in any order of samples, and the same seed see the same draws, which is what makes
    differences of two models paired.

    Args:
        labels, scores: as in :func:`recsys.metrics.auc`, [N].
        users: any numbers, [N].
        means: name -> (sum, weight) per distinct user in ascending order, [U] each; the metric is the sum of the one
            over the sum of the other.
        resamples: R.
        seed: of the draws.

    Returns:
        ``auc`` and each name of ``means``.

    >>> labels, scores, users = np.array([0, 1, 0, 1]), np.array([0.1, 0.2, 0.3, 0.4]), np.array([7, 7, 9, 9])
    >>> user_resamples(labels, scores, users, means={}, resamples=200)["auc"].interval()
    (0.75, 1.0)

    Raises:
        InvalidInputError: what :func:`recsys.metrics.auc` refuses, or no resamples.
    """
    labels, scores = checked(labels, scores)
    _check_resamples(resamples)
    distinct, user_N = np.unique(users, return_inverse=True)
    auc_of = WeightedAuc.of(labels, scores, user_N)
    values: dict[str, list[float]] = {name: [] for name in ("auc", *means)}
    for weight_U in _draws(len(distinct), resamples, seed):
        values["auc"].append(auc_of(weight_U))
        for name, (sum_U, size_U) in means.items():
            size = float(weight_U @ size_U)
            values[name].append(float(weight_U @ sum_U) / size if size else float("nan"))
    return {name: Resamples(values_R=np.array(found)) for name, found in values.items()}


def mean_resamples(values: dict[str, Array], *, resamples: int = 1000, seed: int = 0) -> dict[str, Resamples]:
    """Means over users under resampling of users; the values, [U] each, see the same draws.

    >>> mean_resamples({"hits": np.array([1.0, 1.0])}, resamples=10)["hits"].interval()
    (1.0, 1.0)

    Raises:
        InvalidInputError: lengths differ, there are no users, or no resamples.
    """
    lengths = {len(each) for each in values.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise InvalidInputError(f"values of {sorted(lengths)} users; allowed: of the same users, at least one")
    _check_resamples(resamples)
    users = lengths.pop()
    means = [[float(weight_U @ of) / users for of in values.values()] for weight_U in _draws(users, resamples, seed)]
    return {name: Resamples(values_R=column) for name, column in zip(values, np.array(means).T, strict=True)}


def _check_resamples(resamples: int) -> None:
    if resamples < 1:
        raise InvalidInputError(f"resamples is {resamples}; allowed: 1 or more")


def _draws(users: int, resamples: int, seed: int) -> Iterator[Array]:
    """Draw counts of each user, [U] per resample, float64."""
    random = np.random.Generator(np.random.PCG64(seed))
    for _ in range(resamples):
        drawn = random.integers(users, size=users) if users else np.zeros(0, dtype=np.int64)
        yield np.bincount(drawn, minlength=users).astype(np.float64)
