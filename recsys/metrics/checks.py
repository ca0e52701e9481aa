"""Checks and ranks that the metrics share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.errors import InvalidInputError

Array = npt.NDArray[Any]


def average_ranks(values: Array) -> Array:
    """1-based ranks in ascending order; equal values share the mean of their ranks."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    counts = np.diff(np.concatenate([starts, [len(values)]]))
    ranks = np.empty(len(values), dtype=np.float64)
    ranks[order] = np.repeat(starts + (counts + 1) / 2, counts)
    return ranks


def checked(labels: Array, scores: Array) -> tuple[Array, Array]:
    """Labels and scores as arrays [N].

    Raises:
        InvalidInputError: lengths differ, a label is not 0 or 1, or a score is NaN.
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    if labels.shape != scores.shape or labels.ndim != 1:
        raise InvalidInputError(f"labels have shape {list(labels.shape)}, scores {list(scores.shape)}; must be [N]")
    if not np.isin(labels, (0, 1)).all():
        raise InvalidInputError(f"labels: found {labels[~np.isin(labels, (0, 1))][0]}; allowed: 0 and 1")
    if np.isnan(scores).any():
        raise InvalidInputError(f"scores: {int(np.isnan(scores).sum())} of {len(scores)} are NaN")
    return labels, scores
