"""Measuring processes: each does one thing for as long as it is told, and says how often it did it.

They are processes of their own so that they can be pinned, and share no interpreter with what prepares or
drives them. They end with the block that made them, or when the benchmark's process is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import multiprocessing
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

RANK = "/recsys.v1.Ranker/Rank"
_WARM_S = 0.05
"""Not counted: the first calls of a turn find the caches filled by the other side."""

Measure = Callable[[float], Any]


@contextlib.contextmanager
def worker(make: Callable[..., Measure], *arguments: Any) -> Iterator[Measure]:
    """A process that runs ``measure = make(*arguments)``; calling the yielded function calls it there."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_work, args=(there, make, arguments), daemon=True)
    process.start()
    there.close()

    def measure(amount: float) -> Any:
        here.send(amount)
        found = _receive(here, make)
        if isinstance(found, BaseException):
            raise found
        return found

    try:
        _receive(here, make)  # it is ready
        yield measure
    finally:
        here.close()
        process.terminate()
        process.join()


def _receive(pipe: Connection, make: Callable[..., Measure]) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        raise RuntimeError(f"the process of {make.__name__} has ended; its error is above") from None


def _work(pipe: Connection, make: Callable[..., Measure], arguments: Sequence[Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the benchmark, which then ends this process
    measure = make(*arguments)
    gc.collect()
    gc.freeze()
    with contextlib.suppress(EOFError, BrokenPipeError):
        pipe.send(None)
        while True:
            pipe.send(measure(pipe.recv()))


def grpc_load(address: str, messages: Sequence[bytes], callers: int, method: str = RANK) -> Measure:
    """Calls per second that ``callers`` concurrent callers of serialised requests get together."""
    import grpc
    import uvloop

    async def load(seconds: float) -> float:
        async with grpc.aio.insecure_channel(address) as channel:
            call = channel.unary_unary(method)  # bytes in, bytes out
            asks = [functools.partial(call, timeout=10.0)] * callers
            return await _load(asks, messages, seconds)

    return lambda seconds: uvloop.run(load(seconds))


def http_load(address: str, messages: Sequence[bytes], callers: int) -> Measure:
    """The same of whole HTTP requests, each caller over a connection of its own."""
    import uvloop

    host, _, port = address.rpartition(":")

    async def load(seconds: float) -> float:
        connections = [await asyncio.open_connection(host, int(port), limit=1 << 20) for _ in range(callers)]
        try:
            return await _load([functools.partial(_http, *streams) for streams in connections], messages, seconds)
        finally:
            for _, writer in connections:
                writer.close()

    return lambda seconds: uvloop.run(load(seconds))


async def _http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: bytes) -> bytes:
    writer.write(message)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not head.startswith(b"http/1.1 200"):
        raise RuntimeError(f"the server answered {head[:200]!r}")
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    return await reader.readexactly(length)


async def _load(
    asks: Sequence[Callable[[bytes], Awaitable[bytes]]], messages: Sequence[bytes], seconds: float
) -> float:
    """Answers per second that arrive while all callers ask, each with one of ``asks``."""
    done = number = 0

    async def caller(ask: Callable[[bytes], Awaitable[bytes]], begin_s: float, end_s: float) -> None:
        nonlocal done, number
        while (now_s := time.perf_counter()) < end_s:
            number += 1
            await ask(messages[number % len(messages)])
            done += begin_s <= now_s and time.perf_counter() <= end_s

    begin_s = time.perf_counter() + 2 * _WARM_S  # they also connect
    await asyncio.gather(*(caller(ask, begin_s, begin_s + seconds) for ask in asks))
    return done / seconds


def client_latencies(address: str, requests: Sequence[Any]) -> Measure:
    """Milliseconds of each of so many calls of the Python client, one after another."""
    from recsys.client import Client

    client = Client(address, timeout_s=10.0)

    def measure(calls: float) -> list[float]:
        latencies_ms = []
        for number in range(-20, int(calls)):
            request = requests[number % len(requests)]
            started_s = time.perf_counter()
            client.rank(user=request.user, candidates=request.candidates)
            if number >= 0:
                latencies_ms.append((time.perf_counter() - started_s) * 1e3)
        return latencies_ms

    return measure
