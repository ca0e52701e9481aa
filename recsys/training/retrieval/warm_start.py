"""Warm start of a model that ranks all items: vectors of layer 0 by id, and layers, of an older run.

An id that both runs have begins with the older vector, others anew. Where ids share rows, these begin as the ones whose
vectors are nearest to the older vectors (``models/retrieval/first_rows.py``): of ids with one row each, their mean. The
optimiser begins anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recsys.arrays import BoolArray, Int64Array
from recsys.data.interactions.pairs import Interactions, ids_of
from recsys.errors import ConfigError
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.folder import load, read_ids, read_known, read_retrieval_config
from recsys.training.retrieval.known import Known
from recsys.training.retrieval.pairs.rows import SIDES, SharedMaps, first_rows, kept_maps
from recsys.training.retrieval.trainers import RetrievalTrainer, State, first_of
from recsys.training.run.folder import is_retrieval_run


@dataclass(frozen=True, kw_only=True, eq=False)
class OlderRun:
    """An older run, of which another may begin.

    Attributes:
        name: of its folder.
        user_keys, item_keys: its ids.
        users_ND, items_MD: their vectors of layer 0.
        layers: weights of its layers.
        known: ids of which it learnt something.
    """

    name: str
    user_keys: Int64Array
    item_keys: Int64Array
    users_ND: Tensor
    items_MD: Tensor
    layers: State
    known: Known


def open_older_run(config: RetrievalRunConfig) -> OlderRun | None:
    """The run that ``train.warm_start`` names; None: none.

    Raises:
        ConfigError: it is no run of a model that ranks all items, or one of another model or width.
        DataFileError: a file of it is damaged.
    """
    if not config.train.warm_start:
        return None
    path = older_run(config, ("kind", "dim", "layers"))
    checkpoint = load(path)
    state = checkpoint["best_weights"] or checkpoint["model"]
    user_keys, item_keys = read_ids(path)
    older = read_retrieval_config(path)
    rows = first_rows(kept_maps(older, path), user_keys, item_keys)
    users_ND, items_MD = first_of(state, rows, dim=older.model.dim)
    return OlderRun(
        name=path.name,
        user_keys=user_keys,
        item_keys=item_keys,
        users_ND=users_ND,
        items_MD=items_MD,
        layers=state["layers"],
        known=read_known(checkpoint),
    )


def older_run(config: RetrievalRunConfig, same: Sequence[str]) -> Path:
    """The folder of the run that ``train.warm_start`` names.

    Args:
        config: of this run.
        same: settings of the model in which the two must agree.

    Raises:
        ConfigError: it is no run of a model that ranks all items, or one of another model.
    """
    path = Path(config.train.warm_start)
    where = f"train.warm_start {path}"
    if (path / "manifest.json").exists():
        raise ConfigError(
            f"{where}: a bundle, which holds final vectors alone; give the folder of the run it was made of"
        )
    if not is_retrieval_run(path):
        raise ConfigError(
            f"{where}: not the folder of a run of a model that ranks all items; `recsys train` writes one"
        )
    older = read_retrieval_config(path)
    if older.train.freeze_items:
        raise ConfigError(
            f"{where}: a run with train.freeze_items, which holds final vectors alone; give the run that its items are "
            "of, or keep them once more"
        )
    for name in same:
        was, now = getattr(older.model, name, None), getattr(config.model, name)
        if was != now:
            raise ConfigError(f"{where}: its model.{name} is {was!r}, that of this run {now!r}; allowed: the same")
    return path


def begin_with(
    older: OlderRun, trainer: RetrievalTrainer, interactions: Interactions, maps: SharedMaps
) -> tuple[Known, str]:
    """Begin with an older run's vectors and layers; the ids that it knew, and a sentence on what was taken.

    Args:
        older: the run.
        trainer: that begins.
        interactions: of this run.
        maps: its row maps. An id without a training pair is left out where ids share rows: others would train its row.

    Raises:
        ConfigError: no item is the same.
        InvalidInputError: ids' rows are multiplied, so that none can be fitted.
    """
    ids = ids_of(interactions)
    users_ND, items_MD = trainer.first()
    of_users = take_known(users_ND, ids.user_keys_N, older.users_ND, older.user_keys, older.known.users_N)
    of_items = take_known(items_MD, ids.item_keys_M, older.items_MD, older.item_keys, older.known.items_M)
    train, shared = interactions.train, [side in maps for side in SIDES]
    for is_shared, taken, index_E in zip(shared, (of_users, of_items), (train.user_E, train.item_E), strict=True):
        if is_shared:
            taken &= np.bincount(index_E, minlength=len(taken)) > 0
    if not of_items.any():  # vectors of users alone say nothing
        raise ConfigError(
            f"train.warm_start {older.name}: none of its {len(older.item_keys):,} items is in the data of this run; "
            "give a run of the same log"
        )
    known = Known(users_N=of_users, items_M=of_items)
    trainer.begin(users_ND, items_MD, older.layers, known)
    said = (
        f"warm start from {older.name}: vectors of {of_users.sum():,} of {len(of_users):,} users and "
        f"{of_items.sum():,} of {len(of_items):,} items; the others begin anew"
    )
    if any(shared):
        said += "; rows that ids share begin nearest to their vectors (of one row each: the mean)"
    return known, said


def take_known(
    vectors_ND: Tensor, keys_N: Int64Array, older_ND: Tensor, older_keys: Int64Array, older_known: BoolArray
) -> BoolArray:
    """Put the older vectors of the same, known ids in place; True for these, [N]."""
    order = np.argsort(older_keys)
    place_N = order[np.minimum(np.searchsorted(older_keys, keys_N, sorter=order), len(order) - 1)]
    same_N: BoolArray = (older_keys[place_N] == keys_N) & older_known[place_N]
    vectors_ND[torch.from_numpy(same_N)] = older_ND[torch.from_numpy(place_N[same_N])]
    return same_N
