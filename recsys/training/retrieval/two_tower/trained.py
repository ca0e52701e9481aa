"""The two towers of a run, as they were trained."""

from __future__ import annotations

from pathlib import Path

import torch

from recsys.data.interactions.pairs import Interactions, ids_of
from recsys.models.retrieval.two_tower.config import TwoTowerConfig
from recsys.models.retrieval.two_tower.features import tower_features
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.folder import compare, load, read_known, read_retrieval_config
from recsys.training.retrieval.two_tower.learner import SequenceLearner
from recsys.training.retrieval.two_tower.sequences import training_sequences
from recsys.training.run.folder import NUMBERS, load_numbers, load_row_maps

ROW_MAPS = "row_maps.npz"


def load_two_tower(run_dir: Path, interactions: Interactions) -> tuple[RetrievalRunConfig, SequenceLearner]:
    """A run's configuration, and its model with the weights that the run keeps.

    Raises:
        ConfigError: other data than the run's.
        DataFileError: ``run_dir`` is not such a run, or a file of it is damaged.
    """
    config = read_retrieval_config(run_dir)
    compare(run_dir, interactions)
    checkpoint = load(run_dir)
    assert isinstance(config.model, TwoTowerConfig)
    features = tower_features(ids_of(interactions).features)
    with torch.random.fork_rng(devices=[]):
        model = config.model
        sequences, _ = training_sequences(config, interactions, window=model.window, long_history=model.long_history)
        learner = SequenceLearner(
            config,
            interactions,
            features,
            sequences,
            row_maps=load_row_maps(run_dir / ROW_MAPS),
            numbers=load_numbers(run_dir / NUMBERS),
        )
    learner.load_state_dict(checkpoint["best_weights"] or checkpoint["model"])
    learner.known, learner.notes = read_known(checkpoint), tuple(checkpoint.get("notes", ()))
    return config, learner
