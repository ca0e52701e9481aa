"""The training loop, top to bottom: a run is begun (``start.py``), takes steps, evaluates, saves, and is measured."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from recsys.data.samples.dataset import Dataset
from recsys.data.samples.fingerprint import data_fingerprint
from recsys.data.samples.loader import BatchLoader
from recsys.embeddings.sharding.plan import PlannedTable
from recsys.embeddings.sharding.shard import set_rate, start_process_group
from recsys.embeddings.tables import BatchConverter
from recsys.errors import ConfigError
from recsys.evaluation.baselines import Baseline, baseline_values, baselines_json, baselines_of
from recsys.evaluation.evaluate import Metrics, measure
from recsys.evaluation.predictions import FILE, Predictions, write_predictions
from recsys.features.number_transform import NumberTransform
from recsys.training.config import RunConfig
from recsys.training.distributed.data_parallel import mean_loss, samples_in_step, share_of_loss
from recsys.training.distributed.processes import lost_processes_named, on_first, together, world
from recsys.training.early_stopping import is_evaluated
from recsys.training.non_finite import first_not_finite, not_finite_in, stop
from recsys.training.notices import notices
from recsys.training.precision import Precision
from recsys.training.regularization import Regularization
from recsys.training.reports import Listeners, RunResult, TrainingProgress
from recsys.training.run.checkpoint import load, restore, save
from recsys.training.run.folder import BEST, CHECKPOINT, write_metrics
from recsys.training.run.record import RecordStart, begin_record, write_record
from recsys.training.run.tensorboard import curves
from recsys.training.schedules import rate_factor
from recsys.training.start import TrainingRun, start
from recsys.training.steps import Forward, PipelinedSteps, PlainSteps, StepOutput, Steps, TrainBatch, batches_of
from recsys.training.trained import default_device, evaluate_split, predict_split
from recsys.training.validate_dataset import validate_dataset
from recsys.training.warm_start.apply import WarmStart
from recsys.training.warm_start.incremental import samples_since


def train(
    config: RunConfig,
    dataset: Dataset,
    run_dir: Path,
    *,
    resume: bool = False,
    device: torch.device | None = None,
    overrides: Sequence[str] = (),
    report: Callable[[TrainingProgress], None] = lambda progress: None,
    show_plan: Callable[[list[PlannedTable]], None] = lambda plan: None,
    show_start: Callable[[WarmStart], None] = lambda start: None,
    show_numbers: Callable[[Mapping[str, NumberTransform]], None] = lambda transforms: None,
    show_notes: Callable[[Sequence[str]], None] = lambda notes: None,
) -> RunResult:
    """Train, evaluate after each epoch or every ``train.evaluate_every`` steps, and write everything to ``run_dir``.

    With several processes (``distributed/``), each calls this with the same arguments.

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
        show_numbers: called before the first step with how numeric features are read, in the first process.
        show_notes: called before the first step with what the run says of its settings (``notices.py``), in the
            first process.

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
    validate_dataset(config, kept)
    start_process_group(device)
    listeners = Listeners(
        report=report, show_plan=show_plan, show_start=show_start, show_numbers=show_numbers, show_notes=show_notes
    )
    if world().rank > 0:
        listeners = Listeners()
    with lost_processes_named():
        record = begin_record(recipe=config.recipe, overrides=overrides, seed=config.train.seed)
        run = start(
            config,
            kept,
            run_dir,
            resume=resume,
            precision=precision,
            listeners=listeners,
            fingerprint=data_fingerprint(dataset),
        )
        run.notes = notices(config, kept, run.trained.row_maps, steps_per_epoch=len(run.loader))
        listeners.show_notes(run.notes)
        report = curves(run_dir, listeners.report, step=run.step, on=config.train.tensorboard and world().rank == 0)
        _take_steps(run, precision, report)
        return _finish(run, record)


def _take_steps(run: TrainingRun, precision: Precision, report: Callable[[TrainingProgress], None]) -> None:
    """The steps that are left, with their evaluations and checkpoints."""
    config, settings, loader, stopping = run.trained.config, run.trained.config.train, run.loader, run.stopping
    model, net, device = run.trained.model, run.trained.model.module.net, precision.device
    steps, first_step = len(loader) * settings.epochs, run.step
    samples, seconds_before, started = 0, run.train_s, time.perf_counter()
    position = loader.state_dict()

    def checkpoint_now(name: str = CHECKPOINT) -> None:
        run.train_s = seconds_before + time.perf_counter() - started
        about = {
            "watch": stopping.state_dict(),
            "scaler": precision.state_dict(),
            "steps_before": run.steps_before,
            "seconds": run.train_s,
        }
        save(model, run.optimizer, run.folder / name, step=run.step, loader=position, loop=about)

    def is_due(after: int) -> bool:
        return is_evaluated(settings, step=after, steps=steps, steps_per_epoch=len(loader))

    forward = _forward_of(run, precision, steps=steps)
    update = precision.update(run.optimizer, net, clip_norm=settings.clip_norm)
    walk: Steps = PlainSteps(forward, update, device)
    if settings.pipeline == "sparse_dist":
        walk = PipelinedSteps(model, forward, update, device, is_last=lambda batch: is_due(_step_of(batch, loader)))
    # Of its own: an evaluation converts with the model's while batches are built ahead.
    convert = BatchConverter(run.trained.features, run.trained.row_maps)
    model.train()
    while loader.epoch < settings.epochs and not stopping.should_stop(settings):
        for output in walk.run(batches_of(loader, run.dataset, convert)):
            if not math.isfinite(update.grad_norm) and not precision.skips_steps:
                what = f"the gradient's norm is {update.grad_norm}"
                stop(run.folder, run.step + 1, output.batch, what, first_not_finite(output, net))
            run.step += 1
            position = output.batch.loader
            samples += _samples_of(output.batch, run)
            elapsed = time.perf_counter() - started
            run.samples_per_s = samples / elapsed
            progress = TrainingProgress(
                run.step,
                steps,
                position["epoch"],
                run.samples_per_s,
                output.loss,
                epochs=settings.epochs,
                eta_s=(steps - run.step) * elapsed / (run.step - first_step),
                rate=settings.learning_rate * output.factor,
                table_rate=config.tables.learning_rate * output.factor,
                grad_norm=update.grad_norm,
            )
            report(progress)
            is_saved = run.step % settings.checkpoint_steps == 0
            evaluated = is_due(run.step)
            if not (is_saved or evaluated):
                continue
            with together("checking the weights"):
                if where := not_finite_in(model):
                    stop(run.folder, run.step, output.batch, "it left weights that are not finite", where)
            if evaluated:
                walk.pause()
                paused = time.perf_counter()
                validation = evaluate_split(run.trained, run.dataset, "validation")
                started += time.perf_counter() - paused
                # The best weights before the checkpoint that knows of them: a kill in between only does both again.
                if (
                    validation is not None
                    and stopping.update(validation, settings, step=run.step)
                    and settings.patience
                ):
                    checkpoint_now(BEST)
            checkpoint_now()
            if evaluated:
                report(replace(progress, epoch=run.step // len(loader), validation=validation))
                if stopping.should_stop(settings):
                    break
    walk.pause()


def _forward_of(run: TrainingRun, precision: Precision, *, steps: int) -> Forward:
    """A step's loss: sets the rates, looks up, computes, and refuses what is not finite.

    Args:
        run: its model, optimiser and folder are used.
        precision: of the run.
        steps: of all epochs.
    """
    config, model = run.trained.config, run.trained.model
    pull = Regularization(run.dataset, strength=config.tables.regularization, device=precision.device)

    def forward(batch: TrainBatch) -> tuple[Tensor, StepOutput]:
        factor = rate_factor(
            config.train, step=run.step, steps=steps, epoch=batch.loader["epoch"], reductions=run.stopping.reductions
        )
        for group in run.optimizer.param_groups:
            group["lr"] = config.train.learning_rate * factor
        set_rate(model, config.tables.learning_rate * factor, step=run.steps_before + run.step)
        with precision.autocast():
            logits_B, rows = model(batch.tensors)
        losses_B = F.binary_cross_entropy_with_logits(logits_B.float(), batch.tensors.labels, reduction="none")
        loss = share_of_loss(losses_B, _samples_of(batch, run))
        output = StepOutput(batch, mean_loss(loss), rows, logits_B, factor)
        if not math.isfinite(output.loss):
            where = first_not_finite(output, model.module.net)
            stop(run.folder, run.step + 1, batch, f"the loss is {output.loss}", where)
        return precision.scaled(loss + pull(rows, batch.tensors)), output

    return forward


def _finish(run: TrainingRun, record: RecordStart) -> RunResult:
    """Take the weights that the run keeps, predict the splits that have samples, and write what was measured."""
    trained, stopping, settings = run.trained, run.stopping, run.trained.config.train
    best_step = stopping.best_step if settings.patience else None
    if best_step is not None and best_step != run.step:
        restore(load(run.folder / BEST), trained.model)
    predicted = {split: predict_split(trained, run.dataset, split) for split in ("validation", "test")}
    kept = {split: predictions for split, predictions in predicted.items() if predictions is not None}
    measured = on_first(lambda: {split: measure(predictions) for split, predictions in kept.items()})
    baselines = on_first(lambda: {split: baselines_of(each, measured[split]) for split, each in kept.items()})
    with together("writing the metrics"):
        if world().rank == 0:
            _write(run, record, kept, measured, baselines, best_step=best_step)
    trained.model.eval()
    return RunResult(
        trained,
        measured.get("validation"),
        measured.get("test"),
        run.samples_per_s,
        best_step,
        baselines=baselines,
        notes=run.notes,
    )


def _write(
    run: TrainingRun,
    record: RecordStart,
    predicted: Mapping[str, Predictions],
    measured: Mapping[str, Metrics],
    baselines: Mapping[str, tuple[Baseline, ...]],
    *,
    best_step: int | None,
) -> None:
    # Of other splits there may be predictions that an evaluation made halfway, with weights that are no more.
    (run.folder / FILE).unlink(missing_ok=True)
    write_predictions(run.folder, predicted)
    write_record(
        run.folder,
        record,
        train_s=run.train_s,
        samples_per_s=run.samples_per_s,
        epochs=-(-run.step // len(run.loader)),
        best_epoch=None if best_step is None else -(-best_step // len(run.loader)),
        metrics={split: asdict(metrics) for split, metrics in measured.items()},
        baselines={split: baseline_values(found) for split, found in baselines.items()},
        notes=run.notes,
        device=run.trained.device,
    )
    write_metrics(
        run.folder / "metrics.json",
        measured,
        {split: baselines_json(found) for split, found in baselines.items()},
        samples_per_s=run.samples_per_s,
        best_step=best_step,
    )


def _samples_of(batch: TrainBatch, run: TrainingRun) -> int:
    """Samples of a step, in all processes."""
    samples = len(run.dataset.split("train"))
    return samples_in_step(samples, batch.loader["next_batch"], run.trained.config.train.batch_size)


def _step_of(batch: TrainBatch, loader: BatchLoader) -> int:
    """Steps of the run when this batch was trained."""
    return batch.loader["epoch"] * len(loader) + batch.loader["next_batch"]
