"""The folder of a run that ranks all items: configuration, fingerprint of the pairs, checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsys.data.interactions.pairs import Interactions
from recsys.errors import DataFileError
from recsys.files import atomic_file
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.trainers import RetrievalTrainer
from recsys.training.run.checkpoint import read_file
from recsys.training.run.folder import CHECKPOINT, begin_folder, compare_fingerprint, holds_run, is_retrieval_run
from recsys.training.settings import differences, from_json, to_json

FORMAT_VERSION = 1


@dataclass(kw_only=True)
class RunState:
    """The part of a run's state that is not the model's; all of it is in a checkpoint."""

    epoch: int = 0
    waited: int = 0
    best_epoch: int = 0
    best: float | None = None
    train_s: float = 0.0


def open_retrieval_run(config: RetrievalRunConfig, interactions: Interactions, run_dir: Path, *, resume: bool) -> Any:
    """Make or continue a run's folder; the checkpoint to continue from, if any.

    Raises:
        ConfigError: it holds a run and ``resume`` is false, or one of another configuration or other data.
        DataFileError: a file of the run is damaged.
    """
    digest = fingerprint(interactions)

    def other() -> str:
        if not is_retrieval_run(run_dir):
            return "its model ranks given items, this one all items"
        return differences(read_retrieval_config(run_dir), config)

    if holds_run(run_dir, other, fingerprint=digest, resume=resume) and (run_dir / CHECKPOINT).exists():
        return load(run_dir)
    begin_folder(run_dir, to_json(config), fingerprint=digest)
    return None


def save(
    run_dir: Path,
    trainer: RetrievalTrainer,
    state: RunState,
    generator: torch.Generator,
    best_weights: dict[str, Any] | None,
) -> None:
    """Write ``checkpoint.pt``; a kill leaves the old one or the new one."""
    values = {
        "retrieval_format": FORMAT_VERSION,
        "progress": dataclasses.asdict(state),
        "model": trainer.state_dict(),
        "generator": generator.get_state(),
        "random": torch.get_rng_state(),
        "best_weights": best_weights,
    }
    with atomic_file(run_dir / CHECKPOINT) as stream:
        torch.save(values, stream)


def load(run_dir: Path) -> dict[str, Any]:
    """Read what :func:`save` wrote.

    Raises:
        DataFileError: there is none, or it is damaged or of another kind of run.
    """
    path = run_dir / CHECKPOINT
    values = read_file(path, "no checkpoint; `recsys train` writes one")
    if not isinstance(values, dict) or values.get("retrieval_format") != FORMAT_VERSION:
        raise DataFileError(f"{path}: not a checkpoint of a model that ranks all items, of format {FORMAT_VERSION}")
    return values


def compare(run_dir: Path, interactions: Interactions) -> None:
    """Refuse other interactions than those a run was trained on.

    Raises:
        ConfigError: they are others.
        DataFileError: the run's data.json is missing or damaged.
    """
    compare_fingerprint(run_dir, fingerprint(interactions))


def fingerprint(interactions: Interactions) -> str:
    """Of all pairs of all parts."""
    digest = hashlib.sha256(np.array([interactions.num_users, interactions.num_items]).tobytes())
    for part in (interactions.train, interactions.validation, interactions.test):
        for values in (part.user_E, part.item_E):
            digest.update(len(values).to_bytes(8, "little") + values.tobytes())
    return digest.hexdigest()[:16]


def read_retrieval_config(run_dir: Path) -> RetrievalRunConfig:
    """A run's configuration.

    Raises:
        DataFileError: there is none.
        ConfigError: it is not that of such a run.
    """
    try:
        return from_json(RetrievalRunConfig, (run_dir / "config.json").read_text())
    except OSError:
        raise DataFileError(f"{run_dir} holds no config.json; `recsys train` writes a run") from None
