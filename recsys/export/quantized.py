"""The same model with quantised rows: what an export stores, and how to ask the network what they do to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch

from recsys.embeddings.quantize import QuantizedTable, quantize_rows, table_kinds
from recsys.embeddings.sharding.shard import table_weights
from recsys.training.trained import TrainedModel


def stored_tables(trained: TrainedModel, quantize: str | Mapping[str, str]) -> dict[str, QuantizedTable]:
    """The model's tables as a bundle stores them.

    Raises:
        InvalidInputError: an unknown kind or table, or rows that the kind cannot hold.
    """
    weights = table_weights(trained.model)
    kinds = table_kinds(quantize, weights)
    return {
        table: quantize_rows(weight.detach().cpu().numpy().astype(np.float32), kinds[table], table=table)
        for table, weight in weights.items()
    }


@contextmanager
def rows_as_stored(trained: TrainedModel, tables: Mapping[str, QuantizedTable]) -> Iterator[None]:
    """Within the block the model answers from these tables' rows; afterwards from its own again."""
    weights = {name: w for name, w in table_weights(trained.model).items() if tables[name].kind != "none"}
    own = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(torch.from_numpy(tables[name].dequantize()))
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(own[name])
