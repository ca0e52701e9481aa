"""Users, items and other entities of a prepared log: rows of files, sorted by key, and ids that only the logs have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recsys.arrays import BoolArray, Int64Array
from recsys.data.log.row_batches import FILE, ROW, from_batch
from recsys.errors import InvalidInputError
from recsys.features.columns import Column, missing_column
from recsys.rows.contract import RowContract
from recsys.rows.files import RawFile
from recsys.rows.read import BATCH_ROWS
from recsys.rows.rejects import RejectFile, Rejection

_MERGED_KEYS = 1 << 18


class KeySet:
    """Distinct keys, collected batch by batch; 8 bytes each, and as many again while they are merged."""

    def __init__(self) -> None:
        self._merged = np.zeros(0, dtype=np.int64)
        self._waiting: list[Int64Array] = []
        self._count = 0

    def add(self, keys: Int64Array) -> None:
        """Add keys; they may repeat."""
        self._waiting.append(_distinct(keys.copy()))
        self._count += len(self._waiting[-1])
        if self._count > max(_MERGED_KEYS, len(self._merged)):
            self.keys()

    def keys(self) -> Int64Array:
        """All of them, rising."""
        if self._waiting:
            self._merged = _distinct(np.concatenate([self._merged, *self._waiting]))
            self._waiting, self._count = [], 0
        return self._merged


def _distinct(keys: Int64Array) -> Int64Array:
    """Distinct keys, rising; sorts them in place. NumPy's own ``unique`` hashes, which takes five times as long."""
    keys.sort()
    return keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys


def entity_batches(
    batches: Iterable[pa.RecordBatch],
    contract: RowContract,
    files: Sequence[RawFile],
    more_keys: Int64Array,
    rejects: RejectFile,
) -> Iterator[tuple[dict[str, Column], BoolArray]]:
    """Columns of entities in the order of their keys, and which of each batch are in a file.

    Of two rows with one id the first, in the order of their values, counts; another that differs is rejected.

    Args:
        batches: numbered rows, sorted by the id, the features, file and number.
        contract: of the entity.
        files: that the rows come from.
        more_keys: of entities that need not be in a file, rising; those that are not have no features.
        rejects: takes rows whose id an earlier one has.
    """
    names = [one.name for one in contract.fields]
    last: dict[str, npt.NDArray[Any]] = {}  # the row that is kept of the id before
    done = 0  # of more_keys
    for batch in batches:
        columns = from_batch(batch, contract)
        keys = columns[names[0]]
        before = np.concatenate([last[names[0]] if last else [-1], keys[:-1]])
        repeats = np.flatnonzero(keys == before)
        kept = last
        for row in repeats.tolist():
            if row and keys[row - 1] != before[row - 1]:  # the first of its id
                kept = {name: column[row - 1 : row] for name, column in columns.items()}
            if any(columns[name][row : row + 1].tobytes() != kept[name].tobytes() for name in names):
                where = (str(files[batch[FILE][row].as_py()].path), batch[ROW][row].as_py())
                rejects.add(_repeated(names[0], where, {name: columns[name][row].tolist() for name in names}))
        columns = {name: np.delete(column, repeats, axis=0) for name, column in columns.items()}
        keys = columns[names[0]]
        if not len(keys):
            continue  # repeats of the last one
        last = {name: column[-1:] for name, column in columns.items()}
        end = int(np.searchsorted(more_keys, keys[-1], side="right"))
        new = more_keys[done:end][~np.isin(more_keys[done:end], keys)]
        done = end
        yield _merged(columns, names[0], new, contract)
    nothing = {one.name: _none(one, 0) for one in contract.fields}
    yield nothing, np.zeros(0, dtype=np.bool_)  # a table without a row has its columns too
    for begin in range(done, len(more_keys), BATCH_ROWS):
        yield _merged(nothing, names[0], more_keys[begin : begin + BATCH_ROWS], contract)


def _merged(
    columns: dict[str, Column], id_name: str, new: Int64Array, contract: RowContract
) -> tuple[dict[str, Column], BoolArray]:
    given = np.repeat([True, False], [len(columns[id_name]), len(new)])
    if not len(new):
        return columns, given
    order = np.argsort(np.concatenate([columns[id_name], new]), kind="stable")
    found: dict[str, Column] = {}
    for one in contract.fields:
        more = new if one.name == id_name else _none(one, len(new))
        found[one.name] = np.concatenate([columns[one.name], more])[order]
    return found, given[order]


def _none(one: Any, length: int) -> Column:
    return missing_column(one.feature, length)


def _repeated(name: str, where: tuple[str, int], record: dict[str, Any]) -> Rejection:
    reason = f"{name!r} is there twice, with other features; the row with the smaller values is kept"
    return Rejection(file=where[0], row=where[1], error=InvalidInputError(reason), record=record)
