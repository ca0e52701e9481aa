"""The folder of a run: what is in it, written so that a kill leaves every file whole or absent.

::

    features.json     the FeatureSet
    data.json         the fingerprint of what it was trained on (``data.fingerprint``)
    config.json       the configuration, after overrides
    row_maps.npz      id -> row of every table
    numbers.json      how it reads each numeric feature; none in a folder from before there were transforms
    checkpoint.pt     the latest state; with several processes an index of the parts in checkpoint/
    best.pt           with train.patience: the state of the best evaluation, whose weights the run ends with (and best/)
    tensorboard/      with train.tensorboard: curves
    bad_batch.npz     of a run that a step ended whose loss or gradient was not finite
    growth.json       of a grown run: what was admitted and evicted
    predictions.npz   its logits of the validation and test splits (``predictions.py``)
    record.json       what ran, where, how long, how well (``record.py``)
    metrics.json      written last: a folder with it holds a finished run
"""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recsys.embeddings.row_maps.row_map import RowMap
from recsys.errors import ConfigError, DataFileError
from recsys.evaluation.evaluate import Metrics
from recsys.features.feature_set import FeatureSet
from recsys.features.number_transform import NumberTransform, transforms_from_dict, transforms_to_dict
from recsys.files import make_folder, write_atomically
from recsys.training.config import RunConfig
from recsys.training.run.checkpoint import Checkpoint, load
from recsys.training.settings import differences, from_json, to_json

CHECKPOINT, BEST, NUMBERS = "checkpoint.pt", "best.pt", "numbers.json"


def weights_file(run_dir: Path) -> Path:
    """The checkpoint whose weights are the run's: the best if it keeps one, else the latest."""
    best = run_dir / BEST
    return best if best.exists() else run_dir / CHECKPOINT


def is_retrieval_run(run_dir: Path) -> bool:
    """True if a folder holds a run of a model that ranks all items (``training/retrieval/folder.py``)."""
    try:
        values = json.loads((run_dir / "config.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.get("task") == "retrieval"


def compare_data(what: str, trained_on: str, given: str) -> None:
    """Refuse to go on with other data than what was trained on.

    Raises:
        ConfigError: the fingerprints differ.
    """
    if trained_on != given:
        raise ConfigError(
            f"{what} was trained on other data: its fingerprint is {trained_on}, that of the data found is {given}; "
            "give the log it was trained on with --data"
        )


def open_run(
    config: RunConfig, features: FeatureSet, run_dir: Path, *, fingerprint: str, resume: bool
) -> Checkpoint | None:
    """Make or continue a run's folder; the checkpoint to continue from, if any.

    Raises:
        ConfigError: the folder cannot be written, holds a run and ``resume`` is false, or holds one of
            another configuration or other data.
        DataFileError: a file of the run is damaged.
    """
    held = holds_run(run_dir, lambda: differences(read_config(run_dir), config), fingerprint=fingerprint, resume=resume)
    if held and (run_dir / CHECKPOINT).exists():
        return load(run_dir / CHECKPOINT)
    begin_folder(run_dir, to_json(config), fingerprint=fingerprint, features=features)
    return None


def holds_run(run_dir: Path, other: Callable[[], str], *, fingerprint: str, resume: bool) -> bool:
    """False if a folder holds no run; true if it holds this one, to be resumed.

    Args:
        run_dir: the folder.
        other: what its configuration has other than that of this run; nothing if it is the same.
        fingerprint: of this run's data.
        resume: go on with a run that is there.

    Raises:
        ConfigError: it holds a run and ``resume`` is false, or one of another configuration or other data.
        DataFileError: a file of the run is damaged.
    """
    if not (run_dir / "config.json").exists():
        return False
    if not resume:
        raise ConfigError(
            f"{run_dir} holds a run already: go on with it (--resume), or choose another folder: --run-dir runs/NAME"
        )
    if different := other():
        raise ConfigError(f"{run_dir} holds a run of another configuration: {different}")
    compare_fingerprint(run_dir, fingerprint)
    return True


def begin_folder(run_dir: Path, config: str, *, fingerprint: str, features: FeatureSet | None = None) -> None:
    """Write the files that a run begins with; ``config`` is JSON.

    Raises:
        ConfigError: the folder cannot be written.
    """
    make_folder(run_dir)
    if features is not None:
        write_atomically(run_dir / "features.json", features.to_json().encode() + b"\n")
    write_atomically(run_dir / "data.json", json.dumps({"fingerprint": fingerprint}).encode() + b"\n")
    # Last: a folder with it holds a run.
    write_atomically(run_dir / "config.json", config.encode() + b"\n")


def compare_fingerprint(run_dir: Path, fingerprint: str) -> None:
    """Refuse other data than a run was trained on.

    Raises:
        ConfigError: it is other data.
        DataFileError: the run's data.json is missing or damaged.
    """
    try:
        trained_on = _read_fingerprint(run_dir / "data.json")
    except (OSError, ValueError) as error:
        raise DataFileError(f"{run_dir}: its data.json cannot be read: {error}; start another run") from error
    compare_data(str(run_dir), trained_on, fingerprint)


def read_config(run_dir: Path) -> RunConfig:
    """A run's configuration.

    Raises:
        DataFileError: it is missing, damaged, or that of a model that ranks all items.
    """
    file = run_dir / "config.json"
    if is_retrieval_run(run_dir):
        raise DataFileError(
            f"{run_dir} holds a run of a model that ranks all items; expected one of a ranking model "
            "(`recsys evaluate` and `recsys compare` read both)"
        )
    try:
        return from_json(RunConfig, file.read_text())
    except FileNotFoundError:
        raise DataFileError(f"{file} is missing; `recsys train` writes a run") from None
    except ValueError as error:  # not JSON, not text, or not what its name says
        raise DataFileError(f"{file}: {error}") from error


def read_run(run_dir: Path) -> tuple[RunConfig, FeatureSet, str]:
    """Configuration, FeatureSet, and fingerprint of the data.

    Raises:
        DataFileError: ``run_dir`` is not a run, or a file of it is damaged.
    """
    config = read_config(run_dir)
    try:
        features = FeatureSet.from_json((run_dir / "features.json").read_text())
        fingerprint = _read_fingerprint(run_dir / "data.json")
    except FileNotFoundError as error:
        raise DataFileError(f"{error.filename} is missing; `recsys train` writes a run") from None
    except ValueError as error:  # not JSON, not text, or not what its name says
        raise DataFileError(f"{run_dir}: {error}") from error
    return config, features, fingerprint


def save_row_maps(row_maps: Mapping[str, RowMap], path: Path) -> None:
    """All maps in one file."""
    arrays = {f"{table}.{name}": a for table, row_map in row_maps.items() for name, a in row_map.arrays().items()}
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    write_atomically(path, content.getvalue())


def load_row_maps(path: Path) -> dict[str, RowMap]:
    """Inverse of :func:`save_row_maps`.

    Raises:
        DataFileError: there is no such file, or it is damaged.
    """
    tables: dict[str, dict[str, np.ndarray]] = {}
    try:
        with path.open("rb") as stream, np.load(stream) as arrays:
            for key in arrays.files:
                table, _, name = key.rpartition(".")
                tables.setdefault(table, {})[name] = arrays[key]
        return {table: RowMap.from_arrays(values) for table, values in tables.items()}
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise DataFileError(f"{path}: not readable as row maps: {error}") from error


def save_numbers(transforms: Mapping[str, NumberTransform], path: Path) -> None:
    """The transforms of numeric features, if there are any."""
    if transforms:
        write_atomically(path, json.dumps(transforms_to_dict(transforms), indent=2, allow_nan=False).encode() + b"\n")


def load_numbers(path: Path) -> dict[str, NumberTransform]:
    """Inverse of :func:`save_numbers`.

    Raises:
        DataFileError: the file is damaged.
    """
    try:
        return transforms_from_dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataFileError(f"{path}: not readable as transforms of numbers: {error}") from error


def write_metrics(
    path: Path,
    measured: Mapping[str, Metrics],
    baselines: Mapping[str, Any],
    *,
    samples_per_s: float,
    best_step: int | None = None,
) -> None:
    """Write the metrics of a finished run and of its baselines, by split.

    A metric that has no value is null: NaN is not JSON.
    """
    values: dict[str, Any] = {split: dataclasses.asdict(metrics) for split, metrics in measured.items()}
    if baselines:
        values["baselines"] = dict(baselines)
    if samples_per_s > 0:  # 0: resumed after the last step
        values["samples_per_s"] = round(samples_per_s)
    if best_step is not None:
        values["best_step"] = best_step
    write_atomically(path, json.dumps(values, indent=2, allow_nan=False).encode() + b"\n")


def _read_fingerprint(path: Path) -> str:
    values = json.loads(path.read_text())
    if not isinstance(values, dict) or not isinstance(values.get("fingerprint"), str):
        raise ValueError(f"{path.name}: expected an object with a text 'fingerprint'")
    return str(values["fingerprint"])
