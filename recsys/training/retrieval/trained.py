"""The model of a run that ranks all items, as it was trained."""

from __future__ import annotations

from pathlib import Path

import torch

from recsys.data.interactions.pairs import Interactions, Pairs
from recsys.errors import DataFileError
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.folder import compare, load, read_known, read_retrieval_config
from recsys.training.retrieval.frozen.index import FROZEN, FrozenIndex, kept_frozen
from recsys.training.retrieval.frozen.trainer import FrozenItemsTrainer
from recsys.training.retrieval.known import Known
from recsys.training.retrieval.pairs.rows import SharedMaps, kept_maps
from recsys.training.retrieval.trainers import FullGraphTrainer, RetrievalTrainer, SampledTrainer


def make_trainer(
    config: RetrievalRunConfig,
    interactions: Interactions,
    index: FrozenIndex | None = None,
    maps: SharedMaps | None = None,
) -> RetrievalTrainer:
    """An untrained model; of the users alone beside an index that is kept; with row maps of ids that share rows."""
    if index is not None:
        return FrozenItemsTrainer(config, interactions, index)
    if not config.train.fan_outs:
        return FullGraphTrainer(config, interactions, maps)
    from recsys.embeddings.sharding.shard import start_process_group

    start_process_group(torch.device("cpu"))
    return SampledTrainer(config, interactions, maps)


def load_trained(run_dir: Path, interactions: Interactions) -> tuple[RetrievalRunConfig, RetrievalTrainer, Known]:
    """A run's configuration, its model with the weights that the run keeps, and the ids that it knows.

    Raises:
        ConfigError: other data than the run's.
        DataFileError: ``run_dir`` is not a run, or a file of it is damaged.
    """
    config = read_retrieval_config(run_dir)
    interactions, index = of_run(run_dir, interactions)
    compare(run_dir, interactions)
    checkpoint = load(run_dir)
    with torch.random.fork_rng(devices=[]):
        trainer = make_trainer(config, interactions, index, kept_maps(config, run_dir))
    trainer.load_state_dict(checkpoint["best_weights"] or checkpoint["model"])
    return config, trainer, read_known(checkpoint)


def of_run(run_dir: Path, interactions: Interactions) -> tuple[Interactions, FrozenIndex | None]:
    """The interactions as a run has them, and the index that it keeps: its items that the log lacks come behind.

    Raises:
        DataFileError: the run's copy of the index is missing or damaged.
    """
    index = kept_frozen(run_dir)
    if index is None and (path := read_retrieval_config(run_dir).train.freeze_items):
        raise DataFileError(
            f"{run_dir / FROZEN}: the run's copy of the index of {path} is missing; `recsys train --resume` writes it "
            "again, while that bundle is there"
        )
    return (interactions, None) if index is None else (index.beside(interactions), index)


def masked_pairs(config: RetrievalRunConfig, interactions: Interactions) -> tuple[Pairs, ...]:
    """Pairs that count as taken in the test."""
    if config.data.mask_validation:
        return interactions.train, interactions.validation
    return (interactions.train,)
