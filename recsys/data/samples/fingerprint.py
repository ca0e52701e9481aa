"""Fingerprint of a run's data, 16 hex digits, so that it is evaluated and exported on the same data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from recsys.data.samples.dataset import Dataset
from recsys.data.samples.stored import sample_columns


def data_fingerprint(dataset: Dataset) -> str:
    """A hash of the events, entities, samples, labels and splits, that changes when any of them does.

    It does not depend on where the data lies, nor on whether the dataset holds keys or rows.
    A hundredth of a second for MovieLens-1M, so it is made anew wherever it is needed.
    """
    table, samples = dataset.table, dataset.samples
    content = xxhash.xxh3_64()
    groups: dict[str, Mapping[str, npt.NDArray[Any]]] = {
        "users": table.users,
        "items": table.items,
        "events": {
            "offsets": table.offsets,
            "item": table.item_index,
            "timestamp": table.timestamp_ms,
            "arrival": table.arrival_ms,
        },
        "attributes": table.attributes,
        "context": table.context,
        "samples": sample_columns(samples.label, position=samples.position, impressions=samples.impressions),
        "splits": samples.splits,
    }
    for group, columns in groups.items():
        for name, column in sorted(columns.items()):
            content.update(f"{group} {name} {column.dtype.str} {column.shape};".encode())
            if column.size:
                content.update(np.ascontiguousarray(column).data)
    return content.hexdigest()
