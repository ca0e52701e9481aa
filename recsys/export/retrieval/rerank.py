"""Choice of how many rows a search by codes of bits scores by their vectors: as few as keep a share of exact lists.

Legend: ``M`` items, ``k`` length of a list.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from recsys.arrays import Float32Array, Int64Array
from recsys.bundle import ALL_ALLOWED
from recsys.errors import BundleError
from recsys.export.retrieval.constants import RERANKED
from recsys.operators import use_operators

LENGTHS = (100, 1_000)
"""Lengths of lists that are measured beside the run's own."""

LEAST_RECALL = 0.999
"""Share of exact lists that a search must keep."""

_LEAST_ROWS, _MOST_SHARE = 1_000, 16
_STEPS = 4  # tries for each doubling
_ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class Reranked:
    """Rows that a search scores.

    Attributes:
        users: whose lists were compared.
        rows: by length of the list, ascending.
        recalls: share of exact lists of these lengths that are found, of the half of the users of whom it is lower.
    """

    users: int = 0
    rows: Mapping[int, int] = field(default_factory=dict)
    recalls: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ExactList:
    """The list of a user that scoring all gives: keys of items and their scores, best first, and the request."""

    request: Mapping[str, Any]
    items: Int64Array
    scores: Float32Array

    def found(self, items: Int64Array, scores: Float32Array, k: int) -> int:
        """Count the items of the first k that another list has; of scores that differ by rounding any will do."""
        if not (own := min(k, len(self.items))):
            return 0
        rounding = _ROUNDING * float(np.abs(self.scores[:own]).max())
        good = np.isin(items, self.items[:own]) | (scores >= self.scores[own - 1] - rounding)
        return min(len(np.unique(items[good])), own)


def exact_lists(
    session: onnxruntime.InferenceSession, requests: Sequence[Mapping[str, Any]], k: int
) -> list[ExactList]:
    """Lists of the users that the graph knows: others' are of given scores, and always exact."""
    found = []
    for request in requests:
        given = {**request, **ALL_ALLOWED, "k": np.array(k, dtype=np.int64)}
        items, scores, known = session.run(["items", "scores", "known"], given)
        if known[0]:
            found.append(ExactList(request=request, items=items, scores=scores))
    return found


def choose_reranked(
    graph: Path, lists: Sequence[ExactList], *, items: int, list_length: int, least_recall: float, coarse: str
) -> Reranked:
    """Find, for lists of each length, the fewest rows with which they keep the share; write them into the graph.

    At most a sixteenth of the items, which costs what codes of 8 bits cost, or 1,000 of few items. Lengths for which
    these are too few, and longer ones, are left to scoring all.

    Args:
        graph: file of the graph ``retrieve``.
        lists: of real users, as long as the longest length at least.
        items: M.
        list_length: the run's own length.
        least_recall: the share to keep.
        coarse: name of the codes, for messages.

    Raises:
        BundleError: lists of the run's own length keep less; or there is no user to measure with.
    """
    if not lists:
        raise BundleError(
            f"certificate: codes of {coarse} need users of the test part, by whose lists their recall is measured; "
            "there are none that the bundle knows. Use --coarse int8. The bundle was not written"
        )
    rows: dict[int, int] = {}
    recalls: dict[int, float] = {}
    for k in sorted({list_length, *(length for length in LENGTHS if list_length < length)}):
        most = min(items, max(k, _LEAST_ROWS, items // _MOST_SHARE))
        recall = _recall(graph, lists, k, most)
        if recall < least_recall:
            if k > list_length:
                break
            raise BundleError(
                f"certificate: a search by codes of {coarse} finds {recall:.4f} of the items that scoring all finds "
                f"for {len(lists):,} users in lists of {k}, and scores {most:,} of {items:,} rows for it, the most "
                f"that is allowed; at least {least_recall:g} is asked for. Use {_more(coarse)}, which miss less, "
                "or allow less by --coarse-recall. The bundle was not written"
            )
        rows[k], recalls[k] = most, recall
        low, high = -1, math.ceil(_STEPS * math.log2(most / k))  # steps that are too few, and enough
        while high - low > 1:
            step = (low + high) // 2
            tried = min(most, math.ceil(k * 2 ** (step / _STEPS)))
            recall = _recall(graph, lists, k, tried, least_recall)
            if recall >= least_recall:
                high, rows[k], recalls[k] = step, tried, recall
            else:
                low = step
    write_reranked(graph, rows)
    return Reranked(users=len(lists), rows=rows, recalls=recalls)


def _more(coarse: str) -> str:
    finer = {"1bit": "--coarse 2bit, 4bit or int8", "2bit": "--coarse 4bit or int8"}
    return finer.get(coarse, "--coarse int8")


def _recall(graph: Path, lists: Sequence[ExactList], k: int, rows: int, least: float = 0.0) -> float:
    """Recall of lists of k with so many rows scored, of that half of the users of whom it is lower.

    Fewest rows are chosen by the users that they are measured with, which flatters them: users who were not there get a
    little less. Rows that are enough for either half are enough for more of those.

    Returns:
        The recall; some share below ``least`` as soon as it is known to be below.
    """
    session = _session(graph, {k: rows})
    recall = 1.0
    for half in (lists[::2], lists[1::2]):
        recall = min(recall, _recall_of(session, half, k, least))
        if recall < least:
            break
    return recall


def _recall_of(session: onnxruntime.InferenceSession, lists: Sequence[ExactList], k: int, least: float) -> float:
    wanted = sum(min(k, len(each.items)) for each in lists)
    lacking = 0
    for each in lists:
        given = {**each.request, **ALL_ALLOWED, "k": np.array(k, dtype=np.int64)}
        items, scores = session.run(["items", "scores"], given)
        lacking += min(k, len(each.items)) - each.found(items, scores, k)
        if wanted - lacking < least * wanted:
            break
    return (wanted - lacking) / wanted if wanted else 1.0


def write_reranked(graph: Path, rows: Mapping[int, int]) -> None:
    """Put the rows to score into a graph."""
    model = onnx.load(graph, load_external_data=False)
    pairs = np.array(sorted(rows.items()), dtype=np.int64).reshape(-1, 2)
    (held,) = (each for each in model.graph.initializer if each.name == RERANKED)
    held.CopyFrom(numpy_helper.from_array(pairs, RERANKED))
    graph.write_bytes(model.SerializeToString())


def _session(graph: Path, rows: Mapping[int, int]) -> onnxruntime.InferenceSession:
    """The graph by recsys's operators, with other rows to score; its tables are found beside it."""
    copy = graph.with_name(f".{graph.name}")
    copy.write_bytes(graph.read_bytes())
    try:
        write_reranked(copy, rows)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        use_operators(options)
        return onnxruntime.InferenceSession(copy, options, providers=["CPUExecutionProvider"])
    finally:
        with suppress(FileNotFoundError):
            copy.unlink()
