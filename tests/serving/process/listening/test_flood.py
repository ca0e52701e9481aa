"""Ten thousand calls that are opened and send nothing, opened again as the server ends them, beside calls of others."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.half_open import CHECK, RANK, STREAM, RawConnection, half_open
from support.tiny_workers import Callers, pids, workers

CALLS, CONNECTIONS, FLOOD_S = 10_000, 40, 20.0
MOST_MB = 300
"""Of a worker, beyond what it takes without a flood."""


def own_mb(pid: int) -> float:
    """Memory of a process that it does not share."""
    resident, shared = (int(field) for field in Path(f"/proc/{pid}/statm").read_text().split()[1:3])
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def keep_open(flood: list[RawConnection], end_s: float) -> int:
    """Open a call for each that was ended; returns how many."""
    opened, seen = 0, [0] * len(flood)
    while time.monotonic() < end_s:
        for place, connection in enumerate(flood):
            ended = len(connection.ended)
            if new := ended - seen[place]:
                connection.open((RANK, STREAM, CHECK)[place % 3], new)
                seen[place], opened = ended, opened + new
        await asyncio.sleep(0.25)
    return opened


@pytest.mark.prove
async def test_ten_thousand_half_open_calls_fail_no_call_of_others_and_no_health_check(
    tiny_bundle: Path, tmp_path: Path, redis_url: str
) -> None:
    with workers(tmp_path, tiny_bundle, redis_url) as server:
        before = pids(tmp_path)
        memory_mb = {pid: own_mb(pid) for pid in before}
        callers = Callers(server.address, 4)
        running = [asyncio.create_task(callers.call(number)) for number in range(4)]
        await callers.all_answered(20)
        checked = 0
        channels = [
            grpc.aio.insecure_channel(server.address, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(4)
        ]
        with half_open(server.address, CALLS, paths=(RANK, STREAM, CHECK), connections=CONNECTIONS) as flood:
            end_s = time.monotonic() + FLOOD_S
            flooding = asyncio.create_task(keep_open(flood, end_s))
            while time.monotonic() < end_s:
                for channel in channels:
                    health = health_pb2_grpc.HealthStub(channel)
                    assert (await health.Check(health_pb2.HealthCheckRequest(), timeout=10)).status == 1
                    checked += 1
                await asyncio.sleep(0.05)
            grown_mb = {pid: own_mb(pid) - memory_mb[pid] for pid in before}
            assert await flooding > CALLS / 2
        for channel in channels:
            await channel.close()
        callers.stop = True
        await asyncio.gather(*running)
        await callers.close()
        assert not any(callers.failed) and checked > 20 and sum(callers.answered) > 100
        assert pids(tmp_path) == before
        assert max(grown_mb.values()) < MOST_MB, grown_mb
