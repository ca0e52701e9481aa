"""Metrics of a model on samples it was not trained on: of all, of segments, and how sure one can be of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from recsys.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from recsys.data.samples.dataset import Dataset
from recsys.data.samples.ids import rows_of_codes
from recsys.data.samples.loader import BatchLoader
from recsys.embeddings.tables import BatchConverter
from recsys.evaluation.predictions import Predictions, predictions_of
from recsys.metrics import (
    OnePositiveLists,
    Resamples,
    auc,
    auc_by_group,
    calibration_error,
    gauc,
    log_loss,
    one_positive_lists,
    reliability,
    user_resamples,
)

Counted = Callable[[int, int], None]
"""Told how many samples are done, of how many."""

EVALUATION_BATCH = 2048
LIST_LENGTH = 10
"""k of the metrics of candidate lists, as published for the protocols with 99 sampled negatives."""

HISTORY_BUCKETS = (0, 1, 10, 50, 200)
"""Where the segments by number of earlier events begin."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Metrics of a model's logits on some samples, and how many these were.

    Attributes:
        auc: see :func:`recsys.metrics.auc`.
        gauc: AUC per user, weighted by the user's samples; None if no user has both labels.
        log_loss: mean, natural logarithm.
        samples, positives: how many.
        calibration_error: expected calibration error over 15 bins of equally many samples.
        mrr: mean over lists of candidates with one positive each, a list being the samples of one user and moment;
            None if the samples are no such lists.
        hit_rate_at_10, ndcg_at_10: means over the lists of more than 10 candidates, since whatever ranks 10 has its
            positive in the first 10; None if there are none.
        lists: how many; 0 if the samples are no lists.
        long_lists: those of more than 10 candidates.
        shortest_list, longest_list: candidates in a list; 0 without lists.
    """

    auc: float
    gauc: float | None
    log_loss: float
    samples: int
    positives: int
    calibration_error: float | None = None
    hit_rate_at_10: float | None = None
    ndcg_at_10: float | None = None
    mrr: float | None = None
    lists: int = 0
    long_lists: int = 0
    shortest_list: int = 0
    longest_list: int = 0

    def __str__(self) -> str:
        per_user = "none" if self.gauc is None else f"{self.gauc:.4f}"
        lists = "" if self.ndcg_at_10 is None else f"   NDCG@10 {self.ndcg_at_10:.4f}"
        return f"AUC {self.auc:.4f}   GAUC {per_user}   log loss {self.log_loss:.4f}{lists}"


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of the samples. A metric that has no value there, as AUC where all labels are equal, is None.

    Attributes:
        name: for example ``history 1 to 9``.
        samples, positives: how many; a segment without samples is not reported.
        auc, gauc, log_loss, calibration_error: as in :class:`Metrics`.
    """

    name: str
    samples: int
    positives: int
    auc: float | None
    gauc: float | None
    log_loss: float
    calibration_error: float


@torch.no_grad()
def predict(
    model: nn.Module,
    dataset: Dataset,
    indices: Int64Array,
    *,
    convert: BatchConverter,
    device: torch.device,
    report: Counted = lambda done, total: None,
) -> Float32Array:
    """Logits of the given samples of a mapped dataset, in their order; [M]. ``report`` is told how many are done."""
    was_training = model.training
    model.eval()
    loader = BatchLoader(dataset, indices, batch_size=EVALUATION_BATCH, shuffle=False)
    logits: list[Float32Array] = []
    for number, batch in enumerate(loader, start=1):
        logits.append(model(convert(batch, rows_of_codes(dataset)).to(device))[0].cpu().numpy())
        report(min(number * EVALUATION_BATCH, len(indices)), len(indices))
    model.train(was_training)
    return np.concatenate(logits) if logits else np.zeros(0, dtype=np.float32)


def evaluate(dataset: Dataset, indices: Int64Array, logits: Float32Array) -> Metrics:
    """Compare logits with labels.

    Raises:
        InvalidInputError: there are no samples, or all labels are equal.
    """
    return measure(predictions_of(dataset, indices, logits))


def measure(predictions: Predictions) -> Metrics:
    """Metrics of all the samples.

    Raises:
        InvalidInputError: there are no samples, or all labels are equal.
    """
    label, logit, probability = predictions.label, predictions.logit, predictions.probability
    lists = candidate_lists(predictions)
    length_G = np.zeros(0, dtype=np.int64) if lists is None else lists.length_G
    long_G = length_G > LIST_LENGTH
    return Metrics(
        auc=auc(label, logit),
        gauc=_or_none(gauc(label, logit, predictions.user_key)),
        log_loss=log_loss(label, probability),
        samples=len(label),
        positives=int(label.sum()),
        calibration_error=calibration_error(reliability(label, probability)),
        hit_rate_at_10=float(lists.hit_rate_G(LIST_LENGTH)[long_G].mean()) if lists and long_G.any() else None,
        ndcg_at_10=float(lists.ndcg_G(LIST_LENGTH)[long_G].mean()) if lists and long_G.any() else None,
        mrr=None if lists is None else float(lists.reciprocal_rank_G().mean()),
        lists=len(length_G),
        long_lists=int(long_G.sum()),
        shortest_list=0 if lists is None else int(length_G.min()),
        longest_list=int(length_G.max(initial=0)),
    )


def candidate_lists(predictions: Predictions) -> OnePositiveLists | None:
    """The samples as lists of candidates, one per user and moment; None if those do not have one positive each."""
    if 2 * int(predictions.label.sum()) > len(predictions):  # a list has at least as many negatives
        return None
    moments, moment_M = np.unique(predictions.time_ms, return_inverse=True)
    _, user_M = np.unique(predictions.user_key, return_inverse=True)
    list_M = user_M * len(moments) + moment_M
    return one_positive_lists(predictions.label, predictions.logit, list_M)


def segments(predictions: Predictions) -> list[Segment]:
    """Metrics by number of earlier events, and of users and items with and without training samples.

    Users without history are ``history 0``. Segments without samples are left out.
    """
    found = []
    for name, chosen in slices(predictions).items():
        part = predictions.where(chosen)
        if len(part):
            found.append(_segment(name, part))
    return found


def resample(predictions: Predictions, *, resamples: int = 1000, seed: int = 0) -> dict[str, Resamples]:
    """Metrics of :class:`Metrics` under resampling of users; those that have no value are left out.

    Two models' predictions of the same samples see the same draws.

    Raises:
        InvalidInputError: no resamples.
    """
    label, logit, user = predictions.label, predictions.logit, predictions.user_key
    _, user_M, size_U = np.unique(user, return_inverse=True, return_counts=True)
    auc_U, _ = auc_by_group(label, logit, user)
    both_U = np.where(np.isnan(auc_U), 0.0, size_U)
    probability = np.clip(predictions.probability, 1e-7, 1 - 1e-7)
    loss_M = -np.where(label == 1, np.log(probability), np.log1p(-probability))
    means = {
        "gauc": (np.nan_to_num(auc_U) * both_U, both_U),
        "log_loss": (np.bincount(user_M, weights=loss_M), size_U.astype(np.float64)),
    }
    lists = candidate_lists(predictions)
    if lists is not None:
        user_G = np.empty(len(lists.above_G), dtype=np.int64)
        user_G[lists.group_M] = user_M

        def by_user(values_G: Float64Array) -> Float64Array:
            return np.bincount(user_G, weights=values_G, minlength=len(size_U)).astype(np.float64)

        long_G = (lists.length_G > LIST_LENGTH).astype(np.float64)
        if long_G.any():
            means["hit_rate_at_10"] = (by_user(lists.hit_rate_G(LIST_LENGTH) * long_G), by_user(long_G))
            means["ndcg_at_10"] = (by_user(lists.ndcg_G(LIST_LENGTH) * long_G), by_user(long_G))
        means["mrr"] = (by_user(lists.reciprocal_rank_G()), by_user(np.ones(len(user_G))))
    drawn = user_resamples(label, logit, user, means=means, resamples=resamples, seed=seed)
    return {name: values for name, values in drawn.items() if values.interval() is not None}


def slices(predictions: Predictions) -> dict[str, BoolArray]:
    """Masks of the samples of each segment, by the segment's name; [M] each."""
    found: dict[str, BoolArray] = {}
    earlier = predictions.earlier_events
    if len(earlier) and earlier.max() >= 0:
        for first, following in zip(HISTORY_BUCKETS, (*HISTORY_BUCKETS[1:], None), strict=True):
            if following is None:
                found[f"history {first} or more"] = earlier >= first
            else:
                name = f"history {first}" if following == first + 1 else f"history {first} to {following - 1}"
                found[name] = (earlier >= first) & (earlier < following)
    for side, count in (("user", predictions.user_train), ("item", predictions.item_train)):
        found[f"{side} new"], found[f"{side} seen in training"] = count == 0, count > 0
    return found


def _segment(name: str, part: Predictions) -> Segment:
    positives = int(part.label.sum())
    return Segment(
        name=name,
        samples=len(part),
        positives=positives,
        auc=auc(part.label, part.logit) if 0 < positives < len(part) else None,
        gauc=_or_none(gauc(part.label, part.logit, part.user_key)),
        log_loss=log_loss(part.label, part.probability),
        calibration_error=calibration_error(reliability(part.label, part.probability)),
    )


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
