"""A run before its first step: folder, rows, model and optimisers; new, warm, or as its checkpoint left them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from recsys.data.samples.dataset import Dataset
from recsys.data.samples.ids import map_ids
from recsys.data.samples.loader import BatchLoader
from recsys.data.samples.numbers import fit_numbers, training_numbers
from recsys.embeddings.row_maps.row_map import RowMap
from recsys.embeddings.sharding.plan import describe_plan
from recsys.errors import RecsysError
from recsys.features.feature_set import FeatureSet
from recsys.features.number_transform import NumberTransform
from recsys.training.config import RunConfig
from recsys.training.distributed.data_parallel import as_one_process, check_samples_per_step, seed_process
from recsys.training.distributed.processes import first_before_others, together, world
from recsys.training.distributed.shared_folder import check_shared
from recsys.training.early_stopping import EarlyStopping
from recsys.training.precision import Precision
from recsys.training.reports import Listeners
from recsys.training.run.checkpoint import Checkpoint, restore
from recsys.training.run.folder import (
    CHECKPOINT,
    NUMBERS,
    load_numbers,
    load_row_maps,
    open_run,
    read_config,
    save_numbers,
    save_row_maps,
)
from recsys.training.tables.plan import build_row_maps, table_specs
from recsys.training.trained import TrainedModel, build
from recsys.training.warm_start.apply import start_warm
from recsys.training.warm_start.incremental import grown_row_maps
from recsys.training.warm_start.numbers import kept_numbers
from recsys.training.warm_start.source import WarmStartSource, open_source


@dataclass(kw_only=True)
class TrainingRun:
    """A run between two steps.

    Attributes:
        folder: where it writes.
        trained: its model.
        dataset: mapped, with the samples that it trains on.
        loader: of the training samples.
        optimizer: of everything but the tables.
        stopping: what its evaluations found.
        step: steps taken, since the run was new.
        steps_before: steps that the optimiser state of a warm start is of.
        train_s: seconds of training, evaluations left out.
        samples_per_s: over the training steps of this process; 0: it took none.
        notes: what it says of its settings (``notices.py``).
    """

    folder: Path
    trained: TrainedModel
    dataset: Dataset
    loader: BatchLoader
    optimizer: torch.optim.Optimizer
    stopping: EarlyStopping
    step: int = 0
    steps_before: int = 0
    train_s: float = 0.0
    samples_per_s: float = 0.0
    notes: tuple[str, ...] = ()


def start(
    config: RunConfig,
    dataset: Dataset,
    run_dir: Path,
    *,
    resume: bool,
    precision: Precision,
    listeners: Listeners,
    fingerprint: str,
) -> TrainingRun:
    """Begin a run, or go on with one, in every process.

    Args:
        config, run_dir, resume: see ``loop.train``.
        dataset: with keys, and only the samples that the run trains on.
        precision: of the run; its device is the model's.
        listeners: are shown the plan, and what a warm start took.
        fingerprint: of all the data.

    Raises:
        ConfigError, DataFileError, InvalidInputError: see ``loop.train``; a new run then leaves no configuration.
    """
    settings, device = config.train, precision.device
    source: WarmStartSource | None = None
    # Before the folder is made; a run that goes on from its checkpoint needs the older one no more.
    if settings.warm_start and not (run_dir / CHECKPOINT).exists():
        source = open_source(Path(settings.warm_start))
    checkpoint = _open(config, dataset.table.features, run_dir, fingerprint, resume)
    torch.manual_seed(settings.seed)
    with _taken_back_if_refused(run_dir, new=checkpoint is None):
        row_maps = first_before_others(lambda: _row_maps(config, dataset, run_dir, source, new=checkpoint is None))
        numbers = first_before_others(lambda: _numbers(config, dataset, run_dir, source, new=checkpoint is None))
        trained = build(
            config, dataset.table.features, row_maps, device=device, data_fingerprint=fingerprint, numbers=numbers
        )
    model, net = trained.model, trained.model.module.net
    precision.unscale_gradients_of(model.module.tables)
    listeners.show_plan(
        describe_plan(model.plan, table_specs(config.tables, config.rows, row_maps), optimizer=config.tables.optimizer)
    )
    if numbers:
        listeners.show_numbers(numbers)
    dataset = map_ids(dataset, {name: row_map.lookup for name, row_map in row_maps.items()})
    run = TrainingRun(
        folder=run_dir,
        trained=trained,
        dataset=dataset,
        loader=BatchLoader(
            dataset,
            dataset.split("train"),
            batch_size=settings.batch_size,
            seed=settings.seed,
            rank=world().rank,
            world_size=world().size,
        ),
        optimizer=torch.optim.AdamW(
            net.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        ),
        stopping=EarlyStopping(),
    )
    seed_process(settings.seed)
    if checkpoint is not None:
        _go_on(run, checkpoint, precision)
    elif source is not None:
        with _taken_back_if_refused(run_dir, new=True), together("reading the warm start"):
            taken = start_warm(source, trained, run.optimizer)
        listeners.show_start(taken)
        run.steps_before = taken.steps_before
    if settings.compile:
        net.compile(dynamic=True)  # in place: names in checkpoints stay
    return run


def _go_on(run: TrainingRun, checkpoint: Checkpoint, precision: Precision) -> None:
    restore(checkpoint, run.trained.model, run.optimizer)
    run.loader.load_state_dict(checkpoint.loader)
    precision.load_state_dict(checkpoint.loop.get("scaler", {}))
    run.stopping = EarlyStopping.from_state(checkpoint.loop.get("watch", {}))
    run.steps_before, run.train_s = checkpoint.loop.get("steps_before", 0), checkpoint.loop.get("seconds", 0.0)
    run.step = checkpoint.step


def _open(config: RunConfig, features: FeatureSet, run_dir: Path, fingerprint: str, resume: bool) -> Checkpoint | None:
    """Make or continue the folder in every process; the checkpoint to continue from, if any."""

    def open_one() -> Checkpoint | None:
        resumed = resume or world().rank > 0  # the first has made the folder by then
        if resumed and (run_dir / "config.json").exists():
            check_samples_per_step(run_dir, read_config(run_dir).train.batch_size, config)
        return open_run(
            as_one_process(config, world().size), features, run_dir, fingerprint=fingerprint, resume=resumed
        )

    check_shared(run_dir)
    return first_before_others(open_one)


def _row_maps(
    config: RunConfig, dataset: Dataset, run_dir: Path, source: WarmStartSource | None, *, new: bool
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


def _numbers(
    config: RunConfig, dataset: Dataset, run_dir: Path, source: WarmStartSource | None, *, new: bool
) -> dict[str, NumberTransform]:
    """Transforms of the run's folder, which the first process fits for a new run; layers taken keep theirs."""
    if new and world().rank == 0:
        keeps = source is not None and source.kind == config.model.kind
        made = (
            kept_numbers(training_numbers(dataset), source.numbers)
            if source is not None and keeps
            else fit_numbers(dataset)
        )
        save_numbers(made, run_dir / NUMBERS)
    return load_numbers(run_dir / NUMBERS)


@contextmanager
def _taken_back_if_refused(run_dir: Path, *, new: bool) -> Iterator[None]:
    """A configuration that its data refuses must not leave a run in the way of the corrected one."""
    try:
        yield
    except RecsysError:  # in the processes that did not refuse it, of another kind
        if new and world().rank == 0:
            for name in ("config.json", "row_maps.npz", NUMBERS, "features.json", "data.json"):
                (run_dir / name).unlink(missing_ok=True)
        raise
