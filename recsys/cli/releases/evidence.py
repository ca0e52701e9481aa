"""Work before a promotion that takes long: both releases measured, live requests compared, states precomputed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.cli.options import notes
from recsys.errors import ConfigError
from recsys.progress import BatchProgress, progress
from recsys.releases.release import RANKING, ReleaseFolder

if TYPE_CHECKING:
    from recsys.bundle import Measured
    from recsys.data.samples.dataset import Dataset
    from recsys.parity.report import ParityReport
    from recsys.serving.long_history.precompute import PrecomputedStates


def load_data(source: str, work_dir: Path) -> Dataset:
    """The data of ``--data``; raises what ``load_dataset`` does."""
    from recsys.data.datasets import load_dataset

    with progress(notes, "reading the data"):
        return load_dataset(source, work_dir=work_dir, path=None).dataset


def measure_both(
    candidate: ReleaseFolder, running: ReleaseFolder | None, dataset: Dataset, *, samples: int
) -> Mapping[str, tuple[Measured, Measured]]:
    """Metrics of two releases' ranking bundles on one test split, by part of the release; none without a second.

    Raises:
        ConfigError: a release has no ranking bundle.
        BundleError, InvalidInputError: as :func:`recsys.export.measure.measure_bundle`.
    """
    if running is None:
        return {}
    from recsys.export.measure import measure_bundle

    found = []
    with progress(notes, "measuring") as work:
        for whose, release in (("the release", candidate), ("the running release", running)):
            if release.ranking is None:
                raise ConfigError(f"--measure is for ranking bundles; {release.release.name} has none")
            work.stage(f"measuring {whose}, samples")
            found.append(measure_bundle(release.ranking, dataset, samples=samples, report=work.count))
    return {RANKING: (found[0], found[1])}


def trained_on_other_data(running: ReleaseFolder, dataset: Dataset) -> bool:
    """True if it is unknown whether the running release was trained on samples of the test split."""
    from recsys.data.samples.fingerprint import data_fingerprint

    return running.manifest().training.get("data") != data_fingerprint(dataset)


def compare_requests(dataset: Dataset, requests: Path) -> ParityReport:
    """Compare a request log with the data, as `recsys parity --requests` does.

    Raises:
        ConfigError: there is no log.
        DataFileError: a file is none, or of other features.
    """
    from recsys.cli.parity import request_log_files
    from recsys.parity.requests import request_parity

    with progress(notes, "comparing requests"):
        return request_parity(dataset.table, request_log_files(requests))


def precompute(
    candidate: ReleaseFolder, url: str, *, ttl_s: int, users_per_s: float, active_within_s: int
) -> PrecomputedStates:
    """Compute the states of recent users for a release at a bounded rate, and show progress.

    Raises:
        StoreError: the store cannot be reached, is full, or holds another layout.
    """
    from recsys.bundle import open_bundle
    from recsys.serving.long_history.precompute import PrecomputeLimits, precompute_states

    assert candidate.ranking is not None
    shown = BatchProgress(notes)
    limits = PrecomputeLimits(max_users_per_s=users_per_s, active_within_s=active_within_s, low_priority=True)

    def report(done: PrecomputedStates, total: int) -> None:
        shown.batch_done(lambda: f"states: {states_text(done)}", lambda: f" of {total:,} users")

    try:
        opened = open_bundle(candidate.ranking, verify="sizes")  # it was hashed just now
        return precompute_states(opened, url, ttl_s=ttl_s, limits=limits, progress=report)
    except BaseException as error:
        shown.broken_off(error)
        raise


def states_text(done: PrecomputedStates) -> str:
    """Words on what was done."""
    return (
        f"{done.users:,} users: {done.written:,} states written, {done.kept:,} good already, {done.short:,} need none, "
        f"{done.inactive:,} not active lately, in {done.elapsed_s:.0f} s"
    )
