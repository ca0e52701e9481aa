"""Encoded rows as Arrow batches, which engines sort. A worker of Spark needs numpy, pyarrow and xxhash for it."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recsys.arrays import Int64Array
from recsys.features.feature_set import Categorical, Numeric
from recsys.rows.contract import RowContract
from recsys.rows.encode import Told
from recsys.rows.fields import Field
from recsys.rows.files import RawFile

FILE, ROW = "__file", "__row"
"""Columns of numbered rows: the file's place among the given ones, and the row's number in it."""

NOTE = "__note"
"""Column of what a worker met on its way, pickled; null in rows."""


class Reader(Protocol):
    """Everything about reading rows that does not change from file to file; can be sent to another process."""

    @property
    def contract(self) -> RowContract:
        """Fields of a row."""
        ...

    def read(self, file: RawFile, told: Told) -> Iterator[tuple[dict[str, npt.NDArray[Any]], Int64Array]]:
        """Encoded columns, and the numbers in the file of their rows; batch by batch."""
        ...


def row_schema(contract: RowContract, *, numbered: bool = False) -> pa.Schema:
    """Columns of encoded rows; a feature of K values is K columns.

    Args:
        contract: what a row is.
        numbered: with the row's file and number too.
    """
    fields = [pa.field(name, kind) for one in contract.fields for name, kind in _arrow_columns(one)]
    if numbered:
        fields += [pa.field(FILE, pa.int64()), pa.field(ROW, pa.int64())]
    return pa.schema(fields)


def to_batch(columns: Mapping[str, npt.NDArray[Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Encoded columns as a batch of :func:`row_schema`."""
    flat: dict[str, npt.NDArray[Any]] = {}
    for name, column in columns.items():
        if column.ndim == 1:
            flat[name] = column
        else:
            flat.update({f"{name}.{k}": column[:, k] for k in range(column.shape[1])})
    return pa.RecordBatch.from_arrays(
        [pa.array(flat[f.name].astype(f.type.to_pandas_dtype(), copy=False)) for f in schema], schema=schema
    )


def from_batch(batch: pa.RecordBatch, contract: RowContract) -> dict[str, npt.NDArray[Any]]:
    """Inverse of :func:`to_batch`: field name -> encoded column."""
    columns: dict[str, npt.NDArray[Any]] = {}
    for one in contract.fields:
        parts = [batch.column(name).to_numpy(zero_copy_only=False) for name, _ in _arrow_columns(one)]
        columns[one.name] = parts[0] if len(parts) == 1 and not _many(one) else np.stack(parts, axis=1)
        if one.feature is not None and columns[one.name].dtype.kind == "i":
            columns[one.name] = columns[one.name].astype(np.int64, copy=False)
    return columns


def _arrow_columns(one: Field) -> list[tuple[str, pa.DataType]]:
    if isinstance(one.feature, Categorical) and _many(one):
        return [(f"{one.name}.{k}", pa.int64()) for k in range(one.feature.max_values)]
    if isinstance(one.feature, Numeric):
        return [(one.name, pa.float32())]
    if one.kind != "time" and one.limit <= 1 << 31:  # what a label or a small attribute needs, -1 included
        return [(one.name, pa.int16() if one.limit <= 1 << 15 else pa.int32())]
    return [(one.name, pa.int64())]


def _many(one: Field) -> bool:
    return isinstance(one.feature, Categorical) and one.feature.max_values > 1


def encoded_batches(
    files: Sequence[tuple[int, RawFile]], reader: Reader, told: Told, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    for place, file in files:
        for columns, numbers in reader.read(file, told):
            more = {FILE: np.full(len(numbers), place), ROW: numbers} if FILE in schema.names else {}
            yield to_batch({**columns, **more}, schema)


class EncodeTask:
    """Task of a Spark worker: encoded rows, and between them rows that hold nothing but a note of what was met.

    It is given the places of files among all of them; the last note of a file says how many rows it had.
    """

    def __init__(self, files: Sequence[RawFile], reader: Reader, schema: pa.Schema) -> None:
        self._files = files
        self._reader = reader
        self._schema = schema

    def __call__(self, tasks: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        notes: list[bytes] = []
        told = Told(
            rejected=lambda rejection: notes.append(pickle.dumps(("rejected", rejection))),
            unended=lambda path: notes.append(pickle.dumps(("unended", path))),
            texts=lambda texts: notes.append(pickle.dumps(("texts", texts))),
        )
        schema = self._schema.append(pa.field(NOTE, pa.binary()))
        for task in tasks:
            for place in task.column(0).to_pylist():
                rows = 0
                for batch in encoded_batches([(place, self._files[place])], self._reader, told, self._schema):
                    rows += batch.num_rows
                    yield from _with_notes(batch, notes, schema)
                notes.append(pickle.dumps(("read", (place, rows))))
                yield from _with_notes(None, notes, schema)


def _with_notes(batch: pa.RecordBatch | None, notes: list[bytes], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    if batch is not None:
        none = pa.nulls(batch.num_rows, pa.binary())
        yield pa.RecordBatch.from_arrays([*batch.columns, none], schema=schema)
    if notes:
        nothing = [pa.nulls(len(notes), field.type) for field in schema][:-1]
        yield pa.RecordBatch.from_arrays([*nothing, pa.array(notes, pa.binary())], schema=schema)
        notes.clear()
