"""Searches by codes of 1 bit.

How many rows a search scores is the fewest, in steps of a quarter, with which half of the users keep .999 of the exact
lists; the recall is that of the other half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from harness.common import Line, line
from harness.workers import worker

from retrieving.searches import DIM, K, Times, all_allowed, one_operator, times, times_line


@dataclass(frozen=True, kw_only=True)
class BitTimes:
    """Searches by codes of 1 bit: times, rows that are scored, recall of users by whom these were not chosen."""

    times: Times
    rows: int
    bytes_per_item: float
    about: str


def bits_of_operator(folder: Path, large_items: int, runs: int) -> Callable[[float], BitTimes]:
    """Searches of many items in 20 directions, whose vectors and codes lie in files."""
    random, block = np.random.default_rng(5), 500_000
    directions = random.standard_normal((20, DIM), dtype=np.float32)
    items = np.memmap(folder / "items", np.float32, "w+", shape=(large_items + 1, DIM))
    for begin in range(0, len(items), block):
        rows = min(block, len(items) - begin)
        items[begin : begin + rows] = random.standard_normal((rows, 20), dtype=np.float32) @ directions
    users = random.standard_normal((40, 20), dtype=np.float32) @ directions
    return lambda _: _by_bits(items, users, K, runs, "random vectors in 20 directions")


def bits_of_vectors(users: np.ndarray, items: np.ndarray, about: str, runs: int) -> Callable[[float], BitTimes]:
    """The same of given vectors, in lists of 20."""
    table = np.concatenate([np.zeros((1, items.shape[1]), dtype=np.float32), items])
    return lambda _: _by_bits(table, users, 20, runs, about)


def bit_lines(folder: Path, large_items: int, runs: int, on: dict[str, Any]) -> Iterator[Line]:
    """The lines of many items."""
    with worker(bits_of_operator, folder, large_items, runs) as measure:
        found = measure(1)
    about = f"all {large_items:,} items, codes of 1 bit, {found.about}, one core"
    yield times_line("index.ms_10M.1bit", found.times, about, on, 20.0, scored=found.rows)
    yield line(
        "index.bytes_per_item.1bit",
        found.bytes_per_item,
        "bytes",
        higher_is_better=False,
        compared_with="codes of 1 bit and a scale of each item, in files that all processes share",
        on=on,
        target=16.0,
    )


def kept_line(name: str, users: np.ndarray, items: np.ndarray, on: dict[str, Any]) -> Line:
    """The line of a model's vectors."""
    with worker(bits_of_vectors, users, items, name, 30) as measure:
        found = measure(1)
    return line(
        f"index.recall_kept.1bit.{name}",
        found.times.recall,
        "recall@20",
        higher_is_better=True,
        compared_with="exhaustive search, for users by whom the rows to score were not chosen",
        on=on,
        target=0.999,
        scored=found.rows,
        ms=median(found.times.wall_ms),
    )


def _by_bits(items: np.ndarray, users: np.ndarray, k: int, runs: int, about: str) -> BitTimes:
    from recsys.export.retrieval.bits import bit_codes, rotation_of

    session, block = one_operator(bits=True), 500_000
    rotation = rotation_of(items.shape[1])
    codes, scales = bit_codes(items, rotation, bits=1)
    given = {"items": items, "codes": codes, "scales": scales, "rotation": rotation, **all_allowed()}
    given["k"] = np.array(k)

    def search(user: int, rows: int) -> np.ndarray:
        found: np.ndarray = session.run(
            None, {**given, "reranked": np.array([[k, rows]]), "user": users[user][:, None]}
        )[0]
        return found

    exact: list[np.ndarray] = []
    for user in users:
        scores = np.concatenate([items[at : at + block] @ user for at in range(0, len(items), block)])[1:]
        exact.append(np.argpartition(scores, len(scores) - k)[len(scores) - k :] + 1)

    def recall(of: range, rows: int) -> float:
        return float(np.mean([len(np.intersect1d(search(user, rows), exact[user])) / k for user in of]))

    half = len(users) // 2
    rows = k
    while recall(range(half), rows) < 0.999 and rows < len(items):
        rows += rows // 4
    wall, cpu = times(lambda run: search(run % len(users), rows), runs)
    found = Times(wall_ms=wall, cpu_ms=cpu, recall=recall(range(half, len(users)), rows))
    return BitTimes(times=found, rows=rows, bytes_per_item=(codes.nbytes + scales.nbytes) / len(items), about=about)
