"""Servers with several workers for tests, and callers that never rest."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from recsys.proto.ranker_pb2 import Id, Ids, RankRequest, RankResponse
from support.tiny_server import ServerProcess, server_process

REQUEST = RankRequest(user=Id(integer=1), candidates=Ids(integers=[1, 2, 3]))


@contextmanager
def workers(folder: Path, bundle: Path, redis_url: str, **more: str) -> Iterator[ServerProcess]:
    """A server with two workers, unless the environment has other ideas."""
    variables = {"RECSYS_BUNDLE": str(bundle), "REDIS_URL": redis_url, "RECSYS_WORKERS": "2", **more}
    with server_process(folder, **variables) as server:
        yield server


def until(true: Callable[[], Any], *, limit_s: float = 30.0) -> Any:
    """Wait for something to be true; what it is then."""
    deadline_s = time.monotonic() + limit_s
    while not (answer := true()):
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.01)
    return answer


def pids(folder: Path) -> list[int]:
    """Of the workers that serve, by the ready file."""
    return list(json.loads((folder / "ready.json").read_text())["workers"])


def connections(pid: int, port: int) -> int:
    """How many callers are connected to that process."""
    inodes = {
        fields[9]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if (fields := line.split())[3] == "01" and int(fields[1].rpartition(":")[2], 16) == port
    }
    held = [os.readlink(f) for f in Path(f"/proc/{pid}/fd").iterdir() if f.is_symlink()]
    return sum(f"socket:[{inode}]" in held for inode in inodes)


class Callers:
    """Channels with a connection each, all calling until they are told to stop."""

    def __init__(self, address: str, count: int, *, request: RankRequest = REQUEST) -> None:
        # Channels to one address share a connection otherwise.
        options = [("grpc.use_local_subchannel_pool", 1)]
        options += [(f"grpc.{which}_reconnect_backoff_ms", 100) for which in ("initial", "min", "max")]
        self.channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(count)]
        self.answered = [0] * count
        self.failed: list[list[grpc.StatusCode]] = [[] for _ in range(count)]
        self.request = request
        self.stop = False

    async def call(self, number: int) -> None:
        rank = self.channels[number].unary_unary(
            "/recsys.v1.Ranker/Rank",
            request_serializer=RankRequest.SerializeToString,
            response_deserializer=RankResponse.FromString,
        )
        while not self.stop:
            try:
                scores = (await rank(self.request, timeout=30)).scores
                assert len(scores) == len(self.request.candidates.integers)
                self.answered[number] += 1
            except grpc.aio.AioRpcError as error:
                self.failed[number].append(error.code())
                await asyncio.sleep(0.02)

    async def close(self) -> None:
        for channel in self.channels:
            await channel.close()

    async def all_answered(self, more: int) -> None:
        """Return when each caller has got so many answers more."""
        goal = [count + more for count in self.answered]
        deadline_s = time.monotonic() + 30
        while any(count < wanted for count, wanted in zip(self.answered, goal, strict=True)):
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.01)
