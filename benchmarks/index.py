"""The index of a retrieval bundle: exact lists, by how much of the items is allowed, beside faiss where it is there.

1,000,000 random vectors of 64 columns in a bundle, as a server opens it, and 10,000,000 in files that the operator is
given; the best 100. Random vectors are the worst case of codes: real ones spread in fewer directions. ``cpu_ms`` beside
a time is what the thread itself took: on a machine that others use it says more.

Recall under filters is of real vectors: 64 factors of Gowalla's users and items, by the SVD of the normalised matrix;
without Gowalla (``--data`` or ``RECSYS_DATA_DIR``) of random ones in 20 directions. faiss is no dependency: without it
its lines are left out, and a line says so.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
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

LIBRARIES = ("onnxruntime", "numpy")
DIM, K = 64, 100
SHARES = {"": 1.0, ".10pct": 0.1, ".1pct": 0.01, ".0.1pct": 0.001}


@dataclass(frozen=True, kw_only=True)
class Size:
    """Extent of the measurement."""

    items: int
    large_items: int
    runs: int
    cold_runs: int
    users: int
    real_items: int


SIZES = {
    "full": Size(items=1_000_000, large_items=10_000_000, runs=60, cold_runs=40, users=1_000, real_items=100_000),
    "quick": Size(items=100_000, large_items=300_000, runs=15, cold_runs=8, users=100, real_items=20_000),
    "tiny": Size(items=2_000, large_items=4_000, runs=3, cold_runs=2, users=10, real_items=1_000),
}


@dataclass(frozen=True, kw_only=True)
class Times:
    """Milliseconds of searches, by the clock and of the thread alone; share of the items of exhaustive lists found."""

    wall_ms: list[float]
    cpu_ms: list[float]
    recall: float


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

            wall, cpu = _times(lambda run: search(run % 64), size.runs)
            recalls = [_recall(search(user), rows - 1, items[rows] @ users[1 + user]) for user in range(5)]
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
        warm, _ = _times(lambda run: session.retrieve(run % 64, nothing, K), size.runs)
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

    session = _one_search()
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
        given = {"items": items, "codes": codes, "scales": scales, "user": users[run % 64][:, None], **_all_allowed()}
        found: tuple[np.ndarray, np.ndarray] = session.run(None, given)
        return found

    def measure(_: float) -> Times:
        wall, cpu = _times(search, size.runs)
        recalls = []
        for user in range(2):
            scores = np.concatenate([items[at : at + block] @ users[user] for at in range(0, rows, block)])
            recalls.append(_recall(search(user)[0], np.arange(1, rows), scores[1:]))
        return Times(wall_ms=wall, cpu_ms=cpu, recall=min(recalls))

    return measure


def _all_allowed() -> dict[str, np.ndarray]:
    """Inputs of the function where all is allowed."""
    from recsys.bundle import ALL_ALLOWED

    return {name.replace(".", "_"): value for name, value in ALL_ALLOWED.items()}


def _one_search() -> Any:
    """A graph of one TopItems, of all items."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    from recsys.export.retrieval.constants import constants
    from recsys.export.retrieval.top_items import top_items
    from recsys.operators import use_operators

    given = {"items": TensorProto.FLOAT, "codes": TensorProto.INT8, "scales": TensorProto.FLOAT}
    inputs = [helper.make_tensor_value_info(name, kind, [None, None]) for name, kind in given.items()]
    inputs.append(helper.make_tensor_value_info("user", TensorProto.FLOAT, [None, 1]))
    inputs += [
        helper.make_tensor_value_info("allowed", TensorProto.INT64, []),
        helper.make_tensor_value_info("allowed_rows", TensorProto.INT64, [None]),
        helper.make_tensor_value_info("allowed_mask", TensorProto.UINT8, [None]),
    ]
    names = [
        *given,
        "user",
        "no_rows",
        "no_additions",
        "no_added",
        "row_zero",
        *(each.name for each in inputs[4:]),
        "best",
    ]
    outputs = [
        helper.make_tensor_value_info("rows", TensorProto.INT64, [None]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None]),
    ]
    held = [each for each in constants() if each.name in names]
    held.append(helper.make_tensor("best", TensorProto.INT64, [], [K]))
    node = helper.make_node("TopItems", names, ["rows", "scores"], domain="recsys")
    graph = helper.make_graph([node], "search", inputs, outputs, held)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("recsys", 1)]
    model = helper.make_model(graph, functions=[top_items()], opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    use_operators(options)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def real_vectors(data: Path | None, size: Size) -> tuple[np.ndarray, np.ndarray, str]:
    """Users' and items' vectors, and a word on what they are."""
    folder = next((each for each in _gowalla(data) if each.exists()), None)
    random = np.random.default_rng(3)
    if folder is None or size.real_items < 40_000:
        directions = random.standard_normal((20, DIM), dtype=np.float32)
        users, items = (
            (random.standard_normal((count, 20), dtype=np.float32) @ directions)
            for count in (size.users, size.real_items)
        )
        return users, items, "random vectors in 20 directions"
    from scipy.sparse import csr_matrix, diags
    from scipy.sparse.linalg import svds

    with gzip.open(folder / "train.txt.gz", "rt") as file:
        lists = [np.array(row.split(), dtype=np.int64) for row in file]
    user = np.repeat([row[0] for row in lists], [len(row) - 1 for row in lists])
    item = np.concatenate([row[1:] for row in lists])
    pairs = csr_matrix((np.ones(len(user), dtype=np.float32), (user, item)))
    by_user, by_item = (1 / np.sqrt(np.maximum(pairs.sum(axis=axis).A1, 1)) for axis in (1, 0))
    left, values, right = svds(diags(by_user) @ pairs @ diags(by_item), DIM, random_state=0)
    chosen = random.choice(len(left), size.users, replace=False)
    items = right.T * (1 / by_item)[:, None]
    return (left[chosen] * values).astype(np.float32), items.astype(np.float32), "Gowalla's vectors (SVD)"


def _gowalla(data: Path | None) -> list[Path]:
    given = os.environ.get("RECSYS_DATA_DIR")
    return [each / "gowalla" for each in (data, Path(given) if given else None) if each is not None]


def filtered(data: Path | None, size: Size) -> Callable[[float], tuple[str, dict[str, dict[str, tuple[float, float]]]]]:
    """Recall and milliseconds by filter, of the operator and of faiss's indexes."""
    users, items, about = real_vectors(data, size)
    random = np.random.default_rng(4)
    filters = {name: random.random(len(items)) < share for name, share in (("10pct", 0.1), ("1pct", 0.01))}
    group = items @ items[random.integers(len(items))]
    filters = {"all": np.ones(len(items), dtype=bool), **filters, "group": group >= np.quantile(group, 0.98)}
    searches = {"ours": _ours(items), **_faiss(items, users)}

    def measure(_: float) -> tuple[str, dict[str, dict[str, tuple[float, float]]]]:
        found: dict[str, dict[str, tuple[float, float]]] = {}
        for name, passes in filters.items():
            rows = np.flatnonzero(passes)
            for index, make in searches.items():
                search, recalls, took = make(rows), [], []
                for user in users:
                    began = time.perf_counter()
                    got = search(user)
                    took.append((time.perf_counter() - began) * 1e3)
                    recalls.append(_recall(got, rows, items[rows] @ user))
                found.setdefault(index, {})[name] = float(np.mean(recalls)), median(took)
        return about, found

    return measure


Search = Callable[[np.ndarray], np.ndarray]


def _ours(items: np.ndarray) -> Callable[[np.ndarray], Search]:
    from recsys.bundle import ALLOWS_LIST
    from recsys.export.retrieval.codes import item_codes

    table = np.concatenate([np.zeros((1, DIM), dtype=np.float32), items])
    codes, scales = item_codes(table)
    session = _one_search()

    def make(rows: np.ndarray) -> Search:
        given = _all_allowed()
        if len(rows) < len(items):
            given |= {"allowed": np.array(ALLOWS_LIST), "allowed_rows": rows + 1}
        given |= {"items": table, "codes": codes, "scales": scales}
        return lambda user: session.run(None, {**given, "user": user[:, None]})[0] - 1

    return make


def _faiss(items: np.ndarray, users: np.ndarray) -> dict[str, Callable[[np.ndarray], Search]]:
    """Indexes by inner product, HNSW with M 16, with filters as faiss has them; none where it is not installed."""
    try:
        faiss: Any = importlib.import_module("faiss")
    except ImportError:
        return {}
    faiss.omp_set_num_threads(1)
    flat = faiss.IndexFlatIP(DIM)
    hnsw = faiss.IndexHNSWFlat(DIM, 16, faiss.METRIC_INNER_PRODUCT)
    hnsw.hnsw.efConstruction = 100
    lists = max(1, int(np.sqrt(len(items))))
    ivf = faiss.IndexIVFFlat(faiss.IndexFlatIP(DIM), DIM, lists, faiss.METRIC_INNER_PRODUCT)
    ivf.train(items)
    for index in (flat, hnsw, ivf):
        index.add(items)

    everything = np.arange(len(items))

    def searcher(index: Any, settings: Callable[[Any, int], Any]) -> Callable[[np.ndarray], Search]:
        def search(rows: np.ndarray, effort: int) -> Search:
            batch = None if len(rows) == len(items) else faiss.IDSelectorBatch(rows)
            chosen = settings(batch, effort)
            return lambda user: index.search(user[None], K, params=chosen)[1][0]

        # As much effort as recall .95 takes without a filter.
        efforts = [2**power for power in range(3, 13)]
        for effort in efforts:
            of_all = search(everything, effort)
            if np.mean([_recall(of_all(user), everything, items @ user) for user in users[:50]]) >= 0.95:
                break
        return lambda rows: search(rows, effort)

    return {
        "faiss_flat": searcher(flat, lambda sel, _: faiss.SearchParameters(sel=sel)),
        "faiss_hnsw": searcher(hnsw, lambda sel, ef: faiss.SearchParametersHNSW(sel=sel, efSearch=ef)),
        "faiss_ivf": searcher(ivf, lambda sel, probes: faiss.SearchParametersIVF(sel=sel, nprobe=min(lists, probes))),
    }


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
        for suffix, times in found.items():
            allowed = f"{SHARES[suffix]:.1%} of {size.items:,} items allowed" if suffix else f"all {size.items:,} items"
            yield _times_line(f"index.ms_1M{suffix}", times, f"{allowed}, one core", on, targets.get(suffix))
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
        yield _times_line("index.ms_10M", large, about, on, 60.0)
        say("recall by filter")
        with worker(filtered, options.data, size) as measure:
            vectors, by_index = measure(1)
        exact = min(*(each.recall for each in found.values()), large.recall, *(r for r, _ in by_index["ours"].values()))
        yield line(
            "index.exact",
            exact,
            "least recall of any search",
            higher_is_better=True,
            compared_with="exhaustive search by numpy",
            on=on,
            target=1.0,
        )
        beside = {
            name: {filtered: {"recall": recall, "ms": ms} for filtered, (recall, ms) in each.items()}
            for name, each in by_index.items()
        }
        say("faiss is not installed: its lines are left out" if len(by_index) == 1 else "")
        for filtered_by, (recall, ms) in by_index["ours"].items():
            peers = {name: each[filtered_by] for name, each in beside.items() if name != "ours"}
            yield line(
                f"index.recall_vs_hnsw_at_filters.{filtered_by}",
                recall,
                "recall",
                higher_is_better=True,
                compared_with=f"faiss; {vectors}" if peers else "faiss: not there",
                on=on,
                ms=ms,
                peers=peers,
            )


def _times_line(figure: str, times: Times, about: str, on: dict[str, Any], target: float | None) -> Line:
    return line(
        figure,
        median(times.wall_ms),
        "ms",
        higher_is_better=False,
        compared_with=about,
        on=on,
        target=target,
        spread=spread(times.wall_ms),
        cpu_ms=median(times.cpu_ms),
        recall=times.recall,
    )


def _times(call: Callable[[int], object], runs: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each of so many calls, after two, by the clock and of this thread."""
    wall, cpu = [], []
    for run in range(-2, runs):
        began, began_cpu = time.perf_counter(), time.thread_time()
        call(run + 2)
        if run >= 0:
            wall.append((time.perf_counter() - began) * 1e3)
            cpu.append((time.thread_time() - began_cpu) * 1e3)
    return wall, cpu


def _recall(got: np.ndarray, rows: np.ndarray, scores: np.ndarray) -> float:
    """Share of the K best of these rows that was found; of scores that are equal but for rounding any may be."""
    count = min(K, len(rows))
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    got = got[np.isin(got, rows)]
    found = scores[np.searchsorted(rows, got)] >= least - 1e-5 * max(1.0, abs(float(least)))
    return min(1.0, float(np.count_nonzero(found)) / count)


def _private_bytes() -> float:
    """Anonymous memory of this process: what no other shares (Linux)."""
    rows = Path("/proc/self/status").read_text().splitlines()
    return float(next(int(row.split()[1]) for row in rows if row.startswith("RssAnon:"))) * 1024


if __name__ == "__main__":
    main("index", run, parser(__doc__ or ""))
