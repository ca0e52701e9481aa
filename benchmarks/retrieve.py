"""Exact retrieval over a whole item table, and recommendations from a user's id alone.

Retrieval: the best 500 items but 200 seen ones, for a table of Gowalla's size (40,981 items) and for 1,000,000 items,
64 columns. Beside it numpy: the same product, the seen masked, ``argpartition`` and the 500 sorted. Both run in one
process on one core and take turns. Vectors are random: times do not depend on them.

Recommendations: through gRPC, Redis, that retrieval over the large table and the ranking of 500 candidates by the
reference model (``harness/reference.py``), one call at a time; the server on the first core, Redis and the caller on
the last. The same with a filter, in turns, and the time until a write shows in the filters of two workers
(``retrieving/filters.py``).
"""

from __future__ import annotations

import argparse
import contextlib
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

LIBRARIES = ("onnxruntime", "grpcio", "numpy", "redis")
DIM, SEEN, K = 64, 200, 500


@dataclass(frozen=True, kw_only=True)
class Size:
    """Extent of the measurement."""

    items: int
    large_items: int
    turns: int
    runs: int
    calls: int
    events: int = 1_000
    users: int = 64
    writes: int = 30


SIZES = {
    "full": Size(items=40_981, large_items=1_000_000, turns=11, runs=20, calls=500),
    "quick": Size(items=40_981, large_items=200_000, turns=3, runs=5, calls=50),
    "tiny": Size(items=1_500, large_items=3_000, turns=2, runs=2, calls=4, events=20, users=4, writes=3),
}


def retrieval_bundle(path: Path, *, items: int, users: int) -> Path:
    """A bundle of random vectors; ids are 0, 1, 2 and so on."""
    from harness.reference import FEATURES

    from recsys.bundle import Certificate, Manifest, bundle_writer
    from recsys.export.retrieval.graph import RetrievalTables, write_retrieve_graph

    random = np.random.default_rng(0)
    tables = RetrievalTables(
        user_keys=np.arange(users),
        users_ND=random.standard_normal((users, DIM), dtype=np.float32),
        item_keys=np.arange(items),
        items_MD=random.standard_normal((items, DIM), dtype=np.float32),
        popularity_M=random.integers(0, 1000, items).astype(np.float32),
    )
    with bundle_writer(path) as writer:
        graph, infos = write_retrieve_graph(tables, writer.folder)
        writer.finish(
            Manifest(
                model="random",
                kind="retrieval",
                feature_set=FEATURES,
                graphs={"retrieve": graph},
                tables=infos,
                certificate=Certificate(
                    requests=0, candidates=0, max_abs_logit_difference=0, tolerance=0, compared="none"
                ),
            )
        )
    return path


def searches(bundle: Path) -> Callable[[float], tuple[float, float]]:
    """Milliseconds of a search by the bundle's graph, and by numpy on the same table, each the best of so many runs."""
    from recsys.bundle import open_bundle
    from recsys.serving.inference.retrieval_session import open_retrieval

    opened = open_bundle(bundle, verify="sizes")
    session = open_retrieval(opened)
    user_DN, items_MD = (
        np.fromfile(bundle / opened.manifest.tables[name].file, np.float32).reshape(-1, DIM)[1:]
        for name in ("user_id.rows", "item_id.rows")
    )
    seen = np.random.default_rng(1).choice(len(items_MD), SEEN, replace=False)

    def by_numpy() -> np.ndarray:
        scores_M = items_MD @ user_DN[0]
        scores_M[seen] = -np.inf
        best = np.argpartition(scores_M, len(scores_M) - K)[-K:]
        return best[np.argsort(-scores_M[best])]

    def by_graph() -> np.ndarray:
        return session.retrieve(0, seen, K).items

    assert np.isin(by_numpy(), by_graph()).mean() > 0.99, "nearly equal scores may change places, no others"

    def measure(runs: float) -> tuple[float, float]:
        return _best_ms(by_graph, int(runs)), _best_ms(by_numpy, int(runs))

    return measure


def private_memory(bundle: Path) -> Callable[[float], float]:
    """MiB that opening a bundle and three searches add to what a process does not share."""
    from recsys.bundle import open_bundle
    from recsys.serving.inference.retrieval_session import open_retrieval

    def measure(_: float) -> float:
        before = _private_mib()
        session = open_retrieval(open_bundle(bundle, verify="sizes"))
        for user in range(3):
            session.retrieve(user, np.arange(SEEN), K)
        return _private_mib() - before

    return measure


def run(options: argparse.Namespace) -> Iterator[Line]:
    """All lines."""
    size = SIZES[options.size]
    on = machine(LIBRARIES, dim=DIM, seen=SEEN, k=K, **asdict(size))
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as name:
        folder = Path(name)
        small = retrieval_bundle(folder / "small", items=size.items, users=size.users)
        yield from _search_lines(small, "", size.items, size, on)
        large = retrieval_bundle(folder / "large", items=size.large_items, users=size.users)
        yield from _search_lines(large, ".large", size.large_items, size, on)
        with pinned(cores()[0]), worker(private_memory, large) as measure:
            table = (large / "tables" / "item_id.rows.bin").stat().st_size / 2**20
            yield line(
                "retrieve.private_mib.large",
                measure(1),
                "MiB",
                higher_is_better=False,
                compared_with=f"the item table, which processes share: {table:.0f} MiB",
                on=on,
            )
        yield from _recommend_lines(folder, large, size, on)


def _search_lines(bundle: Path, suffix: str, items: int, size: Size, on: dict[str, Any]) -> Iterator[Line]:
    say(f"searching {items:,} items")
    with pinned(cores()[0]), worker(searches, bundle) as measure:
        taken = [measure(size.runs) for _ in range(size.turns)]
    ours, numpys = [a for a, _ in taken], [b for _, b in taken]
    ratios = [a / b for a, b in taken]
    about = f"{items:,} items, one core"
    for figure, values, unit, beside in (
        ("ms", ours, "ms", about),
        ("numpy_ms", numpys, "ms", f"numpy: product, argpartition, sort; {about}"),
        ("over_numpy", ratios, "times numpy's time", "numpy, same process, taking turns"),
    ):
        yield line(
            f"retrieve.{figure}{suffix}",
            median(values),
            unit,
            higher_is_better=False,
            compared_with=beside,
            on=on,
            spread=spread(values),
        )


def _recommend_lines(folder: Path, retrieval: Path, size: Size, on: dict[str, Any]) -> Iterator[Line]:
    from harness.reference import category_of
    from ranking import setting as rank_setting
    from retrieving.filters import filtered_lines, visible_lines
    from retrieving.rules import ruled_lines

    from recsys.client import Client

    with contextlib.ExitStack() as stack:
        setting = stack.enter_context(
            rank_setting.redis_with_items(folder, items=size.large_items, candidates=min(K, size.items))
        )
        histories = rank_setting.fill(setting, length=size.events, users=size.users, items=size.large_items)
        bundle = rank_setting.reference_bundle(folder, items=size.large_items)
        say("recommending")
        with contextlib.ExitStack() as serving:
            _, address = serving.enter_context(
                rank_setting.pinned_server(setting, bundle, "--retrieval", str(retrieval))
            )
            serving.enter_context(pinned(cores()[-1]))
            client = serving.enter_context(Client(address, timeout_s=30.0))
            # As in a real store, candidates have features.
            for user in histories.users:
                found = np.array(client.retrieve(user=user, top_k=K).items)
                client.put_entities(entity="item", ids=found, features={"category": category_of(found)})
            took_ms = []
            for number in range(size.calls + len(histories.users)):
                user = histories.users[number % len(histories.users)]
                began = time.perf_counter()
                answer = client.recommend(user=user, top_k=20)
                took_ms.append((time.perf_counter() - began) * 1e3)
                assert len(answer.items) == 20 and answer.user_known and not answer.degraded, answer
            filtered = list(
                filtered_lines(client, list(histories.users), items=size.large_items, calls=size.calls // 2, on=on)
            )
            ruled = list(
                ruled_lines(client, list(histories.users), items=size.large_items, calls=size.calls // 2, on=on)
            )
            # Not counted: each user's first call, which makes the state of the history.
            counted = sorted(took_ms[len(histories.users) :])
        visible = list(visible_lines(folder, setting, bundle, retrieval, writes=size.writes, on=on))
    yield from visible
    yield from filtered
    yield from ruled
    about = f"{size.large_items:,} items searched, 500 ranked, histories of {size.events:,} events; through gRPC"
    for figure, at in (("p50", 0.5), ("p99", 0.99)):
        yield line(
            f"recommend.{figure}_ms",
            counted[int(at * (len(counted) - 1))],
            "ms",
            higher_is_better=False,
            compared_with=about,
            on=on,
        )


def _best_ms(call: Callable[[], object], runs: int) -> float:
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times) * 1e3


def _private_mib() -> float:
    """Anonymous memory of this process: what no other shares (Linux)."""
    rows = Path("/proc/self/status").read_text().splitlines()
    return float(next(int(row.split()[1]) for row in rows if row.startswith("RssAnon:"))) / 1024


if __name__ == "__main__":
    main("retrieve", run, parser(__doc__ or ""))
