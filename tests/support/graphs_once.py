"""Exports that repeat one another, for a fraction of their time: torch takes seconds to turn a module into a graph."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import recsys.export.onnx as export
from recsys.bundle import GraphInfo, TableInfo
from support.tiny_run import folder_of_this_process

Write = Callable[[nn.Module, Any, Path, dict[str, TableInfo]], GraphInfo]


def write_graphs_once(patch: pytest.MonkeyPatch) -> None:
    """Let exports in this process copy a graph written before of the same module, weights, rows and inputs."""
    patch.setattr(export, "write_graph", _once(export.write_graph))


def _once(write: Write) -> Write:
    written: dict[str, tuple[Path, GraphInfo, dict[str, TableInfo]]] = {}

    def write_graph(module: nn.Module, example: Any, path: Path, tables: dict[str, TableInfo]) -> GraphInfo:
        key = digest_of_graph(module, example, path.name)
        if key not in written:
            info = write(module, example, path, tables)
            folder = folder_of_this_process()
            for file in (path.name, *(table.file for table in tables.values())):
                (folder / file).parent.mkdir(exist_ok=True)
                shutil.copyfile(path.parent / file, folder / file)
            written[key] = folder, info, dict(tables)
            return info
        folder, info, all_tables = written[key]
        shutil.copyfile(folder / path.name, path)
        for name, table in all_tables.items():
            if name not in tables:
                shutil.copyfile(folder / table.file, path.parent / table.file)
                tables[name] = table
        return info

    return write_graph


def digest_of_graph(module: nn.Module, example: Any, name: str) -> str:
    """Hash of everything that a graph is made of."""
    found = hashlib.sha256(f"{name} {type(module)} {module} {vars(module).get('features')} {example}".encode())
    for key, tensor in module.state_dict().items():
        found.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
