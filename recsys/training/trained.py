"""A model with what feeds it: built for a run, or loaded from one, and measured on a split."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torchrec.distributed.model_parallel import DistributedModelParallel

from recsys.data.samples.dataset import Dataset
from recsys.data.samples.fingerprint import data_fingerprint
from recsys.data.samples.ids import map_ids
from recsys.embeddings.numbers import NumberInputs
from recsys.embeddings.row_maps.row_map import RowMap
from recsys.embeddings.sharding.plan import PlannedTable, Sharding, describe_plan, plan_tables
from recsys.embeddings.sharding.shard import fuse_optimizer, shard, start_process_group
from recsys.embeddings.tables import BatchConverter, EmbeddingTables
from recsys.errors import ConfigError
from recsys.evaluation.evaluate import Counted, Metrics, measure, predict
from recsys.evaluation.predictions import Predictions, predictions_of
from recsys.features.feature_set import FeatureSet
from recsys.features.number_transform import NumberTransform
from recsys.models.ranking.model import RankingModel, build_net
from recsys.training.config import RunConfig, TableConfig
from recsys.training.distributed.data_parallel import predict_together
from recsys.training.distributed.processes import on_first
from recsys.training.distributed.sync_normalization import use_sync_normalization
from recsys.training.run.checkpoint import load, restore
from recsys.training.run.folder import NUMBERS, compare_data, load_numbers, load_row_maps, read_run, weights_file
from recsys.training.tables.initial_rows import initialise
from recsys.training.tables.plan import build_row_maps, table_dims, table_specs
from recsys.training.warm_start.incremental import samples_since


@dataclass(frozen=True)
class TrainedModel:
    """A model with what is needed to feed it.

    ``data_fingerprint`` names the data it was trained on; None: it was not trained. ``numbers``: how it reads numeric
    features, by input name; those that are not there, as they come.
    """

    config: RunConfig
    features: FeatureSet
    row_maps: dict[str, RowMap]
    model: DistributedModelParallel
    convert: BatchConverter
    device: torch.device
    data_fingerprint: str | None = None
    numbers: Mapping[str, NumberTransform] = field(default_factory=dict)


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
    numbers: Mapping[str, NumberTransform] | None = None,
) -> TrainedModel:
    """An untrained model, its tables initialised. Without ``numbers`` it reads numeric features as they come.

    Raises:
        ConfigError: the configuration names a table that the FeatureSet does not have, or the model reads a
            history and the FeatureSet declares none.
    """
    specs = table_specs(config.tables, config.rows, row_maps)
    net = build_net(features, dims=table_dims(specs, row_maps), config=config.model)
    model = RankingModel(
        features,
        tables=EmbeddingTables(specs, row_maps),
        net=net,
        numbers=NumberInputs(features, numbers or {}),
        distinct_events=config.model.reads == "distinct_events",
    )
    fuse_optimizer(model.tables, name=config.tables.optimizer, learning_rate=config.tables.learning_rate)
    start_process_group(device)
    use_sync_normalization(model)
    sharded = shard(model, table_names=[spec.name for spec in specs], device=device, sharding=_sharding(config.tables))
    initialise(sharded, row_maps)
    convert = BatchConverter(features, row_maps)
    return TrainedModel(
        config, features, dict(row_maps), sharded, convert, device, data_fingerprint, numbers=numbers or {}
    )


def plan_run(
    config: RunConfig, dataset: Dataset, *, device: str = "cpu", processes: int = 1, hosts: int = 1
) -> list[PlannedTable]:
    """Plan of where ``loop.train`` would put each table, without training; needs neither the processes nor the device.

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
    row_maps = build_row_maps(config, samples_since(dataset, config.data.since))
    specs = table_specs(config.tables, config.rows, row_maps)
    tables = EmbeddingTables(specs, row_maps)
    fuse_optimizer(tables, name=config.tables.optimizer, learning_rate=config.tables.learning_rate)
    plan = plan_tables(tables, sharding=_sharding(config.tables), device=device, world_size=processes, hosts=hosts)
    return describe_plan(plan, specs, optimizer=config.tables.optimizer)


def load_run(run_dir: Path, *, device: torch.device | None = None) -> TrainedModel:
    """The model of a run: its best checkpoint if it kept one (``train.patience``), else its latest.

    Raises:
        DataFileError: ``run_dir`` is not a run, or a file of it is damaged.
    """
    config, features, fingerprint = read_run(run_dir)
    row_maps = load_row_maps(run_dir / "row_maps.npz")
    device = device or torch.device("cpu")
    numbers = load_numbers(run_dir / NUMBERS)
    trained = build(config, features, row_maps, device=device, data_fingerprint=fingerprint, numbers=numbers)
    restore(load(weights_file(run_dir)), trained.model)
    trained.model.eval()
    return trained


def evaluate_run(trained: TrainedModel, dataset: Dataset, split: str) -> Metrics | None:
    """Metrics on a split of a dataset that holds keys; None if the split is empty.

    Raises:
        InvalidInputError: no such split, or all its labels are equal.
        ConfigError: the model was trained on other data.
    """
    predictions = predict_run(trained, dataset, split)
    return None if predictions is None else on_first(lambda: measure(predictions))


def check_same_data(trained: TrainedModel, dataset: Dataset) -> None:
    """Refuse a dataset that is not the one a model was trained on: with another log the splits lie elsewhere,
    and "test" samples may have been trained on. A model that was not trained fits any.

    Raises:
        ConfigError: it is another.
    """
    if trained.data_fingerprint is not None:
        compare_data("the model", trained.data_fingerprint, data_fingerprint(dataset))


def evaluate_split(trained: TrainedModel, dataset: Dataset, split: str) -> Metrics | None:
    """Metrics on a split of a mapped dataset, each process predicting a part; None if the split is empty.

    Raises:
        InvalidInputError: no such split, or all its labels are equal.
    """
    predictions = predict_split(trained, dataset, split)
    return None if predictions is None else on_first(lambda: measure(predictions))


def predict_split(
    trained: TrainedModel, dataset: Dataset, split: str, *, report: Counted = lambda done, total: None
) -> Predictions | None:
    """Logits of a split of a mapped dataset, each process predicting a part; None if the split is empty.

    Raises:
        InvalidInputError: no such split.
    """
    indices = dataset.split(split)
    if not len(indices):
        return None
    logits = predict_together(
        lambda part: predict(
            trained.model, dataset, part, convert=trained.convert, device=trained.device, report=report
        ),
        indices,
    )
    return predictions_of(dataset, indices, logits)


def predict_run(
    trained: TrainedModel, dataset: Dataset, split: str, *, report: Counted = lambda done, total: None
) -> Predictions | None:
    """As :func:`evaluate_run`, the logits instead of their metrics; ``report`` is told how many samples are done.

    Raises:
        InvalidInputError: no such split.
        ConfigError: the model was trained on other data.
    """
    check_same_data(trained, dataset)
    dataset = samples_since(dataset, trained.config.data.since)
    mapped = map_ids(dataset, {name: row_map.lookup for name, row_map in trained.row_maps.items()})
    return predict_split(trained, mapped, split, report=report)


def _sharding(tables: TableConfig) -> Sharding:
    return Sharding(default=tables.sharding, by_table=tables.shardings, uvm_cache=tables.uvm_cache)
