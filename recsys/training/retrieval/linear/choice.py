"""The settings of a closed form, chosen on validation by the recall of a sample of users.

Where the data bring candidates for validation, by the geometric mean of that and of the hit rate among them: a model
that is best for the first places of all items may know little of the order of the others, which candidates that were
drawn at random ask for.

One setting after another, the others as they are best so far, in two rounds, as the best of each depends on the others.
Of ranks and neighbours the smallest that is not worse by more than ``WORTH``: they cost time in each request. T, a and
the neighbours are chosen once more by what is served.

Legend: ``M`` items, ``B`` users of the sample, ``K`` columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from recsys.arrays import Int64Array
from recsys.data.interactions.pairs import Interactions
from recsys.models.retrieval.history_weights import HistoryWeights
from recsys.models.retrieval.linear import (
    CHOSEN,
    HALVED,
    OPEN,
    Linear,
    LinearConfig,
    neighbour_matrix,
    of_eigenvalues,
    strongest_neighbours,
)
from recsys.models.retrieval.spectrum import ItemFilter
from recsys.training.retrieval.ranking import rank_scored, sample_users

USERS = 2_000
"""Users whose items are ranked for each setting."""

Spectrum = tuple[ItemFilter, Tensor, Tensor]
"""An operator, its first eigenvalues, falling, [K], and their vectors, [M, K]."""

ROUNDS = 2

_IN_ORDER = (*HALVED, "user_degrees", "degrees", "sharpen", "ranks", "low_pass")
"""Settings of a round: first what counts of a history, then what depends on it."""

WORTH = 0.005
"""Share of the recall that a larger model must win."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Settings that were tried, and the recall of the sample with them."""

    settings: Linear
    recall: float
    among_candidates: float | None = None
    """HR@10 among each user's candidates; None: the data have none."""

    @property
    def value(self) -> float:
        """Figure that settings are chosen by."""
        return self.recall if self.among_candidates is None else (self.recall * self.among_candidates) ** 0.5


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

    def tried(self, settings: Linear) -> Trial:
        """The whole closed form."""
        self._use(settings)
        of_near, score_smooth = self._smooth(settings)

        def score(users_B: Int64Array) -> Tensor:
            place = torch.from_numpy(np.searchsorted(self.users_B, users_B))
            return score_smooth(place).add_(self._near_MB[:, place], alpha=of_near).t()

        return self._trial(settings, score)

    def _smooth(self, settings: Linear) -> tuple[float, Callable[[Tensor], Tensor]]:
        """The factor of ``P``, and the scores by eigenvectors of the users at some places of the sample, [M, B]."""
        rank = settings.rank
        of_near, beside_K, _ = of_eigenvalues(
            self._values_K[:rank], low_pass=settings.low_pass, sharpen=settings.sharpen
        )
        smooth_MK, along_KB = self._scale_M1 * self._vectors_MK[:, :rank], beside_K[:, None] * self._along_KB[:rank]
        return of_near, lambda place: smooth_MK @ along_KB[:, place]

    def served(self, settings: Linear, most: int, report: Callable[[int, int], None]) -> Callable[[Linear], Trial]:
        """Tries settings with the strongest neighbours alone, at most so many, that differ from these in nothing but
        rank, ``low_pass``, ``sharpen`` and ``neighbours``."""
        self._use(settings)
        items_C = np.unique(self.history_BM.indices).astype(np.int64)
        history_BC = self.history_BM[:, items_C]
        near_CJ, add_CJ = strongest_neighbours(self._operator, items_C, most, degree=settings.degree, report=report)

        def tried(settings: Linear) -> Trial:
            of_near, score_smooth = self._smooth(settings)
            near = slice(0, settings.neighbours)
            added_CM = neighbour_matrix(near_CJ[:, near], of_near * add_CJ[:, near], self._operator.num_items)

            def score(users_B: Int64Array) -> Tensor:
                place = np.searchsorted(self.users_B, users_B)
                added_BM = (history_BC[place] @ added_CM).toarray()
                return score_smooth(torch.from_numpy(place)).t() + torch.from_numpy(added_BM)

            return self._trial(settings, score)

        return tried

    def _trial(self, settings: Linear, score: Callable[[Int64Array], Tensor]) -> Trial:
        """Items without a training pair are left out."""

        def known(users_B: Int64Array) -> Tensor:
            return score(users_B).masked_fill(self._unknown_M, -torch.inf)

        metrics, _ = rank_scored(
            known,
            num_items=self._interactions.num_items,
            relevant=self.relevant,
            excluded=(self._interactions.train,),
            list_length=self._list_length,
            candidates=self._interactions.candidates.get("validation"),
        )
        return Trial(settings=settings, recall=metrics.recall, among_candidates=metrics.hit_rate_at_10)


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
    values = [getattr(config, field) for field in _IN_ORDER]
    steps = 1 + len(by_action) + ROUNDS * sum(len(each) - 1 for each in values)

    def tried(settings: Linear) -> Trial:
        for trial in trials:
            if trial.settings == settings:
                return trial
        trials.append(sample.tried(settings))
        report("settings tried", len(trials), steps)
        return trials[-1]

    # First: what counts as a history changes all that follows.
    best = max(map(tried, [best, *(replace(best, weights=weights) for weights in by_action)]), key=_value).settings
    for _ in range(ROUNDS):
        for field in _IN_ORDER:
            name = CHOSEN[OPEN.index(field)]
            found = [tried(_with(best, name, value)) for value in getattr(config, field)]
            best = (_smallest_worth(found, name) if name == "rank" else max(found, key=_value)).settings
    # What is served lacks weak neighbours, which sharpening counts on: once more with those alone that it has.
    served = sample.served(best, max(config.neighbours), lambda done, of: report("neighbours of their items", done, of))
    for name in ("sharpen", "low_pass", "neighbours"):
        found = [served(_with(best, name, value)) for value in getattr(config, name)]
        last = _smallest_worth(found, name) if name == "neighbours" else max(found, key=_value)
        best, trials = last.settings, [*trials, *found]
    return best, trials


def at_edge(config: LinearConfig, settings: Linear) -> list[str]:
    """Chosen settings beyond which a value that was not tried may be better, as ``rank 448``.

    Numbers below 0, halvings beyond the longest, and powers above 1/2 do not come into question.
    """
    found = []
    for field, name in zip(OPEN, CHOSEN, strict=True):
        values = [value for value in getattr(config, field) if value or field not in HALVED]
        chosen = getattr(settings.weights if field in HALVED else settings, name)
        ends = {min(values, default=0)} if field in HALVED else {min(values), max(values)}
        natural = {0, 0.5} if field in ("degrees", "user_degrees") else {0}
        if len(getattr(config, field)) > 1 and chosen in ends - natural:
            found.append(f"{name} {chosen:g}")
    return found


def _value(trial: Trial) -> float:
    return trial.value


def _with(settings: Linear, name: str, value: float) -> Linear:
    given: dict[str, Any] = {name: value}
    if name in HALVED:
        return replace(settings, weights=replace(settings.weights, **given))
    return replace(settings, **given)


def _smallest_worth(trials: list[Trial], name: str) -> Trial:
    most = max(trial.value for trial in trials)
    return min(
        (trial for trial in trials if trial.value >= most * (1 - WORTH)), key=lambda t: getattr(t.settings, name)
    )
