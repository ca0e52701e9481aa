"""How much of bare ONNX Runtime's speed is left behind a gRPC call, on one core.

A real server process is pinned to one core; its Redis, with real histories, and eight concurrent callers
are on another. A process on the server's core runs the same two graphs on the same inputs in
ONNX Runtime and nothing else. The two take turns, and the figure is the median of the turns' ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from common import Line, cores, line, machine, main, parser, pinned, rounded, say, spread

if TYPE_CHECKING:  # the rest is imported when it runs: --help takes no seconds
    import psutil
    from serving_parts import Request

LIBRARIES = ("onnxruntime", "grpcio", "numpy", "redis", "hiredis", "uvloop", "protobuf")
TARGET = 0.75


@dataclass(frozen=True, kw_only=True)
class Size:
    """How long to measure."""

    rounds: int
    round_s: float
    latency_calls: int
    users: int = 256
    candidates: int = 200
    callers: int = 8


SIZES = {
    "full": Size(rounds=15, round_s=2.0, latency_calls=3_000),
    "quick": Size(rounds=5, round_s=0.6, latency_calls=500),
    "tiny": Size(rounds=1, round_s=0.1, latency_calls=20, users=20, candidates=20),
}
RECENT = {20: "", 50: ".50_events"}
"""Recent events the model reads -> what the figures' names end with."""


def run(options: argparse.Namespace) -> Iterator[Line]:
    """All lines."""
    import serving_parts as parts
    from log_data import load

    from recsys.feature_store.embedded import EmbeddedRedis

    size = SIZES[options.size]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="recsys-bench-")))
        loaded = load(options.size, options.data, folder)
        bundle = options.bundle or parts.export(loaded, folder / "bundle")
        table = loaded.dataset.table
        users = parts.users_with_history(table, least=max(RECENT), limit=size.users)
        requests = parts.make_requests(table, users, candidates=size.candidates)
        with pinned(cores()[-1]):
            redis = stack.enter_context(EmbeddedRedis(folder / "redis"))
        parts.fill_store(redis.url, table, users)
        for recent, suffix in RECENT.items():
            served = parts.with_recent(bundle, recent, folder / f"bundle-{recent}")
            setting = Setting(folder=folder, bundle=served, redis_url=redis.url, requests=requests, size=size)
            on = machine(LIBRARIES, data=loaded.raw.source, recent_events=recent, **asdict(size))
            say(f"{recent} recent events: {size.rounds} rounds of 2 x {size.round_s} s")
            yield from _throughput(setting, suffix=suffix, on=on)
            yield from _latency(setting, suffix=suffix, on=on)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured."""

    folder: Path
    bundle: Path
    redis_url: str
    requests: list[Request]
    size: Size


def _throughput(setting: Setting, *, suffix: str, on: dict[str, Any]) -> Iterator[Line]:
    import psutil
    import serving_parts as parts
    from workers import bare_ort, grpc_load, worker

    from recsys.bundle import open_bundle

    bundle = open_bundle(setting.bundle)
    encoded = parts.encode(setting.redis_url, bundle.features, setting.requests)
    graphs = (bundle.graph_path("user"), bundle.graph_path("rank"))
    messages = [parts.message(request) for request in setting.requests]
    first, last = cores()[0], cores()[-1]
    with contextlib.ExitStack() as stack:
        with pinned(first):
            pid, address = stack.enter_context(parts.server(setting.bundle, setting.redis_url, setting.folder))
            ort_calls = stack.enter_context(worker(bare_ort, *graphs, encoded))
        with pinned(last):
            grpc_calls = stack.enter_context(worker(grpc_load, address, messages, setting.size.callers))
        parts.check_same_scores(address, graphs, setting.requests, encoded)
        process = psutil.Process(pid)
        grpc_calls(setting.size.round_s)
        grpc, ort, busy = [], [], []
        for _ in range(setting.size.rounds):
            before_s, started_s = _cpu_s(process), time.perf_counter()
            grpc.append(grpc_calls(setting.size.round_s))
            busy.append((_cpu_s(process) - before_s) / (time.perf_counter() - started_s))
            ort.append(ort_calls(setting.size.round_s))
    ratios = [g / o for g, o in zip(grpc, ort, strict=True)]
    yield line(
        f"rank.grpc_over_ort{suffix}",
        median(ratios),
        "ratio",
        higher_is_better=True,
        target=TARGET,
        compared_with="bare ONNX Runtime, one thread, on the same graphs and inputs, on the server's core",
        spread=spread(ratios),
        server_core_busy=rounded(median(busy)),
        on=on,
    )
    yield line(
        f"rank.calls_per_s{suffix}",
        median(grpc),
        "calls/s",
        higher_is_better=True,
        compared_with=f"rank.ort_calls_per_s{suffix}",
        spread=spread(grpc),
        on=on,
    )
    yield line(
        f"rank.ort_calls_per_s{suffix}",
        median(ort),
        "calls/s",
        higher_is_better=True,
        compared_with=f"rank.calls_per_s{suffix}",
        spread=spread(ort),
        on=on,
    )


def _latency(setting: Setting, *, suffix: str, on: dict[str, Any]) -> Iterator[Line]:
    """Of one client that waits for each answer; nothing is pinned but Redis."""
    import numpy as np
    import serving_parts as parts
    from workers import client_latencies, worker

    with (
        parts.server(setting.bundle, setting.redis_url, setting.folder) as (_, address),
        worker(client_latencies, address, setting.requests) as measure,
    ):
        latencies_ms = measure(setting.size.latency_calls)
    for share in (50, 99):
        yield line(
            f"rank.p{share}_ms{suffix}",
            float(np.percentile(latencies_ms, share)),
            "ms",
            higher_is_better=False,
            compared_with="nothing: recsys.client, one call at a time, nothing pinned but Redis",
            on=on,
        )


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


if __name__ == "__main__":
    options = parser(__doc__ or "")
    options.add_argument("--bundle", type=Path, metavar="FOLDER", help="serve this bundle; default: a new one")
    main("rank", run, options)
