"""The training loop, top to bottom: data, tables, model, steps, checkpoints, metrics."""

from __future__ import annotations

import math
import os
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from recsys.data.fingerprint import data_fingerprint
from recsys.data.loader import BatchLoader
from recsys.data.samples import Dataset, id_counts, map_ids
from recsys.embeddings.row_maps import RowMap, build_vocabulary
from recsys.embeddings.sharding import fuse_optimizer, shard, table_weights
from recsys.embeddings.tables import BatchConverter, EmbeddingTables, TableSpec, TensorBatch
from recsys.errors import ConfigError, InvalidInputError, nearest
from recsys.features.feature_set import FeatureSet
from recsys.features.history import require_history
from recsys.models.ranking import RankingModel, build_din
from recsys.training.checkpoint import capture, load, restore, save
from recsys.training.config import RunConfig, TrainConfig
from recsys.training.evaluate import Metrics, evaluate, predict
from recsys.training.run_folder import compare_data, load_row_maps, open_run, read_run, save_row_maps, write_metrics


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
    """A model with what is needed to feed it.

    ``data_fingerprint`` names the data it was trained on; None: it was not trained.
    """

    config: RunConfig
    features: FeatureSet
    row_maps: dict[str, RowMap]
    model: DistributedModelParallel
    convert: BatchConverter
    device: torch.device
    data_fingerprint: str | None = None


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
        ConfigError: ``run_dir`` cannot be written, holds a run and ``resume`` is false, holds one of
            another configuration or other data; or there is more than one process.
        InvalidInputError: there is nothing to train on, or the loss is not finite.
    """
    _check_one_process()
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training = dataset.split("train")
    if not len(training):
        raise InvalidInputError("the train split is empty: there is nothing to train on")
    fingerprint = data_fingerprint(dataset)
    checkpoint = open_run(config, dataset.table.features, run_dir, fingerprint=fingerprint, resume=resume)
    torch.manual_seed(config.train.seed)

    if checkpoint is None:
        row_maps = build_row_maps(config, dataset)
        save_row_maps(row_maps, run_dir / "row_maps.npz")
    else:  # a later version may number rows in another order than the checkpoint's
        row_maps = load_row_maps(run_dir / "row_maps.npz")
    trained = build(config, dataset.table.features, row_maps, device=device, data_fingerprint=fingerprint)
    model, convert = trained.model, trained.convert
    dataset = map_ids(dataset, {name: row_map.lookup for name, row_map in row_maps.items()})
    pull = _regularization_strengths(config, dataset, row_maps, device)

    loader = BatchLoader(dataset, training, batch_size=config.train.batch_size, seed=config.train.seed)
    optimizer = torch.optim.AdamW(
        model.module.net.parameters(),
        lr=config.train.learning_rate,
        weight_decay=config.train.weight_decay,
        fused=True,
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
    write_metrics(run_dir / "metrics.json", validation=validation, test=test, samples_per_s=rate)
    return result


def build_row_maps(config: RunConfig, dataset: Dataset) -> dict[str, RowMap]:
    """A vocabulary per table, of the ids that the training samples and their histories hold."""
    return {
        table: build_vocabulary(ids, counts, min_count=config.tables.min_count)
        for table, (ids, counts) in id_counts(dataset, dataset.split("train")).items()
    }


def build(
    config: RunConfig,
    features: FeatureSet,
    row_maps: Mapping[str, RowMap],
    *,
    device: torch.device,
    data_fingerprint: str | None = None,
) -> TrainedModel:
    """An untrained model, its tables initialised.

    Raises:
        InvalidInputError: the FeatureSet declares no history.
        ConfigError: the configuration names a table that the FeatureSet does not have.
    """
    require_history(features)
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
    convert = BatchConverter(features, specs)
    return TrainedModel(config, features, dict(row_maps), sharded, convert, device, data_fingerprint)


def load_run(run_dir: Path, *, device: torch.device | None = None) -> TrainedModel:
    """The model of a run, as its latest checkpoint left it.

    Raises:
        DataFileError: ``run_dir`` is not a run, or a file of it is damaged.
    """
    config, features, fingerprint = read_run(run_dir)
    row_maps = load_row_maps(run_dir / "row_maps.npz")
    device = device or torch.device("cpu")
    trained = build(config, features, row_maps, device=device, data_fingerprint=fingerprint)
    restore(load(run_dir / "checkpoint.pt"), trained.model)
    trained.model.eval()
    return trained


def evaluate_run(trained: TrainedModel, dataset: Dataset, split: str) -> Metrics | None:
    """Metrics on a split of a dataset that holds keys; None if the split is empty.

    Raises:
        InvalidInputError: no such split, or all its labels are equal.
        ConfigError: the model was trained on other data.
    """
    check_same_data(trained, dataset)
    mapped = map_ids(dataset, {name: row_map.lookup for name, row_map in trained.row_maps.items()})
    return _evaluate_split(trained, mapped, split)


def check_same_data(trained: TrainedModel, dataset: Dataset) -> None:
    """Refuse a dataset that is not the one a model was trained on: with another log the splits lie elsewhere,
    and "test" samples may have been trained on. A model that was not trained fits any.

    Raises:
        ConfigError: it is another.
    """
    if trained.data_fingerprint is not None:
        compare_data("the model", trained.data_fingerprint, data_fingerprint(dataset))


def _check_one_process() -> None:
    launched = int(os.environ.get("WORLD_SIZE", "1")) if dist.is_torchelastic_launched() else 1
    processes = dist.get_world_size() if dist.is_initialized() else launched
    if processes > 1:
        raise ConfigError(
            f"training runs in one process, but there are {processes}: all would train on the same samples and "
            "write one checkpoint; start it without torchrun"
        )


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
