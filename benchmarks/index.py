"""The index of a retrieval bundle: exact lists, by how much of the items is allowed.

1,000,000 random vectors of 64 columns in a bundle, as a server opens it, and 10,000,000 in files that the operator is
given; the best 100. Random vectors are the worst case of codes: real ones spread in fewer directions. ``cpu_ms`` beside
a time is what the thread itself took: on a machine that others use it says more. Recall under filters beside other
indexes, on vectors of trained models, is ``real_vectors.py``.
"""

from __future__ import annotations

import argparse
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from harness.common import Line, cores, line, machine, main, parser, pinned, say, spread
from harness.workers import worker
from retrieving.bits import bit_lines
from retrieving.peers import recall_of
from retrieving.searches import DIM, K, Times, all_allowed, one_operator, operator_graph, times, times_line

LIBRARIES = ("onnxruntime", "numpy")
SHARES = {"": 1.0, ".10pct": 0.1, ".1pct": 0.01, ".0.1pct": 0.001}


@dataclass(frozen=True, kw_only=True)
class Size:
    """Extent of the measurement."""

    items: int
    large_items: int
    runs: int
    cold_runs: int


SIZES = {
    "full": Size(items=1_000_000, large_items=10_000_000, runs=60, cold_runs=40),
    "quick": Size(items=100_000, large_items=300_000, runs=15, cold_runs=8),
    "tiny": Size(items=2_000, large_items=4_000, runs=3, cold_runs=2),
}


def of_bundle(path: Path, size: Size) -> Callable[[float], dict[str, Times]]:
    """Times of searches in a bundle by the share of items that is allowed."""
    from retrieve import retrieval_bundle

    from recsys.bundle import open_bundle
    from recsys.serving.inference.candidate_index import Allowed
    from recsys.serving.inference.retrieval_session import open_retrieval

    retrieval_bundle(path, items=size.items, users=64)
    opened = open_bundle(path, verify="sizes")
    session = open_retrieval(opened)
    users, items = (
        np.fromfile(path / opened.manifest.tables[name].file, np.float32).reshape(-1, DIM)
        for name in ("user_id.rows", "item_id.rows")
    )
    random, nothing = np.random.default_rng(1), np.empty(0, dtype=np.int64)

    def measure(_: float) -> dict[str, Times]:
        found = {}
        for suffix, share in SHARES.items():
            rows = np.arange(1, size.items + 1)
            if share < 1:
                rows = np.sort(random.choice(rows, int(size.items * share), replace=False))
            allowed = None if share == 1 else Allowed(rows_L=rows)

            def search(user: int, allowed: Allowed | None = allowed) -> np.ndarray:
                return session.retrieve(user, nothing, K, allowed=allowed).items

            wall, cpu = times(lambda run: search(run % 64), size.runs)
            recalls = [recall_of(search(user), rows - 1, items[rows] @ users[1 + user]) for user in range(5)]
            found[suffix] = Times(wall_ms=wall, cpu_ms=cpu, recall=min(recalls))
        return found

    return measure


def cold(path: Path, size: Size) -> Callable[[float], tuple[list[float], list[float], float]]:
    """Milliseconds of searches of which no vector is in memory, and of warm ones; private bytes an item."""
    from recsys.bundle import open_bundle
    from recsys.serving.inference.retrieval_session import open_retrieval

    before = _private_bytes()
    session = open_retrieval(open_bundle(path, verify="sizes"))
    nothing = np.empty(0, dtype=np.int64)

    def measure(_: float) -> tuple[list[float], list[float], float]:
        session.retrieve(0, nothing, K)
        private = (_private_bytes() - before) / size.items
        warm, _ = times(lambda run: session.retrieve(run % 64, nothing, K), size.runs)
        found = []
        for run in range(size.cold_runs):
            session.guard.let_pages_go()
            with (path / "tables" / "item_id.rows.bin").open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            began = time.perf_counter()
            session.retrieve(run % 64, nothing, K)
            found.append((time.perf_counter() - began) * 1e3)
        return found, warm, private

    return measure


def of_operator(folder: Path, size: Size) -> Callable[[float], Times]:
    """Times of the operator on more items, whose vectors and codes lie in files."""
    from recsys.export.retrieval.codes import item_codes

    session = one_operator()
    random, block = np.random.default_rng(2), 500_000
    rows = size.large_items + 1
    items = np.memmap(folder / "items", np.float32, "w+", shape=(rows, DIM))
    codes = np.memmap(folder / "codes", np.int8, "w+", shape=(rows, DIM))
    scales = np.memmap(folder / "scales", np.float32, "w+", shape=(rows, 2))
    for begin in range(0, rows, block):
        part = slice(begin, min(begin + block, rows))
        items[part] = random.standard_normal((part.stop - begin, DIM), dtype=np.float32)
        codes[part], scales[part] = item_codes(items[part])
    users = random.standard_normal((64, DIM), dtype=np.float32)

    def search(run: int) -> tuple[np.ndarray, np.ndarray]:
        given = {"items": items, "codes": codes, "scales": scales, "user": users[run % 64][:, None], **all_allowed()}
        found: tuple[np.ndarray, np.ndarray] = session.run(None, given)
        return found

    def measure(_: float) -> Times:
        wall, cpu = times(search, size.runs)
        recalls = []
        for user in range(2):
            scores = np.concatenate([items[at : at + block] @ users[user] for at in range(0, rows, block)])
            recalls.append(recall_of(search(user)[0], np.arange(1, rows), scores[1:]))
        return Times(wall_ms=wall, cpu_ms=cpu, recall=min(recalls))

    return measure


def limited(folder: Path, size: Size, graph: bytes, group: Path) -> Callable[[float], list[float]]:
    """Milliseconds of such searches by a process in a control group, when it has read the codes; vectors are read page
    by page (``RECSYS_TABLE_READS=random``), and few stay in memory."""
    (group / "cgroup.procs").write_text(str(os.getpid()))
    session = one_operator(graph)  # what makes graphs takes more memory than what runs them
    rows = size.large_items + 1
    items = np.memmap(folder / "items", np.float32, "r", shape=(rows, DIM))
    items._mmap.madvise(mmap.MADV_RANDOM)  # type: ignore[attr-defined]
    codes = np.memmap(folder / "codes", np.int8, "r", shape=(rows, DIM))
    scales = np.memmap(folder / "scales", np.float32, "r", shape=(rows, 2))
    users = np.random.default_rng(5).standard_normal((64, DIM), dtype=np.float32)
    tables = {"items": items, "codes": codes, "scales": scales, **all_allowed()}

    def measure(_: float) -> list[float]:
        return times(lambda run: session.run(None, {**tables, "user": users[run % 64][:, None]}), size.runs)[0]

    return measure


def limited_lines(folder: Path, size: Size, on: dict[str, Any]) -> Iterator[Line]:
    """The figure of searches with little memory; none where no control group can be made, which is said."""
    from releasing.limit import forget_pages, memory_group

    limit = int(280e6 + (DIM + 8) * size.large_items)  # 1 GB for 10,000,000 items
    try:
        with memory_group(limit) as group:
            forget_pages(folder)
            with worker(limited, folder, size, operator_graph(), group) as measure:
                took_ms = measure(1)
    except OSError as error:
        say(f"index.limited_p99_ms_10M is left out: no memory control group can be made: {error}")
        return
    yield line(
        "index.limited_p99_ms_10M",
        float(np.quantile(took_ms, 0.99)),
        "ms",
        higher_is_better=False,
        compared_with=f"all {size.large_items:,} items in a memory control group of {limit / 1e9:.2f} GB; "
        f"median {median(took_ms):.0f} ms",
        on=on,
        spread=spread(took_ms),
        limit_gb=round(limit / 1e9, 3),
    )


def one_search(items: np.ndarray) -> Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """The operator on these vectors: from the rows that are allowed to a search, from a user's vector to rows."""
    from recsys.bundle import ALLOWS_LIST
    from recsys.export.retrieval.codes import item_codes

    table = np.concatenate([np.zeros((1, items.shape[1]), dtype=np.float32), items])
    codes, scales = item_codes(table)
    session = one_operator()

    def make(rows: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        given = all_allowed()
        if len(rows) < len(items):
            given |= {"allowed": np.array(ALLOWS_LIST), "allowed_rows": rows + 1}
        given |= {"items": table, "codes": codes, "scales": scales}
        return lambda user: session.run(None, {**given, "user": user[:, None]})[0] - 1

    return make


def run(options: argparse.Namespace) -> Iterator[Line]:
    """All lines."""
    size = SIZES[options.size]
    on = machine(LIBRARIES, dim=DIM, k=K, **asdict(size))
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as name, pinned(cores()[0]):
        folder = Path(name)
        say(f"searching {size.items:,} items")
        with worker(of_bundle, folder / "bundle", size) as measure:
            found = measure(1)
        targets = {"": 6.0, ".1pct": 1.0, ".0.1pct": 0.3}
        for suffix, taken in found.items():
            allowed = f"{SHARES[suffix]:.1%} of {size.items:,} items allowed" if suffix else f"all {size.items:,} items"
            yield times_line(f"index.ms_1M{suffix}", taken, f"{allowed}, one core", on, targets.get(suffix))
        with worker(cold, folder / "bundle", size) as measure:
            cold_ms, warm_ms, private = measure(1)
        for figure, values in (("cold", cold_ms), ("warm", warm_ms)):
            about = f"{size.items:,} items, {'vectors on disk, codes' if figure == 'cold' else 'all'} in memory"
            value = float(np.quantile(values, 0.99))
            yield line(
                f"index.{figure}_p99_ms",
                value,
                "ms",
                higher_is_better=False,
                compared_with=about,
                on=on,
                spread=spread(values),
            )
        yield line(
            "index.bytes_per_item",
            private,
            "bytes",
            higher_is_better=False,
            compared_with=f"private memory of a process that searches {size.items:,} items; files are shared",
            on=on,
            target=76.0,
            scanned=DIM + 8,
        )
        say(f"searching {size.large_items:,} items")
        with worker(of_operator, folder, size) as measure:
            large = measure(1)
        about = f"all {size.large_items:,} items, codes of 8 bits, one core"
        yield times_line("index.ms_10M", large, about, on, 60.0)
        yield from limited_lines(folder, size, on)
        say("codes of 1 bit")
        yield from bit_lines(folder, size.large_items, size.runs, on)
        exact = min(*(each.recall for each in found.values()), large.recall)
        yield line(
            "index.exact",
            exact,
            "least recall of any search",
            higher_is_better=True,
            compared_with="exhaustive search by numpy",
            on=on,
            target=1.0,
        )


def _private_bytes() -> float:
    """Anonymous memory of this process: what no other shares (Linux)."""
    rows = Path("/proc/self/status").read_text().splitlines()
    return float(next(int(row.split()[1]) for row in rows if row.startswith("RssAnon:"))) * 1024


if __name__ == "__main__":
    main("index", run, parser(__doc__ or ""))
