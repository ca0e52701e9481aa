"""Graphs between two sides of ids: with communities to find, and with clusters of many sizes.

Legend: ``E`` edges.
"""

from __future__ import annotations

import numpy as np

from recsys.arrays import Int64Array

COMMUNITIES, LEFT, RIGHT = 12, 240, 120
LEFT_COMMUNITY = np.arange(LEFT) % COMMUNITIES
RIGHT_COMMUNITY = np.arange(RIGHT) % COMMUNITIES
SIZES = {"num_left": LEFT, "num_right": RIGHT}


def planted(*, seed: int = 0, inside: float = 0.7, outside: float = 0.01) -> tuple[Int64Array, Int64Array]:
    """Edges inside communities are likely, others are not."""
    same = LEFT_COMMUNITY[:, None] == RIGHT_COMMUNITY
    drawn = np.random.default_rng(seed).random((LEFT, RIGHT)) < np.where(same, inside, outside)
    left_E, right_E = np.nonzero(drawn)
    return left_E, right_E


def power_law(*, left: int = 3_000, right: int = 1_000, edges: int = 20_000) -> tuple[Int64Array, Int64Array]:
    """A graph whose number of clusters has many values."""
    random = np.random.default_rng(3)
    return (left * random.random(edges) ** 2).astype(np.int64), (right * random.random(edges) ** 2).astype(np.int64)


def same_partition(labels: Int64Array, expected: Int64Array) -> bool:
    """True where two labellings differ by names only."""
    pairs = np.unique(np.stack([labels, expected]), axis=1).shape[1]
    return pairs == len(np.unique(labels)) == len(np.unique(expected))
