"""Samples as they are stored: events of the table, or impressions, with labels and splits.

A sample is an event of the table (its ``position``), or an impression: something that was shown and labelled,
but is no event, so that no history holds it.

``M`` samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.arrays import Int32Array, Int64Array
from recsys.data.column_folder import open_columns, write_columns
from recsys.errors import DataFileError
from recsys.features.columns import Column

KIND = "samples"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Impressions:
    """M moments at which a user was shown an item; sorted by (user, time).

    Attributes:
        user, item: row numbers of the table's users and items; [M], int32.
        time_ms: milliseconds since 1970; [M], int64.
        context: context feature name -> column with M rows.
    """

    user: Int32Array
    item: Int32Array
    time_ms: Int64Array
    context: dict[str, Column]


@dataclass(frozen=True, slots=True)
class Samples:
    """M labelled events, or M labelled impressions.

    Attributes:
        position: index of the sample's event in the event table, -1 for an impression; [M], int64.
        label: 0 or 1; [M], uint8.
        splits: ``train``, ``validation``, ``test``: sample indices, int64.
        impressions: what the samples are, unless they are events.
        warnings: of the command that made them, one sentence each, such as a part that is empty.
    """

    position: Int64Array
    label: npt.NDArray[np.uint8]
    splits: dict[str, Int64Array]
    impressions: Impressions | None = None
    warnings: tuple[str, ...] = ()


def write_samples(samples: Samples, path: Path) -> None:
    """Write samples to a folder that appears only when complete.

    Raises:
        FileExistsError: ``path`` exists.
    """
    columns = sample_columns(samples.label, position=samples.position, impressions=samples.impressions)
    columns.update({f"split.{name}": indices for name, indices in samples.splits.items()})
    write_columns(path, columns, kind=KIND, version=FORMAT_VERSION, info={"splits": list(samples.splits)})


def sample_columns(
    label: npt.NDArray[np.uint8], *, position: Int64Array, impressions: Impressions | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Samples as columns on disk, without their splits: ``position``, or those of the impressions, and ``label``."""
    columns: dict[str, npt.NDArray[Any]]
    if impressions is None:
        return {"position": position, "label": label}
    columns = {"user": impressions.user, "item": impressions.item, "time_ms": impressions.time_ms, "label": label}
    columns.update({f"context.{name}": column for name, column in impressions.context.items()})
    return columns


def open_samples(path: Path) -> Samples:
    """Memory-map samples.

    Raises:
        DataFileError: not samples, of another format version, or damaged.
    """
    columns, info = open_columns(path, kind=KIND, version=FORMAT_VERSION)
    try:
        splits = {name: columns[f"split.{name}"] for name in info["splits"]}
        label, warnings = columns["label"], tuple(info.get("warnings", ()))
        if "time_ms" not in columns:
            return Samples(position=columns["position"], label=label, splits=splits, warnings=warnings)
        context = {name.removeprefix("context."): c for name, c in columns.items() if name.startswith("context.")}
        impressions = Impressions(
            user=columns["user"], item=columns["item"], time_ms=columns["time_ms"], context=context
        )
        position = np.full(len(label), -1, dtype=np.int64)
        return Samples(position=position, label=label, splits=splits, impressions=impressions, warnings=warnings)
    except KeyError as error:
        raise DataFileError(f"{path}: column {error} is missing from meta.json") from error
