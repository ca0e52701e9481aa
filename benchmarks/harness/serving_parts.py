"""Parts that serving benchmarks need: data, a bundle, a filled store, a server process, requests.

Weights do not matter for speed, so the bundle's model has its initial ones; its tables and id maps are those
of the whole training split.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.common import say
from recsys.arrays import Int64Array
from recsys.data.datasets import LoadedData
from recsys.data.log.event_table import EventTable
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.ingest.materialize import materialize
from recsys.proto import ranker_pb2

RECIPE = "din_movielens_1m_demo"
_START_S = 60.0


@dataclass(frozen=True)
class Request:
    """One Rank call: raw ids."""

    user: int
    candidates: Int64Array


def export(loaded: LoadedData, path: Path) -> Path:
    """A bundle of the demo's model."""
    import torch

    from recsys.export.onnx import export_bundle
    from recsys.recipes import recipe
    from recsys.training.tables.plan import build_row_maps
    from recsys.training.trained import build

    say(f"data: {loaded.raw.source}\nexporting a bundle of {RECIPE} (10 to 20 s)")
    config = recipe(RECIPE)
    row_maps = build_row_maps(config, loaded.dataset)
    trained = build(config, loaded.dataset.table.features, row_maps, device=torch.device("cpu"))
    export_bundle(trained, loaded.dataset, path, name=RECIPE)
    return path


def fill_store(url: str, table: EventTable, users: Sequence[int]) -> int:
    """Put all items, and these users (by index) with their histories, into the store; returns the events."""

    async def fill() -> int:
        store = RedisFeatureStore.connect(url, table.features)
        try:
            return (await materialize(store, table, users=users)).events
        finally:
            await store.close()

    return asyncio.run(fill())


def users_with_history(table: EventTable, *, least: int, limit: int) -> list[int]:
    """Indices of up to ``limit`` users with at least ``least`` events, drawn at random."""
    enough = np.flatnonzero(np.diff(table.offsets) >= least)
    random = np.random.Generator(np.random.PCG64(0))
    return [int(user) for user in random.permutation(enough)[:limit]]


def make_requests(table: EventTable, users: Sequence[int], *, candidates: int) -> list[Request]:
    """One request per user, of distinct random items."""
    random = np.random.Generator(np.random.PCG64(1))
    items = np.asarray(table.item_keys)
    size = min(candidates, len(items))
    return [Request(int(table.user_keys[user]), random.choice(items, size=size, replace=False)) for user in users]


def message(request: Request) -> bytes:
    """The request as it is sent."""
    return ranker_pb2.RankRequest(
        user=ranker_pb2.Id(integer=request.user), candidates=ranker_pb2.Ids(integers=request.candidates.tolist())
    ).SerializeToString()


def serve_command(bundle: Path, *arguments: str) -> list[str]:
    """The command line of a server."""
    return [sys.executable, "-m", "recsys.cli", "serve", str(bundle), *arguments]


def clean_environment() -> dict[str, str]:
    """This process's, without settings of a server."""
    return {k: v for k, v in os.environ.items() if not k.startswith("RECSYS_") and k != "REDIS_URL"}


@contextlib.contextmanager
def running(command: Sequence[str], log: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process for the duration of the block; its output goes to ``log``.

    ``variables`` are set in its environment.
    """
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, env=clean_environment() | variables
        )
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL if that is not enough."""
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def server(bundle: Path, redis_url: str, folder: Path, *arguments: str) -> Iterator[tuple[int, str]]:
    """A server process that answers; yields its process id and address."""
    ready, log = folder / "server.json", folder / "server.log"
    ready.unlink(missing_ok=True)
    command = serve_command(bundle, "--port", "0", "--redis-url", redis_url, "--ready-file", str(ready), *arguments)
    with running(command, log) as process:
        deadline_s = time.monotonic() + _START_S
        while not ready.exists():
            check_alive(process, log, deadline_s)
            time.sleep(0.01)
        yield process.pid, str(json.loads(ready.read_text())["address"])


def check_alive(process: subprocess.Popen[bytes], log: Path, deadline_s: float) -> None:
    """RuntimeError with the log's end if the process has ended, or the deadline has passed."""
    if process.poll() is not None or time.monotonic() > deadline_s:
        raise RuntimeError(f"the server did not start:\n{log.read_text()[-2000:]}")
