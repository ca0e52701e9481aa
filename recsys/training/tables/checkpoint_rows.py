"""Rows of a checkpoint's tables, read and set without a model: what growth and reports need.

A checkpoint holds each table in parts (``checkpoint.py``), which know their place in it. Parts are mapped from their
files, so only rows that are asked for are read.

Legend: ``R`` rows, ``S`` rows that each is made of, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.arrays import Int64Array
from recsys.embeddings.row_maps.growth import RowChange
from recsys.training.run.checkpoint import Checkpoint, read_file

Part = dict[str, Any]


def parts_of_tables(checkpoint: Checkpoint) -> dict[str, list[Part]]:
    """Table -> its parts, those of all files.

    Raises:
        DataFileError: a file is damaged.
    """
    parts: list[Part] = list(checkpoint.parts)
    for name in checkpoint.files:
        parts += read_file(checkpoint.folder / name, "the checkpoint names it")
    return {table: [part for part in parts if part["table"] == table] for table in checkpoint.tables}


def rows_of_table(parts: Sequence[Part], rows_R: Int64Array, *, dim: int, state: str | None = None) -> Tensor:
    """Some rows of the table that these are the parts of, [R, D] float32; or what its optimiser keeps of them.

    Args:
        parts: all of the table's.
        rows_R: which rows.
        dim: D.
        state: name of what the optimiser keeps, [R, D], or [R] if it is a number per row.
    """
    per_row = state is not None and parts[0]["state"][state].dim() == 1
    found = torch.zeros(len(rows_R) if per_row else (len(rows_R), dim))
    for part in parts:
        values, first, column = part["weights"] if state is None else part["state"][state], part["row"], part["column"]
        here_R = (rows_R >= first) & (rows_R < first + len(values))
        taken, where = values[torch.from_numpy(rows_R[here_R] - first)].float(), torch.from_numpy(here_R)
        if per_row:
            found[where] = taken
        else:
            found[where, column : column + values.shape[1]] = taken
    return found


def with_changes(checkpoint: Checkpoint, changes: Sequence[RowChange]) -> Checkpoint:
    """The checkpoint in one file, with rows set and their optimiser state zero; the given one stays as it is.

    Raises:
        DataFileError: a file of the checkpoint is damaged.
    """
    parts = parts_of_tables(checkpoint)
    new = dict(parts)
    for change in changes:
        old = parts[change.table]
        sources = rows_of_table(old, change.sources_RS.reshape(-1), dim=checkpoint.tables[change.table][1])
        values_RD = sources.view(*change.sources_RS.shape, -1).mean(dim=1)
        new[change.table] = [_changed(part, change.rows_R, values_RD) for part in new[change.table]]
    if changes:
        # Tables of one kernel are views of one memory, which would be written whole for those that did not change.
        new = {table: [_on_its_own(part) for part in each] for table, each in new.items()}
    return replace(checkpoint, files={}, parts=[part for each in new.values() for part in each])


def updated_rows(parts: Sequence[Part], *, rows: int) -> np.ndarray | None:
    """Mask of the rows that a gradient has reached, [R] bool; None if the optimiser keeps no state."""
    updated_R = np.zeros(rows, dtype=bool)
    for part in parts:
        if not part["state"]:
            return None
        count = len(part["weights"])
        for state in part["state"].values():
            updated_R[part["row"] : part["row"] + count] |= (state.view(count, -1) != 0).any(dim=1).numpy()
    return updated_R


def _on_its_own(part: Part) -> Part:
    states = {name: _without_others(state) for name, state in part["state"].items()}
    return {**part, "weights": _without_others(part["weights"]), "state": states}


def _without_others(values: Tensor) -> Tensor:
    return values.clone() if values.untyped_storage().nbytes() > values.nbytes else values


def _changed(part: Part, rows_R: Int64Array, values_RD: Tensor) -> Part:
    weights, first, column = part["weights"].clone(), part["row"], part["column"]
    here_R = (rows_R >= first) & (rows_R < first + len(weights))
    inside = torch.from_numpy(rows_R[here_R] - first)
    weights[inside] = values_RD[torch.from_numpy(here_R), column : column + weights.shape[1]].to(weights.dtype)
    states = {name: state.clone() for name, state in part["state"].items()}
    for state in states.values():
        state[inside] = 0.0
    return {**part, "weights": weights, "state": states}
