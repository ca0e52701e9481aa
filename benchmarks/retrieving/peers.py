"""Indexes of others beside ours, on given vectors, under filters: faiss flat, IVF and HNSW, and hnswlib's HNSW.

Each is asked with as much effort as recall ``WANTED`` takes under that filter, or with the most there is. Neither is a
dependency: what is not installed is left out. faiss filters by an ``IDSelectorBatch``, hnswlib by a Python function, so
that its times say nothing where there is a filter.

Legend: ``M`` items, ``U`` users, ``D`` columns.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

K, WANTED = 100, 0.95
EFFORTS = [2**power for power in range(3, 13)]
"""efSearch, and nprobe as far as there are lists."""

_M, _CONSTRUCTION = 16, 100

Search = Callable[[np.ndarray], np.ndarray]
"""The rows found for a user's vector."""

Index = Callable[[np.ndarray, int], Search]
"""A search among rows, with an effort."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Searches under a filter: the effort, the recall of the exhaustive lists, and median milliseconds.

    Attributes:
        recall_as_of_all: with the effort that recall ``WANTED`` took without a filter.
    """

    effort: int
    recall: float
    ms: float
    recall_as_of_all: float


def filters_of(items_MD: np.ndarray) -> dict[str, np.ndarray]:
    """Rows that pass: all, a tenth and a hundredth at random, and the 2 % most like one item, as a category's are."""
    random, count = np.random.default_rng(4), len(items_MD)
    like = items_MD @ items_MD[random.integers(count)]
    return {
        "all": np.arange(count),
        "10pct": np.sort(random.choice(count, max(1, count // 10), replace=False)),
        "1pct": np.sort(random.choice(count, max(1, count // 100), replace=False)),
        "category": np.flatnonzero(like >= np.quantile(like, 0.98)),
    }


def compared(
    items_MD: np.ndarray, users_UD: np.ndarray, ours: Index, *, say: Callable[[str], None]
) -> dict[str, dict[str, Asked]]:
    """Searches of each index that there is, by its name and the filter's."""
    filters = filters_of(items_MD)
    indexes = {"ours": ([0], ours), **_faiss(items_MD), **_hnswlib(items_MD)}
    found: dict[str, dict[str, Asked]] = {}
    for name, (efforts, index) in indexes.items():
        say(f"  {name}")
        found[name] = {}
        of_all = 0
        for filtered, rows in filters.items():
            asked = _swept(index, efforts, rows, items_MD, users_UD)
            of_all = of_all or asked.effort
            same = of_all == asked.effort
            recall = asked.recall if same else _asked(index, of_all, rows, items_MD, users_UD)[0]
            found[name][filtered] = Asked(
                effort=asked.effort, recall=asked.recall, ms=asked.ms, recall_as_of_all=recall
            )
    return found


def _swept(index: Index, efforts: list[int], rows: np.ndarray, items: np.ndarray, users: np.ndarray) -> Asked:
    """The least effort that finds enough."""
    for effort in efforts:
        recall, ms = _asked(index, effort, rows, items, users)
        if recall >= WANTED:
            break
    return Asked(effort=effort, recall=recall, ms=ms, recall_as_of_all=recall)


def _asked(index: Index, effort: int, rows: np.ndarray, items: np.ndarray, users: np.ndarray) -> tuple[float, float]:
    search, recalls, took = index(rows, effort), [], []
    for user in users:
        began = time.perf_counter()
        got = search(user)
        took.append((time.perf_counter() - began) * 1e3)
        recalls.append(recall_of(got, rows, items[rows] @ user))
    return float(np.mean(recalls)), median(took)


def recall_of(got: np.ndarray, rows: np.ndarray, scores: np.ndarray) -> float:
    """Share of the K best of these rows that was found; of scores that are equal but for rounding any may be."""
    count = min(K, len(rows))
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    got = np.unique(got[np.isin(got, rows)])
    found = scores[np.searchsorted(rows, got)] >= least - 1e-5 * max(1.0, abs(float(least)))
    return min(1.0, float(np.count_nonzero(found)) / count)


def _faiss(items: np.ndarray) -> dict[str, tuple[list[int], Index]]:
    """Indexes by inner product; none where faiss is not installed."""
    try:
        faiss: Any = importlib.import_module("faiss")
    except ImportError:
        return {}
    faiss.omp_set_num_threads(1)
    count, width = items.shape
    flat = faiss.IndexFlatIP(width)
    hnsw = faiss.IndexHNSWFlat(width, _M, faiss.METRIC_INNER_PRODUCT)
    hnsw.hnsw.efConstruction = _CONSTRUCTION
    lists = max(1, int(np.sqrt(count)))
    coarse = faiss.IndexFlatIP(width)
    ivf = faiss.IndexIVFFlat(coarse, width, lists, faiss.METRIC_INNER_PRODUCT)
    ivf.train(items)
    for index in (flat, hnsw, ivf):
        index.add(items)

    def searcher(index: Any, settings: Callable[[Any, int], Any]) -> Index:
        def make(rows: np.ndarray, effort: int) -> Search:
            batch = None if len(rows) == count else faiss.IDSelectorBatch(rows)
            chosen = settings(batch, effort)
            keep = coarse, batch  # faiss holds no references

            def search(user: np.ndarray) -> np.ndarray:
                assert keep
                found: np.ndarray = index.search(user[None], K, params=chosen)[1][0]
                return found

            return search

        return make

    return {
        "faiss_flat": ([0], searcher(flat, lambda sel, _: faiss.SearchParameters(sel=sel))),
        "faiss_ivf": (
            [*(effort for effort in EFFORTS if effort < lists), lists],
            searcher(ivf, lambda sel, probes: faiss.SearchParametersIVF(sel=sel, nprobe=probes)),
        ),
        "faiss_hnsw": (EFFORTS, searcher(hnsw, lambda sel, ef: faiss.SearchParametersHNSW(sel=sel, efSearch=ef))),
    }


def _hnswlib(items: np.ndarray) -> dict[str, tuple[list[int], Index]]:
    """hnswlib's graph by inner product; none where it is not installed."""
    try:
        hnswlib: Any = importlib.import_module("hnswlib")
    except ImportError:
        return {}
    count, width = items.shape
    index = hnswlib.Index(space="ip", dim=width)
    index.init_index(max_elements=count, M=_M, ef_construction=_CONSTRUCTION, random_seed=0)
    index.set_num_threads(1)
    index.add_items(items, np.arange(count))

    def make(rows: np.ndarray, effort: int) -> Search:
        passes = np.zeros(count, dtype=np.bool_)
        passes[rows] = True
        filtered = None if len(rows) == count else lambda row: bool(passes[row])
        # It raises where it finds fewer than were asked for: then as many as it does find.
        index.set_ef(max(effort, 1))

        def search(user: np.ndarray) -> np.ndarray:
            wanted = min(K, len(rows), effort)
            while wanted:
                try:
                    found: np.ndarray = index.knn_query(user[None], wanted, num_threads=1, filter=filtered)[0][0]
                    return found.astype(np.int64)
                except RuntimeError:
                    wanted //= 2
            return np.empty(0, dtype=np.int64)

        return search

    return {"hnswlib": (EFFORTS, make)}


def facts(of: Mapping[str, Asked]) -> dict[str, Any]:
    """The same for a line."""
    return {
        name: {
            "recall": round(asked.recall, 4),
            "ms": round(asked.ms, 4),
            "effort": asked.effort,
            "recall_with_the_effort_of_all": round(asked.recall_as_of_all, 4),
        }
        for name, asked in of.items()
    }
