"""Known-answer rating logs: only a model that reads the history can know a user's taste.

In :func:`make_synthetic_log` every user likes two genres at a time and after a while moves on to two others: the
recent history tells them. In :func:`make_long_range_log` a user likes twelve genres of sixty for good, so that
most were last met long ago: only a long history tells them.

Movies have a quality that all users agree on. The probability of a high rating is sigmoid(quality + liking), and the
probability each rating was drawn with comes with the log: the AUC of these probabilities is the
best that any model can reach. Gender, age, occupation and zip carry no signal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.arrays import BoolArray, Float64Array, Int64Array
from recsys.data.sources.raw_log import RawLog
from recsys.errors import InvalidInputError

GENRES = (
    "Action", "Adventure", "Animation", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Horror", "Musical", "Romance", "Thriller",
)  # fmt: skip

LIKED, DISLIKED = 2.0, -1.6
"""Added to the logit of a high rating by a genre that the user likes, or does not."""

_QUALITY_SPREAD = 0.6
_EVENTS_PER_TASTE = 40
_LIKED_SHARE = 0.5
"""Share of events a user picks from the genres liked at the time; the rest by popularity."""

LONG_RANGE_GENRES = 60
LONG_RANGE_LIKED = 12
LONG_RANGE_LIKED_SHARE = 0.4
"""As ``_LIKED_SHARE``; the genre is any of the liked ones, equally often."""

_START_MS = 1_600_000_000_000
_SPAN_MS = 200 * 24 * 3600 * 1000
_AGES = (1, 18, 25, 35, 45, 50, 56)


@dataclass(frozen=True, slots=True, kw_only=True)
class Movies:
    """Properties of I movies that their ratings depend on; [I] each.

    Attributes:
        genre_I: numbers of their genres, ascending.
        popularity_I: how often each is drawn, of no particular sum.
        quality_I: what each adds to the logit of a high rating.
    """

    genre_I: Int64Array
    popularity_I: Float64Array
    quality_I: Float64Array


def make_synthetic_log(*, users: int = 1500, events_per_user: int = 100, items: int = 800, seed: int = 0) -> RawLog:
    """Draw a log of users * events_per_user ratings, sorted by user and time, spread over 200 days.

    Raises:
        InvalidInputError: no users or events, or fewer movies than genres.
    """
    _check_sizes(users=(users, 1), events_per_user=(events_per_user, 1), items=(items, len(GENRES)))
    random = np.random.Generator(np.random.PCG64(seed))
    shape = (users, events_per_user)

    movies = _draw_movies(random, items, len(GENRES))

    liked = _drifting_tastes(random, shape)
    picks_liked = random.random(shape) < _LIKED_SHARE
    genre = liked[np.arange(users)[:, None], np.arange(events_per_user), random.integers(0, 2, size=shape)]
    item = _draw_items(random, np.where(picks_liked, genre, -1), movies)

    likes = (liked == movies.genre_I[item][..., None]).any(axis=-1)
    return _rated(random, item, likes, movies, GENRES, source=f"synthetic log: {{}}, seed {seed}")


def make_long_range_log(*, users: int = 3000, events_per_user: int = 400, items: int = 1200, seed: int = 0) -> RawLog:
    """Draw a log whose tastes are known from long histories alone; otherwise as :func:`make_synthetic_log`.

    Of 400 events some 17 are of each genre that the user likes and 4 of each other one; a window of 16 holds 0.7 and
    0.2. On the last tenth of each user's events the best possible AUC (``best_scores.py``) is .7123 from the newest
    16 events, and .8862 from all before. The first does not bound a model with a row per user, which may remember the
    user's training samples: with the 80 that ``movielens/long_histories.py`` keeps beside the newest 16 it is .8613.

    Raises:
        InvalidInputError: no users or events, or fewer movies than genres.
    """
    _check_sizes(users=(users, 1), events_per_user=(events_per_user, 1), items=(items, LONG_RANGE_GENRES))
    random = np.random.Generator(np.random.PCG64(seed))
    shape = (users, events_per_user)
    genres = [f"Genre {number:02d}" for number in range(LONG_RANGE_GENRES)]

    movies = _draw_movies(random, items, len(genres))

    likes_UG = np.argsort(random.random((users, len(genres))), axis=1) < LONG_RANGE_LIKED
    liked_UK = np.nonzero(likes_UG)[1].reshape(users, LONG_RANGE_LIKED)
    picks_liked = random.random(shape) < LONG_RANGE_LIKED_SHARE
    everyone = np.arange(users)[:, None]
    genre = liked_UK[everyone, random.integers(0, LONG_RANGE_LIKED, size=shape)]
    item = _draw_items(random, np.where(picks_liked, genre, -1), movies)
    likes = likes_UG[everyone, movies.genre_I[item]]
    return _rated(random, item, likes, movies, genres, source=f"synthetic long-range log: {{}}, seed {seed}")


def long_range_movies(*, items: int = 1200, seed: int = 0) -> Movies:
    """The movies of :func:`make_long_range_log` with that number of movies and seed."""
    return _draw_movies(np.random.Generator(np.random.PCG64(seed)), items, LONG_RANGE_GENRES)


def _draw_movies(random: np.random.Generator, items: int, genres: int) -> Movies:
    return Movies(
        genre_I=np.arange(items) * genres // items,
        popularity_I=random.gamma(1.0, size=items) + 0.05,
        quality_I=random.normal(0.0, _QUALITY_SPREAD, size=items),
    )


def _check_sizes(**sizes: tuple[int, int]) -> None:
    for name, (value, least) in sizes.items():
        if value < least:
            raise InvalidInputError(f"{name} is {value}; allowed: {least} or more")


def _rated(
    random: np.random.Generator,
    item: Int64Array,
    likes: BoolArray,
    movies: Movies,
    genres: Sequence[str],
    *,
    source: str,
) -> RawLog:
    """The log of these events, [users, events_per_user], with ratings and moments drawn. ``source`` takes the sizes."""
    shape = (users, events_per_user) = item.shape
    logit = movies.quality_I[item] + np.where(likes, LIKED, DISLIKED)
    probability = 1.0 / (1.0 + np.exp(-logit))
    positive = random.random(shape) < probability
    rating = np.where(positive, random.integers(4, 6, size=shape), random.integers(1, 4, size=shape))
    seconds = np.sort(random.integers(0, _SPAN_MS // 1000, size=shape), axis=1)
    return RawLog(
        users=_user_columns(random, users),
        items=_item_columns(random, movies.genre_I, genres),
        user=np.repeat(np.arange(1, users + 1), events_per_user),
        item=(item + 1).ravel(),
        rating=rating.astype(np.uint8).ravel(),
        timestamp_ms=_START_MS + seconds.ravel() * 1000,
        source=source.format(f"{users:,} users, {len(movies.genre_I):,} movies, {item.size:,} ratings"),
        best_probabilities=probability.ravel(),
    )


def _drifting_tastes(random: np.random.Generator, shape: tuple[int, int]) -> Int64Array:
    """The two genres each user likes at each event; [*shape, 2]."""
    users, events = shape
    taste = np.cumsum(random.random(shape) < 1.0 / _EVENTS_PER_TASTE, axis=1)
    tastes = int(taste.max()) + 1
    first = random.integers(0, len(GENRES), size=(users, tastes))
    second = (first + random.integers(1, len(GENRES), size=(users, tastes))) % len(GENRES)
    pairs = np.stack([first, second], axis=-1)
    liked: Int64Array = pairs[np.arange(users)[:, None], taste]
    return liked


def _draw_items(
    random: np.random.Generator,
    genre: Int64Array,
    movies: Movies,
) -> Int64Array:
    """Movies by popularity, of the given genre where that is not -1. Movies are sorted by genre, so a
    genre is a stretch of the cumulated popularity."""
    cumulated = np.concatenate([[0.0], np.cumsum(movies.popularity_I)])
    edges = cumulated[np.searchsorted(movies.genre_I, np.arange(movies.genre_I[-1] + 2))]
    low = np.where(genre < 0, 0.0, edges[genre])
    high = np.where(genre < 0, edges[-1], edges[genre + 1])
    point = low + (high - low) * random.random(genre.shape)
    return np.clip(np.searchsorted(cumulated, point, side="right") - 1, 0, len(movies.genre_I) - 1)


def _user_columns(random: np.random.Generator, users: int) -> dict[str, Any]:
    return {
        "user_id": np.arange(1, users + 1),
        "gender": np.where(random.random(users) < 0.5, "F", "M").tolist(),
        "age": random.choice(_AGES, size=users),
        "occupation": random.integers(0, 21, size=users),
        "zip": [f"{z:05d}" for z in random.integers(0, 100, size=users)],
    }


def _item_columns(random: np.random.Generator, genre_of_item: Int64Array, genres: Sequence[str]) -> dict[str, Any]:
    main = [genres[g] for g in genre_of_item]
    year = random.integers(1950, 2001, size=len(main))
    return {
        "movie_id": np.arange(1, len(main) + 1),
        "title": [f"{g} Movie {i} ({y})" for i, (g, y) in enumerate(zip(main, year, strict=True), start=1)],
        "main_genre": main,
        "genres": [[g] for g in main],
        "year": year,
    }
