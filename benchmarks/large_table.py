"""A table larger than the memory allowed, served: a bundle with an int8 table of 20 GB.

The table is generated (its rows can be worked out again, so answers are checked), and the bundle is opened as a
server opens it, in processes of their own, whose private memory is reported. Each starts with none of the table in
the page cache and scores requests of 200 candidates: of ids drawn evenly from the whole table, where nearly
every row is a page on disk, and of ids drawn from a hot set, before and after ``read_pages_ahead`` has read that set.

What is allowed: a full run holds so much memory itself that ``leave_gb`` are left to the page cache and the server
(``--leave-gb``); ``table_over_memory`` is the table beside that, or beside a control group's limit. Not RLIMIT_DATA:
ONNX Runtime maps tables privately and writable, which counts against it though nothing is written. For the same
reason Linux as it is set by default refuses to map a table larger than all of the machine's memory.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common import Line, line, machine, main, parser, rounded, say

from recsys.arrays import Float32Array, Int64Array

if TYPE_CHECKING:  # the rest is imported when it runs: --help takes no seconds
    import numpy as np
    import numpy.typing as npt

    from recsys.bundle import GraphInfo
    from recsys.embeddings.quantize import QuantizedTable
    from recsys.serving.inference.ranking_session import RankingSession

LIBRARIES = ("onnxruntime", "numpy")
WIDTH = 64
BLOCK_ROWS = 1 << 18
CANDIDATES = 200
TABLE = "tables/items.rows.bin"
ALLOWED_DIFFERENCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Size:
    """Size of the table, and the number of requests."""

    gb: float
    requests: int
    hot_items: int
    leave_gb: float | None = None


SIZES = {
    "full": Size(gb=20, requests=400, hot_items=100_000, leave_gb=8),
    "quick": Size(gb=2, requests=60, hot_items=10_000),
    "tiny": Size(gb=0.04, requests=5, hot_items=300),
}


_RUNS = (("readahead", "even"), ("readahead", "hot"), ("random", "even"), ("random", "hot"), ("warm", "hot"))
"""How pages are read, and which ids are asked for."""


def run(options: argparse.Namespace) -> Iterator[Line]:
    """All lines."""
    size = SIZES[options.size]
    leave_gb = options.leave_gb or size.leave_gb
    with tempfile.TemporaryDirectory(prefix="recsys-bench-", dir=options.folder) as made:
        folder = Path(made)
        wanted = (options.gb or size.gb) * 1e9
        room = shutil.disk_usage(folder).free - 4e9
        rows = int(min(wanted, room) // (WIDTH + 8))
        bundle = folder / "bundle"
        say(f"writing a table of {rows:,} rows, {rows * (WIDTH + 8) / 1e9:.1f} GB")
        write_bundle(bundle, rows)
        on = machine(LIBRARIES, **{**asdict(size), "gb": rounded(rows * (WIDTH + 8) / 1e9)}, rows=rows, width=WIDTH)
        with memory_taken(leave_gb):
            allowed = memory_allowed_bytes()
            say(f"{allowed / 1e9:.1f} GB of memory are left")
            measured: dict[str, dict[str, Any]] = {"readahead": {}, "random": {}, "warm": {}}
            for name, ids in _RUNS:  # each finds none of the table in the page cache
                found = _child(bundle, rows=rows, size=size, advise=name != "readahead", warm=name == "warm", ids=ids)
                worst = max(found["max_difference"], measured[name].get("max_difference", 0.0))
                measured[name] |= {**found, "max_difference": worst}
    yield from _lines(measured, rows * (WIDTH + 8) / allowed, on={**on, "memory_left_gb": rounded(allowed / 1e9)})


def _lines(measured: dict[str, dict[str, Any]], over: float, *, on: dict[str, Any]) -> Iterator[Line]:
    plain, random, warm = measured["readahead"], measured["random"], measured["warm"]
    yield line(
        "large_table.table_over_memory",
        over,
        "ratio",
        higher_is_better=True,
        target=1.0,
        compared_with="the memory that is left, or the control group's",
        on=on,
    )
    yield line(
        "large_table.max_logit_difference",
        max(each["max_difference"] for each in measured.values()),
        "logit",
        higher_is_better=False,
        target=ALLOWED_DIFFERENCE,
        compared_with="the logits worked out from the rows' definition, in numpy",
        largest_logit=random["largest_logit"],
        on=on,
    )
    yield line(
        "large_table.open_ms",
        random["open_s"] * 1e3,
        "ms",
        higher_is_better=False,
        compared_with="nothing: open_bundle without hashing, open_ranking_session, one sample request",
        private_mib=random["open_private_mib"],
        file_mib=random["open_file_mib"],
        on=on,
    )
    for kind in ("private", "file"):
        yield line(
            f"large_table.{kind}_kib_per_request",
            random["even"][f"{kind}_kib_per_request"],
            "KiB",
            higher_is_better=False,
            compared_with="800 KiB: a page for each of the 200 candidates" if kind == "file" else "nothing",
            with_readahead=rounded(plain["even"][f"{kind}_kib_per_request"]),
            on=on,
        )
    for ids, of in (("even", "ids drawn from the whole table"), ("hot", "ids drawn from the hot set")):
        for quantile in ("p50_ms", "p99_ms"):
            yield line(
                f"large_table.{ids}_{quantile}",
                random[ids][quantile],
                "ms",
                higher_is_better=False,
                compared_with=f"the same with the system's read-ahead; {of}, a cold page cache",
                with_readahead=rounded(plain[ids][quantile]),
                disk_reads_per_request=random[ids]["disk_reads_per_request"],
                disk_mib_per_request=random[ids]["disk_mib_per_request"],
                with_readahead_disk_mib_per_request=plain[ids]["disk_mib_per_request"],
                on=on,
            )
    for quantile in ("p50_ms", "p99_ms"):
        yield line(
            f"large_table.warmed_{quantile}",
            warm["hot"][quantile],
            "ms",
            higher_is_better=False,
            compared_with=f"large_table.hot_{quantile}: the same requests, not warmed up",
            cold=rounded(random["hot"][quantile]),
            on=on,
        )
    yield line(
        "large_table.warm_up_s",
        warm["warm_up_s"],
        "s",
        higher_is_better=False,
        compared_with="nothing: read_pages_ahead of the hot items, 8 threads",
        items_per_s=rounded(on["sizes"]["hot_items"] / warm["warm_up_s"]),
        on=on,
    )


@contextmanager
def memory_taken(leave_gb: float | None) -> Iterator[None]:
    """Hold memory, written to so that it is there, until only so much is left to others; none without a number."""
    import numpy as np

    taken = 0 if leave_gb is None else max(0, available_bytes() - int(leave_gb * 1e9))
    ballast = np.full(taken, 1, dtype=np.uint8)
    try:
        yield
    finally:
        del ballast


def available_bytes() -> int:
    """Memory that Linux could give to the page cache and to processes."""
    found = re.search(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def memory_allowed_bytes() -> int:
    """The least of what is available and the limits of this process's control group."""
    from recsys.serving.inference.memory import group_limit_bytes

    return int(min(available_bytes(), group_limit_bytes()))


def _base() -> npt.NDArray[np.uint8]:
    """The first block of rows; block b has the same scales and biases, and codes XOR b mod 256."""
    import numpy as np

    from recsys.embeddings.quantize import quantize_rows

    random = np.random.Generator(np.random.PCG64(0))
    return quantize_rows(random.normal(scale=0.1, size=(BLOCK_ROWS, WIDTH)).astype(np.float32), "int8").rows


def _rows(base: npt.NDArray[np.uint8], index: Int64Array) -> QuantizedTable:
    """These rows of the table, by its definition."""
    import numpy as np

    from recsys.embeddings.quantize import QuantizedTable

    stored = base[index % BLOCK_ROWS]
    stored[:, :WIDTH] ^= (index // BLOCK_ROWS % 256).astype(np.uint8)[:, None]
    return QuantizedTable(kind="int8", rows=stored, width=WIDTH)


def _features() -> Any:
    from recsys.features.feature_set import Categorical, FeatureSet, History

    return FeatureSet(
        name="large_table",
        user_id=Categorical(name="user_id"),
        item_id=Categorical(name="item_id"),
        history=History(max_events=20, recent=10),
    )


def write_bundle(path: Path, rows: int) -> None:
    """A bundle: a user's vector is the sum of the history's rows and the user's own; a logit is the dot product.

    Users and items share the table; an id's row is 1 + id mod (rows - 1), and 0 for a missing id.
    """
    from recsys.bundle import Certificate, Manifest, TableInfo, bundle_writer

    with bundle_writer(path) as writer:
        base = _base()
        with (writer.folder / TABLE).open("wb") as file:
            for block in range(-(-rows // BLOCK_ROWS)):
                part = base[: min(BLOCK_ROWS, rows - block * BLOCK_ROWS)].copy()
                part[:, :WIDTH] ^= block % 256
                part.tofile(file)
        graphs = {name: _write_graph(name, writer.folder / f"{name}.onnx", rows) for name in ("user", "rank")}
        say("hashing and syncing it")
        writer.finish(
            Manifest(
                model="large_table",
                feature_set=_features(),
                graphs=graphs,
                tables={
                    "items.rows": TableInfo(
                        file=TABLE, dtype="uint8", shape=(rows, WIDTH + 8), quantized="int8", width=WIDTH
                    )
                },
                certificate=Certificate(
                    requests=0, candidates=0, max_abs_logit_difference=0.0, tolerance=0.0, compared="none"
                ),
            )
        )


def _write_graph(name: str, path: Path, rows: int) -> GraphInfo:
    """The lookup as an export writes it, made with a small table in the large one's place."""
    import contextlib
    import io
    import logging
    import warnings

    import onnx
    import torch
    from torch import Tensor, nn

    from recsys.bundle import GraphInfo, TensorInfo
    from recsys.embeddings.quantize import QuantizedRows, QuantizedTable

    small = QuantizedTable(kind="int8", rows=_base()[:100], width=WIDTH)

    class Vectors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = QuantizedRows(small)

        def of(self, keys: Tensor) -> Tensor:
            return self.table(torch.where(keys >= 0, 1 + torch.remainder(keys, rows - 1), 0))

    class User(Vectors):
        def forward(self, user_1: Tensor, history_S: Tensor) -> Tensor:
            present_S = (history_S >= 0).to(torch.float32)
            return self.of(user_1)[0] + (self.of(history_S) * present_S[:, None]).sum(dim=0)

    class Rank(Vectors):
        def forward(self, items_C: Tensor, vector_D: Tensor) -> tuple[Tensor, Tensor]:
            logits_C = self.of(items_C) @ vector_D
            return logits_C, torch.sigmoid(logits_C)

    dynamic = torch.export.Dim.DYNAMIC
    module: Vectors = User() if name == "user" else Rank()
    arguments = (torch.arange(1), torch.arange(7)) if name == "user" else (torch.arange(5), torch.zeros(WIDTH))
    inputs = ["user_id", "history.item_id"] if name == "user" else ["item_id", "user_vector"]
    outputs = ["user_vector"] if name == "user" else ["logits", "scores"]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            arguments,
            dynamo=True,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=((None, {0: dynamic}) if name == "user" else ({0: dynamic}, None)),
            opset_version=21,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for tensor in model.graph.initializer:
        if tensor.name == "table.rows":
            tensor.ClearField("raw_data")
            tensor.dims[0] = rows
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", TABLE), ("offset", "0"), ("length", str(rows * (WIDTH + 8)))):
                tensor.external_data.add(key=key, value=value)
    del model.graph.value_info[:]
    path.write_bytes(model.SerializeToString())
    known = {
        "user_id": TensorInfo(dtype="int64", shape=(1,)),
        "history.item_id": TensorInfo(dtype="int64", shape=("S",)),
        "item_id": TensorInfo(dtype="int64", shape=("C",)),
        "user_vector": TensorInfo(dtype="float32", shape=(WIDTH,)),
        "logits": TensorInfo(dtype="float32", shape=("C",)),
        "scores": TensorInfo(dtype="float32", shape=("C",)),
    }
    return GraphInfo(file=path.name, inputs={n: known[n] for n in inputs}, outputs={n: known[n] for n in outputs})


def _child(bundle: Path, *, rows: int, size: Size, advise: bool, warm: bool, ids: str) -> dict[str, Any]:
    """Measure in a process of its own, with none of the table in the page cache."""
    with (bundle / TABLE).open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    say(f"serving {ids} ids: {'pages one by one' if advise else 'read-ahead'}{', warmed up' if warm else ''}")
    given = {**asdict(size), "bundle": str(bundle), "rows": rows, "advise": advise, "warm": warm, "ids": ids}
    program = "import json, sys, large_table; print(json.dumps(large_table.measure(json.loads(sys.argv[1]))))"
    with subprocess.Popen(
        [sys.executable, "-c", program, json.dumps(given)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
    ) as process:
        try:
            assert process.stdout is not None
            printed = process.stdout.read()
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise SystemExit(f"a measured process ended with {process.returncode}")
    measured: dict[str, Any] = json.loads(printed)
    return measured


def measure(given: dict[str, Any]) -> dict[str, Any]:
    """Measurements of one process; without torch, as a server."""
    import numpy as np

    from recsys.bundle import open_bundle
    from recsys.features.hot_ids import HotIds
    from recsys.serving.inference.ranking_session import open_ranking_session
    from recsys.serving.inference.read_ahead import advise_random, read_pages_ahead

    random = np.random.Generator(np.random.PCG64(1))
    rows, requests = given["rows"], given["requests"]
    even = random.integers(0, 1 << 62, size=(requests, CANDIDATES))
    hot = random.integers(0, 1 << 62, size=given["hot_items"])
    asked_hot = random.choice(hot, size=(requests, CANDIDATES))
    before, started_s = _memory_kib(), time.perf_counter()
    bundle = open_bundle(Path(given["bundle"]), verify="sizes")
    session = open_ranking_session(bundle)
    result: dict[str, Any] = {"open_s": time.perf_counter() - started_s}
    after = _memory_kib()
    result |= {f"open_{kind}_mib": rounded((after[kind] - before[kind]) / 1024) for kind in after}
    if given["advise"]:
        assert advise_random(bundle) >= rows * (WIDTH + 8), "the table is not mapped"
    if given["warm"]:
        done = read_pages_ahead(session, HotIds(users=hot[:0], items=hot), timeout_s=600.0)
        assert done.complete
        result["warm_up_s"] = done.seconds
    asked = {given["ids"]: asked_hot if given["ids"] == "hot" else even}
    logits = {}
    for name, items in asked.items():
        logits[name], result[name] = _serve(session, items)
    base, differences, largest = _base(), [], 0.0
    for name, items in asked.items():
        for number in range(0, requests, max(1, requests // 50)):
            vectors = _rows(base, 1 + items[number] % (rows - 1)).dequantize().astype(np.float64)
            user = _rows(base, 1 + np.array([number]) % (rows - 1)).dequantize()[0].astype(np.float64)
            differences.append(np.abs(logits[name][number] - vectors @ user).max())
            largest = max(largest, float(np.abs(logits[name][number]).max()))
    return {**result, "max_difference": float(max(differences)), "largest_logit": largest}


def _serve(session: RankingSession, items: Int64Array) -> tuple[Float32Array, dict[str, float]]:
    """Logits of each request, and what it took."""
    import numpy as np

    from recsys.features.encode import encode_request
    from recsys.serving.deadline import Deadline

    logits, times = np.empty(items.shape, dtype=np.float32), []
    before, usage, read = _memory_kib(), resource.getrusage(resource.RUSAGE_SELF), _disk_bytes()
    for number, keys in enumerate(items):
        request = encode_request(
            session.features,
            user_key=number,
            user_columns={},
            request_values={},
            events=None,
            item_keys=keys,
            item_columns={},
        )
        started_s = time.perf_counter()
        logits[number] = session.score(request, deadline=Deadline.after(60.0)).logits
        times.append(1e3 * (time.perf_counter() - started_s))
    after, faults = _memory_kib(), resource.getrusage(resource.RUSAGE_SELF).ru_majflt - usage.ru_majflt
    count = len(items)
    return logits, {
        "p50_ms": float(np.quantile(times, 0.5)),
        "p99_ms": float(np.quantile(times, 0.99)),
        "private_kib_per_request": (after["private"] - before["private"]) / count,
        "file_kib_per_request": (after["file"] - before["file"]) / count,
        "disk_reads_per_request": rounded(faults / count),
        "disk_mib_per_request": rounded((_disk_bytes() - read) / count / 2**20),
    }


def _memory_kib() -> dict[str, int]:
    """This process's memory: private, and mapped pages of files."""
    fields = dict(row.split(":", 1) for row in Path("/proc/self/status").read_text().splitlines())
    return {
        "private": int(fields["RssAnon"].split()[0]),
        "file": int(fields["RssFile"].split()[0]) + int(fields["RssShmem"].split()[0]),
    }


def _disk_bytes() -> int:
    """Bytes read from disks for this process."""
    fields = dict(row.split(":", 1) for row in Path("/proc/self/io").read_text().splitlines())
    return int(fields["read_bytes"])


if __name__ == "__main__":
    options = parser(__doc__ or "")
    options.add_argument("--gb", type=float, help="GB of table; default: 20, with --quick 2")
    options.add_argument("--leave-gb", type=float, help="GB of memory left to others; default: 8 in a full run")
    options.add_argument("--folder", type=Path, help="where the table goes; default: the system's temporary folder")
    main("large_table", run, options)
