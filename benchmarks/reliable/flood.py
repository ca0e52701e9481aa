"""``flood.health_refused``, ``flood.others_failed``: calls of others while one caller opens calls and sends nothing.

A process opens calls of Rank, of the health check and of AppendEventStream, keeps as many open as the size says, and
opens another for each that the server ends. Beside it a health check and a Rank call go out every 20 ms, each with a
second.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import numpy as np
from harness.common import Line, line, machine, rounded, say

LIBRARIES = ("grpcio", "onnxruntime")
PATHS = (
    "/recsys.v1.Ranker/Rank",
    "/grpc.health.v1.Health/Check",
    "/recsys.v1.FeatureStore/AppendEventStream",
)
PER_CONNECTION = 250
TIMEOUT_S = 1.0
EVERY_S = 0.02


@dataclass(frozen=True)
class Size:
    """Amounts that are measured.

    Attributes:
        calls: opened and kept open.
        flood_s: for how long.
        items: rows of the model's item table.
        workers: of the server.
    """

    calls: int
    flood_s: float
    items: int
    workers: int


SIZES = {
    "full": Size(calls=10_000, flood_s=40.0, items=100_000, workers=2),
    "quick": Size(calls=10_000, flood_s=12.0, items=10_000, workers=2),
    "tiny": Size(calls=300, flood_s=3.0, items=2_000, workers=1),
}


def flood(folder: Path, size: Size) -> Iterator[Line]:
    """Measure the two figures.

    Args:
        folder: an empty one.
        size: how much.
    """
    from harness.serving_parts import server
    from harness.workers import worker
    from releasing.bundles import variant

    from recsys.feature_store.embedded.server import EmbeddedRedis

    bundle = variant(folder, "base", items=size.items)
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(EmbeddedRedis(folder / "redis"))
        arguments = ("--workers", str(size.workers))
        pid, address = stack.enter_context(server(bundle, redis.url, folder, *arguments))
        processes = _workers(pid) or [pid]
        flooder = stack.enter_context(worker(half_open, address, size.calls))
        probes = [stack.enter_context(_probing(probe)) for probe in _probes(address)]
        time.sleep(2.0)
        before_mb = _memory_mb(processes)
        say(f"opening {size.calls:,} calls that send nothing, for {size.flood_s:g} s")
        opened, most_open = flooder(size.flood_s)
        flooded_mb = _memory_mb(processes)
        replaced = len(set(processes) - set(_workers(pid) or [pid]))
    on = machine(LIBRARIES, **asdict(size))
    for figure, probe in zip(("flood.health_refused", "flood.others_failed"), probes, strict=True):
        yield line(
            figure, sum(probe.failed.values()), "calls", higher_is_better=False, target=0,
            compared_with="nothing: calls that failed within a second, without a retry, beside calls that send nothing",
            calls=len(probe.took_s), errors=dict(probe.failed), opened=opened, most_open=most_open,
            p50_ms=rounded(1e3 * float(np.median(probe.took_s))),
            p99_ms=rounded(1e3 * float(np.percentile(probe.took_s, 99))),
            workers_replaced=replaced, server_mb=rounded(before_mb), server_mb_flooded=rounded(flooded_mb), on=on,
        )  # fmt: skip


def half_open(address: str, calls: int) -> Callable[[float], tuple[int, int]]:
    """The flood, for so many seconds; returns calls opened, and the most that were open at a time."""

    async def keep_open(channel: grpc.aio.Channel, path: str, end: asyncio.Event, counts: Counter[str]) -> None:
        while not end.is_set():
            call = channel.stream_unary(path)()
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
                await call.wait_for_connection()
                counts["opened"] += 1
                counts["open"] += 1
                counts["most"] = max(counts["most"], counts["open"])
                try:
                    code = asyncio.ensure_future(call.code())
                    ending = asyncio.ensure_future(end.wait())
                    await asyncio.wait([code, ending], return_when=asyncio.FIRST_COMPLETED)
                    code.cancel()
                    ending.cancel()
                finally:
                    counts["open"] -= 1
            call.cancel()

    async def run(seconds: float) -> tuple[int, int]:
        counts, end = Counter[str](), asyncio.Event()
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(-(-calls // PER_CONNECTION))]
        kept = [
            asyncio.create_task(keep_open(channels[place // PER_CONNECTION], PATHS[place % len(PATHS)], end, counts))
            for place in range(calls)
        ]
        await asyncio.sleep(seconds)
        end.set()
        await asyncio.wait(kept, timeout=10)
        for channel in channels:
            await channel.close()
        return counts["opened"], counts["most"]

    return lambda seconds: asyncio.run(run(seconds))


class _Probe:
    """Calls of one kind, one after the other."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call
        self.took_s: list[float] = []
        self.failed: Counter[str] = Counter()
        self.stop = threading.Event()

    def run(self) -> None:
        """Call until told to stop."""
        while not self.stop.wait(EVERY_S):
            started_s = time.perf_counter()
            try:
                self.call()
            except grpc.RpcError as error:
                self.failed[f"{error.code().name}: {error.details()}"[:200]] += 1
            self.took_s.append(time.perf_counter() - started_s)


def _probes(address: str) -> tuple[_Probe, _Probe]:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from recsys.proto.ranker_pb2 import Id, Ids, RankRequest

    request = RankRequest(user=Id(integer=1), candidates=Ids(integers=range(1, 101))).SerializeToString()
    options = [("grpc.use_local_subchannel_pool", 1)]
    health = health_pb2_grpc.HealthStub(grpc.insecure_channel(address, options=options))
    rank = grpc.insecure_channel(address, options=options).unary_unary(PATHS[0])
    return (
        _Probe(lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)),
        _Probe(lambda: rank(request, timeout=TIMEOUT_S)),
    )


@contextlib.contextmanager
def _probing(probe: _Probe) -> Iterator[_Probe]:
    thread = threading.Thread(target=probe.run, daemon=True)
    thread.start()
    try:
        yield probe
    finally:
        probe.stop.set()
        thread.join()


def _workers(pid: int) -> list[int]:
    """Process ids of a supervisor's workers; none if it serves by itself."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid and b"workers.worker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return sorted(found)


def _memory_mb(pids: list[int]) -> float:
    """Anonymous memory of processes."""
    pages = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            resident, shared = (int(field) for field in Path(f"/proc/{pid}/statm").read_text().split()[1:3])
            pages += resident - shared
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
