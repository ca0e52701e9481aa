"""Warm start of two towers: the rows of the same ids, and the layers, of an older run. The optimiser begins anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from recsys.arrays import BoolArray, Int64Array
from recsys.data.interactions.pairs import Interactions, ids_of
from recsys.embeddings.row_maps.row_map import UNKNOWN_ROW, RowMap
from recsys.embeddings.sharding.shard import table_weights
from recsys.errors import ConfigError
from recsys.features.number_transform import NumberTransform
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.folder import load, read_ids
from recsys.training.retrieval.known import Known
from recsys.training.retrieval.trainers import State
from recsys.training.retrieval.two_tower.learner import SequenceLearner
from recsys.training.retrieval.two_tower.trained import ROW_MAPS
from recsys.training.retrieval.warm_start import older_run
from recsys.training.run.folder import NUMBERS, load_numbers, load_row_maps

LONG = ("long_history", "signatures", "bits", "hash_seed")
"""Settings of what is read by hashes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OlderTowers:
    """An older run, of which another may begin.

    Attributes:
        name: of its folder.
        item_keys: its items.
        read_M: those whose ids it read.
        row_maps, numbers: its tables' maps, and how it reads numeric features.
        state: its weights.
    """

    name: str
    item_keys: Int64Array
    read_M: BoolArray
    row_maps: Mapping[str, RowMap]
    numbers: Mapping[str, NumberTransform]
    state: State


def open_older_towers(config: RetrievalRunConfig) -> OlderTowers | None:
    """The run that ``train.warm_start`` names; None: none.

    Raises:
        ConfigError: it is no such run, or one of another model.
        DataFileError: a file of it is damaged.
    """
    if not config.train.warm_start:
        return None
    path = Path(config.train.warm_start)
    older_run(config, ("kind", "dim", "attribute_dim", "layers", "heads", "window", "interests", "time_gaps", *LONG))
    checkpoint = load(path)
    state = checkpoint["best_weights"] or checkpoint["model"]
    return OlderTowers(
        name=path.name,
        item_keys=read_ids(path)[1],
        read_M=state["read"].numpy(),
        row_maps=load_row_maps(path / ROW_MAPS),
        numbers=load_numbers(path / NUMBERS),
        state=state,
    )


@torch.no_grad()
def begin_with_towers(older: OlderTowers, learner: SequenceLearner, interactions: Interactions) -> str:
    """Begin with an older run's rows and layers; a sentence on what was taken.

    Raises:
        ConfigError: none of its items is in the data of this run, or the layers read other features.
    """
    keys_M = ids_of(interactions).item_keys_M
    order = np.argsort(older.item_keys)
    place_M = order[np.minimum(np.searchsorted(older.item_keys, keys_M, sorter=order), len(order) - 1)]
    same_M: BoolArray = (older.item_keys[place_M] == keys_M) & older.read_M[place_M]
    if not same_M.any():
        raise ConfigError(
            f"train.warm_start {older.name}: none of its {len(older.item_keys):,} items is in the data of this run; "
            "give a run of the same log"
        )
    try:
        learner.tower.net.load_state_dict(older.state["net"])
    except RuntimeError as error:
        was, now = (sorted({*of.row_maps, *of.numbers}) for of in (older, learner))
        raise ConfigError(
            f"train.warm_start {older.name}: its layers read {', '.join(was)}, and the data of this run have "
            f"{', '.join(now)}; allowed: the same features, declared alike"
        ) from error
    tables = table_weights(learner.tower.tables)
    begun, without_row, ids = 0, 0, 0
    for table, keys in learner.keys.items():
        new, before = learner.row_maps[table], older.row_maps.get(table)
        ids += len(keys)
        of_new = new.lookup(keys)
        has_row = (of_new != UNKNOWN_ROW).any(axis=1)
        without_row += int((~has_row).sum())
        if before is None or not _alike(new, before):
            continue
        of_before = before.lookup(keys)
        for k, (lookup, older_lookup) in enumerate(zip(new.lookups, before.lookups, strict=True)):
            rows = older.state["tables"][older_lookup.table]
            both = (of_new[:, k] != UNKNOWN_ROW) & (of_before[:, k] != UNKNOWN_ROW)
            tables[lookup.table][torch.from_numpy(of_new[both, k])] = rows[torch.from_numpy(of_before[both, k])]
            tables[lookup.table][UNKNOWN_ROW] = rows[UNKNOWN_ROW]
        begun += int((has_row & (of_before != UNKNOWN_ROW).any(axis=1)).sum())
    taken_M = same_M & _has_older_row(keys_M, older, learner)
    learner.read_M = learner.read_M | taken_M
    learner.known = learner.known.and_those_of(Known(users_N=np.zeros_like(learner.known.users_N), items_M=taken_M))
    shared = f"; {without_row:,} have no row of their own and share the unknown one" if without_row else ""
    anew = ids - begun - without_row
    begin_anew = f"{anew:,} ids begin anew" if anew else "no id begins anew"
    return f"warm start from {older.name}: rows of {begun:,} of {ids:,} ids, and the layers; {begin_anew}{shared}"


def _alike(new: RowMap, before: RowMap) -> bool:
    return new.kind == before.kind and len(new.lookups) == len(before.lookups)


def _has_older_row(keys_M: Int64Array, older: OlderTowers, learner: SequenceLearner) -> BoolArray:
    """True for items all of whose rows are what they were in the older run: rows that ids share may be others'."""
    table = learner.tower.data.features.item_id.table
    new, before = learner.row_maps[table], older.row_maps[table]
    found: BoolArray = np.full(len(keys_M), _alike(new, before))
    if found.all():
        tables, of_new, of_before = table_weights(learner.tower.tables), new.lookup(keys_M), before.lookup(keys_M)
        for k, (lookup, older_lookup) in enumerate(zip(new.lookups, before.lookups, strict=True)):
            now_MD = tables[lookup.table][torch.from_numpy(of_new[:, k])]
            then_MD = older.state["tables"][older_lookup.table][torch.from_numpy(of_before[:, k])]
            found &= (now_MD == then_MD).all(dim=1).numpy() & (
                (of_new[:, k] == UNKNOWN_ROW) == (of_before[:, k] == UNKNOWN_ROW)
            )
    return found
