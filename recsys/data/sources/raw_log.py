"""RawLog: a rating log in raw values, as a data source gives it, and the FeatureSet that declares it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.arrays import Float64Array, Int64Array
from recsys.features.feature_set import Categorical, FeatureSet, History

LOGS = ("movielens_1m", "synthetic")
"""Logs of events, with the features of ``MOVIELENS_1M``."""

SEQUENCES = ("beauty_sequences", "lastfm_sequences", "sports_sequences", "toys_sequences", "yelp_sequences")
"""Item sequences with attributes, of S3-Rec (CIKM 2020)."""

LONG_LOGS = ("movielens_1m_long", "synthetic_long")
"""Logs of users with long histories, with the features of ``MOVIELENS_1M``."""

DATASETS = (*LOGS, "movielens_ctr", "frappe", "movielens_1m_temporal", *LONG_LOGS, *SEQUENCES)
"""Data sets that recipes name."""

_MAIN_GENRE = Categorical(name="main_genre", id_type="string", table="genre")

MOVIELENS_1M = FeatureSet(
    name="movielens_1m",
    user_id=Categorical(name="user_id"),
    item_id=Categorical(name="movie_id"),
    user=(
        Categorical(name="gender", id_type="string"),
        Categorical(name="age"),
        Categorical(name="occupation"),
        Categorical(name="zip", id_type="string"),
    ),
    item=(
        _MAIN_GENRE,
        Categorical(name="genres", id_type="string", max_values=6, table="genre"),
        Categorical(name="year"),
    ),
    history=History(
        attributes=(_MAIN_GENRE, Categorical(name="rating", storage="u8")),
        max_events=1000,
        recent=50,
    ),
)
"""MovieLens-1M; the synthetic log has the same features."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawLog:
    """N ratings, and the users and movies they name.

    Attributes:
        users: raw values by feature name, ``user_id`` included.
        items: likewise, ``movie_id`` included, plus ``title`` (for people; not a feature).
        user, item: raw ids of the ratings; [N], int64. In no particular order.
        rating: 1 to 5; [N], uint8.
        timestamp_ms: [N], int64, milliseconds since 1970.
        source: a sentence that says where the log is from.
        best_probabilities: for synthetic data, the probability of rating >= 4 that each rating
            was drawn with: no model can rank better; [N], float64.
    """

    users: Mapping[str, Any]
    items: Mapping[str, Any]
    user: Int64Array
    item: Int64Array
    rating: npt.NDArray[np.uint8]
    timestamp_ms: Int64Array
    source: str
    best_probabilities: Float64Array | None = None

    def __len__(self) -> int:
        """N, the number of ratings."""
        return len(self.rating)
