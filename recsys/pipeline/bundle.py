"""A day's model as a bundle, and both models on the samples that neither was trained on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recsys.bundle import RESAMPLES, Measured, read_manifest
from recsys.bundle.evaluation import evaluation_from_dict, read_resamples, resamples_bytes
from recsys.data.interactions.positives import PairRule, positive_pairs
from recsys.data.samples.dataset import Dataset
from recsys.evaluation.baselines import baseline_values, baselines_of
from recsys.evaluation.evaluate import measure
from recsys.export.measure import measure_bundle
from recsys.export.onnx import export_bundle
from recsys.export.retrieval.bundle import export_retrieval_bundle
from recsys.export.retrieval.measure import measure_retrieval_bundle
from recsys.files import write_atomically
from recsys.pipeline.settings import ExportSettings
from recsys.releases.release import RANKING, RETRIEVAL
from recsys.training.retrieval.folder import read_retrieval_config
from recsys.training.trained import load_run, predict_run

LISTS = ("recall", "ndcg", "hit_rate", "coverage", "users")
LIST_LENGTH = 20
"""Of the lists that bundles which retrieve are measured by."""

_MEASURED = "measured.json"


def export_run(
    run_dir: Path, dataset: Dataset, folder: Path, *, name: str, settings: ExportSettings, created_at: str
) -> dict[str, Any]:
    """Export a run as ``ranking`` in a folder; facts on the bundle.

    Raises:
        RecsysError: as :func:`recsys.export.onnx.export_bundle`.
    """
    trained = load_run(run_dir)
    predictions = predict_run(trained, dataset, "test")
    baselines = () if predictions is None else baselines_of(predictions, measure(predictions))
    manifest = export_bundle(
        trained,
        dataset,
        folder / RANKING,
        name=name,
        predictions=predictions,
        baselines=baseline_values(baselines),
        quantize=settings.quantize or "none",
        compute=settings.compute,
        created_at=created_at,
    )
    return {"ranking": manifest.version, "state": manifest.state_version, "baselines": dict(manifest.baselines)}


def export_retrieval(run_dir: Path, dataset: Dataset, folder: Path, *, name: str, created_at: str) -> dict[str, Any]:
    """Export a run of a model that ranks all items as ``retrieval`` in a folder; facts on the bundle.

    Raises:
        RecsysError: as :func:`recsys.export.retrieval.bundle.export_retrieval_bundle`.
    """
    pairs = positive_pairs(dataset, read_retrieval_config(run_dir).data, source="the log")
    manifest = export_retrieval_bundle(run_dir, pairs, folder / RETRIEVAL, name=name, created_at=created_at)
    return {"retrieval": manifest.version}


def put_together(folder: Path, ranking: Path, retrieval: Path) -> dict[str, Any]:
    """Put two bundles into a folder, as a release has them; facts on them."""
    for bundle, part in ((ranking, RANKING), (retrieval, RETRIEVAL)):
        shutil.copytree(bundle, folder / part, copy_function=shutil.copyfile)
        (folder / part).chmod(0o755)  # of a release, it is read-only
        for path in (folder / part).rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
    return {part: read_manifest(folder / part).version for part in (RANKING, RETRIEVAL)}


def measure_in(folder: Path, bundle: Path, dataset: Dataset, *, samples: int) -> dict[str, Any]:
    """Measure a bundle on the held-out samples, and keep the figures in a folder; facts on them.

    Args:
        folder: is there.
        bundle: ranks, or retrieves.
        dataset: with keys.
        samples: fewest that are ranked, of whole users; a bundle that retrieves is asked for a sample of the users.

    Raises:
        BundleError, InvalidInputError: as :func:`recsys.export.measure.measure_bundle`, or
            :func:`recsys.export.retrieval.measure.measure_retrieval_bundle`.
    """
    if read_manifest(bundle).kind == "retrieval":
        pairs = positive_pairs(dataset, PairRule(validation_share=0.0), source="the log")
        found = measure_retrieval_bundle(bundle, pairs, list_length=min(LIST_LENGTH, pairs.num_items))
    else:
        found = measure_bundle(bundle, dataset, samples=samples)
    assert found.evaluation is not None
    values = {"metrics": dict(found.metrics), "evaluation": asdict(found.evaluation)}
    write_atomically(folder / _MEASURED, json.dumps(values, allow_nan=False).encode())
    (folder / RESAMPLES).write_bytes(resamples_bytes(found.resamples))
    errors = found.evaluation.standard_errors
    kept = [
        name for name in ("auc", "gauc", "log_loss", "calibration_error", "samples", *LISTS) if name in found.metrics
    ]
    return {
        "version": read_manifest(bundle).version,
        "metrics": {metric: found.metrics.get(metric) for metric in kept},
        "standard_errors": {metric: errors[metric] for metric in kept if metric in errors},
    }


def read_measured(folder: Path) -> Measured:
    """Inverse of :func:`measure_in`."""
    values: Mapping[str, Any] = json.loads((folder / _MEASURED).read_text())
    return Measured(
        metrics=values["metrics"],
        evaluation=evaluation_from_dict(values["evaluation"]),
        resamples=read_resamples(folder / RESAMPLES),
    )
