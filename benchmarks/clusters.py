"""Clustering for GraphHash: Gowalla's training interactions, and how time and memory grow from 1 M to 50 M edges.

`recsys.embeddings.row_maps.clusters.cluster` at resolution 200, on one thread. Gowalla takes turns in this process;
where it is not found (`--data`, then RECSYS_DATA_DIR, then ../shared/data), a generated graph of as many edges stands
in. The others are generated: degrees by power laws, communities of some 150 ids that take 70 % of their ids' edges.
Each is clustered in a process of its own, whose peak memory, edges and libraries included, the kernel tells.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from harness import common
from sort_log import child

from recsys.arrays import Int64Array
from recsys.data.interactions.pairs import load_interactions
from recsys.embeddings.row_maps.clusters import cluster

RESOLUTION = 200.0
GOWALLA_EDGES = 810_128
EDGES_PER_LEFT_ID, EDGES_PER_RIGHT_ID = 20, 60
IDS_PER_COMMUNITY = 150
INSIDE = 0.7
"""Share of edges that stay in the left id's community."""
CHUNK = 4_000_000

CLUSTER = """
import json, sys, time
from pathlib import Path
import numpy as np
from recsys.embeddings.row_maps.clusters import cluster
folder, num_left, num_right, resolution = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
left_E, right_E = np.load(folder / "left.npy"), np.load(folder / "right.npy")
started_s, started_cpu_s = time.perf_counter(), time.process_time()
found = cluster(left_E, right_E, num_left=num_left, num_right=num_right, resolution=resolution)
took = {"seconds": time.perf_counter() - started_s, "cpu_s": time.process_time() - started_cpu_s}
print(json.dumps({**took, "left": found.num_left, "right": found.num_right, "modularity": found.modularity}))
"""

Edges = Int64Array


@dataclass(frozen=True, kw_only=True)
class Size:
    """Repetitions on Gowalla, its stand-in's edges, and the millions of edges of the generated graphs."""

    turns: int
    stand_in_edges: int
    millions: tuple[float, ...]


SIZES = {
    "full": Size(turns=7, stand_in_edges=GOWALLA_EDGES, millions=(1, 5, 20, 50)),
    "quick": Size(turns=3, stand_in_edges=GOWALLA_EDGES, millions=(1,)),
    "tiny": Size(turns=1, stand_in_edges=5_000, millions=(0.01,)),
}
TARGETS_S = {50: 600.0}
TARGETS_GIB = {50: 12.0}


def run(given: argparse.Namespace) -> Iterator[common.Line]:
    """Gowalla, then the generated graphs by size."""
    size = SIZES[given.size]
    yield gowalla(size, None if given.size == "tiny" else _gowalla_folder(given.data))
    for millions in size.millions:
        with tempfile.TemporaryDirectory(prefix="recsys-bench-", dir=given.folder) as name:
            yield from growth(millions, Path(name))


def gowalla(size: Size, folder: Path | None) -> common.Line:
    """Seconds of one clustering; the median of some."""
    if folder is None:
        edges, left_E, right_E = size.stand_in_edges, *generate(size.stand_in_edges)
        source = f"generated, {edges:,} edges"
    else:
        found = load_interactions(folder)
        left_E = np.concatenate([found.train.user_E, found.validation.user_E])  # train.txt as published
        right_E = np.concatenate([found.train.item_E, found.validation.item_E])
        source = "Gowalla, train.txt"
    counts = {"num_left": int(left_E.max()) + 1, "num_right": int(right_E.max()) + 1}
    cluster(left_E[:1000], right_E[:1000], **counts, resolution=RESOLUTION)  # imports
    seconds, cpu_s = [], []
    for turn in range(size.turns):
        common.say(f"{source}: turn {turn + 1} of {size.turns}")
        started_s, started_cpu_s = time.perf_counter(), time.process_time()
        clusters = cluster(left_E, right_E, **counts, resolution=RESOLUTION)
        seconds.append(time.perf_counter() - started_s)
        cpu_s.append(time.process_time() - started_cpu_s)
    return common.line(
        "clusters.gowalla_s",
        statistics.median(seconds),
        "s",
        higher_is_better=False,
        target=2.0,
        compared_with="the target; time of one thread",
        spread=common.spread(seconds),
        cpu_s=common.rounded(statistics.median(cpu_s)),
        left_clusters=clusters.num_left,
        right_clusters=clusters.num_right,
        modularity=common.rounded(clusters.modularity),
        on=_on(data=source, edges=len(left_E), **counts, **asdict(size)),
    )


def growth(millions: float, folder: Path) -> Iterator[common.Line]:
    """Seconds and peak memory of one generated graph."""
    edges = round(millions * 1e6)
    common.say(f"generating {edges:,} edges")
    left_E, right_E = generate(edges)
    counts = (int(left_E.max()) + 1, int(right_E.max()) + 1)
    np.save(folder / "left.npy", left_E)
    np.save(folder / "right.npy", right_E)
    edges = len(left_E)
    del left_E, right_E
    common.say(f"clustering {edges:,} edges")
    found = child(CLUSTER, folder, *counts, RESOLUTION)
    on = _on(data="generated", edges=edges, num_left=counts[0], num_right=counts[1])
    yield common.line(
        f"clusters.{millions:g}M_edges_s",
        found["seconds"],
        "s",
        higher_is_better=False,
        target=TARGETS_S.get(int(millions)),
        compared_with="the other sizes of this run; time of one thread",
        cpu_s=common.rounded(found["cpu_s"]),
        us_per_edge=common.rounded(1e6 * found["seconds"] / edges),
        left_clusters=found["left"],
        right_clusters=found["right"],
        modularity=common.rounded(found["modularity"]),
        on=on,
    )
    yield common.line(
        f"clusters.{millions:g}M_edges_peak_gib",
        found["peak_bytes"] / 2**30,
        "GiB",
        higher_is_better=False,
        target=TARGETS_GIB.get(int(millions)),
        compared_with="the edges as they are given, two int64 each",
        edges_gib=common.rounded(16 * edges / 2**30),
        on=on,
    )


def generate(edges: int) -> tuple[Edges, Edges]:
    """Distinct edges of a graph with communities; the same for the same number."""
    random = np.random.Generator(np.random.PCG64(0))
    num_left, num_right = max(20, edges // EDGES_PER_LEFT_ID), max(20, edges // EDGES_PER_RIGHT_ID)
    communities = max(2, (num_left + num_right) // IDS_PER_COMMUNITY)
    community_of_left = random.integers(0, communities, num_left)
    # Right ids lie by community, so that each community is a range of the running total of their popularity.
    community_of_right = np.sort(random.integers(0, communities, num_right))
    activity = np.cumsum((1 - random.random(num_left)) ** (-1 / 1.8))
    popularity = np.minimum((1 - random.random(num_right)) ** (-1 / 1.3), num_right**0.5)
    total = np.concatenate([[0.0], np.cumsum(popularity)])
    begin, end = (
        total[np.searchsorted(community_of_right, np.arange(communities), side)] for side in ("left", "right")
    )
    packed = np.empty(0, dtype=np.int64)
    while len(packed) < edges:
        drawn = [packed]
        for _ in range(0, max(edges - len(packed), edges // 10), CHUNK):
            left = np.searchsorted(activity, random.random(min(CHUNK, edges)) * activity[-1])
            home = community_of_left[left]
            inside = (random.random(len(left)) < INSIDE) & (end[home] > begin[home])
            low, high = np.where(inside, begin[home], 0.0), np.where(inside, end[home], total[-1])
            at = low + random.random(len(left)) * (high - low)
            right = np.clip(np.searchsorted(total, at, side="right") - 1, 0, num_right - 1)
            drawn.append(left * num_right + right)
        packed = np.unique(np.concatenate(drawn))
    packed = packed[np.linspace(0, len(packed) - 1, edges).astype(np.int64)]
    left_E, right_E = np.divmod(packed, num_right)
    return left_E, random.permutation(num_right)[right_E]


def _gowalla_folder(given: Path | None) -> Path | None:
    nearby = Path(__file__).resolve().parents[2] / "shared" / "data"
    named = os.environ.get("RECSYS_DATA_DIR")
    place = given or (Path(named) if named else nearby)
    for folder in (place, place / "gowalla"):
        if any((folder / f"train.txt{end}").is_file() for end in ("", ".gz")):
            return folder
    return None


def _on(**sizes: object) -> dict[str, object]:
    return common.machine(["numpy", "scikit-network", "scipy"], resolution=RESOLUTION, **sizes)


if __name__ == "__main__":
    options = common.parser(__doc__ or "")
    options.add_argument("--folder", type=Path, help="where graphs are written; default: the system's temporary folder")
    common.main("clusters", run, options)
