"""Cost of looking raw ids up in an exported row map, beside the Gather that no lookup can do without.

Each kind's map is exported as a graph of its own with memory-mapped tables, and asked for 200 random ids at a time on
one core, in bare ONNX Runtime with recsys's operators (``.standard``: without). The bound is a Gather of 200 random
rows of 64 bytes from a memory-mapped table with as many rows. Kinds and bound take turns. Known ids are drawn evenly,
which is the worst case: real traffic repeats itself.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from harness.common import Line, cores, line, machine, main, parser, pinned, say, spread

if TYPE_CHECKING:  # the rest is imported when it runs: --help takes no seconds
    import onnxruntime
    from torch import nn

    from recsys.arrays import Int64Array
    from recsys.embeddings.row_maps.row_map import RowMap
    from recsys.operators import Operators

LIBRARIES = ("torch", "onnxruntime", "numpy")
LOOKUP_TARGET_US = 60
OPEN_TARGET_MS = 50
CHUNKS = 2
_WINDOW = 1 << 16
"""Bytes that Linux maps around a page that is touched and cached already (fault_around_bytes); more on file systems
whose cache has larger pieces."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Number of ids, and length of the measurement."""

    label: str
    ids: int
    rounds: int
    runs: int
    keys: int = 200


SIZES = {
    "full": Size(label="10M", ids=10_000_000, rounds=15, runs=100),
    "quick": Size(label="1M", ids=1_000_000, rounds=5, runs=50),
    "tiny": Size(label="20k", ids=20_000, rounds=1, runs=3),
}


def run(options: argparse.Namespace) -> Iterator[Line]:
    """All lines."""
    import numpy as np

    from recsys.embeddings.row_maps.vocabulary import vocabulary
    from recsys.features.hashing import KEY_LIMIT

    size = SIZES[options.size]
    on = machine(LIBRARIES, threads=1, chunks_of_unified=CHUNKS, **asdict(size))
    random = np.random.Generator(np.random.PCG64(0))
    ids = random.permutation(np.unique(random.integers(0, KEY_LIMIT, size=size.ids)))
    say(f"a vocabulary of {len(ids):,} ids")
    started_s = time.perf_counter()
    known = vocabulary("t", ids, np.ones(len(ids), dtype=np.int64))
    built_s = time.perf_counter() - started_s
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as made, pinned(cores()[-1]):
        folder = Path(made)
        sessions = {}
        for kind, row_map in _maps(known, len(ids)).items():
            say(f"exporting {kind}")
            path = _export(row_map.module(), folder / kind)
            if kind == "vocabulary":
                yield from _memory(path, row_map, ids, size, on=on)
                sessions["vocabulary.standard"] = _open(path, "standard")
            sessions[kind] = _open(path)
            asked = random.choice(ids, size=size.keys)
            assert (sessions[kind].run(None, {"keys": asked})[0] == row_map.lookup(asked)).all()
        sessions["gather"] = _open(_export(_gather(len(ids)), folder / "gather"))
        yield from _lookups(sessions, ids, size, built_s, on=on)


def _maps(known: RowMap, rows: int) -> dict[str, RowMap]:
    """Every kind with that many rows, or ids; those that know ids share one table of ids, whose placement takes long.

    So the cluster of an id is its number here, and ``lsh`` is left out: it is ``graph`` with other numbers.
    """
    from recsys.embeddings.row_maps.hash_ops import hashed_rows
    from recsys.embeddings.row_maps.hashing import hash_rows
    from recsys.embeddings.row_maps.row_map import Lookup, RowMap
    from recsys.embeddings.row_maps.unified import unified_rows

    def owned(kind: str, *lookups: Lookup, combine: Any = "sum") -> RowMap:
        return RowMap(kind=kind, lookups=lookups, combine=combine, ids=known.ids)

    behind = [
        Lookup(
            table="t",
            num_rows=2 * rows + 1,
            exact="row",
            hashed=hashed_rows((0, "t", k), first=1 + rows, count=rows),
        )
        for k in range(2)
    ]
    among = Lookup(table="t", num_rows=rows + 1, hashed=hashed_rows((0, "t", 1), first=1, count=rows))
    clusters = replace(among, exact="row", hashed=hashed_rows((0, "t", 0), first=1, count=rows))
    parts = [
        Lookup(
            table=f"t__{part}",
            num_rows=rows // 2 + 2,
            exact=part,
            divisor=rows // 2 + 1,
            hashed=hashed_rows((0, part), first=1, count=count),
        )
        for part, count in (("quotient", 2), ("remainder", rows // 2 + 1))
    ]
    return {
        "vocabulary": known,
        "hash": hash_rows("t", rows=rows + 1),
        "double_hash": hash_rows("t", rows=rows + 1, functions=2),
        "frequency": owned("frequency", behind[0]),
        "double_frequency": owned("double_frequency", *behind),
        "quotient_remainder": owned("quotient_remainder", *parts, combine="product"),
        "unified": unified_rows(["t"], rows=rows + 1, chunks={"t": CHUNKS})["t"],
        "graph": owned("graph", clusters),
        "double_graph": owned("double_graph", clusters, among),
    }


def _gather(rows: int) -> nn.Module:
    """The bound: one row of 64 bytes for each key, which is its number."""
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn

    class Gather(nn.Module):
        table: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.arange(16 * rows, dtype=torch.float32).view(rows, 16))

        def forward(self, keys: Tensor) -> Tensor:
            return F.embedding(keys, self.table)

    return Gather()


def _export(module: nn.Module, folder: Path) -> Path:
    import onnx
    import torch

    from recsys.export.rewrites.functions import id_rows
    from recsys.export.rewrites.simplify import simplify

    folder.mkdir()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        program = torch.onnx.export(
            module.eval(),
            (torch.arange(7),),
            dynamo=True,
            input_names=["keys"],
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            opset_version=21,
            verbose=False,
        )
        assert program is not None
        model = program.model_proto
    simplify(model)
    id_rows(model)
    onnx.save_model(model, folder / "map.onnx", save_as_external_data=True, size_threshold=1 << 20)
    return folder / "map.onnx"


def _open(path: Path, operators: Operators = "auto") -> onnxruntime.InferenceSession:
    import onnxruntime

    from recsys.operators import use_operators

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    use_operators(options, operators)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _lookups(
    sessions: dict[str, onnxruntime.InferenceSession],
    ids: Int64Array,
    size: Size,
    built_s: float,
    *,
    on: dict[str, Any],
) -> Iterator[Line]:
    import numpy as np

    random = np.random.Generator(np.random.PCG64(1))
    took_us: dict[str, list[float]] = {kind: [] for kind in sessions}
    for number in range(-1, size.rounds):
        for kind, session in sessions.items():
            times = []
            for _ in range(size.runs):
                keys = random.integers(0, len(ids), size=size.keys)
                keys = keys if kind == "gather" else ids[keys]
                started_s = time.perf_counter()
                session.run(None, {"keys": keys})
                times.append(time.perf_counter() - started_s)
            if number >= 0:  # the first round warms up
                took_us[kind].append(1e6 * median(times))
    gather = f"rowmap.gather_us_{size.label}"
    for kind, found in took_us.items():
        if kind == "gather":
            continue
        ratios = [ours / bound for ours, bound in zip(found, took_us["gather"], strict=True)]
        yield line(
            f"rowmap.{'' if kind == 'vocabulary' else f'{kind}.'}lookup_us_{size.label}",
            median(found),
            "us",
            higher_is_better=False,
            target=LOOKUP_TARGET_US if kind == "vocabulary" else None,
            compared_with=gather,
            spread=spread(found),
            over_gather=round(median(ratios), 2),
            **({"built_in_s": round(built_s, 1)} if kind == "vocabulary" else {}),
            on=on,
        )
    yield line(
        gather,
        median(took_us["gather"]),
        "us",
        higher_is_better=False,
        compared_with=f"rowmap.lookup_us_{size.label}",
        spread=spread(took_us["gather"]),
        on=on,
    )


def _memory(path: Path, row_map: RowMap, ids: Int64Array, size: Size, *, on: dict[str, Any]) -> Iterator[Line]:
    """Opening reads no table; looking up maps what it touches."""
    import numpy as np

    random = np.random.Generator(np.random.PCG64(2))
    times = []
    for _ in range(max(3, size.rounds)):
        started_s = time.perf_counter()
        session = _open(path)
        times.append(1e3 * (time.perf_counter() - started_s))
        opened_kib = _mapped_kib(path.parent)
    yield line(
        f"rowmap.open_ms_{size.label}",
        median(times),
        "ms",
        higher_is_better=False,
        target=OPEN_TARGET_MS,
        compared_with="nothing: the file is in the page cache",
        spread=spread(times),
        on=on,
    )
    yield line(
        f"rowmap.opened_kib_{size.label}",
        opened_kib,
        "KiB",
        higher_is_better=False,
        compared_with="the table's bytes, of which opening should map none",
        table_kib=row_map.size_bytes // 1024,
        on=on,
    )
    assert row_map.ids is not None
    windows: set[int] = set()
    keys = random.choice(ids, size=size.keys)
    session.run(None, {"keys": keys})
    for bucket in row_map.ids.buckets(keys):
        windows.update((bucket * row_map.size_bytes // len(row_map.ids.keys_TW) // _WINDOW).tolist())
    most_kib = len(windows) * _WINDOW / 1024
    yield line(
        f"rowmap.mapped_over_touched_{size.label}",
        (_mapped_kib(path.parent) - opened_kib) / most_kib,
        "ratio",
        higher_is_better=False,
        compared_with="64 KiB for each such part of the table that a looked-up bucket lies in, after one lookup",
        touched_kib=round(most_kib),
        table_kib=row_map.size_bytes // 1024,
        on=on,
    )


def _mapped_kib(folder: Path) -> float:
    """Resident KiB of the mappings of a folder's files (proc(5), smaps)."""
    total, inside = 0.0, False
    for row in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", row):
            inside = str(folder) in row
        elif inside and row.startswith("Rss:"):
            total += float(row.split()[1])
    return total


if __name__ == "__main__":
    main("row_maps", run, parser(__doc__))
