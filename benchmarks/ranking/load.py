"""Load on a server: closed callers, paced arrivals, and bare ONNX Runtime beside them; for ``workers.worker``.

Every function here makes a ``measure`` that runs in a process of its own.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.wire import Wire
from harness.workers import Measure

if TYPE_CHECKING:
    from recsys.arrays import Float64Array

_PLAIN = Wire()
SETTLE_S = 0.2
"""Not counted: connections are made, and caches filled by the other side's turn."""


class Timed(NamedTuple):
    """Calls that came at a rate.

    Attributes:
        due_s: when each was due, ``time.perf_counter`` seconds, which is one clock for all processes.
        took_s: seconds from then until it was answered; NaN: there was no room for it.
    """

    due_s: Float64Array
    took_s: Float64Array


def bare(folder: Path, requests: Sequence[Any]) -> Measure:
    """Seconds of each call of a bundle's two graphs in ONNX Runtime as it comes, one thread, inputs at hand.

    With recsys's operators, as the server has them: the same graphs are computed in the same way.

    ``requests``: (inputs of the user graph, inputs of the rank graph without the user side).
    """
    return repeated(_bare_call(folder, requests))


def bare_paced(folder: Path, requests: Sequence[Any], callers: int, rate: float, poisson: bool) -> Measure:
    """As :func:`bare`, for calls that come at a rate as those of :func:`paced` do, in turn; the measure gives Timed."""
    import numpy as np

    call = _bare_call(folder, requests)

    def measure(seconds: float) -> Timed:
        due, took = [], []
        begin_s = time.perf_counter() + SETTLE_S
        for number, after_s in enumerate(_arrivals(callers, rate, poisson, seconds + SETTLE_S)):
            due_s = begin_s - SETTLE_S + after_s
            time.sleep(max(0.0, due_s - time.perf_counter()))
            call(number)
            if due_s >= begin_s:
                due.append(due_s)
                took.append(time.perf_counter() - due_s)
        return Timed(np.array(due), np.array(took))

    return measure


def _bare_call(folder: Path, requests: Sequence[Any]) -> Any:
    import onnxruntime as ort

    from recsys.operators import use_operators

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    use_operators(options)
    user, rank = (
        ort.InferenceSession(folder / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
        for name in ("user", "rank")
    )
    wanted = {given.name for given in rank.get_inputs()}
    side = [output.name for output in user.get_outputs() if output.name in wanted]

    def call(number: int) -> None:
        of_user, of_rank = requests[number % len(requests)]
        tensors = user.run(side, of_user)
        rank.run(["logits", "scores"], {**of_rank, **dict(zip(side, tensors, strict=True))})

    return call


def bare_flat(graph: Path, requests: Sequence[Any]) -> Measure:
    """As :func:`bare` for one graph that takes everything per candidate."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return repeated(lambda number: session.run(None, requests[number % len(requests)]))


def repeated(call: Any) -> Measure:
    """Seconds of each call, for so many seconds; at least one call."""
    number = 0

    def measure(seconds: float) -> list[float]:
        nonlocal number
        taken, begin_s = [], time.perf_counter() + SETTLE_S
        while (started_s := time.perf_counter()) < begin_s + seconds or not taken:
            call(number)
            number += 1
            if started_s >= begin_s:
                taken.append(time.perf_counter() - started_s)
        return taken

    return measure


def closed(address: str, messages: Sequence[bytes], callers: int, wire: Wire = _PLAIN) -> Measure:
    """Seconds of each call of ``callers`` callers that each wait for their answer and call again.

    Every caller has a connection of its own, as callers on other machines would.
    """

    async def load(seconds: float) -> list[float]:
        taken: list[float] = []
        number = 0
        begin_s = time.perf_counter() + SETTLE_S

        async def caller(call: Any) -> None:
            nonlocal number
            while (started_s := time.perf_counter()) < begin_s + seconds or not taken:
                number += 1
                await call(messages[number % len(messages)], timeout=30.0)
                if started_s >= begin_s:
                    taken.append(time.perf_counter() - started_s)

        await _with_channels(address, wire, callers, caller)
        return taken

    return _run(load)


def paced(
    address: str, messages: Sequence[bytes], callers: int, rate: float, poisson: bool, wire: Wire = _PLAIN
) -> Measure:
    """Calls that come at a rate, whether or not earlier ones are answered; the measure gives :class:`Timed`.

    Evenly: each caller calls at 1 / callers of the rate, each at moments of its own.
    ``poisson``: at random moments, as many independent users do.
    """

    async def load(seconds: float) -> Timed:
        import grpc
        import numpy as np

        due, took = [], []
        begin_s = time.perf_counter() + SETTLE_S

        async def one(call: Any, number: int, due_s: float) -> None:
            try:
                await call(messages[number % len(messages)], timeout=30.0)
                took_s = time.perf_counter() - due_s
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                took_s = math.nan
            if due_s >= begin_s:
                due.append(due_s)
                took.append(took_s)

        async def caller(call: Any) -> None:
            nonlocal next_caller
            place, next_caller = next_caller, next_caller + 1
            number, waiting = place, set()
            for after_s in _moments(place, callers, rate, poisson, seconds + SETTLE_S):
                due_s = begin_s - SETTLE_S + after_s
                await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
                task = asyncio.ensure_future(one(call, number, due_s))
                waiting.add(task)
                task.add_done_callback(waiting.discard)
                number += callers
            await asyncio.gather(*waiting)

        next_caller = 0
        await _with_channels(address, wire, callers, caller)
        return Timed(np.array(due), np.array(took))

    return _run(load)


def _moments(place: int, callers: int, rate: float, poisson: bool, seconds: float) -> Iterator[float]:
    """Yield the seconds after the start at which one of so many callers calls."""
    import numpy as np

    random, after_s = np.random.Generator(np.random.PCG64([0, place])), place / rate
    while after_s < seconds:
        yield after_s
        after_s += random.exponential(callers / rate) if poisson else callers / rate


def _arrivals(callers: int, rate: float, poisson: bool, seconds: float) -> list[float]:
    """Seconds after the start at which any of the callers calls, ascending."""
    return sorted(after_s for place in range(callers) for after_s in _moments(place, callers, rate, poisson, seconds))


async def _with_channels(address: str, wire: Wire, callers: int, caller: Any) -> None:
    channels = [wire.channel(address) for _ in range(callers)]
    try:
        await asyncio.gather(*(caller(wire.rank(channel)) for channel in channels))
    finally:
        for channel in channels:
            await channel.close()


def _run(load: Any) -> Measure:
    import uvloop

    return lambda seconds: uvloop.run(load(seconds))


def product() -> Measure:
    """GFLOP/s of a large product in ONNX Runtime, one thread: the most that smaller ones can reach."""
    from recsys.profile.matmul import matmul_gflops

    return lambda seconds: matmul_gflops()


def flops(candidates: int) -> float:
    """Floating-point operations of the reference model's matrix products for one request, from its definition."""
    from harness.reference import SHORT

    width, (first, second), (head_first, head_second), inputs = 64, (80, 40), (200, 80), 5 * 64
    attention = SHORT * (width * first + first * second + second + width)
    head = inputs * head_first + head_first * head_second + head_second
    buckets = 16 * 3 * width + 16 * width
    return 2.0 * candidates * (attention + head + buckets)
