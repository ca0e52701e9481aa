"""Certificate of an index: its lists beside those of exhaustive search, on real users.

The list of the operators, which read codes first, is compared with that of the functions' bodies, which score all.
Codes of 8 bits find all of it, by proof; those of fewer a share, which is measured here and decides how many rows they
score (``rerank.py``).

Legend: ``M`` items, ``D`` columns of their vectors, ``k`` length of a list.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime

from recsys.arrays import Float32Array, Int64Array
from recsys.bundle import ALL_ALLOWED, IndexInfo, TableInfo
from recsys.errors import BundleError
from recsys.export.certificate import TOLERANCE
from recsys.export.retrieval.codes import BITS
from recsys.export.retrieval.rerank import LEAST_RECALL, LENGTHS, Reranked, choose_reranked, exact_lists
from recsys.operators import library, use_operators

USERS = 1_000
"""Users whose lists are compared."""

_SAMPLE = 100_000


@dataclass(frozen=True, kw_only=True)
class MeasuredIndex:
    """An index, and how long it takes here.

    Attributes:
        info: for the manifest.
        ms, exhaustive_ms: median of a search by the operators, None where they do not run, and by scoring all, in
            milliseconds; of this machine, so no part of a bundle.
    """

    info: IndexInfo
    ms: float | None
    exhaustive_ms: float

    def __str__(self) -> str:
        info = self.info
        told = f"index: codes {info.coarse}, {info.scanned_bytes_per_item} bytes an item read by each search of all, "
        told += f"vectors of effective dimension {info.effective_dimension:.1f}; "
        if info.recall is None or self.ms is None:
            return f"{told}{self.exhaustive_ms:.2f} ms by scoring all (recsys's operators do not run here)"
        if info.is_proven:
            told += f"recall {info.recall:.4f} against scoring all on {info.users:,} users; "
        else:
            each = (f"{recall:.4f} of {k} by {info.reranked[k]:,} rows" for k, recall in info.recalls.items())
            told += f"not proven: recall against scoring all on {info.users:,} users, by length of the list and rows "
            told += f"that are scored for it, {', '.join(each)}, of longer lists by all; at least "
            told += f"{info.least_recall:g} was asked for; "
        return f"{told}{self.ms:.2f} ms a list, {self.exhaustive_ms:.2f} by scoring all"


def certify_index(
    folder: Path,
    graph: str,
    tables: Mapping[str, TableInfo],
    requests: Iterable[Mapping[str, Any]],
    *,
    list_length: int,
    least_recall: float = LEAST_RECALL,
) -> MeasuredIndex:
    """Compare lists of the graph's operators with those of scoring all.

    An item counts as found if its score is not below that of the last one of the exhaustive list by more than rounding:
    of equal scores any may be in a list. Of codes of bits the rows to score are chosen first, and put into the graph.

    Args:
        folder: of the bundle.
        graph: file of the graph ``retrieve``.
        tables: of the bundle.
        requests: inputs for real users, but for k and what is allowed.
        list_length: k.
        least_recall: share of exact lists that codes of bits must keep, 0 to 1.

    Raises:
        BundleError: an item of an exhaustive list is missing; of codes of bits, more than is allowed are, or recsys's
            operators, by which it is measured, do not run here.
    """
    rows = tables["item_id.rows"]
    coarse, scanned = _codes_of(tables)
    chosen = Reranked()
    if coarse in BITS:
        requests = list(requests)
        chosen = _choose(
            folder / graph, requests, items=rows.shape[0] - 1, k=list_length, least_recall=least_recall, coarse=coarse
        )
    own, every = _open(folder / graph, operators=True), _open(folder / graph, operators=False)
    assert every is not None
    found = wanted = users = 0
    ms: list[float] = []
    every_ms: list[float] = []
    for request in requests:
        inputs = {**request, **ALL_ALLOWED, "k": np.array(list_length, dtype=np.int64)}
        began = time.perf_counter()
        _, scores = every.run(["items", "scores"], inputs)
        every_ms.append((time.perf_counter() - began) * 1e3)
        users, wanted = users + 1, wanted + len(scores)
        if own is None:
            continue
        began = time.perf_counter()
        items, got = own.run(["items", "scores"], inputs)
        ms.append((time.perf_counter() - began) * 1e3)
        tolerance = TOLERANCE * max(1.0, float(np.abs(scores).max(initial=0.0)))
        good = got >= scores.min(initial=np.inf) - tolerance
        found += min(len(np.unique(items[good])), len(scores))
    recall = None if own is None else found / wanted if wanted else 1.0
    if chosen.recalls:
        recall = chosen.recalls[list_length]
    elif recall is not None and recall < 1.0:
        raise BundleError(
            f"certificate: the index finds {found:,} of {wanted:,} items that scoring all finds for {users:,} users; "
            "its lists are exact by proof, so that its codes are not those of its rows. The bundle was not written"
        )
    vectors = np.memmap(folder / rows.file, dtype="<f4", mode="r", shape=rows.shape)[1:]
    return MeasuredIndex(
        info=IndexInfo(
            coarse=coarse,
            users=chosen.users or users,
            recall=recall,
            effective_dimension=effective_dimension(vectors),
            scanned_bytes_per_item=scanned,
            reranked={str(k): count for k, count in chosen.rows.items()},
            recalls={str(k): share for k, share in chosen.recalls.items()},
            least_recall=least_recall if chosen.rows else None,
        ),
        ms=median(ms) if ms else None,
        exhaustive_ms=median(every_ms) if every_ms else 0.0,
    )


def _codes_of(tables: Mapping[str, TableInfo]) -> tuple[str, int]:
    """The kind of codes, and bytes that a search of all reads of each item."""
    codes = tables.get("item_id.codes")
    if codes is None:
        return "none", 4 * tables["item_id.rows"].shape[1]
    if codes.dtype == "int8":
        return "int8", codes.shape[1] + 8
    _, bits, plane_bytes = codes.shape
    return f"{bits}bit", bits * plane_bytes + 4


def _choose(
    graph: Path, requests: list[Mapping[str, Any]], *, items: int, k: int, least_recall: float, coarse: str
) -> Reranked:
    if library() is None:
        raise BundleError(
            f"certificate: the recall of codes of {coarse} is measured by recsys's operators, which do not run here: "
            "compile them, or use --coarse int8. The bundle was not written"
        )
    every = _open(graph, operators=False)
    assert every is not None
    lists = exact_lists(every, requests, min(items, max(k, *LENGTHS)))
    return choose_reranked(graph, lists, items=items, list_length=k, least_recall=least_recall, coarse=coarse)


def chosen_users(users: Int64Array) -> list[int]:
    """Up to ``USERS`` of these users, always the same ones."""
    chosen: list[int] = np.random.Generator(np.random.PCG64(2)).permutation(users)[:USERS].tolist()
    return chosen


def effective_dimension(items_MD: Float32Array) -> float:
    """The vectors' participation ratio: (sum of the variances)^2 / sum of their squares, along the principal axes.

    D for vectors that spread the same in all directions, 1 for those on a line; 0 for those that are all the same. Of
    up to 100,000 of them.

    >>> round(effective_dimension(np.eye(4, dtype=np.float32)), 6)
    3.0
    """
    step = max(1, -(-len(items_MD) // _SAMPLE))
    sample = np.asarray(items_MD[::step], dtype=np.float64)
    variances = np.linalg.eigvalsh(np.cov(sample, rowvar=False, bias=True).reshape(sample.shape[1], -1))
    squares = float((variances**2).sum())
    return float(variances.sum() ** 2 / squares) if squares else 0.0


def _open(graph: Path, *, operators: bool) -> onnxruntime.InferenceSession | None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if operators and not use_operators(options):
        return None
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
