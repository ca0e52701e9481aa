"""The model of a run that ranks all items, as it was trained."""

from __future__ import annotations

from pathlib import Path

import torch

from recsys.data.interactions.pairs import Interactions, Pairs
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.folder import compare, load, read_known, read_retrieval_config
from recsys.training.retrieval.known import Known
from recsys.training.retrieval.trainers import FullGraphTrainer, RetrievalTrainer, SampledTrainer


def make_trainer(config: RetrievalRunConfig, interactions: Interactions) -> FullGraphTrainer | SampledTrainer:
    """An untrained model."""
    if not config.train.fan_outs:
        return FullGraphTrainer(config, interactions)
    from recsys.embeddings.sharding.shard import start_process_group

    start_process_group(torch.device("cpu"))
    return SampledTrainer(config, interactions)


def load_trained(run_dir: Path, interactions: Interactions) -> tuple[RetrievalRunConfig, RetrievalTrainer, Known]:
    """A run's configuration, its model with the weights that the run keeps, and the ids that it knows.

    Raises:
        ConfigError: other data than the run's.
        DataFileError: ``run_dir`` is not a run, or a file of it is damaged.
    """
    config = read_retrieval_config(run_dir)
    compare(run_dir, interactions)
    checkpoint = load(run_dir)
    with torch.random.fork_rng(devices=[]):
        trainer = make_trainer(config, interactions)
    trainer.load_state_dict(checkpoint["best_weights"] or checkpoint["model"])
    return config, trainer, read_known(checkpoint)


def masked_pairs(config: RetrievalRunConfig, interactions: Interactions) -> tuple[Pairs, ...]:
    """Pairs that count as taken in the test."""
    if config.data.mask_validation:
        return interactions.train, interactions.validation
    return (interactions.train,)
