"""The training loop, top to bottom: data, tables, model, steps, checkpoints, metrics.

A run lives in a folder::

    config.json       the configuration, after overrides
    features.json     the FeatureSet
    row_maps.npz      id -> row of every table
    checkpoint.pt     the latest state
    metrics.json      written last: a folder with it holds a finished run
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from recsys.data.loader import BatchLoader
from recsys.data.samples import Dataset, id_counts, map_ids
from recsys.embeddings.row_maps import RowMap, Vocabulary, build_vocabulary
from recsys.embeddings.sharding import fuse_optimizer, shard, table_weights
from recsys.embeddings.tables import BatchConverter, EmbeddingTables, TableSpec, TensorBatch
from recsys.errors import ConfigError, DataFileError, InvalidInputError, nearest
from recsys.features.feature_set import FeatureSet
from recsys.models.ranking import RankingModel, build_din
from recsys.training.checkpoint import Checkpoint, capture, load, restore, save
from recsys.training.config import RunConfig, TrainConfig, from_json, to_json
from recsys.training.evaluate import Metrics, evaluate, predict


@dataclass(frozen=True)
class Progress:
    """Where a run is, for a progress bar."""

    step: int
    steps: int
    epoch: int
    samples_per_s: float
    loss: float
    validation: Metrics | None = None


@dataclass(frozen=True)
class TrainedModel:
    """A model with what is needed to feed it."""

    config: RunConfig
    features: FeatureSet
    row_maps: dict[str, RowMap]
    model: DistributedModelParallel
    convert: BatchConverter
    device: torch.device


@dataclass(frozen=True)
class RunResult:
    """What a finished run measured; ``samples_per_s`` is over the training steps of this process.

    The model is in evaluation mode.
    """

    trained: TrainedModel
    validation: Metrics | None
    test: Metrics | None
    samples_per_s: float


def train(
    config: RunConfig,
    dataset: Dataset,
    run_dir: Path,
    *,
    resume: bool = False,
    device: torch.device | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> RunResult:
    """Train, evaluate after each epoch, and write everything to ``run_dir``.

    Args:
        config: the run.
        dataset: with keys, and splits ``train``, ``validation``, ``test`` (the latter two may be empty).
        run_dir: made if absent.
        resume: go on from ``run_dir``'s checkpoint; the result equals that of an uninterrupted run.
        device: default: a GPU if there is one.
        report: called after every step.

    Raises:
        ConfigError: ``run_dir`` holds a run and ``resume`` is false, or holds another configuration.
        InvalidInputError: there is nothing to train on, or the loss is not finite.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training = dataset.split("train")
    if not len(training):
        raise InvalidInputError("the train split is empty: there is nothing to train on")
    checkpoint = _open_run(config, dataset, run_dir, resume=resume)
    torch.manual_seed(config.train.seed)

    row_maps = build_row_maps(config, dataset)
    trained = build(config, dataset.table.features, row_maps, device=device)
    model, convert = trained.model, trained.convert
    save_row_maps(row_maps, run_dir / "row_maps.npz")
    dataset = map_ids(dataset, {name: row_map.lookup for name, row_map in row_maps.items()})
    pull = _regularization_strengths(config, dataset, row_maps, device)

    loader = BatchLoader(dataset, training, batch_size=config.train.batch_size, seed=config.train.seed)
    optimizer = torch.optim.AdamW(
        model.module.net.parameters(), lr=config.train.learning_rate, weight_decay=config.train.weight_decay
    )
    steps = len(loader) * config.train.epochs
    step = 0
    if checkpoint is not None:
        restore(checkpoint, model, optimizer)
        loader.load_state_dict(checkpoint.loader)
        step = checkpoint.step

    def checkpoint_now() -> None:
        save(capture(model, optimizer, step=step, loader=loader.state_dict()), run_dir / "checkpoint.pt")

    validation: Metrics | None = None
    loss_value = rate = math.nan
    started, samples = time.perf_counter(), 0
    model.train()
    while loader.epoch < config.train.epochs:
        for encoded in loader:
            batch = convert(encoded).to(device)
            _set_rates(model, optimizer, config, step=step, steps=steps)
            logits_B, rows = model(batch)
            loss = F.binary_cross_entropy_with_logits(logits_B, batch.labels)
            total = loss + _regularization(rows, batch, pull)
            optimizer.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
            if config.train.clip_norm > 0:
                torch.nn.utils.clip_grad_norm_(model.module.net.parameters(), config.train.clip_norm)
            optimizer.step()
            step += 1
            samples += encoded.size
            loss_value = loss.item()
            if not math.isfinite(loss_value):
                raise InvalidInputError(f"step {step}: the loss is {loss_value}; lower the learning rates")
            rate = samples / (time.perf_counter() - started)
            report(Progress(step, steps, loader.epoch, rate, loss_value))
            if step % config.train.checkpoint_steps == 0:
                checkpoint_now()
        checkpoint_now()
        paused = time.perf_counter()
        validation = _evaluate_split(trained, dataset, "validation")
        started += time.perf_counter() - paused
        report(Progress(step, steps, loader.epoch, rate, loss_value, validation))
    rate = samples / (time.perf_counter() - started)
    if validation is None:  # resumed after the last epoch, or there is no such split
        validation = _evaluate_split(trained, dataset, "validation")
    test = _evaluate_split(trained, dataset, "test")
    model.eval()
    result = RunResult(trained, validation, test, rate)
    _write_metrics(result, run_dir / "metrics.json")
    return result


def build_row_maps(config: RunConfig, dataset: Dataset) -> dict[str, RowMap]:
    """A vocabulary per table, of the ids that the training samples and their histories hold."""
    return {
        table: build_vocabulary(ids, counts, min_count=config.tables.min_count)
        for table, (ids, counts) in id_counts(dataset, dataset.split("train")).items()
    }


def build(
    config: RunConfig, features: FeatureSet, row_maps: Mapping[str, RowMap], *, device: torch.device
) -> TrainedModel:
    """An untrained model, its tables initialised, wrapped for one or many processes."""
    dims = {name: config.tables.dims.get(name, config.tables.dim) for name in row_maps}
    if unknown := sorted(set(config.tables.dims) - set(dims)):
        raise ConfigError(
            f"tables.dims names no table {unknown[0]!r} of {features.name!r}: {nearest(unknown[0], dims)}"
        )
    specs = [TableSpec(name=name, num_rows=row_maps[name].num_rows, dim=dims[name]) for name in row_maps]
    net = build_din(features, dims=dims, config=config.model)
    model = RankingModel(features, tables=EmbeddingTables(specs), net=net)
    fuse_optimizer(model.tables, name=config.tables.optimizer, learning_rate=config.tables.learning_rate)
    sharded = shard(model, table_names=[spec.name for spec in specs], device=device)
    _initialise(sharded)
    return TrainedModel(config, features, dict(row_maps), sharded, BatchConverter(features, specs), device)


def load_run(run_dir: Path, *, device: torch.device | None = None) -> TrainedModel:
    """The model of a run, as its latest checkpoint left it.

    Raises:
        DataFileError: ``run_dir`` is not a run, or a file of it is damaged.
    """
    try:
        config = from_json((run_dir / "config.json").read_text())
        features = FeatureSet.from_json((run_dir / "features.json").read_text())
    except FileNotFoundError as error:
        raise DataFileError(f"{error.filename} is missing; `recsys train` writes a run") from None
    except ValueError as error:  # not JSON, not text, or not what its name says
        raise DataFileError(f"{run_dir}: {error}") from error
    row_maps = load_row_maps(run_dir / "row_maps.npz")
    trained = build(config, features, row_maps, device=device or torch.device("cpu"))
    restore(load(run_dir / "checkpoint.pt"), trained.model)
    trained.model.eval()
    return trained


def evaluate_run(trained: TrainedModel, dataset: Dataset, split: str) -> Metrics | None:
    """Metrics on a split of a dataset that holds keys; None if the split is empty.

    Raises:
        InvalidInputError: no such split, or all its labels are equal.
    """
    mapped = map_ids(dataset, {name: row_map.lookup for name, row_map in trained.row_maps.items()})
    return _evaluate_split(trained, mapped, split)


def save_row_maps(row_maps: Mapping[str, RowMap], path: Path) -> None:
    """All maps in one file."""
    arrays = {f"{table}.{name}": a for table, row_map in row_maps.items() for name, a in row_map.arrays().items()}
    with path.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)


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
        return {table: Vocabulary.from_arrays(values) for table, values in tables.items()}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DataFileError(f"{path}: not readable as row maps: {error}") from error


def _open_run(config: RunConfig, dataset: Dataset, run_dir: Path, *, resume: bool) -> Checkpoint | None:
    """Make or continue a run's folder; the checkpoint to continue from, if any."""
    config_file = run_dir / "config.json"
    if config_file.exists():
        if not resume:
            raise ConfigError(f"{run_dir} holds a run already: resume it, or choose another folder")
        if from_json(config_file.read_text()) != config:
            raise ConfigError(f"{run_dir} holds a run of another configuration; see its config.json")
        if (run_dir / "checkpoint.pt").exists():
            return load(run_dir / "checkpoint.pt")
    run_dir.mkdir(parents=True, exist_ok=True)
    config_file.write_text(to_json(config) + "\n")
    (run_dir / "features.json").write_text(dataset.table.features.to_json() + "\n")
    return None


def _initialise(model: DistributedModelParallel) -> None:
    """Rows from N(0, 0.05^2), and zero for the unknown row, which only ids seen too rarely train."""
    with torch.no_grad():
        for name, weight in sorted(table_weights(model).items()):
            generator = torch.Generator().manual_seed(torch.initial_seed() + zlib.crc32(name.encode()))
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.05)
            weight[0] = 0.0


def _regularization_strengths(
    config: RunConfig, dataset: Dataset, row_maps: Mapping[str, RowMap], device: torch.device
) -> dict[str, Tensor]:
    """lambda / n_j per row j of each table, n_j its count in the training samples; empty if lambda is 0."""
    if config.tables.regularization == 0.0:
        return {}
    strengths = {}
    for table, (rows, counts) in id_counts(dataset, dataset.split("train")).items():
        strength = torch.zeros(row_maps[table].num_rows)
        strength[torch.from_numpy(rows)] = config.tables.regularization / torch.from_numpy(counts).float()
        strengths[table] = strength.to(device)
    return strengths


def _regularization(rows: Mapping[str, Tensor], batch: TensorBatch, pull: Mapping[str, Tensor]) -> Tensor | float:
    """Half the sum of lambda / n_j |w_j|^2 over the distinct rows j of the batch (KDD 2018, eq. 6)."""
    if not pull:
        return 0.0
    distinct = {name: batch.rows[name].values() for name in pull}
    terms = [(pull[n][distinct[n]] * rows[n].square().sum(dim=1)).sum() for n in pull]
    return 0.5 * torch.stack(terms).sum()


def _set_rates(
    model: DistributedModelParallel, optimizer: torch.optim.Optimizer, config: RunConfig, *, step: int, steps: int
) -> None:
    factor = rate_factor(config.train, step=step, steps=steps)
    for group in optimizer.param_groups:
        group["lr"] = config.train.learning_rate * factor
    for group in model.fused_optimizer.param_groups:
        group["lr"] = config.tables.learning_rate * factor
    model.fused_optimizer.zero_grad()  # hands the rate to FBGEMM; there are no gradients to clear


def rate_factor(config: TrainConfig, *, step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * done))


def _evaluate_split(trained: TrainedModel, dataset: Dataset, split: str) -> Metrics | None:
    indices = dataset.split(split)
    if not len(indices):
        return None
    logits = predict(trained.model, dataset, indices, convert=trained.convert, device=trained.device)
    return evaluate(dataset, indices, logits)


def _write_metrics(result: RunResult, path: Path) -> None:
    values: dict[str, Any] = {
        split: dataclasses.asdict(metrics)
        for split, metrics in (("validation", result.validation), ("test", result.test))
        if metrics is not None
    }
    if result.samples_per_s:  # 0: resumed after the last step
        values["samples_per_s"] = round(result.samples_per_s)
    path.write_text(json.dumps(values, indent=2) + "\n")
