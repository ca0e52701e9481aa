"""Bundles and releases with metrics of given quality, all on the same made-up test split of known segments."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from recsys.bundle import Certificate, Manifest, Measured
from recsys.evaluation.predictions import Predictions
from recsys.evaluation.recorded import record
from recsys.releases.release import RANKING, RELEASE, RELEASES, BundleRecord, Release, ReleaseFolder, release_text
from support.tiny_bundle import write_tiny_bundle

CERTIFIED = Certificate(
    requests=64, candidates=1800, max_abs_logit_difference=1e-6, tolerance=1e-4, compared="torch with onnxruntime"
)

USERS, EACH = 300, 10
NEW_USERS = 60
"""The last of the users are not in training."""


def predictions(*, signal: float = 1.5, of_new_users: float | None = None, seed: int = 0) -> Predictions:
    """Logits of ``USERS * EACH`` samples: ``signal`` times the label plus noise that is the same for every signal.

    Args:
        signal: of all users.
        of_new_users: another signal for users who are not in training.
        seed: of the samples.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    user = np.repeat(np.arange(USERS), EACH)
    label = random.integers(0, 2, USERS * EACH).astype(np.uint8)
    noise = random.normal(size=USERS * EACH)
    new = user >= USERS - NEW_USERS
    strength = np.where(new, signal if of_new_users is None else of_new_users, signal)
    return Predictions(
        user_key=user,
        item_key=random.integers(0, 50, USERS * EACH),
        time_ms=np.arange(USERS * EACH),
        label=label,
        logit=(strength * (strength * (label - 0.5) + noise)).astype(np.float32),  # the log odds, so calibrated
        earlier_events=np.full(USERS * EACH, 20, dtype=np.int32),
        user_train=np.where(new, 0, 5).astype(np.int32),
        item_train=np.ones(USERS * EACH, dtype=np.int32),
        popularity=np.full(USERS * EACH, 0.5),
        chance=np.full(USERS * EACH, 0.5),
    )


def measured(**quality: Any) -> Measured:
    """Metrics of :func:`predictions`."""
    return record(predictions(**quality))


def write_release(store: Path, name: str, of: Measured | None = None, **bundle: Any) -> ReleaseFolder:
    """A release of one tiny ranking bundle, written by hand; ``bundle``: arguments of ``write_tiny_bundle``."""
    folder = store / RELEASES / name
    folder.mkdir(parents=True)
    manifest = write_tiny_bundle(folder / RANKING, measured=of, **{"certificate": CERTIFIED, **bundle})
    return record_release(folder, ranking=manifest)


def record_release(
    folder: Path, *, ranking: Manifest | None = None, retrieval: Manifest | None = None
) -> ReleaseFolder:
    """Write ``release.json`` beside the bundles that lie in a folder."""
    first = ranking or retrieval
    assert first is not None
    release = Release(
        name=folder.name,
        ranking=None if ranking is None else BundleRecord(model=ranking.model, version=ranking.version, size_bytes=1),
        retrieval=None
        if retrieval is None
        else BundleRecord(model=retrieval.model, version=retrieval.version, size_bytes=1),
        feature_set=first.feature_set.name,
        feature_set_fingerprint=first.feature_set.fingerprint(),
        number=1,
        metrics=first.metrics,
    )
    (folder / RELEASE).write_text(release_text(release))
    return ReleaseFolder(path=folder, release=release)


def without_details(of: Measured) -> Measured:
    """The metrics as an older version recorded them."""
    return replace(of, evaluation=None, resamples={})
