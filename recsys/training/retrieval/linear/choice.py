"""The settings of a closed form, chosen on validation by the recall of a sample of users.

One setting after another, the others as they are best so far; rank and neighbours last, and the smaller one unless the
larger is better by more than ``WORTH``: they cost time in each request.

Legend: ``M`` items, ``B`` users of the sample, ``K`` columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from recsys.arrays import Float32Array, Int64Array
from recsys.data.interactions.pairs import Interactions, Pairs
from recsys.models.retrieval.history_weights import HistoryWeights
from recsys.models.retrieval.linear import OPEN, Linear, LinearConfig, of_eigenvalues, strongest_neighbours
from recsys.models.retrieval.spectrum import ItemFilter
from recsys.training.retrieval.ranking import rank_scored, sample_users

USERS = 2_000
"""Users whose items are ranked for each setting."""

Spectrum = tuple[ItemFilter, Tensor, Tensor]
"""An operator, its first eigenvalues, falling, [K], and their vectors, [M, K]."""

WORTH = 0.005
"""Share of the recall that a larger model must win."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Settings that were tried, and the recall of the sample with them."""

    settings: Linear
    recall: float


class _Sample:
    """The parts of the sampled users' scores that candidates share."""

    def __init__(
        self,
        spectrum_of: Callable[[float], Spectrum],
        interactions: Interactions,
        history_of: Callable[[HistoryWeights], csr_matrix],
        *,
        list_length: int,
        unknown_M: Tensor,
    ) -> None:
        self.relevant = sample_users(interactions.validation, USERS)
        self.users_B = np.unique(self.relevant.user_E)
        self._spectrum_of, self._history_of, self._unknown_M = spectrum_of, history_of, unknown_M
        self._interactions, self._list_length = interactions, list_length
        self._used: tuple[HistoryWeights, float, float] | None = None

    def _use(self, settings: Linear) -> None:
        """Histories as these settings weigh them, over their power of the items' numbers of pairs, from now on."""
        used = settings.weights, settings.user_degree, settings.degree
        if used == self._used:
            return
        self._operator, self._values_K, self._vectors_MK = self._spectrum_of(settings.user_degree)
        self.history_BM = self._history_of(settings.weights)[self.users_B]
        self._scale_M1 = self._operator.scale_M(settings.degree)[:, None]
        history_MB = torch.from_numpy(np.ascontiguousarray(self.history_BM.toarray().T))
        history_MB /= self._scale_M1
        self._along_KB = self._vectors_MK.t() @ history_MB
        self._near_MB = self._operator.apply(history_MB)
        self._near_MB *= self._scale_M1
        self._used = used

    def recall(self, settings: Linear) -> float:
        """Recall of the whole closed form."""
        self._use(settings)
        of_near, score_smooth = self._smooth(settings)

        def score(users_B: Int64Array) -> Tensor:
            place = torch.from_numpy(np.searchsorted(self.users_B, users_B))
            return score_smooth(place).add_(self._near_MB[:, place], alpha=of_near).t()

        return self.recall_of(score, self.relevant)

    def _smooth(self, settings: Linear) -> tuple[float, Callable[[Tensor], Tensor]]:
        """The factor of ``P``, and the scores by eigenvectors of the users at some places of the sample, [M, B]."""
        rank = settings.rank
        of_near, beside_K, _ = of_eigenvalues(
            self._values_K[:rank], low_pass=settings.low_pass, sharpen=settings.sharpen
        )
        smooth_MK, along_KB = self._scale_M1 * self._vectors_MK[:, :rank], beside_K[:, None] * self._along_KB[:rank]
        return of_near, lambda place: smooth_MK @ along_KB[:, place]

    def served(self, settings: Linear, counts: tuple[int, ...], report: Callable[[int, int], None]) -> list[float]:
        """Recall with the strongest neighbours alone, for each number of them."""
        self._use(settings)
        of_near, score_smooth = self._smooth(settings)
        items_C = np.unique(self.history_BM.indices).astype(np.int64)
        history_BC = self.history_BM[:, items_C]
        near_CJ, add_CJ = strongest_neighbours(
            self._operator, items_C, max(counts), degree=settings.degree, report=report
        )

        def recall_with(count: int) -> float:
            added_CM = neighbour_matrix(near_CJ[:, :count], of_near * add_CJ[:, :count], self._operator.num_items)

            def score(users_B: Int64Array) -> Tensor:
                place = np.searchsorted(self.users_B, users_B)
                added_BM = (history_BC[place] @ added_CM).toarray()
                return score_smooth(torch.from_numpy(place)).t() + torch.from_numpy(added_BM)

            return self.recall_of(score, self.relevant)

        return [recall_with(count) for count in counts]

    def recall_of(self, score: Callable[[Int64Array], Tensor], relevant: Pairs) -> float:
        """Recall of the users of ``relevant``, items without a training pair left out."""

        def known(users_B: Int64Array) -> Tensor:
            return score(users_B).masked_fill(self._unknown_M, -torch.inf)

        metrics, _ = rank_scored(
            known,
            num_items=self._interactions.num_items,
            relevant=relevant,
            excluded=(self._interactions.train,),
            list_length=self._list_length,
        )
        return metrics.recall


def neighbour_matrix(near_CJ: Any, add_CJ: Float32Array, num_items: int) -> csr_matrix:
    """Neighbours as a sparse matrix, [C, M]; those of -1 add nothing."""
    rows, count = near_CJ.shape
    values = np.where(near_CJ >= 0, add_CJ, np.float32(0)).ravel()
    return csr_matrix((values, np.maximum(near_CJ, 0).ravel(), np.arange(rows + 1) * count), shape=(rows, num_items))


def is_open(config: LinearConfig) -> bool:
    """True if a setting has several values."""
    return any(len(getattr(config, name)) > 1 for name in OPEN)


def first_settings(config: LinearConfig) -> Linear:
    """The settings to begin with: the largest rank and most neighbours, the middle ones of the others."""

    def middle(values: tuple[float, ...]) -> float:
        return sorted(values)[len(values) // 2]

    return Linear(
        rank=max(config.ranks),
        user_degree=min(config.user_degrees, key=lambda value: abs(value - 0.5)),
        degree=middle(config.degrees),
        low_pass=middle(config.low_pass),
        sharpen=middle(config.sharpen),
        neighbours=max(config.neighbours),
        weights=HistoryWeights(
            half_life_events=min(config.half_life_events), half_life_days=min(config.half_life_days)
        ),
    )


def choose(
    config: LinearConfig,
    spectrum_of: Callable[[float], Spectrum],
    interactions: Interactions,
    history_of: Callable[[HistoryWeights], csr_matrix],
    *,
    by_action: Sequence[HistoryWeights],
    list_length: int,
    unknown_M: Tensor,
    report: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> tuple[Linear, list[Trial]]:
    """Choose among the values of each setting.

    Args:
        config: the values.
        spectrum_of: of the training pairs, by ``user_degree``, with as many eigenvalues as the largest rank.
        interactions: with a validation part.
        history_of: weighted histories of all users before it.
        by_action: weights to try beside those of :func:`first_settings`.
        list_length: k of the recall.
        unknown_M: items of which nothing is known, bool: in no list.
        report: called with what is done, how far, and of how much.

    Returns:
        The settings, and what was tried.
    """
    best, trials = first_settings(config), list[Trial]()
    report("ranking a sample of users", 0, 0)
    sample = _Sample(spectrum_of, interactions, history_of, list_length=list_length, unknown_M=unknown_M)
    steps = sum(len(getattr(config, name)) for name in OPEN if name != "neighbours") + len(config.low_pass)
    steps += len(by_action) + len(config.degrees) + len(config.sharpen)

    def tried(settings: Linear) -> Trial:
        for trial in trials:
            if trial.settings == settings:
                return trial
        trials.append(Trial(settings=settings, recall=sample.recall(settings)))
        report("settings tried", len(trials), steps)
        return trials[-1]

    def best_of(found: Iterable[Linear]) -> Linear:
        return max((tried(settings) for settings in found), key=lambda trial: trial.recall).settings

    # First: what counts as a history changes all that follows.
    best = best_of([best, *(replace(best, weights=weights) for weights in by_action)])
    for name, values in (
        ("user_degree", config.user_degrees),
        ("degree", config.degrees),
        ("sharpen", config.sharpen),
        ("low_pass", config.low_pass),
        # Once more: the best of these depend on each other.
        ("degree", config.degrees),
        ("sharpen", config.sharpen),
        ("rank", config.ranks),
    ):
        found = [tried(_with(best, name, value)) for value in values]
        best = (_smallest_worth(found, "rank") if name == "rank" else max(found, key=lambda t: t.recall)).settings
    # The best weight of the low-rank part depends on its rank.
    best = best_of(replace(best, low_pass=value) for value in config.low_pass)
    for name in ("half_life_events", "half_life_days"):
        best = best_of(
            replace(best, weights=_weights_with(best.weights, name, value)) for value in getattr(config, name)
        )
    if len(config.neighbours) > 1:
        recalls = sample.served(best, config.neighbours, lambda done, of: report("neighbours of their items", done, of))
        served = [
            Trial(settings=replace(best, neighbours=count), recall=recall)
            for count, recall in zip(config.neighbours, recalls, strict=True)
        ]
        best = _smallest_worth(served, "neighbours").settings
        trials += served
    return best, trials


def _with(settings: Linear, name: str, value: float) -> Linear:
    given: dict[str, Any] = {name: value}
    return replace(settings, **given)


def _weights_with(weights: HistoryWeights, name: str, value: float) -> HistoryWeights:
    given: dict[str, Any] = {name: value}
    return replace(weights, **given)


def _smallest_worth(trials: list[Trial], name: str) -> Trial:
    most = max(trial.recall for trial in trials)
    return min(
        (trial for trial in trials if trial.recall >= most * (1 - WORTH)), key=lambda t: getattr(t.settings, name)
    )
