"""The best possible scores on the long-range log, from as much of a user's past as a model is given.

A Bayesian knows how the log was drawn (``synthetic.py``) and all its parameters, but not who likes what: of the genres
``LIKED`` are liked, every choice of them being as probable as any other. Each event of the user's tells of its genre
twice. A movie of a liked genre is drawn more often, by (s / K + (1 - s) p) / ((1 - s) p) with s the share of events
that are picked from K liked genres and p the genre's share of the popularity; and its rating is high more often. The
sample itself was drawn by its user too, so its movie tells of its genre; its rating is what is asked for.

Legend: ``N`` ratings of the log, ``M`` samples, ``E`` events that are known for them, ``I`` movies, ``G`` genres, ``K``
of which a user likes.
"""

from __future__ import annotations

import numpy as np

from recsys.arrays import Float64Array, Int64Array
from recsys.data.samples.histories import first_at_or_after, ranges
from recsys.data.sources.raw_log import RawLog
from recsys.data.sources.synthetic.logs import DISLIKED, LIKED, LONG_RANGE_LIKED, LONG_RANGE_LIKED_SHARE, Movies

_SAMPLES_AT_ONCE = 10_000


def best_scores(
    raw: RawLog, movies: Movies, rows: Int64Array, *, recent: int, remembered: Int64Array | None = None
) -> Float64Array:
    """The probability that each rating is 4 or more, given the user's newest ratings before it; [M].

    No score that is made of the same ratings has a higher AUC, up to chance.

    Args:
        raw: of ``make_long_range_log``.
        movies: of ``long_range_movies``, with the log's number of movies and seed.
        rows: the samples, as rows of the log; [M], int64.
        recent: newest ratings that are known; those of the sample's own moment are not.
        remembered: rows of ratings that are known beside them where they came before the sample, whatever their age:
            a model with a row per user has seen those it was trained on.
    """
    begin_M = np.searchsorted(raw.user, raw.user[rows], side="left")
    end_M = first_at_or_after(raw.timestamp_ms, raw.timestamp_ms[rows], begin=begin_M, end=rows)
    known_N = np.zeros(len(raw), dtype=bool)
    if remembered is None:
        begin_M = np.maximum(begin_M, end_M - recent)
    else:
        known_N[remembered] = True
    of_drawing_G, of_rating_2I = _evidence(movies)
    item_N = raw.item - 1
    genre_N, quality_N = movies.genre_I[item_N], movies.quality_I[item_N]
    evidence_N = of_drawing_G[genre_N] + of_rating_2I[(raw.rating >= 4).astype(np.int64), item_N]
    liked = np.empty(len(rows))
    for first in range(0, len(rows), _SAMPLES_AT_ONCE):
        part = slice(first, first + _SAMPLES_AT_ONCE)
        begin, end, genre = begin_M[part], end_M[part], genre_N[rows[part]]
        events_E, _ = ranges(begin, end - begin)
        sample_E = np.repeat(np.arange(len(begin)), end - begin)
        known_E = known_N[events_E] | (events_E >= end[sample_E] - recent)
        evidence_MG = np.zeros((len(begin), len(of_drawing_G)))
        np.add.at(evidence_MG, (sample_E[known_E], genre_N[events_E[known_E]]), evidence_N[events_E[known_E]])
        evidence_MG[np.arange(len(begin)), genre] += of_drawing_G[genre]
        liked[part] = probability_liked(evidence_MG, genre, count=LONG_RANGE_LIKED)
    quality_M = quality_N[rows]
    scores: Float64Array = liked * _sigmoid(quality_M + LIKED) + (1 - liked) * _sigmoid(quality_M + DISLIKED)
    return scores


def probability_liked(evidence_MG: Float64Array, genre_M: Int64Array, *, count: int) -> Float64Array:
    """The probability that one genre is among the ``count`` that are liked; [M].

    Args:
        evidence_MG: logarithm of how much more probable a user's events are if the genre is liked.
        genre_M: which genre is asked for.
        count: of the liked genres; all choices of so many are equally probable before the events.

    >>> probability_liked(np.log([[3.0, 1.0, 1.0]]), np.array([0]), count=1).round(3).tolist()
    [0.6]
    """
    samples, genres = evidence_MG.shape
    # Sums of products over all choices of k of the other genres, k = 0 to count (elementary symmetric polynomials).
    sums_KM = np.full((count + 1, samples), -np.inf)
    sums_KM[0] = 0.0
    for genre in range(genres):
        others_M = np.where(genre_M == genre, -np.inf, evidence_MG[:, genre])
        sums_KM[1:] = np.logaddexp(sums_KM[1:], sums_KM[:-1] + others_M)
    with_it_M = evidence_MG[np.arange(samples), genre_M] + sums_KM[count - 1]
    liked: Float64Array = np.exp(with_it_M - np.logaddexp(with_it_M, sums_KM[count]))
    return liked


def _evidence(movies: Movies) -> tuple[Float64Array, Float64Array]:
    """Logarithms of how much more probable a liked genre makes it that an event is of it, [G], and that a movie of it
    is rated low or high, [2, I]."""
    share_G = np.bincount(movies.genre_I, weights=movies.popularity_I) / movies.popularity_I.sum()
    of_drawing_G = np.log1p(LONG_RANGE_LIKED_SHARE / LONG_RANGE_LIKED / ((1 - LONG_RANGE_LIKED_SHARE) * share_G))
    liked_I, disliked_I = _sigmoid(movies.quality_I + LIKED), _sigmoid(movies.quality_I + DISLIKED)
    return of_drawing_G, np.log(np.stack([(1 - liked_I) / (1 - disliked_I), liked_I / disliked_I]))


def _sigmoid(logit: Float64Array) -> Float64Array:
    probability: Float64Array = 1.0 / (1.0 + np.exp(-logit))
    return probability
