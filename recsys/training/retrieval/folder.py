"""The folder of a run that ranks all items: configuration, fingerprint of the pairs, ids, checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from recsys.arrays import Int64Array
from recsys.data.interactions.pairs import Interactions, ids_of
from recsys.errors import DataFileError
from recsys.files import atomic_file
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.known import Known
from recsys.training.run.checkpoint import read_file
from recsys.training.run.folder import CHECKPOINT, begin_folder, compare_fingerprint, holds_run, is_retrieval_run
from recsys.training.settings import differences, from_json, to_json

FORMAT_VERSION = 2
IDS = "ids.npz"
"""Keys of all users and items, by index: a later run begins with the vectors of the same ids."""


class InTraining(Protocol):
    """The part of a learner (``learners/``) that a checkpoint holds."""

    @property
    def known(self) -> Known:
        """Ids of which it learns something."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Weights and the optimiser."""
        ...


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
    ids = ids_of(interactions)
    with atomic_file(run_dir / IDS) as stream:
        np.savez(stream, users=ids.user_keys_N, items=ids.item_keys_M)
    return None


def save(
    run_dir: Path,
    learner: InTraining,
    state: RunState,
    generator: torch.Generator,
    best_weights: dict[str, Any] | None,
    notes: tuple[str, ...],
) -> None:
    """Write ``checkpoint.pt``; a kill leaves the old one or the new one."""
    values = {
        "retrieval_format": FORMAT_VERSION,
        "progress": dataclasses.asdict(state),
        "model": learner.state_dict(),
        "generator": generator.get_state(),
        "random": torch.get_rng_state(),
        "best_weights": best_weights,
        "known": {
            "users": torch.from_numpy(learner.known.users_N),
            "items": torch.from_numpy(learner.known.items_M),
        },
        "notes": list(notes),
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


def read_known(checkpoint: dict[str, Any]) -> Known:
    """The ids that a checkpoint's model has learnt something of."""
    of = checkpoint["known"]
    return Known(users_N=of["users"].numpy(), items_M=of["items"].numpy())


def read_ids(run_dir: Path) -> tuple[Int64Array, Int64Array]:
    """Keys of a run's users and items, by index.

    Raises:
        DataFileError: their file is missing or damaged.
    """
    path = run_dir / IDS
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return arrays["users"], arrays["items"]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DataFileError(f"{path}: not readable as ids of a run: {error}; `recsys train` writes them") from error


def compare(run_dir: Path, interactions: Interactions) -> None:
    """Refuse other interactions than those a run was trained on.

    Raises:
        ConfigError: they are others.
        DataFileError: the run's data.json is missing or damaged.
    """
    compare_fingerprint(run_dir, fingerprint(interactions))


def fingerprint(interactions: Interactions) -> str:
    """Of all pairs of all parts, their weights and times, which of them are drawn, all ids, histories and features."""
    digest = hashlib.sha256(np.array([interactions.num_users, interactions.num_items]).tobytes())
    for part in (interactions.train, interactions.validation, interactions.test):
        for values in (part.user_E, part.item_E):
            digest.update(len(values).to_bytes(8, "little") + values.tobytes())
    ids, train = ids_of(interactions), interactions.train
    arrays: list[npt.NDArray[Any] | None]
    arrays = [ids.user_keys_N, ids.item_keys_M, train.weight_E, train.time_ms_E, interactions.fresh_E]
    for name, events in sorted(interactions.histories.items()):
        digest.update(name.encode())
        arrays += [events.user_E, events.item_E, events.time_ms_E, events.arrival_ms_E]
        for attribute, keys_E in sorted(events.attributes.items()):
            digest.update(attribute.encode())
            arrays.append(keys_E)
    for columns in (interactions.user_columns, interactions.item_columns):
        for name, column in columns.items():
            digest.update(name.encode())
            arrays.append(column)
    for name, lists in sorted(interactions.candidates.items()):
        digest.update(name.encode())
        arrays += [lists.user_G, lists.item_GC.ravel()]
    for array in arrays:
        digest.update(b"none" if array is None else len(array).to_bytes(8, "little") + array.tobytes())
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
