"""Logged requests: put what a request log holds to two ranking models in turns, in this process, and compare.

Nothing is read from a store: both get the inputs that the server logged. ``C`` candidates, ``S`` events.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recsys.arrays import Float32Array, Float64Array
from recsys.errors import InvalidInputError
from recsys.features.columns import Column
from recsys.features.encode import EncodedRequest, encode_request
from recsys.features.feature_set import FeatureSet
from recsys.features.history.records import event_dtype
from recsys.rows.request_log import open_request_log
from recsys.serving.deadline import Deadline
from recsys.serving.handlers.shadow import share_in_common
from recsys.serving.inference.ranking_session import RankingSession, Scores

_BATCH = 64
_RUN_S = 60.0


@dataclass(kw_only=True)
class Compared:
    """Comparison of two models on logged requests: of b beside a.

    Attributes:
        requests: that both scored.
        candidates: of these.
        left_out: requests of the log that could not be compared, by reason.
        not_finite: requests that gave a number that is none, of a and of b; they are in no figure below.
        differences: scores of b less those of a, an array for each request.
        overlaps: share of the best candidates in common, by request.
        correlations: Spearman's rank correlation of the scores, by request of at least two candidates that differ.
        seconds: of each run, of a and of b.
    """

    requests: int = 0
    candidates: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    not_finite: tuple[int, int] = (0, 0)
    differences: list[Float64Array] = field(default_factory=list)
    overlaps: list[float] = field(default_factory=list)
    correlations: list[float] = field(default_factory=list)
    seconds: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))


def compare_logged(
    files: Sequence[Path],
    a: RankingSession,
    b: RankingSession,
    *,
    most: int,
    progress: Callable[[int], None] = lambda requests: None,
) -> Compared:
    """Put requests of a log to two models; which goes first changes with each request.

    Args:
        files: of a request log, those of the newest requests first.
        a, b: the models.
        most: requests to compare.
        progress: told their number so far.

    Raises:
        DataFileError: a file is no request log.
        InvalidInputError: a model reads a feature that the log does not have.
    """
    found = Compared()
    for file in files:
        features, rows = _logged(file)
        layout = _sample(features)
        models = [_Reader(session, features, layout) for session in (a, b)]
        for row in rows:
            if found.requests >= most:
                return found
            reason = _unfit(row, models, features)
            if reason:
                found.left_out[reason] = found.left_out.get(reason, 0) + 1
                continue
            _compare(found, row, models)
            progress(found.requests)
    return found


class _Reader:
    """Makes a model's inputs of logged requests.

    Raises:
        InvalidInputError: it reads a feature that the log does not have.
    """

    def __init__(self, session: RankingSession, logged: FeatureSet, layout: EncodedRequest) -> None:
        self.session = session
        history = session.features.history
        self._recent = 0 if history is None else history.recent
        self._empty = _sample(session.features)
        for side in ("user", "candidates"):
            own, there = getattr(self._empty, side), getattr(layout, side)
            for name, column in own.items():
                if name not in there or (there[name].dtype, there[name].shape[1:]) != (column.dtype, column.shape[1:]):
                    raise InvalidInputError(
                        f"model {session.model!r} reads {name!r}, which the log of FeatureSet {logged.name!r} "
                        f"({logged.fingerprint()}) does not have, or has of another type; compare on a log of requests "
                        "that a release with this feature answered"
                    )

    def request(self, row: Mapping[str, Any]) -> EncodedRequest:
        """The inputs of a logged request."""
        events = 0
        user = {}
        for name, empty in self._empty.user.items():
            if name.startswith("history."):
                column = _column(row[name], empty)[-self._recent :] if self._recent else empty[:0]
                events = len(column)
                user[name] = column if events else empty
            else:
                user[name] = _column(row[f"user.{name}"], empty)
        candidates = {name: _column(row[f"item.{name}"], empty) for name, empty in self._empty.candidates.items()}
        return EncodedRequest(user=user, candidates=candidates, history_events=events)


def _compare(found: Compared, row: Mapping[str, Any], models: Sequence[_Reader]) -> None:
    requests = [model.request(row) for model in models]
    if not found.requests:  # the first run of a model takes longer
        for model, request in zip(models, requests, strict=True):
            _timed(model, request)
    order = (0, 1) if found.requests % 2 else (1, 0)
    runs = {number: _timed(models[number], requests[number]) for number in order}
    found.requests += 1
    finite = [bool(np.isfinite(runs[number][0].logits).all()) for number in (0, 1)]
    found.not_finite = tuple(  # type: ignore[assignment]
        count + (not fine) for count, fine in zip(found.not_finite, finite, strict=True)
    )
    for number in (0, 1):
        found.seconds[number].append(runs[number][1])
    if not all(finite):
        return
    ours, others = runs[0][0], runs[1][0]
    found.candidates += len(ours.scores)
    found.differences.append(others.scores.astype(np.float64) - ours.scores)
    found.overlaps.append(share_in_common(ours.logits, others.logits, wanted=len(row["best"] or ())))
    if (correlation := rank_correlation(ours.logits, others.logits)) is not None:
        found.correlations.append(correlation)


def rank_correlation(ours: Float32Array, others: Float32Array) -> float | None:
    """Spearman's rank correlation, equal values sharing their mean rank; None if either side has one value only.

    >>> rank_correlation(np.array([1, 2, 3], np.float32), np.array([5, 6, 9], np.float32))
    1.0
    """
    first, second = _mean_ranks(ours), _mean_ranks(others)
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((first @ first) * (second @ second)))
    return round(float(first @ second) / scale, 12) if scale else None


def _mean_ranks(values: Float32Array) -> Float64Array:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Float64Array = (np.cumsum(counts) - (counts - 1) / 2.0)[place]
    return ranks


def _timed(model: _Reader, request: EncodedRequest) -> tuple[Scores, float]:
    deadline = Deadline.after(_RUN_S)
    started_s = time.perf_counter()
    scores = model.session.run(request, deadline=deadline)
    return scores, time.perf_counter() - started_s


def _unfit(row: Mapping[str, Any], models: Sequence[_Reader], features: FeatureSet) -> str:
    """The reason why a request cannot be compared; empty: it can."""
    if row["degraded"]:
        return "degraded when it was answered"
    if not row["score"]:
        return "no candidates"
    logged = len(row[f"history.{features.item_id.name}"]) if features.history is not None else 0
    if row["history_events"] > logged and any(model.session.state is not None for model in models):
        return "a long history, of which the log holds the newest events only"
    return ""


def _column(values: Sequence[Any], like: Column) -> Column:
    return np.asarray(values, dtype=like.dtype).reshape(-1, *like.shape[1:])


def _sample(features: FeatureSet) -> EncodedRequest:
    """A request without events: names, types and shapes of its columns."""
    return encode_request(
        features,
        user_key=0,
        user_columns={},
        request_values={},
        events=None if features.history is None else np.zeros(0, dtype=event_dtype(features)),
        item_keys=np.zeros(1, dtype=np.int64),
        item_columns={},
    )


def _logged(path: Path) -> tuple[FeatureSet, Iterator[dict[str, Any]]]:
    """The FeatureSet of a file's requests, and these."""
    file, features = open_request_log(path)
    return features, (row for batch in file.iter_batches(_BATCH) for row in batch.to_pylist())
