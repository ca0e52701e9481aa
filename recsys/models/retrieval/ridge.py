"""Ridge regression of many targets on sparse columns, by conjugate gradients: all targets at once, nothing squared.

Legend: ``A`` samples, ``P`` columns, ``R`` targets.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from recsys.arrays import Float32Array

MOST_STEPS = 200
TOLERANCE = 1e-4
"""Length of what is left of a target's gradient, in lengths of the first one, at which it is solved."""


def ridge(
    design_AP: csr_matrix,
    targets_AR: Float32Array,
    weight: float,
    *,
    base: bool = True,
    notes: list[str] | None = None,
) -> tuple[Float32Array, Float32Array]:
    """Coefficients ``W`` and base ``b`` with the least ``|X W + b - Y|^2 + weight |W|^2``; the base is not penalised.

    Args:
        design_AP: X, float32.
        targets_AR: Y.
        weight: above 0.
        base: False: b is 0.
        notes: gets a sentence if the steps end before it is solved.

    Returns:
        W, float32 [P, R], and b, float32 [R].

    >>> W, b = ridge(csr_matrix(np.eye(2, dtype=np.float32)), np.array([[1.0], [3.0]], np.float32), 1.0)
    >>> W.round(3).tolist(), b.tolist()
    ([[-0.5], [0.5]], [2.0])
    """
    samples = design_AP.shape[0]
    mean_P1 = np.asarray(design_AP.mean(axis=0), dtype=np.float32).reshape(-1, 1)
    mean_R = targets_AR.mean(axis=0, dtype=np.float64).astype(np.float32)
    if not base:
        mean_P1, mean_R = np.zeros_like(mean_P1), np.zeros_like(mean_R)
    transposed_PA = csr_matrix(design_AP.T)
    squares_P1 = np.asarray(design_AP.multiply(design_AP).sum(axis=0), dtype=np.float32).reshape(-1, 1)
    scale_P1 = 1.0 / (squares_P1 - samples * mean_P1**2 + weight)

    def applied(of_PR: Float32Array) -> Float32Array:
        along_AR = design_AP @ of_PR - mean_P1.T @ of_PR
        found: Float32Array = transposed_PA @ along_AR - mean_P1 * along_AR.sum(axis=0) + weight * of_PR
        return found

    left_PR = np.asarray(transposed_PA @ (targets_AR - mean_R), dtype=np.float32)
    weights_PR = np.zeros_like(left_PR)
    scaled_PR = scale_P1 * left_PR
    direction_PR = scaled_PR.copy()
    size_R = (left_PR * scaled_PR).sum(axis=0)
    enough_R = size_R * TOLERANCE**2
    for _ in range(MOST_STEPS):
        if not (size_R > enough_R).any():
            break
        applied_PR = applied(direction_PR)
        along_R = (direction_PR * applied_PR).sum(axis=0)
        step_R = np.where(size_R > enough_R, size_R / np.where(along_R > 0, along_R, 1), 0).astype(np.float32)
        weights_PR += step_R * direction_PR
        left_PR -= step_R * applied_PR
        scaled_PR = scale_P1 * left_PR
        next_R = (left_PR * scaled_PR).sum(axis=0)
        direction_PR = scaled_PR + (next_R / np.where(size_R > 0, size_R, 1)) * direction_PR
        size_R = next_R
    if notes is not None and (left := int(np.count_nonzero(size_R > enough_R))):
        notes.append(f"a regression ended after {MOST_STEPS} steps with {left} of {len(size_R)} columns not solved")
    return weights_PR, mean_R - (mean_P1.T @ weights_PR)[0]
