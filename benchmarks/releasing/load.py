"""Load on a server of several workers: every call with its time and its outcome, as many connections to each worker.

The system gives a connection to a worker by a hash: of sixteen connections one worker often gets eleven, and its
calls then wait for each other. So connections are made until each worker has as many.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from harness.common import say
from harness.workers import RANK, Measure
from numpy.typing import NDArray

from recsys.arrays import Float64Array

_TIMEOUT_S = 30.0
_SETTLE_S = 0.3
"""Not counted by :func:`closed`: caches are filled by the first calls."""
_MOST_TRIES = 20
"""Connections that are made for each that is wanted, at most."""


@dataclass(frozen=True, kw_only=True)
class Calls:
    """Calls that were made at a rate.

    Attributes:
        due_s: when each was due, ``time.perf_counter`` seconds (one clock for all processes), ascending.
        took_s: seconds from then to its answer; NaN: it failed.
        errors: status code -> number of calls that ended with it.
        degraded: whether the answer says that it lacks something, of each.
        lacking: what answers say they lack -> number of them.
        releases: release -> its answers.
    """

    due_s: Float64Array
    took_s: Float64Array
    errors: dict[str, int]
    degraded: NDArray[np.bool_]
    lacking: dict[str, int]
    releases: dict[str, int]

    @property
    def failed(self) -> int:
        """Calls that failed."""
        return int(np.isnan(self.took_s).sum())

    def took_within(self, spans: Sequence[tuple[float, float]]) -> Float64Array:
        """Seconds of the calls that were due in these spans of time and answered."""
        return self.within(spans)[1]

    def within(self, spans: Sequence[tuple[float, float]]) -> tuple[Float64Array, Float64Array]:
        """The calls that were due in these spans and answered: the moments they were due, the seconds they took."""
        parts = [slice(*np.searchsorted(self.due_s, span)) for span in spans]
        due_s = np.concatenate([self.due_s[part] for part in parts] or [np.zeros(0)])
        took_s = np.concatenate([self.took_s[part] for part in parts] or [np.zeros(0)])
        return due_s[~np.isnan(took_s)], took_s[~np.isnan(took_s)]

    def failed_within(self, spans: Sequence[tuple[float, float]]) -> int:
        """Calls that were due in these spans of time and failed."""
        return sum(int(np.isnan(self._part(span)).sum()) for span in spans)

    def degraded_within(self, spans: Sequence[tuple[float, float]]) -> int:
        """Calls that were due in these spans of time and whose answer lacks something."""
        return sum(int(self.degraded[slice(*np.searchsorted(self.due_s, span))].sum()) for span in spans)

    def _part(self, span: tuple[float, float]) -> Float64Array:
        begin, end = np.searchsorted(self.due_s, span)
        return self.took_s[begin:end]


def closed(address: str, messages: Sequence[bytes], workers: Sequence[int], callers: int) -> Measure:
    """Answers per second that so many callers get who each wait for their answer and call again."""

    async def load(seconds: float) -> float:
        done = number = 0
        async with balanced(address, workers, callers) as channels:
            begin_s = time.perf_counter() + _SETTLE_S

            async def caller(call: Any) -> None:
                nonlocal done, number
                while time.perf_counter() < begin_s + seconds:
                    number += 1
                    await call(messages[number % len(messages)], timeout=_TIMEOUT_S)
                    done += begin_s <= time.perf_counter() <= begin_s + seconds

            await asyncio.gather(*(caller(channel.unary_unary(RANK)) for channel in channels))
        return done / seconds

    return _run(load)


def paced(
    address: str, messages: Sequence[bytes], workers: Sequence[int], callers: int, rate: float, stop: Any
) -> Measure:
    """Calls that come evenly at a rate, whether or not earlier ones are answered, until ``stop`` is set.

    A call that fails is not made again, by gRPC neither. The measure gives :class:`Calls`.
    """

    async def load(seconds: float) -> Calls:
        import grpc

        from recsys.proto import ranker_pb2

        due, took, lacks = array("d"), array("d"), array("b")
        errors: Counter[str] = Counter()
        releases: Counter[str] = Counter()
        lacking: Counter[str] = Counter()

        async def one(call: Any, number: int, due_s: float) -> None:
            degraded = False
            try:
                data = await call(messages[number % len(messages)], timeout=_TIMEOUT_S)
                took_s = time.perf_counter() - due_s
                answer = ranker_pb2.RankResponse.FromString(data)
                releases[answer.release] += 1
                degraded = bool(answer.degraded)
                lacking.update(ranker_pb2.Degradation.Name(each) for each in answer.degraded)
            except grpc.aio.AioRpcError as error:
                took_s = math.nan
                errors[error.code().name] += 1
                if errors[error.code().name] == 1:
                    say(f"a call failed: {error.code().name}: {error.details()}")
            due.append(due_s)
            took.append(took_s)
            lacks.append(degraded)

        async with balanced(address, workers, callers) as channels:
            begin_s = time.perf_counter()

            async def caller(place: int, call: Any) -> None:
                number, waiting = place, set()
                while not stop.is_set() and (due_s := begin_s + number / rate) < begin_s + seconds:
                    await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
                    task = asyncio.ensure_future(one(call, number, due_s))
                    waiting.add(task)
                    task.add_done_callback(waiting.discard)
                    number += len(channels)
                await asyncio.gather(*waiting)

            await asyncio.gather(*(caller(place, each.unary_unary(RANK)) for place, each in enumerate(channels)))
        order = np.argsort(np.array(due), kind="stable")
        return Calls(
            due_s=np.array(due)[order],
            took_s=np.array(took)[order],
            errors=dict(errors),
            degraded=np.array(lacks, dtype=np.bool_)[order],
            lacking=dict(lacking),
            releases=dict(releases),
        )

    return _run(load)


@contextlib.contextmanager
def in_background(measure: Measure, stop: Any, *, at_most_s: float) -> Iterator[list[Calls]]:
    """Run :func:`paced` beside the block; the list gets its calls when the block has ended."""
    found: list[Calls] = []
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(measure, at_most_s)
        try:
            yield found
        finally:
            stop.set()
        found.append(running.result())


@contextlib.asynccontextmanager
async def balanced(address: str, workers: Sequence[int], count: int) -> AsyncIterator[list[Any]]:
    """So many connections, spread evenly over the workers (their process ids), next to each other in turns."""
    import grpc

    by_worker: list[list[Any]] = [[] for _ in workers]
    wanted, spare = -(-count // len(workers)), []
    port = int(address.rpartition(":")[2])
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    try:
        for _ in range(_MOST_TRIES * count):
            if all(len(of_one) >= wanted for of_one in by_worker):
                break
            before = _connections(workers, port)
            channel = grpc.aio.insecure_channel(address, options=options)
            spare.append(channel)
            await asyncio.wait_for(channel.channel_ready(), _TIMEOUT_S)
            gained = np.subtract(_connections(workers, port), before)
            place = int(np.argmax(gained))
            if gained[place] == 1 and len(by_worker[place]) < wanted:
                by_worker[place].append(spare.pop())
            else:  # it is not needed; or it cannot be seen whose it is
                await spare.pop().close()
        else:
            raise RuntimeError(
                f"{address}: {[len(of_one) for of_one in by_worker]} connections to its {len(workers)} workers after "
                f"{_MOST_TRIES * count} tries; wanted: {wanted} to each"
            )
        yield [channel for in_turn in zip(*by_worker, strict=True) for channel in in_turn]
    finally:
        for channel in [*spare, *(channel for of_one in by_worker for channel in of_one)]:
            await channel.close()


def _connections(workers: Sequence[int], port: int) -> list[int]:
    """Connections to the port that each worker holds."""
    import psutil

    return [
        sum(
            bool(each.laddr) and each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED
            for each in psutil.Process(pid).net_connections("tcp")
        )
        for pid in workers
    ]


def _run(load: Any) -> Measure:
    import uvloop

    return lambda seconds: uvloop.run(load(seconds))
