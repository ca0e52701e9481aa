"""Metrics of a bundle on any dataset's test split, by its graphs: two bundles are compared on one set of samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from recsys.arrays import Int64Array
from recsys.bundle import Measured, read_manifest
from recsys.data.samples.dataset import Dataset
from recsys.errors import BundleError, InvalidInputError
from recsys.evaluation.predictions import predictions_of
from recsys.evaluation.recorded import record
from recsys.export.certificate import OrtGraphs, sample_request
from recsys.features.extension import extension_problem
from recsys.features.feature_set import FeatureSet

SAMPLES = 20_000
"""Fewest samples that are measured, if there are as many: a thousand take a second or so."""


def measure_bundle(
    folder: Path,
    dataset: Dataset,
    *,
    samples: int = SAMPLES,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Measured:
    """Metrics of a ranking bundle on a test split, of all and by segment.

    Each sample is asked for as a request, as a store that holds the dataset's table would answer it.

    Args:
        folder: of the bundle.
        dataset: with keys; its features are the bundle's or extend them.
        samples: whole users are drawn, the same for every bundle, until there are so many; 0: all.
        report: told how many samples are done, of how many.

    Raises:
        BundleError: the bundle does not rank, or gives what are no numbers.
        InvalidInputError: there is no test split, all its labels are equal, or the dataset lacks what the bundle reads.
    """
    manifest = read_manifest(folder)
    if manifest.kind != "ranking":
        raise BundleError(f"{folder}: a {manifest.kind} bundle; allowed: ranking")
    features = manifest.feature_set
    check_dataset(dataset, features)
    indices = sampled_users(dataset, samples)
    graphs, logits = OrtGraphs(folder), np.empty(len(indices), dtype=np.float32)
    for row, index in enumerate(indices.tolist()):
        item = dataset.sample_item[[index]].astype(np.int64)
        logits[row] = graphs.logits(sample_request(dataset, index, item, features))[0]
        report(row + 1, len(indices))
    if not np.isfinite(logits).all():
        broken = int((~np.isfinite(logits)).sum())
        raise BundleError(f"{folder}: {broken:,} of {len(logits):,} logits are no finite numbers")
    return record(predictions_of(dataset, indices, logits))


def check_dataset(dataset: Dataset, features: FeatureSet) -> None:
    """Refuse a dataset that lacks what a bundle of these features reads.

    Raises:
        InvalidInputError: it does; the message names what.
    """
    own = dataset.table.features
    problem = extension_problem(replace(own, name=features.name), features)
    lacking = [feature.name for feature in features.context if feature not in own.context]
    if not problem and lacking:
        problem = f"context feature {lacking[0]} removed"
    if problem:
        raise InvalidInputError(
            f"the data were prepared with FeatureSet {own.name!r} ({own.fingerprint()}), the bundle reads "
            f"{features.name!r} ({features.fingerprint()}): {problem}; prepare the log with the bundle's features"
        )


def sampled_users(dataset: Dataset, samples: int) -> Int64Array:
    """The test samples of users drawn at random until there are at least so many, 0: all; the same ones every time.

    Raises:
        InvalidInputError: there is no test split.
    """
    tested = dataset.split("test")
    if not len(tested):
        raise InvalidInputError("the data have no test split: there is nothing to measure")
    if not samples or samples >= len(tested):
        return np.sort(tested).astype(np.int64)
    users, user_M, count_U = np.unique(dataset.sample_user[tested], return_inverse=True, return_counts=True)
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(users))
    enough = int(np.searchsorted(np.cumsum(count_U[order]), samples)) + 1
    return np.sort(tested[np.isin(user_M, order[:enough])]).astype(np.int64)
