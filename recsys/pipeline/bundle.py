"""A day's model as a bundle, and both models on the samples that neither was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recsys.bundle import RESAMPLES, Measured, read_manifest
from recsys.bundle.evaluation import evaluation_from_dict, read_resamples, resamples_bytes
from recsys.data.samples.dataset import Dataset
from recsys.evaluation.baselines import baseline_values, baselines_of
from recsys.evaluation.evaluate import measure
from recsys.export.measure import measure_bundle
from recsys.export.onnx import export_bundle
from recsys.files import write_atomically
from recsys.pipeline.settings import ExportSettings
from recsys.releases.release import RANKING
from recsys.training.trained import load_run, predict_run

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


def measure_in(folder: Path, bundle: Path, dataset: Dataset, *, samples: int) -> dict[str, Any]:
    """Measure a bundle on the held-out samples, and keep the figures in a folder; facts on them.

    Raises:
        BundleError, InvalidInputError: as :func:`recsys.export.measure.measure_bundle`.
    """
    found = measure_bundle(bundle, dataset, samples=samples)
    assert found.evaluation is not None
    values = {"metrics": dict(found.metrics), "evaluation": asdict(found.evaluation)}
    write_atomically(folder / _MEASURED, json.dumps(values, allow_nan=False).encode())
    (folder / RESAMPLES).write_bytes(resamples_bytes(found.resamples))
    errors = found.evaluation.standard_errors
    kept = ("auc", "gauc", "log_loss", "calibration_error", "samples")
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
