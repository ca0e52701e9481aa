"""An arm: what a way of training serves on each day, what it trained, and what its gate refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from looping.shop import DAY_MS, FIRST_MS

if TYPE_CHECKING:  # the rest is imported when it runs: --help takes no seconds
    from recsys.bundle import Measured
    from recsys.data.samples.dataset import Dataset

_TWO_SIDED_95 = 1.96


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way of training.

    Attributes:
        served: bundle that is served when each day after day 0 begins.
        trained: bundle that was trained for it, also where the gate refused it.
        refused: reasons of each day's gate; none where it promoted.
    """

    served: list[Path]
    trained: list[Path]
    refused: list[list[str]]


def arm_of(folder: Path, way: str, days: int) -> Arm:
    """Arm of a pipeline on its first days.

    Raises:
        RuntimeError: its first day promoted nothing, so that nothing is served.
    """
    from recsys.pipeline.state import all_states

    served: list[Path] = []
    trained: list[Path] = []
    refused = []
    for state in all_states(folder / way)[0][:days]:
        if state.status == "promoted":
            served.append(folder / f"{way}-releases" / "releases" / state.release / "ranking")
        elif served:
            served.append(served[-1])
        else:
            raise RuntimeError(f"{way}, {state.day}: {state.status}: {state.reasons}")
        bundle = None if state.status == "promoted" else state.steps.get("bundle")
        trained.append(served[-1] if bundle is None else folder / way / bundle.output / "ranking")
        refused.append(list(state.reasons) if state.status == "refused" else [])
    return Arm(served=served, trained=trained, refused=refused)


def first_of(arm: Arm) -> Arm:
    """The first day's model for all days."""
    days = len(arm.served)
    return Arm(served=arm.served[:1] * days, trained=arm.served[:1] * days, refused=[[] for _ in range(days)])


def day_after(dataset: Dataset, day: int) -> Dataset:
    """A dataset whose test split is all samples of the day after a day of that number."""
    begin_ms = FIRST_MS + (day + 1) * DAY_MS
    times_ms = dataset.sample_time_ms
    chosen = ((times_ms >= begin_ms) & (times_ms < begin_ms + DAY_MS)).nonzero()[0]
    splits = {**dataset.samples.splits, "test": chosen, "train": (times_ms < begin_ms).nonzero()[0]}
    return replace(dataset, samples=replace(dataset.samples, splits=splits))


def interval_of(measured: Measured, metric: str = "auc") -> list[float]:
    """95 % interval of a metric, users resampled."""
    value = measured.metrics[metric] or 0.0
    error = 0.0 if measured.evaluation is None else measured.evaluation.standard_errors.get(metric, 0.0)
    return [round(value - _TWO_SIDED_95 * error, 4), round(value + _TWO_SIDED_95 * error, 4)]


def paired(mine: Sequence[Measured], theirs: Sequence[Measured], metric: str = "auc") -> dict[str, object]:
    """Difference of the days' means, with the 95 % interval of the paired difference, and of each day.

    Both are of the same samples and the same draws of users. Days are taken as independent.
    """
    differences, variances = [], []
    for one, other in zip(mine, theirs, strict=True):
        assert one.evaluation is not None and other.evaluation is not None
        assert one.evaluation.data == other.evaluation.data, "both are of the same samples"
        differences.append((one.metrics[metric] or 0.0) - (other.metrics[metric] or 0.0))
        drawn = [each.resamples.get("", {}).get(metric) for each in (one, other)]
        if drawn[0] is None or drawn[1] is None:
            variances.append(0.0)
            continue
        of_draws_R = drawn[0].astype(np.float64) - drawn[1].astype(np.float64)
        variances.append(float(np.nanvar(of_draws_R, ddof=1)))
    difference = fmean(differences)
    error = math.sqrt(sum(variances)) / len(variances)
    return {
        "difference": round(difference, 4),
        "interval_95": [round(difference - _TWO_SIDED_95 * error, 4), round(difference + _TWO_SIDED_95 * error, 4)],
        "days": [
            [round(d - _TWO_SIDED_95 * math.sqrt(v), 4), round(d + _TWO_SIDED_95 * math.sqrt(v), 4)]
            for d, v in zip(differences, variances, strict=True)
        ],
    }
