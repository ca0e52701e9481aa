"""Sources of a warm start: the tables, id maps and layers of an older run, or of a bundle.

A bundle holds no optimiser state, and of its maps only the ids with rows of their own: hashed rows are not found again,
and of a table that has nothing else there is no map here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.arrays import Int64Array
from recsys.bundle import LAYERS, Manifest, open_bundle
from recsys.embeddings.numbers import number_names
from recsys.embeddings.quantize import QuantizedTable, check_kind
from recsys.embeddings.row_maps.id_table import SLOTS, build_id_table
from recsys.embeddings.row_maps.row_map import Lookup, RowMap
from recsys.errors import ConfigError
from recsys.features.feature_set import FeatureSet
from recsys.features.number_transform import RAW, NumberTransform
from recsys.training.run.checkpoint import load
from recsys.training.run.folder import NUMBERS, load_numbers, load_row_maps, read_run, weights_file
from recsys.training.tables.checkpoint_rows import Part, parts_of_tables, rows_of_table
from recsys.training.warm_start.incremental import HASHES_UNKNOWN


@dataclass(frozen=True, kw_only=True)
class WarmStartSource:
    """An older model.

    Attributes:
        name: of its folder.
        kind: ``model.kind`` of its network.
        row_maps: table -> how its ids are looked up.
        parts: physical table -> its parts, as in a checkpoint.
        shapes: physical table -> rows and width.
        layers: parameters of the network by name.
        numbers: input name -> how it reads that numeric feature.
        optimizer: of the tables, and of the network its state; None: not known.
        dense_optimizer: state of the network's; None: not known.
        steps: it was trained for, as far as its optimiser's state tells of them.
    """

    name: str
    kind: str
    row_maps: Mapping[str, RowMap]
    parts: Mapping[str, list[Part]]
    shapes: Mapping[str, list[int]]
    layers: Mapping[str, Tensor]
    numbers: Mapping[str, NumberTransform]
    optimizer: str | None = None
    dense_optimizer: dict[str, Any] | None = field(default=None, repr=False)
    steps: int = 0

    def rows(self, table: str, rows_R: Int64Array, state: str | None = None) -> Tensor:
        """Some rows of a physical table, [R, D], or what its optimiser keeps of them, [R] or [R, D]; float32."""
        return rows_of_table(self.parts[table], rows_R, dim=self.shapes[table][1], state=state)

    def states(self, table: str) -> list[str]:
        """Names of what the optimiser keeps of a physical table."""
        return sorted(self.parts[table][0]["state"]) if self.parts.get(table) else []


def open_source(path: Path) -> WarmStartSource:
    """The model of a run's folder, or of a bundle.

    Raises:
        ConfigError: it is neither, or a bundle that retrieves.
        DataFileError, BundleError: a file of it is damaged.
    """
    if (path / "manifest.json").exists():
        return _of_bundle(path)
    if (path / "config.json").exists():
        return _of_run(path)
    raise ConfigError(
        f"train.warm_start {path}: neither a run's folder (config.json) nor a bundle (manifest.json) is there"
    )


def _of_run(path: Path) -> WarmStartSource:
    config, features, _ = read_run(path)
    checkpoint = load(weights_file(path))
    return WarmStartSource(
        name=path.name,
        kind=config.model.kind,
        row_maps=load_row_maps(path / "row_maps.npz"),
        parts=parts_of_tables(checkpoint),
        shapes=checkpoint.tables,
        layers=checkpoint.dense,
        numbers=_numbers(features, load_numbers(path / NUMBERS)),
        optimizer=config.tables.optimizer,
        dense_optimizer=checkpoint.dense_optimizer,
        steps=checkpoint.step + checkpoint.loop.get("steps_before", 0),
    )


def _of_bundle(path: Path) -> WarmStartSource:
    manifest = open_bundle(path).manifest
    if manifest.kind != "ranking":
        raise ConfigError(f"train.warm_start {path}: a {manifest.kind} bundle; expected a run or a ranking bundle")
    parts: dict[str, list[Part]] = {}
    maps: dict[str, RowMap] = {}
    for name, info in manifest.tables.items():
        stored = info.read(path)
        table, _, what = name.rpartition(".")
        if what == "rows":
            width = info.shape[1] if info.width is None else info.width
            rows = QuantizedTable(kind=check_kind(info.quantized), rows=stored, width=width).dequantize()
            parts[table] = [{"table": table, "row": 0, "column": 0, "weights": torch.from_numpy(rows), "state": {}}]
        else:
            # The hashes it was built with are in the graphs: only what is in the slots can be read here.
            keys, rows_of_keys = stored[:, :SLOTS], stored[:, SLOTS:]
            ids = build_id_table(keys[keys >= 0], rows_of_keys[keys >= 0])
            lookup = Lookup(table=table, num_rows=int(rows_of_keys.max()) + 1, exact="row")
            maps[table] = RowMap(kind=_kind_of_map(manifest, table), lookups=(lookup,), ids=ids)
    with np.load(path / LAYERS, allow_pickle=False) as stored_layers:
        layers = {name: torch.from_numpy(array) for name, array in stored_layers.items()}
    settings = manifest.training.get("config", {}).get("model", {})
    return WarmStartSource(
        name=path.name,
        kind=str(settings.get("kind", "din")),
        row_maps={table: row_map for table, row_map in maps.items() if table in parts},
        parts=parts,
        shapes={table: list(each[0]["weights"].shape) for table, each in parts.items()},
        layers=layers,
        numbers=_numbers(manifest.feature_set, manifest.numbers),
    )


def _numbers(features: FeatureSet, recorded: Mapping[str, NumberTransform]) -> dict[str, NumberTransform]:
    """Of every numeric feature; models from before there were transforms have none on record."""
    names = [name for names in number_names(features).values() for name in names]
    return {name: recorded.get(name, RAW) for name in names}


def _kind_of_map(manifest: Manifest, table: str) -> str:
    """``vocabulary`` if ids without a row of their own share row 0; of others the bundle does not tell the rows."""
    rows = manifest.training.get("config", {}).get("rows", {})
    kind = rows.get("maps", {}).get(table, rows.get("map"))
    return "vocabulary" if kind == "vocabulary" and rows.get("unknown_rows") == 0 else HASHES_UNKNOWN
