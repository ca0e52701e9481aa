"""A run of two towers: its sequences, tables and folder; the epochs are those of ``training/retrieval/loop.py``.

Beside the files of every run that ranks all items, the folder holds ``row_maps.npz`` and ``numbers.json``, as
that of a ranking model does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from recsys.data.interactions.pairs import Interactions, ids_of
from recsys.embeddings.row_maps.row_map import RowMap
from recsys.features.number_transform import NumberTransform
from recsys.models.retrieval.two_tower.config import TwoTowerConfig
from recsys.models.retrieval.two_tower.features import tower_features
from recsys.training.distributed.processes import check_alone
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.folder import open_retrieval_run, read_known
from recsys.training.retrieval.known import lost_pairs
from recsys.training.retrieval.loop import RetrievalProgress, RetrievalRunResult, check_parts, run_epochs
from recsys.training.retrieval.two_tower.data import tower_numbers, tower_row_maps
from recsys.training.retrieval.two_tower.learner import SequenceLearner
from recsys.training.retrieval.two_tower.sequences import training_sequences
from recsys.training.retrieval.two_tower.trained import ROW_MAPS
from recsys.training.retrieval.two_tower.warm_start import begin_with_towers, open_older_towers
from recsys.training.run.folder import CHECKPOINT, NUMBERS, load_numbers, load_row_maps, save_numbers, save_row_maps


def train_two_tower(
    config: RetrievalRunConfig,
    interactions: Interactions,
    run_dir: Path,
    *,
    resume: bool = False,
    overrides: Sequence[str] = (),
    report: Callable[[RetrievalProgress], None] = lambda progress: None,
    show_notes: Callable[[Sequence[str]], None] = lambda notes: None,
) -> RetrievalRunResult:
    """Train, validate, test, and write everything to ``run_dir``; arguments as of ``train_retrieval_run``.

    Raises:
        ConfigError: as there, or the FeatureSet declares no history, or ``model.multi_task_weight`` is set and nothing
            of items can be predicted.
        DataFileError: the checkpoint is damaged or of another model.
        InvalidInputError: train or test is empty, no pair comes after an event of its user, or the loss or a weight is
            not finite.
    """
    check_alone(f"the recipe {config.recipe}, which ranks all items,")
    check_parts(config, interactions)
    assert isinstance(config.model, TwoTowerConfig)
    features = tower_features(ids_of(interactions).features)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        # Before the folder is made: what the data refuses must leave no run in the way of the corrected one.
        sizes = {"window": config.model.window, "long_history": config.model.long_history}
        sequences, notes = training_sequences(config, interactions, **sizes)
        older = None if resume and (run_dir / CHECKPOINT).exists() else open_older_towers(config)
        row_maps = tower_row_maps(
            config.model,
            config.rows,
            features,
            interactions,
            sequences,
            older_items=None if older is None else older.item_keys[older.read_M],
        )
        numbers = tower_numbers(features, interactions, sequences, older={} if older is None else older.numbers)

        def learner_of(row_maps: dict[str, RowMap], numbers: dict[str, NumberTransform]) -> SequenceLearner:
            return SequenceLearner(config, interactions, features, sequences, row_maps=row_maps, numbers=numbers)

        learner = learner_of(row_maps, numbers)
        notes = (*notes, *learner.predicted.notes)
        if older is not None:
            notes = (*notes, begin_with_towers(older, learner, interactions))
        notes = (*notes, *lost_pairs(interactions, learner.known.items_M))
        checkpoint = open_retrieval_run(config, interactions, run_dir, resume=resume)
        if checkpoint is None:
            save_row_maps(row_maps, run_dir / ROW_MAPS)
            save_numbers(numbers, run_dir / NUMBERS)
        else:  # a later version may number rows in another order than the checkpoint's
            learner = learner_of(load_row_maps(run_dir / ROW_MAPS), load_numbers(run_dir / NUMBERS))
            learner.known, notes = read_known(checkpoint), tuple(checkpoint.get("notes", notes))
        show_notes(notes)
        return run_epochs(
            config,
            interactions,
            run_dir,
            learner,
            checkpoint=checkpoint,
            notes=notes,
            overrides=overrides,
            report=report,
        )
