"""Metrics of probabilities against what happened.

Legend: ``N`` samples, ``K`` bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.errors import InvalidInputError
from recsys.metrics.checks import Array, checked


def log_loss(labels: Array, probabilities: Array) -> float:
    """Mean negative log likelihood, natural logarithm; probabilities are kept off 0 and 1 by 1e-7.

    >>> round(log_loss(np.array([1, 0]), np.array([0.9, 0.2])), 4)
    0.1643

    Raises:
        InvalidInputError: lengths differ, there are no samples, labels outside {0, 1}, or probabilities outside 0 to 1.
    """
    labels, probabilities = _checked_probabilities(labels, probabilities)
    if not len(labels):
        raise InvalidInputError("there are no samples; allowed: one or more")
    clipped = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(labels == 1, np.log(clipped), np.log1p(-clipped))))


@dataclass(frozen=True, kw_only=True, eq=False)
class Reliability:
    """Samples by predicted probability; bins without samples are left out.

    Attributes:
        predicted_K: mean probability in the bin.
        observed_K: share of positives in it.
        samples_K: how many samples.
    """

    predicted_K: Array
    observed_K: Array
    samples_K: Array


def reliability(labels: Array, probabilities: Array, *, bins: int = 15, equal_mass: bool = True) -> Reliability:
    """The reliability table: mean prediction beside the share of positives, by bin of the prediction.

    Args:
        labels: 0 or 1, [N].
        probabilities: [N].
        bins: at most so many.
        equal_mass: bins of equally many samples (Nixon et al., "Measuring calibration in deep learning", 2019), equal
            probabilities never in two bins; otherwise of equal width on 0 to 1 (Naeini et al., AAAI 2015).

    >>> table = reliability(np.array([0, 0, 1, 1]), np.array([0.1, 0.3, 0.6, 0.8]), bins=2)
    >>> table.predicted_K.round(6).tolist(), table.observed_K.tolist(), table.samples_K.tolist()
    ([0.2, 0.7], [0.0, 1.0], [2, 2])

    Raises:
        InvalidInputError: no bins, or what :func:`log_loss` refuses.
    """
    if bins < 1:
        raise InvalidInputError(f"bins is {bins}; allowed: 1 or more")
    labels, probabilities = _checked_probabilities(labels, probabilities)
    if equal_mass:
        ordered = np.sort(probabilities)
        bounds = ordered[np.arange(1, bins) * len(ordered) // bins] if len(ordered) else ordered
    else:
        bounds = np.arange(1, bins) / bins
    bin_N = np.searchsorted(bounds, probabilities, side="right")
    samples_K = np.bincount(bin_N, minlength=bins)
    used = samples_K > 0
    predicted = np.bincount(bin_N, weights=probabilities, minlength=bins)[used] / samples_K[used]
    observed = np.bincount(bin_N, weights=labels, minlength=bins)[used] / samples_K[used]
    return Reliability(predicted_K=predicted, observed_K=observed, samples_K=samples_K[used])


def calibration_error(table: Reliability) -> float:
    """Expected calibration error: mean of |predicted - observed| over the bins, weighted by their samples.

    NaN without samples.

    >>> labels, probabilities = np.array([0, 0, 1, 1]), np.array([0.1, 0.3, 0.6, 0.8])
    >>> round(calibration_error(reliability(labels, probabilities, bins=2)), 6)
    0.25
    """
    total = int(table.samples_K.sum())
    gaps = np.abs(table.predicted_K - table.observed_K)
    return float((gaps * table.samples_K).sum() / total) if total else float("nan")


def _checked_probabilities(labels: Array, probabilities: Array) -> tuple[Array, Array]:
    labels, probabilities = checked(labels, probabilities)
    if len(labels) and not (0.0 <= probabilities.min() and probabilities.max() <= 1.0):
        raise InvalidInputError(f"probabilities are in [{probabilities.min()}, {probabilities.max()}]; allowed: 0 to 1")
    return labels, probabilities
