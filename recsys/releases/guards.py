"""Guards of a promotion: reasons for which a release may not go live (``docs/guides/releases.md``).

A release is compared with the one that is live under the same name. Nothing that cannot be compared passes in silence:
it is a reason, too, and says how to go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from recsys.bundle import RESAMPLES, Manifest, Measured, read_manifest
from recsys.bundle.evaluation import read_resamples
from recsys.bundle.verify import Verify
from recsys.errors import BundleError
from recsys.features.changes import changes
from recsys.features.extension import extension_problem
from recsys.features.feature_set import FeatureSet
from recsys.metrics import worse_by
from recsys.releases.comparison import Bounds, MetricRow, compare_measured
from recsys.releases.release import RANKING, RETRIEVAL, ReleaseFolder
from recsys.releases.verify import altered_files

GO_ON = (
    "measure both on one test split (`recsys release promote --measure --data SOURCE`), or promote in spite of it "
    "(`--anyway WHY`)"
)
"""Ways on where metrics cannot be compared."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Verdict on a candidate beside the running release.

    Attributes:
        damage: what is not as it was pushed; nobody can want such a release.
        refusals: other reasons for which it may not be promoted; without any, and without damage, it may.
        rows: their metrics; empty where nothing runs yet, or nothing could be compared.
        notes: what does not refuse, and is to be known: features that are empty until they are loaded.
    """

    damage: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    rows: tuple[MetricRow, ...] = ()
    notes: tuple[str, ...] = ()


def refusals(candidate: ReleaseFolder, running: ReleaseFolder | None, bounds: Bounds | None = None) -> list[str]:
    """Reasons for which a release may not be promoted; none: it may. See :func:`inspect`."""
    found = inspect(candidate, running, bounds or Bounds())
    return [*found.damage, *found.refusals]


def inspect(
    candidate: ReleaseFolder,
    running: ReleaseFolder | None,
    bounds: Bounds,
    *,
    measured: Mapping[str, tuple[Measured, Measured]] | None = None,
    verify: Verify = "full",
    count: Callable[[int], None] = lambda _: None,
) -> Findings:
    """Look at everything that a promotion demands.

    Args:
        candidate: the release.
        running: live under the same name; None: there is none, so that certificates and files are all there is to see.
        bounds: of its metrics.
        measured: part -> metrics of the candidate and of the running release on the same samples, instead of those in
            their manifests.
        verify: of the candidate's files: ``full`` hashes them, about 1 GB/s.
        count: called with the bytes that were hashed since the last call.
    """
    damage = [f"{reason}; push its bundles again" for reason in altered_files(candidate, verify=verify, count=count)]
    reasons: list[str] = []
    notes: list[str] = []
    rows: list[MetricRow] = []
    new_parts, old_parts = dict(_parts(candidate)), {} if running is None else dict(_parts(running))
    manifests = {part: manifest for part, folder in new_parts.items() if (manifest := _read(folder)) is not None}
    for part, manifest in manifests.items():
        reasons += _certified(part, manifest)
        reasons += _worse_by_compute(part, manifest, bounds)
    for part, folder in old_parts.items():
        if part not in new_parts:
            reasons.append(f"{part}: the release has no {part} bundle, the running one has: calls for it would fail")
            continue
        try:
            old = read_manifest(folder)
        except BundleError as error:
            reasons.append(f"{part}: the running release cannot be read: {error}; metrics are not compared: {GO_ON}")
            continue
        if part in manifests:  # else it is damaged, which is said above
            new = manifests[part]
            _compare_features(part, new.feature_set, old.feature_set, reasons, notes)
            given = (measured or {}).get(part)
            reasons += _compare_metrics(part, (new, new_parts[part]), (old, folder), given, bounds, rows)
    return Findings(damage=tuple(damage), refusals=tuple(reasons), rows=tuple(rows), notes=tuple(dict.fromkeys(notes)))


def states_problem(candidate: ReleaseFolder, running: ReleaseFolder | None) -> str:
    """Say why states of long histories that the running release keeps are of no use to another; empty if they are.

    Nothing is said of a release without states, of a damaged one, and where nothing runs yet.
    """
    manifest = None if candidate.ranking is None else _read(candidate.ranking)
    if running is None or manifest is None or not manifest.state_version:
        return ""
    old = None if running.ranking is None else _read(running.ranking)
    kept = "" if old is None else old.state_version
    if kept == manifest.state_version:
        return ""
    whose = f"the running release's are of version {kept}" if kept else "the running release keeps none"
    return (
        f"states of long histories: this release's are of version {manifest.state_version}, {whose}: each user's would "
        "be computed from all events with the first request"
    )


def measured_of(folder: Path, manifest: Manifest) -> Measured:
    """The metrics in a bundle; raises BundleError."""
    resamples = read_resamples(folder / RESAMPLES) if RESAMPLES in manifest.files else {}
    return Measured(metrics=manifest.metrics, evaluation=manifest.evaluation, resamples=resamples)


def _parts(release: ReleaseFolder) -> Iterator[tuple[str, Path]]:
    for part, folder in ((RANKING, release.ranking), (RETRIEVAL, release.retrieval)):
        if folder is not None:
            yield part, folder


def _read(folder: Path) -> Manifest | None:
    try:
        return read_manifest(folder)
    except BundleError:
        return None


def _certified(part: str, manifest: Manifest) -> Iterator[str]:
    """Reasons that lie in the bundle's certificate."""
    certificate = manifest.certificate
    if certificate.requests < 1 or certificate.candidates < 1:
        yield (
            f"{part}: no parity certificate: {certificate.requests} requests were compared ({certificate.compared}); "
            "export the run with `recsys export`, which compares ONNX Runtime's answers with the model's"
        )
    elif not certificate.max_abs_logit_difference <= certificate.tolerance:
        yield (
            f"{part}: the parity certificate states a logit difference of {certificate.max_abs_logit_difference:.1e}; "
            f"allowed: {certificate.tolerance:.1e}; export the run again"
        )
    compute = manifest.compute
    if compute is not None and not compute.mean_abs_logit_difference <= compute.tolerance:
        yield (
            f"{part}: {compute.kind} products change logits by {compute.mean_abs_logit_difference:.1e} on average; "
            f"allowed: {compute.tolerance:.1e}; export with float32 products"
        )


def _worse_by_compute(part: str, manifest: Manifest, bounds: Bounds) -> Iterator[str]:
    """Reasons that lie in products in smaller numbers: a manifest's own metrics are of float32."""
    compute = manifest.compute
    if compute is None:
        return
    own = {} if compute.own_operators is None else compute.own_operators.get("metrics", {})
    for whose, metrics in (("", compute.metrics), (" in recsys's own operators", own)):
        for metric in _OF_ALL_SAMPLES:
            value, exact = metrics.get(metric), compute.float32_metrics.get(metric)
            if value is None or exact is None:
                continue
            worse, allowed = worse_by(metric, value, exact), bounds.of(metric).allowed(exact)
            if worse is not None and not worse <= allowed:
                yield (
                    f"{part}: {compute.kind} products{whose} make {metric} {value:.4f}, {worse:.4f} worse than "
                    f"float32's {exact:.4f}; allowed: {allowed:.4f}; export with float32 products"
                )


_OF_ALL_SAMPLES = ("auc", "log_loss", "calibration_error")
"""Metrics that a few samples do not move: one position in fifty lists is 2 % of others."""


def _compare_features(part: str, new: FeatureSet, old: FeatureSet, reasons: list[str], notes: list[str]) -> None:
    """Judge if a store that serves the one FeatureSet can serve the other, too."""
    if problem := extension_problem(new, old):
        reasons.append(
            f"{part}: FeatureSet {new.name!r} ({new.fingerprint()}) cannot be served from the store of the running "
            f"release's {old.name!r} ({old.fingerprint()}): {problem}. New features may only be added at "
            "the end; serve another FeatureSet from servers of its own"
        )
    notes += [
        f"{part}: {change.what}: empty until it is loaded (`recsys materialize`)"
        for change in changes(old, new)
        if change.store == "backfill"
    ]


def _compare_metrics(
    part: str,
    new: tuple[Manifest, Path],
    old: tuple[Manifest, Path],
    given: tuple[Measured, Measured] | None,
    bounds: Bounds,
    rows: list[MetricRow],
) -> Iterator[str]:
    try:
        pair = given or (measured_of(new[1], new[0]), measured_of(old[1], old[0]))
    except BundleError as error:
        yield f"{part}: metrics are not compared: {error}; {GO_ON}"
        return
    for whose, measured in zip(("the release", "the running release"), pair, strict=True):
        if reason := _lacking(measured):
            yield f"{part}: metrics cannot be compared: {whose} {reason}; {GO_ON}"
            return
    mine, theirs = (measured.evaluation for measured in pair)
    assert mine is not None and theirs is not None
    if mine.data != theirs.data:
        yield (
            f"{part}: metrics cannot be compared: the release's are of other test data ({mine.data}) than the running "
            f"release's ({theirs.data}); {GO_ON}"
        )
        return
    found = compare_measured(part, *pair, bounds)
    rows += found
    for row in found:
        if row.refuses:
            where = f"{row.metric} of segment {row.segment!r}" if row.segment and row.metric else row.metric
            where = where or f"segment {row.segment!r}"
            more = f"; {GO_ON}" if row.verdict == "missing" else ""
            yield f"{part}: {where}: {row.why}{more}"


def _lacking(measured: Measured) -> str:
    """Reason for which figures cannot be compared with any; empty: there is none."""
    if not any(isinstance(value, float) and math.isfinite(value) for value in measured.metrics.values()):
        return "has no metrics: it was exported without a test split"
    if measured.evaluation is None:
        return "does not say which test data its metrics are of: it was exported by an older version; export it again"
    return ""
