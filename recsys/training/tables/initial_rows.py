"""The rows that training begins with: the same, however the tables are spread."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch
from torchrec.distributed.model_parallel import DistributedModelParallel

from recsys.embeddings.row_maps.row_map import RowMap
from recsys.embeddings.sharding.shard import TableShard, table_shards

_BLOCK = 1 << 16
"""Rows drawn at a time."""


def initialise(model: DistributedModelParallel, row_maps: Mapping[str, RowMap]) -> None:
    """Rows from N(0, 0.05^2), and zero for row 0, which only ids that are missing or seen too rarely train.

    The second factor of a product is drawn around 1, so that the product starts like any other vector.
    """
    factors = {lookup.table for m in row_maps.values() if m.combine == "product" for lookup in m.lookups[1:]}
    for part in table_shards(model):
        _draw(part)
        if part.table in factors:
            part.weights.add_(1.0)
        if part.row == 0:  # the first factor alone makes the product zero: were both, neither would ever train
            part.weights[0] = 1.0 if part.table in factors else 0.0


def _draw(part: TableShard) -> None:
    """Fill a part with its rows of the whole table, which is drawn in blocks: the same rows however it is spread."""
    generator = torch.Generator().manual_seed(torch.initial_seed() + zlib.crc32(part.table.encode()))
    end = part.row + len(part.weights)
    first = 0
    while first < end:
        # Blocks of a multiple of 16 numbers, and a last one of 16 or more, give what one block would.
        rows = _BLOCK if part.num_rows - first >= 2 * _BLOCK else part.num_rows - first
        block = torch.randn(rows, part.dim, generator=generator) * 0.05
        low, high = max(first, part.row), min(first + rows, end)
        if low < high:
            columns = slice(part.column, part.column + part.weights.shape[1])
            part.weights[low - part.row : high - part.row] = block[low - first : high - first, columns].to(
                part.weights.device
            )
        first += rows
