"""Embedding tables on TorchRec: one lookup per table and batch, of the distinct rows only.

A batch names each table's distinct rows once (:func:`distinct_rows`); features then gather from
them by position. So a table's traffic, its gradient, and DIN's per-id regularisation all see
every id once per batch, however many features, samples and events share the table.

Legend: ``U`` distinct rows of a table in a batch, ``N`` values of a feature, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torchrec import EmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor

from recsys.embeddings import WIDTH_UNIT
from recsys.errors import InvalidInputError
from recsys.features.columns import Column
from recsys.features.encode import EncodedBatch
from recsys.features.feature_set import Categorical, Feature, FeatureSet
from recsys.features.hashing import Int64Array

ITEM = "item."
"""Prefix of the candidate's inputs: a user and an item may have features of the same name."""

QUERY = "query."
"""Prefix of the candidate's stand-in for a history attribute that items do not have."""


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """One embedding table."""

    name: str
    num_rows: int
    dim: int

    def __post_init__(self) -> None:
        if self.num_rows < 1 or self.dim < 1 or self.dim % WIDTH_UNIT:
            raise InvalidInputError(
                f"table {self.name!r}: {self.num_rows} rows of width {self.dim}; "
                f"allowed: 1 row or more, and a width that is a multiple of {WIDTH_UNIT}"
            )


@dataclass
class TensorBatch:
    """One batch as a model reads it.

    Attributes:
        rows: each table's distinct rows; one KeyedJaggedTensor key per table, stride 1.
        slots: input name -> positions of its values among its table's distinct rows, int64: [N],
            or [N, K] with -1 where a multi-valued feature has fewer than K values.
        numbers: input name -> float32 values, [N].
        history_offsets: sample b's events are history_offsets[b]:history_offsets[b + 1]; [B + 1].
        labels: [B], float32.
    """

    rows: KeyedJaggedTensor
    slots: dict[str, Tensor]
    numbers: dict[str, Tensor]
    history_offsets: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> TensorBatch:
        """The same batch on another device."""
        return TensorBatch(
            rows=self.rows.to(device),
            slots={name: slots.to(device) for name, slots in self.slots.items()},
            numbers={name: numbers.to(device) for name, numbers in self.numbers.items()},
            history_offsets=self.history_offsets.to(device),
            labels=self.labels.to(device),
        )


def module_name(table: str) -> str:
    """A table's name as a submodule; ``nn.ModuleDict`` refuses names of its attributes, such as ``type``."""
    return f"table_{table}"


class EmbeddingTables(nn.Module):
    """The tables on the meta device: ``sharding.py`` gives them memory.

    A TorchRec collection holds tables of one width, so there is one for each width.
    """

    def __init__(self, specs: Sequence[TableSpec]) -> None:
        super().__init__()
        by_width: dict[str, list[EmbeddingConfig]] = {}
        for spec in specs:
            config = EmbeddingConfig(
                name=module_name(spec.name),
                embedding_dim=spec.dim,
                num_embeddings=spec.num_rows,
                feature_names=[spec.name],
            )
            by_width.setdefault(f"width_{spec.dim}", []).append(config)
        meta = torch.device("meta")
        self.collections = nn.ModuleDict(
            {width: EmbeddingCollection(tables=configs, device=meta) for width, configs in by_width.items()}
        )

    def forward(self, rows: KeyedJaggedTensor) -> dict[str, Tensor]:
        """The looked-up rows of each table, [U, D]."""
        looked_up: dict[str, Tensor] = {}
        for collection in self.collections.values():
            looked_up |= {table: found.values() for table, found in collection(rows).items()}
        return looked_up


def input_tables(features: FeatureSet) -> dict[str, str]:
    """Input name of every id feature a batch holds -> name of its table."""
    sides: dict[str, Feature] = {f.name: f for f in (features.user_id, *features.user, *features.context)}
    sides |= {f"{ITEM}{f.name}": f for f in (features.item_id, *features.item)}
    if features.history is not None:
        sides[f"history.{features.item_id.name}"] = features.item_id
        for attribute in features.history.attributes:
            sides[f"history.{attribute.name}"] = attribute
            sides[f"{QUERY}{attribute.name}"] = attribute
    return {name: feature.table for name, feature in sides.items() if isinstance(feature, Categorical)}


class BatchConverter:
    """Turns encoded batches of rows into tensors. Keeps one scratch array per table between batches."""

    def __init__(self, features: FeatureSet, specs: Sequence[TableSpec]) -> None:
        self._tables = input_tables(features)
        self._names = [spec.name for spec in specs]
        self._scratch = {spec.name: np.zeros(spec.num_rows, dtype=np.int64) for spec in specs}
        history = features.history.attributes if features.history else ()
        items = {f.name for f in features.item}
        self._stand_ins = [f"{QUERY}{a.name}" for a in history if a.name not in items]

    def __call__(self, batch: EncodedBatch) -> TensorBatch:
        """Convert a batch whose id columns hold rows (``data.samples.map_ids``)."""
        columns = {**batch.user, **{f"{ITEM}{name}": c for name, c in batch.item.items()}, **batch.history}
        columns |= {name: np.zeros(batch.size, dtype=np.int64) for name in self._stand_ins}
        by_table: dict[str, dict[str, Column]] = {name: {} for name in self._names}
        numbers: dict[str, Tensor] = {}
        for name, column in columns.items():
            if column.dtype == np.float32:
                numbers[name] = torch.from_numpy(column)
            else:
                by_table[self._tables[name]][name] = column
        slots: dict[str, Tensor] = {}
        distinct: list[Int64Array] = []
        for table in self._names:
            rows, table_slots = distinct_rows(by_table[table], self._scratch[table])
            distinct.append(rows)
            slots |= {name: torch.from_numpy(s) for name, s in table_slots.items()}
        return TensorBatch(
            rows=KeyedJaggedTensor.from_lengths_sync(
                keys=self._names,
                values=torch.from_numpy(np.concatenate(distinct)),
                lengths=torch.tensor([len(rows) for rows in distinct], dtype=torch.int64),
            ),
            slots=slots,
            numbers=numbers,
            history_offsets=torch.from_numpy(batch.history_offsets),
            labels=torch.from_numpy(batch.labels),
        )


def distinct_rows(columns: Mapping[str, Column], scratch: Int64Array) -> tuple[Int64Array, dict[str, Int64Array]]:
    """The distinct rows of one table in a batch, and each value's position among them.

    Costs a few passes over the values: no sort, and no pass over the table.

    Args:
        columns: rows per input, [N] or [N, K]; negative is missing: row 0 for [N], kept for [N, K].
        scratch: one int64 per row of the table; its content does not matter.

    >>> rows, slots = distinct_rows({"a": np.array([5, 2, 5, -1])}, np.zeros(6, dtype=np.int64))
    >>> rows[slots["a"]].tolist()
    [5, 2, 5, 0]
    """
    if not columns:
        return np.zeros(0, dtype=np.int64), {}
    flat = np.concatenate([column.reshape(-1) for column in columns.values()]).astype(np.int64, copy=False)
    values = np.maximum(flat, 0)
    positions = np.arange(len(values))
    scratch[values] = positions
    rows = values[scratch[values] == positions]
    scratch[rows] = np.arange(len(rows))
    slots = scratch[values]
    result: dict[str, Int64Array] = {}
    start = 0
    for name, column in columns.items():
        part = slots[start : start + column.size].reshape(column.shape)
        if column.ndim == 2:
            part = np.where(column < 0, -1, part)
        result[name] = part
        start += column.size
    return rows, result
