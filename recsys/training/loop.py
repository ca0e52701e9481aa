"""The training loop, top to bottom: data, tables, model, steps, checkpoints, metrics."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from recsys.data.fingerprint import data_fingerprint
from recsys.data.loader import BatchLoader
from recsys.data.samples import Dataset, id_counts, map_ids, rows_of_codes
from recsys.embeddings.row_maps import RowMap
from recsys.embeddings.sharding import fuse_optimizer, set_rate, shard, start_process_group
from recsys.embeddings.sharding_plan import PlannedTable, Sharding, describe_plan, plan_tables
from recsys.embeddings.tables import BatchConverter, EmbeddingTables, TensorBatch
from recsys.errors import ConfigError, InvalidInputError
from recsys.features.feature_set import FeatureSet
from recsys.models.ranking import RankingModel, build_net
from recsys.training.checkpoint import Checkpoint, load, restore, save
from recsys.training.config import RunConfig, TableConfig, TrainConfig
from recsys.training.distributed import (
    HolderCounts,
    as_one_process,
    check_samples_per_step,
    first_before_others,
    gather,
    lost_processes_named,
    mean_loss,
    on_first,
    predict_together,
    samples_in_step,
    seed_process,
    share_of_loss,
    together,
    world,
)
from recsys.training.evaluate import Metrics, evaluate, predict
from recsys.training.initial_rows import initialise
from recsys.training.run_folder import compare_data, load_row_maps, open_run, read_run, save_row_maps, write_metrics
from recsys.training.step_dice import over_the_step
from recsys.training.table_plan import build_row_maps, table_dims, table_specs


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
    show_plan: Callable[[list[PlannedTable]], None] = lambda plan: None,
) -> RunResult:
    """Train, evaluate after each epoch, and write everything to ``run_dir``.

    With several processes (``distributed.py``), each calls this with the same arguments.

    Args:
        config: the run; ``train.batch_size`` is of each process.
        dataset: with keys, and splits ``train``, ``validation``, ``test`` (the latter two may be empty).
        run_dir: made if absent; on a file system that all processes share.
        resume: go on from ``run_dir``'s checkpoint; the result equals that of an uninterrupted run.
        device: default: this process's GPU if there is one.
        report: called after every step, in the first process.
        show_plan: called before the first step, in the first process.

    Raises:
        ConfigError: ``run_dir`` cannot be written, holds a run and ``resume`` is false, holds one of
            another configuration or other data; or the tables cannot be spread as asked.
        InvalidInputError: there is nothing to train on, or the loss is not finite.
        RecsysError: another process failed.
    """
    device = device or default_device()
    if config.tables.uvm_cache > 0 and device.type == "cpu":
        raise ConfigError(
            f"tables.uvm_cache is {config.tables.uvm_cache}, but training runs on CPU; it caches tables in GPU memory"
        )
    if not len(dataset.split("train")):
        raise InvalidInputError("the train split is empty: there is nothing to train on")
    start_process_group(device)
    if world().rank > 0:
        report, show_plan = (lambda progress: None), (lambda plan: None)
    with lost_processes_named():
        return _train(config, dataset, run_dir, resume, device, report, show_plan)


def _train(
    config: RunConfig,
    dataset: Dataset,
    run_dir: Path,
    resume: bool,
    device: torch.device,
    report: Callable[[Progress], None],
    show_plan: Callable[[list[PlannedTable]], None],
) -> RunResult:
    fingerprint = data_fingerprint(dataset)
    checkpoint = first_before_others(
        lambda: _open(config, dataset.table.features, run_dir, fingerprint, resume or world().rank > 0)
    )
    if len({each for each in gather(None if checkpoint is None else checkpoint.step)}) > 1:
        raise ConfigError(f"{run_dir} is not the same for all processes; put it on a file system that they share")
    torch.manual_seed(config.train.seed)

    def first_row_maps() -> dict[str, RowMap]:
        if checkpoint is None and world().rank == 0:
            save_row_maps(build_row_maps(config, dataset), run_dir / "row_maps.npz")
        # A later version may number rows in another order than the checkpoint's.
        return load_row_maps(run_dir / "row_maps.npz")

    with _taken_back_if_refused(run_dir, new=checkpoint is None):
        row_maps = first_before_others(first_row_maps)
        trained = build(config, dataset.table.features, row_maps, device=device, data_fingerprint=fingerprint)
    model, convert = trained.model, trained.convert
    show_plan(
        describe_plan(model.plan, table_specs(config.tables, config.rows, row_maps), optimizer=config.tables.optimizer)
    )
    dataset = map_ids(dataset, {name: row_map.lookup for name, row_map in row_maps.items()})
    training = dataset.split("train")
    pull = _regularization_strengths(config, dataset, device)
    holders = HolderCounts({table: len(strengths) for table, strengths in pull.items()}, device)

    loader = BatchLoader(
        dataset,
        training,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        rank=world().rank,
        world_size=world().size,
    )
    optimizer = torch.optim.AdamW(
        model.module.net.parameters(),
        lr=config.train.learning_rate,
        weight_decay=config.train.weight_decay,
        fused=True,
    )
    steps = len(loader) * config.train.epochs
    step = 0
    seed_process(config.train.seed)
    if checkpoint is not None:
        restore(checkpoint, model, optimizer)
        loader.load_state_dict(checkpoint.loader)
        step = checkpoint.step

    def checkpoint_now() -> None:
        save(model, optimizer, run_dir / "checkpoint.pt", step=step, loader=loader.state_dict())

    validation: Metrics | None = None
    loss_value = rate = math.nan
    started, samples = time.perf_counter(), 0
    model.train()
    while loader.epoch < config.train.epochs:
        for encoded in loader:
            batch = convert(encoded, rows_of_codes(dataset)).to(device)
            _set_rates(model, optimizer, config, step=step, steps=steps)
            logits_B, rows = model(batch)
            size = samples_in_step(len(training), loader.state_dict()["next_batch"], config.train.batch_size)
            losses_B = F.binary_cross_entropy_with_logits(logits_B, batch.labels, reduction="none")
            loss = share_of_loss(losses_B, size)
            total = loss + _regularization(rows, batch, pull, holders)
            optimizer.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
            if config.train.clip_norm > 0:
                torch.nn.utils.clip_grad_norm_(model.module.net.parameters(), config.train.clip_norm)
            optimizer.step()
            step += 1
            samples += size
            loss_value = mean_loss(loss)
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
    with together("writing the metrics"):
        if world().rank == 0:
            write_metrics(run_dir / "metrics.json", validation=validation, test=test, samples_per_s=rate)
    return result


def _open(config: RunConfig, features: FeatureSet, run_dir: Path, fingerprint: str, resume: bool) -> Checkpoint | None:
    if resume and (run_dir / "config.json").exists():
        check_samples_per_step(run_dir / "config.json", config)
    return open_run(as_one_process(config, world().size), features, run_dir, fingerprint=fingerprint, resume=resume)


@contextmanager
def _taken_back_if_refused(run_dir: Path, *, new: bool) -> Iterator[None]:
    """A configuration that its data refuses must not leave a run in the way of the corrected one."""
    try:
        yield
    except InvalidInputError:
        if new and world().rank == 0:
            for name in ("config.json", "row_maps.npz", "features.json", "data.json"):
                (run_dir / name).unlink(missing_ok=True)
        raise


def plan_run(
    config: RunConfig, dataset: Dataset, *, device: str = "cpu", processes: int = 1, hosts: int = 1
) -> list[PlannedTable]:
    """Where :func:`train` would put each table, without training; needs neither the processes nor the device.

    Args:
        config: the run.
        dataset: with keys.
        device: ``cpu`` or ``cuda``.
        processes: of the run, on all hosts.
        hosts: with equally many processes.

    Raises:
        ConfigError: the tables cannot be spread as asked.
    """
    if processes < 1 or hosts < 1 or processes % hosts:
        raise ConfigError(f"{processes} processes on {hosts} hosts; allowed: the same number on every host")
    row_maps = build_row_maps(config, dataset)
    specs = table_specs(config.tables, config.rows, row_maps)
    tables = EmbeddingTables(specs, row_maps)
    fuse_optimizer(tables, name=config.tables.optimizer, learning_rate=config.tables.learning_rate)
    plan = plan_tables(tables, sharding=_sharding(config.tables), device=device, world_size=processes, hosts=hosts)
    return describe_plan(plan, specs, optimizer=config.tables.optimizer)


def default_device() -> torch.device:
    """This process's GPU if there is one."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


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
        ConfigError: the configuration names a table that the FeatureSet does not have, or the model reads a
            history and the FeatureSet declares none.
    """
    specs = table_specs(config.tables, config.rows, row_maps)
    net = build_net(features, dims=table_dims(specs, row_maps), config=config.model)
    model = RankingModel(features, tables=EmbeddingTables(specs, row_maps), net=net)
    fuse_optimizer(model.tables, name=config.tables.optimizer, learning_rate=config.tables.learning_rate)
    start_process_group(device)
    over_the_step(net)
    sharded = shard(model, table_names=[spec.name for spec in specs], device=device, sharding=_sharding(config.tables))
    initialise(sharded, row_maps)
    convert = BatchConverter(features, row_maps)
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


def _sharding(tables: TableConfig) -> Sharding:
    return Sharding(default=tables.sharding, by_table=tables.shardings, uvm_cache=tables.uvm_cache)


def _regularization_strengths(config: RunConfig, dataset: Dataset, device: torch.device) -> dict[str, Tensor]:
    """lambda / n_j per code j of each table, n_j its count in the training samples; empty if lambda is 0."""
    if config.tables.regularization == 0.0:
        return {}
    strengths = {}
    for table, (codes, counts) in id_counts(dataset, dataset.split("train")).items():
        strength = torch.zeros(len(rows_of_codes(dataset)[table]))
        strength[torch.from_numpy(codes)] = config.tables.regularization / torch.from_numpy(counts).float()
        strengths[table] = strength.to(device)
    return strengths


def _regularization(
    rows: Mapping[str, Tensor], batch: TensorBatch, pull: Mapping[str, Tensor], holders: HolderCounts
) -> Tensor | float:
    """Half the sum of lambda / n_j |w_j|^2 over the distinct ids j of the step (KDD 2018, eq. 6)."""
    if not pull:
        return 0.0
    weights = holders.weights(batch.codes)
    terms = [(pull[n][batch.codes[n]] * weights.get(n, 1.0) * rows[n].square().sum(dim=1)).sum() for n in pull]
    return 0.5 * torch.stack(terms).sum()


def _set_rates(
    model: DistributedModelParallel, optimizer: torch.optim.Optimizer, config: RunConfig, *, step: int, steps: int
) -> None:
    factor = rate_factor(config.train, step=step, steps=steps)
    for group in optimizer.param_groups:
        group["lr"] = config.train.learning_rate * factor
    set_rate(model, config.tables.learning_rate * factor, step=step)


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
    logits = predict_together(
        lambda part: predict(trained.model, dataset, part, convert=trained.convert, device=trained.device), indices
    )
    return on_first(lambda: evaluate(dataset, indices, logits))
