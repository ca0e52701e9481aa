"""Pairs of ids of two features that met in positive samples: the graph that GraphHash clusters."""

from __future__ import annotations

from recsys.arrays import Int32Array, Int64Array
from recsys.data.samples.dataset import Dataset
from recsys.data.samples.ids import id_columns
from recsys.errors import InvalidInputError
from recsys.features.hashing import MISSING


def id_pairs(dataset: Dataset, sample_indices: Int64Array, *, left: str, right: str) -> tuple[Int64Array, Int64Array]:
    """Keys of two embedding tables that positive samples have together; both [E], in the samples' order.

    Only single-valued features of the user, the item and the context count. A table's first such feature is taken.

    Args:
        dataset: with keys.
        sample_indices: which samples to read, int64.
        left, right: names of embedding tables.

    Raises:
        InvalidInputError: a table has no such feature, or no positive sample has both ids.
    """
    positive = sample_indices[dataset.samples.label[sample_indices] == 1]
    left_E, right_E = _keys(dataset, positive, left), _keys(dataset, positive, right)
    both = (left_E != MISSING) & (right_E != MISSING)
    if not both.any():
        raise InvalidInputError(f"graph of {left!r} and {right!r}: no positive sample has ids of both tables")
    return left_E[both], right_E[both]


def _keys(dataset: Dataset, sample_indices: Int64Array, table: str) -> Int64Array:
    rows: dict[str, Int32Array | Int64Array] = {
        "user": dataset.sample_user,
        "item": dataset.sample_item,
        "context": dataset.context_row,
    }
    for column in id_columns(dataset):
        if column.side != "history" and column.feature.table == table and column.feature.max_values == 1:
            keys: Int64Array = column.ids[rows[column.side][sample_indices]]
            return keys
    raise InvalidInputError(
        f"graph of ids: table {table!r} has no single-valued feature of the user, the item or the context; "
        f"give it another map with rows.maps.{table}"
    )
