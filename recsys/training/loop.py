"""The training loop, top to bottom: data, tables, model, steps, evaluations, checkpoints, metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from recsys.data.fingerprint import data_fingerprint
from recsys.data.loader import BatchLoader
from recsys.data.samples import Dataset, map_ids
from recsys.embeddings.row_maps import RowMap
from recsys.embeddings.sharding import set_rate, start_process_group
from recsys.embeddings.sharding_plan import PlannedTable, describe_plan
from recsys.embeddings.tables import BatchConverter
from recsys.errors import ConfigError, RecsysError
from recsys.features.feature_set import FeatureSet
from recsys.training.checkpoint import Checkpoint, load, restore, save
from recsys.training.config import RunConfig
from recsys.training.distributed import (
    as_one_process,
    check_samples_per_step,
    first_before_others,
    gather,
    lost_processes_named,
    mean_loss,
    on_first,
    samples_in_step,
    seed_process,
    share_of_loss,
    together,
    world,
)
from recsys.training.early_stopping import Watch, is_evaluated
from recsys.training.evaluate import Metrics, measure
from recsys.training.incremental import grown_row_maps, samples_since
from recsys.training.non_finite import first_not_finite, not_finite_in, stop
from recsys.training.precision import Precision
from recsys.training.predictions import write_predictions
from recsys.training.regularization import Regularization
from recsys.training.reports import Listeners, Progress, RunResult
from recsys.training.run_folder import BEST, CHECKPOINT, load_row_maps, open_run, save_row_maps, write_metrics
from recsys.training.run_record import begin_record, write_record
from recsys.training.schedules import rate_factor
from recsys.training.steps import Item, PipelinedSteps, PlainSteps, Seen, Steps, batches_of
from recsys.training.table_plan import build_row_maps, table_specs
from recsys.training.tensorboard import curves
from recsys.training.trainable import check_trainable
from recsys.training.trained import TrainedModel, build, default_device, evaluate_split, predict_split
from recsys.training.warm_start import WarmStart, start_warm
from recsys.training.warm_start_source import Source, open_source


def train(
    config: RunConfig,
    dataset: Dataset,
    run_dir: Path,
    *,
    resume: bool = False,
    device: torch.device | None = None,
    overrides: Sequence[str] = (),
    report: Callable[[Progress], None] = lambda progress: None,
    show_plan: Callable[[list[PlannedTable]], None] = lambda plan: None,
    show_start: Callable[[WarmStart], None] = lambda start: None,
) -> RunResult:
    """Train, evaluate after each epoch or every ``train.evaluate_every`` steps, and write everything to ``run_dir``.

    With several processes (``distributed.py``), each calls this with the same arguments.

    Args:
        config: the run; ``train.batch_size`` is of each process.
        dataset: with keys, and splits ``train``, ``validation``, ``test`` (the latter two may be empty).
        run_dir: made if absent; on a file system that all processes share.
        resume: go on from ``run_dir``'s checkpoint; the result equals that of an uninterrupted run.
        device: default: this process's GPU if there is one.
        overrides: the changes to the recipe, for ``record.json``.
        report: called after every step and every evaluation, in the first process.
        show_plan: called before the first step, in the first process.
        show_start: called after a warm start, in the first process.

    Raises:
        ConfigError: ``run_dir`` cannot be written, holds a run and ``resume`` is false, holds one of
            another configuration or other data; the tables cannot be spread as asked; the device cannot do what is
            asked; or nothing of ``train.warm_start`` fits.
        InvalidInputError: there is nothing to train on or to learn, or the loss or its gradient is not finite.
        RecsysError: another process failed.
    """
    device = device or default_device()
    if config.tables.uvm_cache > 0 and device.type == "cpu":
        raise ConfigError(
            f"tables.uvm_cache is {config.tables.uvm_cache}, but training runs on CPU; it caches tables in GPU memory"
        )
    precision = Precision(config.train.amp, device)
    kept = samples_since(dataset, config.data.since)
    check_trainable(config, kept)
    start_process_group(device)
    listeners = Listeners(report=report, show_plan=show_plan, show_start=show_start)
    if world().rank > 0:
        listeners = Listeners()
    with lost_processes_named():
        fingerprint = data_fingerprint(dataset)
        return _train(config, kept, run_dir, resume, precision, listeners, fingerprint, overrides)


def _train(
    config: RunConfig,
    dataset: Dataset,
    run_dir: Path,
    resume: bool,
    precision: Precision,
    listeners: Listeners,
    fingerprint: str,
    overrides: Sequence[str],
) -> RunResult:
    record = begin_record(recipe=config.recipe, overrides=overrides, seed=config.train.seed)
    device, settings = precision.device, config.train
    source: Source | None = None
    # Before the folder is made; a run that goes on from its checkpoint needs the older one no more.
    if settings.warm_start and not (run_dir / CHECKPOINT).exists():
        source = open_source(Path(settings.warm_start))
    checkpoint = _open(config, dataset.table.features, run_dir, fingerprint, resume)
    torch.manual_seed(settings.seed)
    with _taken_back_if_refused(run_dir, new=checkpoint is None):
        row_maps = first_before_others(lambda: _row_maps(config, dataset, run_dir, source, new=checkpoint is None))
        trained = build(config, dataset.table.features, row_maps, device=device, data_fingerprint=fingerprint)
    model, net = trained.model, trained.model.module.net
    precision.unscale_gradients_of(model.module.tables)
    listeners.show_plan(
        describe_plan(model.plan, table_specs(config.tables, config.rows, row_maps), optimizer=config.tables.optimizer)
    )
    dataset = map_ids(dataset, {name: row_map.lookup for name, row_map in row_maps.items()})
    training = dataset.split("train")
    pull = Regularization(dataset, strength=config.tables.regularization, device=device)
    loader = BatchLoader(
        dataset,
        training,
        batch_size=settings.batch_size,
        seed=settings.seed,
        rank=world().rank,
        world_size=world().size,
    )
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    watch, step, steps_before, seconds_before = Watch(), 0, 0, 0.0
    steps = len(loader) * settings.epochs
    seed_process(settings.seed)
    if checkpoint is not None:
        restore(checkpoint, model, optimizer)
        loader.load_state_dict(checkpoint.loader)
        precision.load_state_dict(checkpoint.loop.get("scaler", {}))
        watch = Watch.from_state(checkpoint.loop.get("watch", {}))
        steps_before, seconds_before = checkpoint.loop.get("steps_before", 0), checkpoint.loop.get("seconds", 0.0)
        step = checkpoint.step
    elif source is not None:
        with _taken_back_if_refused(run_dir, new=True), together("reading the warm start"):
            taken = start_warm(source, trained, optimizer)
        listeners.show_start(taken)
        steps_before = taken.steps_before
    if settings.compile:
        net.compile(dynamic=True)  # in place: names in checkpoints stay

    rate, position = 0.0, loader.state_dict()
    started, samples = time.perf_counter(), 0
    first_step = step

    def checkpoint_now(name: str = CHECKPOINT) -> None:
        about = {
            "watch": watch.state_dict(),
            "scaler": precision.state_dict(),
            "steps_before": steps_before,
            "seconds": seconds_before + time.perf_counter() - started,
        }
        save(model, optimizer, run_dir / name, step=step, loader=position, loop=about)

    def forward(item: Item) -> tuple[Tensor, Seen]:
        factor = rate_factor(settings, step=step, steps=steps, epoch=item.loader["epoch"], reductions=watch.reductions)
        _set_rates(model, optimizer, config, factor, step=steps_before + step)
        with precision.autocast():
            logits_B, rows = model(item.tensors)
        size = samples_in_step(len(training), item.loader["next_batch"], settings.batch_size)
        losses_B = F.binary_cross_entropy_with_logits(logits_B.float(), item.tensors.labels, reduction="none")
        loss = share_of_loss(losses_B, size)
        seen = Seen(item, mean_loss(loss), rows, logits_B, factor)
        if not math.isfinite(seen.loss):
            stop(run_dir, step + 1, item, f"the loss is {seen.loss}", first_not_finite(seen, net))
        return precision.scaled(loss + pull(rows, item.tensors)), seen

    def is_due(after: int) -> bool:
        return is_evaluated(settings, step=after, steps=steps, steps_per_epoch=len(loader))

    update = precision.update(optimizer, net, clip_norm=settings.clip_norm)
    walk: Steps = PlainSteps(forward, update, device)
    if settings.pipeline == "sparse_dist":
        walk = PipelinedSteps(model, forward, update, device, is_last=lambda item: is_due(_step_of(item, loader)))
    # Of its own: an evaluation converts with the model's while batches are built ahead.
    convert = BatchConverter(dataset.table.features, row_maps)
    report = curves(run_dir, listeners.report, step=step, on=settings.tensorboard and world().rank == 0)
    model.train()
    while loader.epoch < settings.epochs and not watch.is_over(settings):
        for seen in walk.run(batches_of(loader, dataset, convert)):
            if not math.isfinite(update.grad_norm) and not precision.skips_steps:
                what = f"the gradient's norm is {update.grad_norm}"
                stop(run_dir, step + 1, seen.item, what, first_not_finite(seen, net))
            step += 1
            position = seen.item.loader
            samples += samples_in_step(len(training), position["next_batch"], settings.batch_size)
            elapsed = time.perf_counter() - started
            rate = samples / elapsed
            progress = Progress(
                step,
                steps,
                position["epoch"],
                rate,
                seen.loss,
                epochs=settings.epochs,
                eta_s=(steps - step) * elapsed / (step - first_step),
                rate=settings.learning_rate * seen.factor,
                table_rate=config.tables.learning_rate * seen.factor,
                grad_norm=update.grad_norm,
            )
            report(progress)
            is_saved = step % settings.checkpoint_steps == 0
            evaluated = is_due(step)
            if not (is_saved or evaluated):
                continue
            with together("checking the weights"):
                if where := not_finite_in(model):
                    stop(run_dir, step, seen.item, "it left weights that are not finite", where)
            if evaluated:
                walk.pause()
                paused = time.perf_counter()
                validation = evaluate_split(trained, dataset, "validation")
                started += time.perf_counter() - paused
                # The best weights before the checkpoint that knows of them: a kill in between only does both again.
                if validation is not None and watch.see(validation, settings, step=step) and settings.patience:
                    checkpoint_now(BEST)
            checkpoint_now()
            if evaluated:
                report(replace(progress, epoch=step // len(loader), validation=validation))
                if watch.is_over(settings):
                    break
    walk.pause()
    train_s = seconds_before + time.perf_counter() - started
    best_step = watch.best_step if settings.patience else None
    if best_step is not None and best_step != step:
        restore(load(run_dir / BEST), model)

    def write(measured: Mapping[str, Metrics]) -> None:
        write_record(
            run_dir,
            record,
            train_s=train_s,
            samples_per_s=rate,
            epochs=-(-step // len(loader)),
            best_epoch=None if best_step is None else -(-best_step // len(loader)),
            metrics={split: asdict(metrics) for split, metrics in measured.items()},
            device=device,
        )
        write_metrics(run_dir / "metrics.json", measured, samples_per_s=rate, best_step=best_step)

    measured = _measure(trained, dataset, run_dir, write)
    model.eval()
    return RunResult(trained, measured.get("validation"), measured.get("test"), rate, best_step)


def _measure(
    trained: TrainedModel, dataset: Dataset, run_dir: Path, write: Callable[[Mapping[str, Metrics]], None]
) -> dict[str, Metrics]:
    """Predict the splits that have samples, keep the predictions, and have the first process write the metrics."""
    predicted = {split: predict_split(trained, dataset, split) for split in ("validation", "test")}
    kept = {split: predictions for split, predictions in predicted.items() if predictions is not None}
    measured = on_first(lambda: {split: measure(predictions) for split, predictions in kept.items()})
    with together("writing the metrics"):
        if world().rank == 0:
            write_predictions(run_dir, kept)
            write(measured)
    return measured


def _open(config: RunConfig, features: FeatureSet, run_dir: Path, fingerprint: str, resume: bool) -> Checkpoint | None:
    """Make or continue the folder in every process; the checkpoint to continue from, if any."""

    def open_one() -> Checkpoint | None:
        resumed = resume or world().rank > 0  # the first has made the folder by then
        if resumed and (run_dir / "config.json").exists():
            check_samples_per_step(run_dir / "config.json", config)
        return open_run(
            as_one_process(config, world().size), features, run_dir, fingerprint=fingerprint, resume=resumed
        )

    checkpoint = first_before_others(open_one)
    if len({each for each in gather(None if checkpoint is None else checkpoint.step)}) > 1:
        raise ConfigError(f"{run_dir} is not the same for all processes; put it on a file system that they share")
    return checkpoint


def _row_maps(
    config: RunConfig, dataset: Dataset, run_dir: Path, source: Source | None, *, new: bool
) -> dict[str, RowMap]:
    """Those of the run's folder, which the first process makes for a new run."""
    if new and world().rank == 0:
        if source is not None and config.data.since:
            made = grown_row_maps(config, source.row_maps, dataset)
        else:
            made = build_row_maps(config, dataset)
        save_row_maps(made, run_dir / "row_maps.npz")
    # A later version may number rows in another order than the checkpoint's.
    return load_row_maps(run_dir / "row_maps.npz")


@contextmanager
def _taken_back_if_refused(run_dir: Path, *, new: bool) -> Iterator[None]:
    """A configuration that its data refuses must not leave a run in the way of the corrected one."""
    try:
        yield
    except RecsysError:  # in the processes that did not refuse it, of another kind
        if new and world().rank == 0:
            for name in ("config.json", "row_maps.npz", "features.json", "data.json"):
                (run_dir / name).unlink(missing_ok=True)
        raise


def _set_rates(
    model: DistributedModelParallel, optimizer: torch.optim.Optimizer, config: RunConfig, factor: float, *, step: int
) -> None:
    for group in optimizer.param_groups:
        group["lr"] = config.train.learning_rate * factor
    set_rate(model, config.tables.learning_rate * factor, step=step)


def _step_of(item: Item, loader: BatchLoader) -> int:
    """Steps of the run when this batch was trained."""
    return item.loader["epoch"] * len(loader) + item.loader["next_batch"]
