"""Checkpoints: everything a run needs to go on to the same last digit, written atomically.

``checkpoint.pt`` is one file if the run has one process. With several, each writes the parts of the tables it holds to
``checkpoint/``, so that none needs room for all, and ``checkpoint.pt``, written last, says which of these files belong
to it. A kill at any moment leaves the old checkpoint or the new one; files of neither are deleted by the next one.

Parts know their place in the whole table. So a run may go on with another number of processes, or with tables
spread otherwise; each process then reads what overlaps its own parts.
"""

from __future__ import annotations

import copy
import dataclasses
import secrets
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from recsys.embeddings.sharding.shard import TableShard, table_shards
from recsys.errors import DataFileError
from recsys.files import atomic_file, make_folder
from recsys.training.distributed.processes import broadcast, gather, together, world

FORMAT_VERSION = 4
"""Version 3 had no ``loop``; it is read still."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after ``step`` steps.

    Attributes:
        tables: name -> rows and width.
        files: in ``checkpoint/``: name -> size in bytes and the parts of tables in it, as table, first row, first
            column, rows, columns.
        parts: of tables, if one process wrote the checkpoint: a dictionary each.
        dense, dense_optimizer: the network and its optimiser.
        loader: position in the training samples.
        random: torch's generators of each process by kind of device: ``cpu``, and ``cuda`` if the model is on a
            GPU (dropout draws there).
        loop: what else the loop goes on with: ``watch`` (``early_stopping.py``), ``scaler`` (``precision.py``),
            ``steps_before``: of the run that a warm start took rows from, ``seconds`` of training.
        folder: where ``files`` are.
    """

    step: int
    tables: dict[str, list[int]]
    files: dict[str, dict[str, Any]]
    parts: list[dict[str, Any]]
    dense: dict[str, Tensor]
    dense_optimizer: dict[str, Any]
    loader: dict[str, int]
    random: list[dict[str, Tensor]]
    loop: dict[str, Any] = field(default_factory=dict)
    folder: Path = field(default_factory=Path)


def save(
    model: DistributedModelParallel,
    dense_optimizer: torch.optim.Optimizer,
    path: Path,
    *,
    step: int,
    loader: dict[str, int],
    loop: dict[str, Any] | None = None,
) -> None:
    """Write the present state, so that a kill at any moment leaves the old checkpoint or the new one.

    Every process calls it; ``path`` is on a file system they share.

    Raises:
        ConfigError: the folder cannot be written.
        NoSpaceError: there is no room for it.
    """
    shards = table_shards(model)
    sizes = {name: size for each in gather(_sizes(shards)) for name, size in each.items()}
    files: dict[str, dict[str, Any]] = {}
    folder = path.with_suffix("")
    if world().size > 1:
        name = f"{step:09d}-{broadcast(secrets.token_hex(4))}-{world().rank}.pt"
        with together("writing the checkpoint"):
            make_folder(folder)
            with atomic_file(folder / name) as stream:
                torch.save(_parts(shards), stream)
            entry = {
                "size_bytes": (folder / name).stat().st_size,
                "parts": [[s.table, s.row, s.column, *s.weights.shape] for s in shards],
            }
        files = dict(gather((name, entry)))
    random = gather(_generators(model))
    checkpoint = Checkpoint(
        step=step,
        tables=sizes,
        files=files,
        parts=[] if files else _parts(shards),
        dense=model.module.net.state_dict(),
        dense_optimizer=dense_optimizer.state_dict(),
        loader=loader,
        random=random,
        loop=loop or {},
    )
    with together("writing the checkpoint"):
        if world().rank == 0:
            write_index(checkpoint, path)
            _remove_others(folder, files)


def write_index(checkpoint: Checkpoint, path: Path) -> None:
    """Write ``checkpoint.pt``; the files it names are there.

    Raises:
        ConfigError: the folder cannot be written.
        NoSpaceError: there is no room for it.
    """
    values = {name: value for name, value in vars(checkpoint).items() if name != "folder"}
    with atomic_file(path) as stream:
        torch.save({"format_version": FORMAT_VERSION, **values}, stream)


def load(path: Path) -> Checkpoint:
    """Read ``checkpoint.pt``, and see that the files it names are there.

    Raises:
        DataFileError: there is none, it or one of its files is missing, damaged, or of a newer format.
    """
    values = read_file(path, "no checkpoint; `recsys train` writes one")
    version = values.pop("format_version", None) if isinstance(values, dict) else None
    if version == 3:
        version, values["loop"] = FORMAT_VERSION, {}
    if version != FORMAT_VERSION:
        raise DataFileError(f"{path}: checkpoint format {version}, this program reads {FORMAT_VERSION}")
    known = {f.name for f in dataclasses.fields(Checkpoint)} - {"folder"}
    if fields := known ^ set(values):
        raise DataFileError(f"{path}: not a whole checkpoint: {', '.join(sorted(fields))} missing or not known")
    checkpoint = Checkpoint(**values, folder=path.with_suffix(""))
    for name, entry in checkpoint.files.items():
        file = checkpoint.folder / name
        if not file.exists():
            raise DataFileError(f"{file} is missing: {path} names it; restore it, or start another run")
        if (size := file.stat().st_size) != entry["size_bytes"]:
            raise DataFileError(f"{file}: {size} bytes, {path} names {entry['size_bytes']}")
    return checkpoint


def restore(
    checkpoint: Checkpoint, model: DistributedModelParallel, dense_optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Put a saved state back; without an optimiser, only what inference needs. Every process calls it.

    The generators go on where they were if there are as many processes as there were; others begin anew.

    Raises:
        DataFileError: it is of another run, or one of its files is damaged.
    """
    shards = table_shards(model)
    sizes = {name: size for each in gather(_sizes(shards)) for name, size in each.items()}
    if sizes != checkpoint.tables:
        raise DataFileError(
            f"the checkpoint holds {_shapes(checkpoint.tables)}, the model {_shapes(sizes)}: it is of another run"
        )
    with together("reading the checkpoint"):
        _restore_tables(checkpoint, shards, with_state=dense_optimizer is not None)
    try:
        model.module.net.load_state_dict(checkpoint.dense)
    except RuntimeError as error:  # torch lists every parameter that is missing, not known, or of another shape
        first = str(error).splitlines()[1:2] or [str(error)]
        raise DataFileError(f"the checkpoint is of another network: {first[0].strip()} It is of another run") from error
    if dense_optimizer is not None:
        # A copy: the checkpoint's tensors are mapped from its file.
        dense_optimizer.load_state_dict(copy.deepcopy(checkpoint.dense_optimizer))
        if len(checkpoint.random) == world().size:
            random = checkpoint.random[world().rank]
            torch.set_rng_state(random["cpu"].clone())
            device = _device(model)
            if device.type == "cuda" and "cuda" in random:
                torch.cuda.set_rng_state(random["cuda"].clone(), device)


def _restore_tables(checkpoint: Checkpoint, shards: Sequence[TableShard], *, with_state: bool) -> None:
    missing = {id(shard): shard.weights.numel() for shard in shards}
    for part in _parts_for(checkpoint, shards):
        for shard in shards:
            if shard.table == part["table"]:
                missing[id(shard)] -= _copy_overlap(part, shard, with_state=with_state)
    for shard in shards:
        if missing[id(shard)]:
            raise DataFileError(f"the checkpoint does not hold all rows of table {shard.table!r}; start another run")


def _parts_for(checkpoint: Checkpoint, shards: Sequence[TableShard]) -> Iterator[dict[str, Any]]:
    """The checkpoint's parts, leaving out files of which none of our shards needs anything."""
    yield from checkpoint.parts
    tables = {shard.table for shard in shards}
    for name, entry in checkpoint.files.items():
        if tables & {part[0] for part in entry["parts"]}:
            yield from read_file(checkpoint.folder / name, "the checkpoint names it")


def _copy_overlap(part: dict[str, Any], shard: TableShard, *, with_state: bool) -> int:
    """Copy what a part and a shard of one table have in common; how many weights that are."""
    if set(part["state"]) != set(shard.state) and with_state:
        raise DataFileError(
            f"table {shard.table!r}: the checkpoint's optimizer keeps {sorted(part['state'])}, "
            f"the model's {sorted(shard.state)}: it is of another run"
        )
    top, left = max(part["row"], shard.row), max(part["column"], shard.column)
    bottom = min(part["row"] + len(part["weights"]), shard.row + len(shard.weights))
    right = min(part["column"] + part["weights"].shape[1], shard.column + shard.weights.shape[1])
    if bottom <= top or right <= left:
        return 0
    pairs = [(part["weights"], shard.weights)]
    if with_state:
        pairs += [(part["state"][name], state) for name, state in shard.state.items()]
    for source, target in pairs:
        here = source[top - part["row"] : bottom - part["row"]]
        there = target[top - shard.row : bottom - shard.row]
        if source.dim() == 2:
            here = here[:, left - part["column"] : right - part["column"]]
            there = there[:, left - shard.column : right - shard.column]
        there.copy_(here)
    return int((bottom - top) * (right - left))


def _parts(shards: Sequence[TableShard]) -> list[dict[str, Any]]:
    return [
        {"table": s.table, "row": s.row, "column": s.column, "weights": s.weights, "state": s.state} for s in shards
    ]


def _sizes(shards: Sequence[TableShard]) -> dict[str, list[int]]:
    return {shard.table: [shard.num_rows, shard.dim] for shard in shards}


def read_file(file: Path, if_missing: str) -> Any:
    """Read what ``torch.save`` wrote.

    Raises:
        DataFileError: the file is missing, for the reason given, or damaged.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            # torch.load does not compare the checksums that torch.save writes.
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"the checksum of {damaged} does not match")
        return torch.load(file, weights_only=True, map_location="cpu", mmap=True)
    except FileNotFoundError:
        raise DataFileError(f"{file}: {if_missing}") from None
    except Exception as error:  # torch.load raises many kinds for a damaged file
        raise DataFileError(f"{file}: not a readable checkpoint: {error}") from error


def _remove_others(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    """Delete the files of older checkpoints, and what killed processes left."""
    if not folder.is_dir():
        return
    for file in folder.iterdir():
        if file.name not in files:
            file.unlink(missing_ok=True)
    if not files:
        folder.rmdir()


def _generators(model: DistributedModelParallel) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    device = _device(model)
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _device(model: DistributedModelParallel) -> torch.device:
    parameter: Tensor = next(model.module.net.parameters())
    return parameter.device


def _shapes(sizes: dict[str, list[int]]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sorted(sizes.items()))
