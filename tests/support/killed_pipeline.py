"""Days of a pipeline in processes that end themselves by SIGKILL at a step (``killed.py``).

Graphs that were written before are copied: torch takes seconds to make one, and the same run has the same.
"""

from __future__ import annotations

import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import onnxscript  # noqa: F401  here, and not in each process
import torch
from torch import nn

import recsys.export.onnx as export
import recsys.pipeline.bundle
import recsys.pipeline.gate
import recsys.pipeline.loop
import recsys.pipeline.publish
import recsys.pipeline.samples
import recsys.pipeline.train  # noqa: F401  as the others: imported by each process otherwise
from recsys.bundle import GraphInfo, TableInfo
from recsys.pipeline.loop import run_day
from recsys.pipeline.settings import read_settings
from support.graphs_once import digest_of_graph
from support.killed import serve
from support.tiny_pipeline import nth_day


def second_day(folder: Path, kept: Path) -> None:
    """Run the second day of a shop."""
    torch.set_num_threads(1)
    state = run_day(read_settings(folder / "shop.toml"), nth_day(1)).state
    assert state.status == "promoted", state.reasons


def _kept_graphs(kept: Path) -> None:
    """Have exports copy graphs that are kept in a folder, and keep those that they write."""
    write = export.write_graph

    def write_graph(module: nn.Module, example: Any, path: Path, tables: dict[str, TableInfo]) -> GraphInfo:
        place = kept / digest_of_graph(module, example, path.name)
        if not (place / "about").exists():
            before = set(tables)
            info = write(module, example, path, tables)
            new = {name: table for name, table in tables.items() if name not in before}
            for file in (path.name, *{table.file for table in new.values()}):
                (place / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path.parent / file, place / file)
            (place / "about").write_bytes(pickle.dumps((info, new)))
            return info
        info, new = pickle.loads((place / "about").read_bytes())
        for file in (path.name, *{table.file for table in new.values()}):
            (path.parent / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(place / file, path.parent / file)
        tables |= new
        return info

    export.write_graph = write_graph


if __name__ == "__main__":
    _kept_graphs(Path(sys.argv[1]))
    serve({"second_day": second_day}, Path(sys.argv[1]))
