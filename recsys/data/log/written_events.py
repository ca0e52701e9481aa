"""Events of a table that is being written: what samples are made of, memory-mapped."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.arrays import BoolArray, Int32Array, Int64Array
from recsys.data.column_folder import FolderWriter
from recsys.features.columns import Column
from recsys.features.feature_set import ITEM, USER, FeatureSet

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenEvents:
    """N events of U users on I items, sorted by (user, timestamp), as in an ``EventTable``.

    Attributes:
        user_keys, item_keys: [U] and [I], int64.
        offsets: user u's events are offsets[u]:offsets[u + 1]; [U + 1], int64.
        item: row numbers of the item keys; [N], int32.
        time_ms: milliseconds since 1970; [N], int64.
        context: context feature name -> column with N rows.
    """

    user_keys: Int64Array
    item_keys: Int64Array
    offsets: Int64Array
    item: Int32Array
    time_ms: Int64Array
    context: dict[str, Column]

    def __len__(self) -> int:
        """N."""
        return len(self.item)


def written_events(features: FeatureSet, table: FolderWriter) -> WrittenEvents:
    """The events that were written to ``table``, all of them."""
    return WrittenEvents(
        user_keys=table.column(f"{USER}.{features.user_id.name}"),
        item_keys=table.column(f"{ITEM}.{features.item_id.name}"),
        offsets=table.column("offsets"),
        item=table.column("event.item"),
        time_ms=table.column("event.timestamp"),
        context={f.name: table.column(f"context.{f.name}") for f in features.context},
    )


@contextmanager
def scratch_folder(work: Path) -> Iterator[FolderWriter]:
    """Columns that are needed for a while, on disk until the end of the block."""
    scratch = FolderWriter(Path(tempfile.mkdtemp(prefix="samples-", dir=work)))
    try:
        yield scratch
    finally:
        scratch.close()
        shutil.rmtree(scratch.folder, ignore_errors=True)


def positive_events(labelled: FolderWriter, scratch: FolderWriter) -> tuple[Int64Array, int]:
    """Positions of the events labelled 1, and how many others have a label.

    Args:
        labelled: columns ``position`` and ``label`` of the events that have a label.
        scratch: where the positions are written.
    """
    position, label = labelled.column("position"), labelled.column("label")
    scratch.append("positive", np.zeros(0, dtype=np.int64))
    others = 0
    for begin in range(0, len(label), _CHUNK):
        chosen = label[begin : begin + _CHUNK] == 1
        scratch.append("positive", position[begin : begin + _CHUNK][chosen])
        others += int(len(chosen) - chosen.sum())
    return scratch.column("positive"), others


def user_groups(offsets: Int64Array, *, events: int) -> Iterator[tuple[int, int]]:
    """Users as runs ``begin:end`` that have up to ``events`` events together, or are one user.

    >>> list(user_groups(np.array([0, 2, 3, 9, 9, 10]), events=4))
    [(0, 2), (2, 3), (3, 5)]
    """
    begin = 0
    while begin < len(offsets) - 1:
        end = int(offsets.searchsorted(offsets[begin] + events, side="right")) - 1
        end = max(end, begin + 1)
        yield begin, end
        begin = end


def changes(column: npt.NDArray[Any]) -> BoolArray:
    """True where a value differs from the one before, and at the first; [N]."""
    changed = np.ones(len(column), dtype=np.bool_)
    changed[1:] = column[1:] != column[:-1]
    return changed
