"""Checkpoints: everything a run needs to go on to the same last digit, written atomically."""

from __future__ import annotations

import dataclasses
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from recsys.embeddings.sharding import optimizer_state, table_weights
from recsys.errors import DataFileError
from recsys.files import atomic_file

FORMAT_VERSION = 2


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after ``step`` steps.

    Attributes:
        tables, table_optimizer: embedding rows and the fused optimiser's state, by name.
        dense, dense_optimizer: the network and its optimiser.
        loader: position in the training samples.
        random: torch's generators by kind of device: ``cpu``, and ``cuda`` if the model is on a GPU
            (dropout draws there).
    """

    step: int
    tables: dict[str, Tensor]
    table_optimizer: dict[str, Tensor]
    dense: dict[str, Tensor]
    dense_optimizer: dict[str, Any]
    loader: dict[str, int]
    random: dict[str, Tensor]


def capture(
    model: DistributedModelParallel,
    dense_optimizer: torch.optim.Optimizer,
    *,
    step: int,
    loader: dict[str, int],
) -> Checkpoint:
    """The present state; tensors are those in use, so save it before the next step."""
    return Checkpoint(
        step=step,
        tables=table_weights(model),
        table_optimizer=dict(optimizer_state(model)),
        dense=model.module.net.state_dict(),
        dense_optimizer=dense_optimizer.state_dict(),
        loader=loader,
        random=_generators(model),
    )


def restore(
    checkpoint: Checkpoint, model: DistributedModelParallel, dense_optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Put a captured state back; without an optimiser, only what inference needs."""
    _copy(checkpoint.tables, table_weights(model))
    model.module.net.load_state_dict(checkpoint.dense)
    if dense_optimizer is not None:
        _copy(checkpoint.table_optimizer, dict(optimizer_state(model)))
        dense_optimizer.load_state_dict(checkpoint.dense_optimizer)
        torch.set_rng_state(checkpoint.random["cpu"])
        device = _device(model)
        if device.type == "cuda" and "cuda" in checkpoint.random:
            torch.cuda.set_rng_state(checkpoint.random["cuda"], device)


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write so that a kill at any moment leaves the old file or the new one."""
    with atomic_file(path) as stream:
        torch.save({"format_version": FORMAT_VERSION, **vars(checkpoint)}, stream)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        DataFileError: there is none, it is damaged, or of a newer format.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # torch.load does not compare the checksums that torch.save writes.
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"the checksum of {damaged} does not match")
        values = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise DataFileError(f"{path}: no checkpoint; `recsys train` writes one") from None
    except Exception as error:  # torch.load raises many kinds for a damaged file
        raise DataFileError(f"{path}: not a readable checkpoint: {error}") from error
    version = values.pop("format_version", None) if isinstance(values, dict) else None
    if version != FORMAT_VERSION:
        raise DataFileError(f"{path}: checkpoint format {version}, this program reads {FORMAT_VERSION}")
    if fields := {f.name for f in dataclasses.fields(Checkpoint)} ^ set(values):
        raise DataFileError(f"{path}: not a whole checkpoint: {', '.join(sorted(fields))} missing or not known")
    return Checkpoint(**values)


def _generators(model: DistributedModelParallel) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    device = _device(model)
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _device(model: DistributedModelParallel) -> torch.device:
    parameter: Tensor = next(model.module.net.parameters())
    return parameter.device


def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    if {n: t.shape for n, t in source.items()} != {n: t.shape for n, t in target.items()}:
        raise DataFileError(
            f"the checkpoint holds {_shapes(source)}, the model {_shapes(target)}: it is of another run"
        )
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(source[name])


def _shapes(tensors: dict[str, Tensor]) -> str:
    return ", ".join(f"{name} {list(t.shape)}" for name, t in sorted(tensors.items()))
