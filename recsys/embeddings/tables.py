"""Embedding tables on TorchRec: one lookup per table and batch, of the distinct ids only.

Features name *tables*; a row map says in which rows of which *physical tables* an id of a table is looked up, K rows
for each. A batch names each table's distinct ids once (:func:`distinct_codes`); their rows are looked up and
combined to one vector each, and features then gather from these by position. So a table's traffic, its gradient, and
DIN's per-id regularisation all see every id once per batch, however many features, samples and events share the table.

In training an id is a *code*: the number of its K rows among the distinct ones (``data/samples/row_codes.py``).

Legend: ``U`` distinct codes of a table in a batch, ``N`` values of a feature, ``K`` lookups, ``T`` codes, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torchrec import EmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor

from recsys.arrays import Int64Array
from recsys.embeddings import WIDTH_UNIT
from recsys.embeddings.row_maps.row_map import Combine, RowMap
from recsys.errors import InvalidInputError
from recsys.features.columns import Column
from recsys.features.encode import EncodedBatch
from recsys.features.feature_set import Categorical, Feature, FeatureSet

ITEM = "item."
"""Prefix of the candidate's inputs: a user and an item may have features of the same name."""

QUERY = "query."
"""Prefix of the candidate's stand-in for a history attribute that items do not have."""


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """One physical embedding table."""

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
        rows: the rows to look up, a KeyedJaggedTensor of stride 1: U rows for each key of :func:`lookup_keys`.
        codes: table -> its distinct codes, [U], int64.
        slots: input name -> positions of its values among its table's distinct codes, int64: [N],
            or [N, values] with -1 where a multi-valued feature has fewer values.
        numbers: input name -> float32 values, [N].
        history_offsets: sample b's events are history_offsets[b]:history_offsets[b + 1]; [B + 1].
        labels: [B], float32.
    """

    rows: KeyedJaggedTensor
    codes: dict[str, Tensor]
    slots: dict[str, Tensor]
    numbers: dict[str, Tensor]
    history_offsets: Tensor
    labels: Tensor

    def to(self, device: torch.device, *, non_blocking: bool = False) -> TensorBatch:
        """The same batch on another device."""

        def moved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device, non_blocking=non_blocking) for name, tensor in tensors.items()}

        return TensorBatch(
            rows=self.rows.to(device, non_blocking=non_blocking),
            codes=moved(self.codes),
            slots=moved(self.slots),
            numbers=moved(self.numbers),
            history_offsets=self.history_offsets.to(device, non_blocking=non_blocking),
            labels=self.labels.to(device, non_blocking=non_blocking),
        )

    def all_tensors(self) -> list[Tensor]:
        """All but those of ``rows``."""
        groups = (self.codes, self.slots, self.numbers)
        return [*(t for group in groups for t in group.values()), self.history_offsets, self.labels]


def module_name(table: str) -> str:
    """A table's name as a submodule; ``nn.ModuleDict`` refuses names of its attributes, such as ``type``."""
    return f"table_{table}"


def lookup_keys(table: str, row_map: RowMap) -> list[str]:
    """Names of a table's K lookups in a batch."""
    return [f"{table}.{k}" for k in range(len(row_map.lookups))]


def combine(vectors: Sequence[Tensor], how: Combine) -> Tensor:
    """The vectors of an id's K lookups as one; each [..., D]."""
    if how == "concat":
        return torch.cat(list(vectors), dim=-1)
    total = vectors[0]
    for vector in vectors[1:]:
        total = total * vector if how == "product" else total + vector
    return total


class EmbeddingTables(nn.Module):
    """The physical tables on the meta device: ``sharding/shard.py`` gives them memory.

    A TorchRec collection holds tables of one width, so there is one for each width.

    Args:
        specs: the physical tables.
        row_maps: table -> where its ids are looked up.
    """

    def __init__(self, specs: Sequence[TableSpec], row_maps: Mapping[str, RowMap]) -> None:
        super().__init__()
        self.row_maps = dict(row_maps)
        keys: dict[str, list[str]] = {spec.name: [] for spec in specs}
        for table, row_map in row_maps.items():
            for key, lookup in zip(lookup_keys(table, row_map), row_map.lookups, strict=True):
                keys[lookup.table].append(key)
        by_width: dict[str, list[EmbeddingConfig]] = {}
        for spec in specs:
            config = EmbeddingConfig(
                name=module_name(spec.name),
                embedding_dim=spec.dim,
                num_embeddings=spec.num_rows,
                feature_names=keys[spec.name],
            )
            by_width.setdefault(f"width_{spec.dim}", []).append(config)
        meta = torch.device("meta")
        self.collections = nn.ModuleDict(
            {width: EmbeddingCollection(tables=configs, device=meta) for width, configs in by_width.items()}
        )

    def forward(self, rows: KeyedJaggedTensor) -> dict[str, Tensor]:
        """The vectors of each table's distinct codes, [U, D]."""
        found: dict[str, Tensor] = {}
        for collection in self.collections.values():
            found |= {key: values.values() for key, values in collection(rows).items()}
        return {
            table: combine([found[key] for key in lookup_keys(table, row_map)], row_map.combine)
            for table, row_map in self.row_maps.items()
        }


def input_tables(features: FeatureSet) -> dict[str, str]:
    """Input name of every id feature a batch holds -> name of its table."""
    sides: dict[str, Feature] = {f.name: f for f in (features.user_id, *features.user, *features.context)}
    sides |= {f"{ITEM}{f.name}": f for f in (features.item_id, *features.item)}
    for feature in features.event_features():
        sides[f"history.{feature.name}"] = feature
    for attribute in features.stand_ins():
        sides[f"{QUERY}{attribute.name}"] = attribute
    return {name: feature.table for name, feature in sides.items() if isinstance(feature, Categorical)}


class BatchConverter:
    """Turns encoded batches of codes into tensors. Keeps one scratch array per table between batches."""

    def __init__(self, features: FeatureSet, row_maps: Mapping[str, RowMap]) -> None:
        self._tables = input_tables(features)
        self._keys = {table: lookup_keys(table, row_map) for table, row_map in row_maps.items()}
        self._scratch = {table: np.zeros(0, dtype=np.int64) for table in row_maps}
        self._stand_ins = [f"{QUERY}{attribute.name}" for attribute in features.stand_ins()]

    def __call__(self, batch: EncodedBatch, rows_of_codes: Mapping[str, Int64Array]) -> TensorBatch:
        """Convert a batch.

        Args:
            batch: its id columns hold codes (``data.samples.map_ids``).
            rows_of_codes: table -> rows of each code, [T, K], int64; code 0 is the missing id.
        """
        columns = {**batch.user, **{f"{ITEM}{name}": c for name, c in batch.item.items()}, **batch.history}
        columns |= {name: np.zeros(batch.size, dtype=np.int64) for name in self._stand_ins}
        by_table: dict[str, dict[str, Column]] = {name: {} for name in self._keys}
        numbers: dict[str, Tensor] = {}
        for name, column in columns.items():
            if column.dtype == np.float32:
                numbers[name] = torch.from_numpy(column)
            else:
                by_table[self._tables[name]][name] = column
        slots: dict[str, Tensor] = {}
        codes: dict[str, Tensor] = {}
        rows: list[Int64Array] = []
        for table in self._keys:
            distinct, table_slots = distinct_codes(by_table[table], self._scratch_for(table, len(rows_of_codes[table])))
            codes[table] = torch.from_numpy(distinct)
            rows += list(rows_of_codes[table][distinct].T)
            slots |= {name: torch.from_numpy(s) for name, s in table_slots.items()}
        return TensorBatch(
            rows=KeyedJaggedTensor.from_lengths_sync(
                keys=[key for keys in self._keys.values() for key in keys],
                values=torch.from_numpy(np.concatenate(rows)),
                lengths=torch.tensor([len(each) for each in rows], dtype=torch.int64),
            ),
            codes=codes,
            slots=slots,
            numbers=numbers,
            history_offsets=torch.from_numpy(batch.history_offsets),
            labels=torch.from_numpy(batch.labels),
        )

    def _scratch_for(self, table: str, codes: int) -> Int64Array:
        if len(self._scratch[table]) < codes:
            self._scratch[table] = np.zeros(codes, dtype=np.int64)
        return self._scratch[table]


def distinct_codes(columns: Mapping[str, Column], scratch: Int64Array) -> tuple[Int64Array, dict[str, Int64Array]]:
    """The distinct codes of one table in a batch, and each value's position among them.

    Costs a few passes over the values: no sort, and no pass over the table.

    Args:
        columns: codes per input, [N] or [N, values]; negative is missing: code 0 for [N], kept for [N, values].
        scratch: one int64 per code of the table; its content does not matter.

    >>> codes, slots = distinct_codes({"a": np.array([5, 2, 5, -1])}, np.zeros(6, dtype=np.int64))
    >>> codes[slots["a"]].tolist()
    [5, 2, 5, 0]
    """
    if not columns:
        return np.zeros(0, dtype=np.int64), {}
    # Padding of multi-valued features is no id: it must not make code 0 one of the batch.
    present = {name: column[column >= 0] if column.ndim == 2 else column for name, column in columns.items()}
    values = np.maximum(np.concatenate(list(present.values())).astype(np.int64, copy=False), 0)
    positions = np.arange(len(values))
    scratch[values] = positions
    codes = values[scratch[values] == positions]
    scratch[codes] = np.arange(len(codes))
    slots = scratch[values]
    result: dict[str, Int64Array] = {}
    start = 0
    for name, column in columns.items():
        part = slots[start : start + len(present[name])]
        start += len(part)
        if column.ndim == 2:
            padded = np.full(column.shape, -1, dtype=np.int64)
            padded[column >= 0] = part
            part = padded
        result[name] = part
    return codes, result
