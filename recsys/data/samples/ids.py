"""Ids of a dataset: their columns, their codes, their counts.

``V`` ids of an embedding table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from recsys.arrays import Int64Array
from recsys.data.samples.dataset import Dataset
from recsys.data.samples.row_codes import RowsOfKeys, encode_ids
from recsys.errors import InvalidInputError
from recsys.features.columns import Column
from recsys.features.feature_set import Categorical, Feature
from recsys.features.hashing import MISSING


class IdColumn(NamedTuple):
    """A column of ids: of which side it is, and with what name."""

    side: Literal["user", "item", "context", "history"]
    name: str
    feature: Categorical
    ids: Column


def id_columns(dataset: Dataset) -> Iterator[IdColumn]:
    """Every column of ids of a dataset, keys or codes, side by side in the order of declaration."""
    features = dataset.table.features
    sides: tuple[tuple[Literal["user", "item", "context", "history"], tuple[Feature, ...], dict[str, Column]], ...] = (
        ("user", (features.user_id, *features.user), dataset.user),
        ("item", (features.item_id, *features.item), dataset.item),
        ("context", features.context, dataset.context),
        ("history", features.event_features(), dataset.history),
    )
    for side, declared, columns in sides:
        for feature in declared:
            if isinstance(feature, Categorical):
                name = f"history.{feature.name}" if side == "history" else feature.name
                yield IdColumn(side, name, feature, columns[name])


def map_ids(dataset: Dataset, lookups: Mapping[str, RowsOfKeys]) -> Dataset:
    """Look every id up once, so that batches need no hashing.

    Args:
        dataset: with keys.
        lookups: embedding table name -> lookup of its row map. ``MISSING`` is never looked up: it stays -1.

    Returns:
        The same dataset with int32 codes in its id columns, and the rows of the codes.

    Raises:
        InvalidInputError: the dataset is mapped already, a table has no lookup, or a lookup
            returns another shape or negative rows.
    """
    if dataset.rows_of_codes is not None:
        raise InvalidInputError("the dataset holds codes already; map the one that holds keys")
    tables = dataset.table.features.tables()
    for table in tables:
        if table not in lookups:
            raise InvalidInputError(f"no lookup for embedding table {table!r}; given: {', '.join(sorted(lookups))}")
    by_table: dict[str, dict[str, Column]] = {table: {} for table in tables}
    for column in id_columns(dataset):
        by_table[column.feature.table][f"{column.side}/{column.name}"] = column.ids
    mapped: dict[str, dict[str, Column]] = {
        "user": dict(dataset.user),
        "item": dict(dataset.item),
        "context": dict(dataset.context),
        "history": dict(dataset.history),
    }
    rows_of_codes: dict[str, Int64Array] = {}
    for table, ids in by_table.items():
        encoded, rows_of_codes[table] = encode_ids(table, ids, lookups[table])
        for name, codes in encoded.items():
            side, _, column_name = name.partition("/")
            mapped[side][column_name] = codes
    return replace(
        dataset,
        user=mapped["user"],
        item=mapped["item"],
        context=mapped["context"],
        history=mapped["history"],
        rows_of_codes=rows_of_codes,
    )


def rows_of_codes(dataset: Dataset) -> dict[str, Int64Array]:
    """``Dataset.rows_of_codes`` of a dataset that :func:`map_ids` has mapped.

    Raises:
        InvalidInputError: it holds keys.
    """
    if dataset.rows_of_codes is None:
        raise InvalidInputError("the dataset holds keys; map_ids makes them codes")
    return dataset.rows_of_codes


def id_counts(dataset: Dataset, sample_indices: Int64Array) -> dict[str, tuple[Int64Array, Int64Array]]:
    """Count the lookups of each id of each embedding table by these samples and their histories.

    What a vocabulary is built from, and what DIN's regularisation divides by. With late events,
    events that had not arrived in time count too.

    Returns:
        Embedding table -> distinct ids (keys, or codes of a mapped dataset) in ascending order and
        their counts, both [V], int64. ``MISSING`` is not an id.
    """
    edges = np.zeros(len(dataset.table) + 1, dtype=np.int64)
    np.add.at(edges, dataset.history_begin[sample_indices], 1)
    np.add.at(edges, dataset.history_end[sample_indices], -1)
    reads_of_event = np.cumsum(edges[:-1])
    reads_of_user = np.bincount(dataset.sample_user[sample_indices], minlength=len(dataset.table.user_keys))
    reads_of_item = np.bincount(dataset.sample_item[sample_indices], minlength=len(dataset.table.item_keys))
    context_rows = len(dataset.table) if dataset.samples.impressions is None else len(dataset)
    reads_of_context = np.bincount(dataset.context_row[sample_indices], minlength=context_rows)
    reads = {"user": reads_of_user, "item": reads_of_item, "context": reads_of_context, "history": reads_of_event}
    parts: dict[str, list[tuple[Int64Array, Int64Array]]] = {table: [] for table in dataset.table.features.tables()}
    for column in id_columns(dataset):
        parts[column.feature.table].append(_sum_by_id(column.ids, reads[column.side]))
    return {
        table: _sum_by_id(np.concatenate([ids for ids, _ in found]), np.concatenate([n for _, n in found]))
        for table, found in parts.items()
    }


def _sum_by_id(ids: Column, counts: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Distinct ids but MISSING, ascending, and the sum of each one's counts (given per row); zero sums left out."""
    if ids.ndim == 2:
        counts = np.repeat(counts, ids.shape[1])
    flat = ids.reshape(-1)
    used = (flat != MISSING) & (counts > 0)
    distinct, inverse = np.unique(flat[used], return_inverse=True)
    sums = np.bincount(inverse, weights=counts[used], minlength=len(distinct))
    return distinct.astype(np.int64), sums.astype(np.int64)
