"""The distinct events of a batch: what a long history costs depends on these, not on its length.

Samples share events: those of one user, and those of one item with equal attributes. A batch of 1,024 MovieLens
histories of 400 events holds 400,000 events and 16,000 distinct ones. Vectors, and all that is computed from one
event alone, are made once for each distinct event; :attr:`DistinctEvents.index_E` says which of them an event is.

Legend: ``E`` events of the batch, ``N`` distinct ones, ``D`` key width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from recsys.embeddings.jagged import gather_rows
from recsys.embeddings.tables import TensorBatch
from recsys.features.feature_set import FeatureSet


class DistinctEvents(NamedTuple):
    """Vectors of a batch's distinct events, [N, D], and which of them each event is, [E], int64."""

    keys_ND: Tensor
    index_E: Tensor


def distinct_events(features: FeatureSet, batch: TensorBatch, table_rows: Mapping[str, Tensor]) -> DistinctEvents:
    """Item id and attributes of the events, concatenated, as ``vectors.key_vectors`` does.

    Args:
        features: with a history.
        batch: its positions among each table's distinct rows.
        table_rows: table -> its distinct rows.
    """
    attributes = features.event_features()
    index_E, slots = distinct(
        [batch.slots[f"history.{f.name}"] for f in attributes], [len(table_rows[f.table]) for f in attributes]
    )
    parts = [gather_rows(table_rows[f.table], slots_N) for f, slots_N in zip(attributes, slots, strict=True)]
    return DistinctEvents(torch.cat(parts, dim=1), index_E)


def distinct(columns_E: Sequence[Tensor], sizes: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """Distinct rows of a table of integer columns, in ascending order.

    Args:
        columns_E: one or more, int64, each value from 0 to its column's size - 1.
        sizes: of each column.

    Returns:
        Which distinct row each row is, [E], and the columns of the distinct rows, each [N]. One column alone is
        taken to be distinct as it is: N is its size.

    >>> index, columns = distinct([torch.tensor([4, 0, 4, 4]), torch.tensor([1, 2, 1, 0])], [5, 3])
    >>> index.tolist(), [column.tolist() for column in columns]
    ([2, 0, 2, 1], [[0, 4, 4], [2, 0, 1]])
    """
    index_E = columns_E[0]
    found = [torch.arange(sizes[0], device=index_E.device)]
    for column_E, size in zip(columns_E[1:], sizes[1:], strict=True):
        pairs_N, index_E = _ranked(index_E * size + column_E, len(found[0]) * size)
        found = [column[pairs_N // size] for column in found] + [pairs_N % size]
    return index_E, found


def _ranked(values_E: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Distinct values below ``limit``, ascending, and the rank of each value among them."""
    if values_E.device.type != "cpu" or limit > 4 * len(values_E) + 1_000_000:
        distinct_N, index_E = torch.unique(values_E, return_inverse=True)
        return distinct_N, index_E
    # A table of flags needs no sort: a tenth of the time for a million events.
    present = torch.zeros(limit, dtype=torch.bool)
    present[values_E] = True
    rank = torch.cumsum(present, dim=0) - 1
    return present.nonzero().squeeze(1), rank[values_E]
