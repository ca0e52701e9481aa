"""Candidates of a request: the best of them, and those that stand in it more than once. ``C`` candidates."""

from __future__ import annotations

import numpy as np

from recsys.arrays import Float32Array, Int64Array


def best_of(logits: Float32Array, top_k: int) -> Int64Array:
    """Positions of the ``top_k`` largest, best first; of equal ones the first.

    By logit: scores of very good candidates round to the same float32.
    """
    return np.argsort(-logits, kind="stable")[:top_k]


def first_positions(keys: Int64Array) -> Int64Array | None:
    """Positions at which the distinct keys first stand, ascending; None if all are distinct."""
    ordered = np.sort(keys)
    if not (ordered[1:] == ordered[:-1]).any():
        return None
    _, first = np.unique(keys, return_index=True)
    return np.sort(first)


def spread(scores: Float32Array, *, keys: Int64Array, onto: Int64Array) -> Float32Array:
    """Give every element of ``onto`` the score of its equal in ``keys`` (distinct)."""
    order = np.argsort(keys)
    found: Float32Array = scores[order][np.searchsorted(keys[order], onto)]
    return found
