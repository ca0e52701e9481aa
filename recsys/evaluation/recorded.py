"""Records of a test split for a bundle: metrics by segment with standard errors, and digests of the samples.

Users are resampled; two models' resamples of the same samples are of the same draws, so that the difference of two
bundles has the standard error of the paired difference although neither has the other's predictions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
import xxhash

from recsys.arrays import Float32Array, Int64Array
from recsys.bundle import Evaluation, Measured, SegmentMetrics
from recsys.evaluation.baselines import LEAST_USERS
from recsys.evaluation.evaluate import HISTORY_BUCKETS, measure, resample, segments, slices
from recsys.evaluation.predictions import Predictions, UserValues
from recsys.metrics import Resamples, mean_resamples

RESAMPLES = 100
"""A standard error from so many is right to 7 %."""

IN_SEGMENTS = ("auc", "gauc", "log_loss", "calibration_error")


def record(predictions: Predictions) -> Measured:
    """Metrics of a ranking model's predictions, of all and by segment.

    Raises:
        InvalidInputError: there are no samples, or all labels are equal.
    """
    drawn = _drawn(predictions)
    resamples = {"": drawn}
    found: dict[str, SegmentMetrics] = {}
    parts = slices(predictions)
    for segment in segments(predictions):
        part = predictions.where(parts[segment.name])
        metrics = {name: getattr(segment, name) for name in IN_SEGMENTS}
        resamples[segment.name] = {n: v for n, v in _drawn(part).items() if metrics.get(n) is not None}
        found[segment.name] = SegmentMetrics(
            samples=segment.samples,
            data=samples_digest(part),
            metrics=metrics,
            standard_errors=_standard_errors(resamples[segment.name]),
        )
    evaluation = Evaluation(data=samples_digest(predictions), standard_errors=_standard_errors(drawn), segments=found)
    return Measured(metrics=asdict(measure(predictions)), evaluation=evaluation, resamples=resamples)


def record_lists(
    metrics: Mapping[str, float | None], of_users: UserValues, *, data: str, training_pairs_G: Int64Array
) -> Measured:
    """The same of a model that ranks all items; segments are by the user's training pairs.

    Args:
        metrics: means over users.
        of_users: their values, [G] each.
        data: digest of what was ranked and found: users, items, what was left out, lengths of lists.
        training_pairs_G: of each user, [G].
    """
    resamples = {"": _drawn_lists(of_users)}
    found: dict[str, SegmentMetrics] = {}
    for first, following in zip(HISTORY_BUCKETS, (*HISTORY_BUCKETS[1:], None), strict=True):
        chosen_G = (training_pairs_G >= first) & (following is None or training_pairs_G < following)
        if not chosen_G.any():
            continue
        part = UserValues(user_G=of_users.user_G[chosen_G], values={n: v[chosen_G] for n, v in of_users.values.items()})
        last = "or more" if following is None else f"to {following - 1}"
        name = f"history {first}" if following == first + 1 else f"history {first} {last}"
        resamples[name] = _drawn_lists(part)
        found[name] = SegmentMetrics(
            samples=len(part.user_G),
            data=_digest(data, part.user_G),
            metrics={metric: float(values_G.mean()) for metric, values_G in part.values.items()},
            standard_errors=_standard_errors(resamples[name]),
        )
    evaluation = Evaluation(data=data, standard_errors=_standard_errors(resamples[""]), segments=found)
    return Measured(metrics=metrics, evaluation=evaluation, resamples=resamples)


def samples_digest(predictions: Predictions) -> str:
    """16 hex digits of the samples and their labels, in any order: users, items, moments."""
    columns = (predictions.label, predictions.time_ms, predictions.item_key, predictions.user_key)
    order = np.lexsort(columns)
    return _digest("samples", *(column[order].astype(np.int64) for column in columns))


def lists_digest(
    *,
    wanted: tuple[Int64Array, Int64Array],
    items: Int64Array,
    excluded: Sequence[tuple[Int64Array, Int64Array]],
    list_length: int,
) -> str:
    """16 hex digits of a task of ranking all items.

    Args:
        wanted: keys of the users and items of the pairs to find.
        items: keys of all items.
        excluded: keys of the pairs that are left out.
        list_length: of the lists.
    """
    pairs = [np.stack(each)[:, np.lexsort(each[::-1])].ravel() for each in (wanted, *excluded)]
    return _digest("lists", np.array([list_length, len(pairs)]), np.sort(items), *pairs)


def _digest(what: str, *columns: npt.NDArray[np.int64]) -> str:
    content = xxhash.xxh3_64(what.encode())
    for column in columns:
        content.update(np.ascontiguousarray(column, dtype="<i8").data if column.size else b"none")
    return content.hexdigest()


def _drawn(predictions: Predictions) -> dict[str, Float32Array]:
    if len(np.unique(predictions.user_key)) < LEAST_USERS:
        return {}
    return _values(resample(predictions, resamples=RESAMPLES))


def _drawn_lists(of_users: UserValues) -> dict[str, Float32Array]:
    if len(of_users.user_G) < LEAST_USERS:
        return {}
    return _values(mean_resamples(dict(of_users.values), resamples=RESAMPLES))


def _values(drawn: Mapping[str, Resamples]) -> dict[str, Float32Array]:
    return {name: each.values_R.astype(np.float32) for name, each in drawn.items()}


def _standard_errors(drawn: Mapping[str, Float32Array]) -> dict[str, float]:
    errors = {}
    for name, values_R in drawn.items():
        defined = values_R[np.isfinite(values_R)].astype(np.float64)
        if 2 * len(defined) >= len(values_R) and len(defined) > 1:
            errors[name] = float(defined.std(ddof=1))
    return errors
