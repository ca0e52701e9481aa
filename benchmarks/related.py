"""Items like given ones, users of items, and what is trending: calls one at a time to a real server.

A retrieval bundle of 1,000,000 items with random vectors of 64 columns, random lists of 50 items by shared users, and a
log of 1,000,000 users with 20 items each, drawn as often as 1 / (place + 100); Redis has counts of 100,000 items. The
server is on the first core, Redis and the caller on the last. Beside it the time in which an export makes the lists of
Gowalla's items (where it is in the data folder; else of a random log).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from harness.common import Line, cores, line, machine, main, parser, pinned, say, spread
from harness.serving_parts import server

from recsys.bundle import Certificate, Manifest, TableInfo, bundle_writer
from recsys.client import Client, UserEvents
from recsys.data.interactions.pairs import load_interactions, make_pairs
from recsys.export.retrieval.graph import RetrievalTables, write_retrieve_graph
from recsys.export.retrieval.shared_users.audience import audience_tables
from recsys.export.retrieval.shared_users.neighbours import neighbour_lists
from recsys.export.retrieval.similar import add_similar
from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.features.feature_set import Categorical, FeatureSet, History
from recsys.features.trending import Trending
from recsys.files import write_array

LIBRARIES = ("onnxruntime", "grpcio", "numpy", "scipy", "redis")
DIM, LIST, SEEDS, FOUND = 64, 50, 10, 100
FEATURES = FeatureSet(
    name="related",
    user_id=Categorical(name="user_id"),
    item_id=Categorical(name="item_id"),
    history=History(trending=Trending(half_life_s=86_400, other=1.0)),
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """Extent of the measurement."""

    items: int
    users: int
    items_of_user: int
    counted: int
    calls: int
    refreshes: int
    walked_pairs: int


SIZES = {
    "full": Size(
        items=1_000_000, users=1_000_000, items_of_user=20, counted=100_000, calls=300, refreshes=3, walked_pairs=0
    ),
    "quick": Size(
        items=200_000, users=200_000, items_of_user=20, counted=20_000, calls=60, refreshes=2, walked_pairs=100_000
    ),
    "tiny": Size(items=500, users=300, items_of_user=5, counted=50, calls=4, refreshes=1, walked_pairs=500),
}


def drawn(random: np.random.Generator, count: int, items: int) -> np.ndarray:
    """Items, the first the most often: 1 / (place + 100)."""
    weights = np.cumsum(1 / (np.arange(items) + 100))
    return np.searchsorted(weights, random.random(count) * weights[-1])


def related_bundle(path: Path, size: Size) -> dict[str, int]:
    """Write the bundle; returns bytes of its tables by name."""
    random = np.random.default_rng(0)
    items = np.arange(size.items)
    tables = RetrievalTables(
        user_keys=np.arange(1),
        users_ND=random.standard_normal((1, DIM), dtype=np.float32),
        item_keys=items,
        items_MD=random.standard_normal((size.items, DIM), dtype=np.float32),
        popularity_M=np.ones(size.items, dtype=np.float32),
    )
    user, item = np.divmod(
        np.unique(
            np.repeat(np.arange(size.users), size.items_of_user) * size.items
            + drawn(random, size.users * size.items_of_user, size.items)
        ),
        size.items,
    )
    made: dict[str, Any] = audience_tables(user, item, user_keys_N=np.arange(size.users), item_keys_M=items)
    length = min(LIST, size.items - 1)
    made |= {
        "neighbours.keys": items,
        "neighbours.begins": np.arange(size.items + 1) * length,
        "neighbours.rows": random.integers(1, size.items + 1, size.items * length, dtype=np.int32),
        "neighbours.scores": np.tile(np.linspace(0.2, 0.02, length, dtype=np.float32), size.items),
    }
    with bundle_writer(path) as writer:
        graph, infos = write_retrieve_graph(tables, writer.folder)
        graphs, infos = add_similar(writer.folder, {"retrieve": graph}, infos)
        for name, array in made.items():
            infos[name] = TableInfo(file=f"tables/{name}.bin", dtype=str(array.dtype), shape=tuple(array.shape))
            write_array(writer.folder / infos[name].file, array)
        manifest = writer.finish(
            Manifest(
                model="random",
                kind="retrieval",
                feature_set=FEATURES,
                graphs=graphs,
                tables=infos,
                certificate=Certificate(
                    requests=0, candidates=0, max_abs_logit_difference=0, tolerance=0, compared="none"
                ),
            )
        )
    return {name: info.size_bytes for name, info in manifest.tables.items()} | {"pairs": len(item)}


def log_of_items(data: Path | None, size: Size) -> tuple[np.ndarray, np.ndarray, str]:
    """Pairs whose lists are made, and a word on what they are."""
    given = os.environ.get("RECSYS_DATA_DIR")
    folders = [each / "gowalla" for each in (data, Path(given) if given else None) if each is not None]
    folder = next((each for each in folders if (each / "train.txt.gz").exists()), None)
    if size.walked_pairs or folder is None:
        random, count = np.random.default_rng(1), size.walked_pairs or 800_000
        pairs = make_pairs(random.integers(0, count // 20 + 1, count), drawn(random, count, count // 10))
        return pairs.user_E, pairs.item_E, "a random log"
    train = load_interactions(folder, validation_share=0.0).train
    return train.user_E, train.item_E, "Gowalla"


def list_lines(data: Path | None, size: Size, on: dict[str, Any]) -> Iterator[Line]:
    """Seconds in which the lists of a log's items are made."""
    user, item, about = log_of_items(data, size)
    users, items = int(user.max()) + 1, int(item.max()) + 1
    say(f"lists by shared users: {about}, {len(user):,} pairs")
    with pinned(cores()[0]):
        began = time.perf_counter()
        lists = neighbour_lists(
            user, item, users=users, items=items, listed_M=np.ones(items, dtype=np.bool_), most=LIST
        )
        took_s = time.perf_counter() - began
    yield line(
        "similar.lists_s",
        took_s,
        "s",
        higher_is_better=False,
        compared_with=f"{about}: {items:,} items, {len(user):,} pairs, {len(lists.items):,} entries; exact, one core",
        on=on,
    )


def timed_ms(call: Callable[[int], object], calls: int) -> list[float]:
    """Milliseconds of each of so many calls, after three."""
    took = []
    for number in range(-3, calls):
        began = time.perf_counter()
        call(number % calls)
        took.append((time.perf_counter() - began) * 1e3)
    return took[3:]


def call_lines(address: str, size: Size, bytes_of: dict[str, int], on: dict[str, Any]) -> Iterator[Line]:
    """Milliseconds of calls."""
    random = np.random.default_rng(2)
    one = random.integers(0, size.items, size.calls).tolist()
    some = [np.unique(drawn(random, SEEDS, size.items)) for _ in range(size.calls)]
    found = min(FOUND, size.items // 4)
    totals: list[int] = []

    def figure(name: str, took: list[float], beside: str) -> Line:
        return line(name, median(took), "ms", higher_is_better=False, compared_with=beside, on=on, spread=spread(took))

    with Client(address, timeout_s=30.0) as client:
        say("similar")
        took = timed_ms(lambda n: client.similar(items=[one[n]], top_k=found), size.calls)
        yield figure("similar.ms", took, f"{size.items:,} items, one seed, the best {found} by vectors; through gRPC")
        took = timed_ms(lambda n: client.similar(items=some[n], top_k=found, by="users"), size.calls)
        yield figure("similar.users_ms", took, f"{SEEDS} seeds, lists of {LIST} by shared users; through gRPC")
        say("audience")
        took = timed_ms(lambda n: totals.append(client.audience(items=some[n], top_k=1_000).total), size.calls)
        about = f"{SEEDS} seeds drawn by their events, {median(totals):,.0f} users in all in the median"
        yield figure("audience.ms", took, f"{size.users:,} users, {bytes_of['pairs']:,} pairs; {about}; through gRPC")
        size_bytes = sum(count for name, count in bytes_of.items() if name.startswith("audience."))
        yield line(
            "audience.bytes_per_pair",
            size_bytes / bytes_of["pairs"],
            "bytes",
            higher_is_better=False,
            compared_with=f"{size_bytes / 1e6:,.1f} MB, in files that processes share",
            on=on,
        )
        say("trending")
        now_ms = time.time_ns() // 1_000_000
        counted = random.permutation(size.items)[: size.counted]
        batches = (
            UserEvents(user=at, items=part, timestamps_ms=np.full(len(part), now_ms))
            for at, part in enumerate(np.array_split(counted, max(1, size.counted // 500)))
        )
        assert client.append_stream(batches).added == size.counted
        limit_s = time.monotonic() + 60
        while len(client.trending(top_k=10_000).items) < min(10_000, size.counted):
            assert time.monotonic() < limit_s, "waited in vain"
            time.sleep(0.1)
        as_of_ms, fresh = client.trending().as_of_ms, list[float]()
        while len(fresh) < size.refreshes:
            assert time.monotonic() < limit_s + 120, "waited in vain"  # a worker reads for a twentieth of its time
            time.sleep(0.2)
            began = time.perf_counter()
            answer = client.trending(top_k=found)
            if answer.as_of_ms != as_of_ms:
                fresh.append((time.perf_counter() - began) * 1e3)
            as_of_ms = answer.as_of_ms
        took = timed_ms(lambda n: client.trending(top_k=found), size.calls)
        yield figure("trending.ms", took, f"{size.counted:,} items with counts, the best {found}; through gRPC")
        yield figure("trending.refresh_ms", fresh, "a call that reads the counts again, at most one a second a worker")


def run(options: argparse.Namespace) -> Iterator[Line]:
    """All lines."""
    size = SIZES[options.size]
    on = machine(LIBRARIES, dim=DIM, list=LIST, seeds=SEEDS, **asdict(size))
    yield from list_lines(options.data, size, on)
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        say(f"writing a bundle of {size.items:,} items")
        bytes_of = related_bundle(folder / "bundle", size)
        with pinned(cores()[-1]):
            redis = EmbeddedRedis(folder / "redis")
        stack.enter_context(redis)
        with pinned(cores()[0]):
            _, address = stack.enter_context(server(folder / "bundle", redis.url, folder))
        stack.enter_context(pinned(cores()[-1]))
        yield from call_lines(address, size, bytes_of, on)


if __name__ == "__main__":
    main("related", run, parser(__doc__ or ""))
