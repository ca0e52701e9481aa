"""Load whose every call is known by when it was due, how long it took and how it ended; for ``workers.worker``.

Every function here that makes a ``measure`` makes one that runs in a process of its own.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from harness.workers import RANK, Measure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recsys.arrays import Float64Array

OK = 0
REFUSED = 8
"""gRPC's numbers of statuses; RESOURCE_EXHAUSTED."""

WAITED = 100
"""Number for a call that was refused only after it had waited for the model."""

_CONNECT_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A time in which calls come at random moments (Poisson), so many a second."""

    rate: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Calls:
    """Calls that came at a rate.

    Attributes:
        due_s: when each was due, ``time.perf_counter`` seconds, which is one clock for all processes; ascending.
        took_s: seconds from then to its end, whatever that was.
        status: gRPC's number of its status, or ``WAITED``.
    """

    due_s: Float64Array
    took_s: Float64Array
    status: NDArray[np.int8]

    def due_in(self, begin_s: float, end_s: float) -> Calls:
        """The calls that were due in a time."""
        first, last = np.searchsorted(self.due_s, [begin_s, end_s])
        part = slice(int(first), int(last))
        return Calls(due_s=self.due_s[part], took_s=self.took_s[part], status=self.status[part])

    def with_status(self, status: int) -> Calls:
        """The calls that ended so."""
        part = self.status == status
        return Calls(due_s=self.due_s[part], took_s=self.took_s[part], status=self.status[part])

    def ms(self, percentile: float) -> float:
        """A percentile of their milliseconds; 0 of none."""
        return 1e3 * float(np.percentile(self.took_s, percentile)) if len(self.took_s) else 0.0

    def by_status(self) -> dict[str, int]:
        """Number of calls by the name of their status."""
        import grpc

        names = {code.value[0]: code.name for code in grpc.StatusCode} | {WAITED: "RESOURCE_EXHAUSTED after waiting"}
        return {names[number]: count for number, count in sorted(Counter(self.status.tolist()).items())}


def phased(
    address: str, messages: Sequence[bytes], connections: int, deadline_s: float, phases: Sequence[Phase]
) -> Measure:
    """Calls in phases, one after the other without a pause, whether or not earlier calls are answered.

    No call is made again. The measure gives the calls, and when each phase began and the last one ended.
    """

    async def load(_: float) -> tuple[Calls, list[float]]:
        import grpc

        due, took, status = array("d"), array("d"), array("b")
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(connections)]
        calls = [channel.unary_unary(RANK) for channel in channels]  # bytes in, bytes out

        async def one(number: int, due_s: float) -> None:
            code = OK
            try:
                await calls[number % connections](messages[number % len(messages)], timeout=deadline_s)
            except grpc.aio.AioRpcError as error:
                code = error.code().value[0]
                if code == REFUSED and "the model needs" in (error.details() or ""):
                    code = WAITED
            due.append(due_s)
            took.append(time.perf_counter() - due_s)
            status.append(code)

        try:
            await asyncio.wait_for(asyncio.gather(*(each.channel_ready() for each in channels)), _CONNECT_S)
            began_s, number, waiting = [time.perf_counter()], 0, set()
            for phase in phases:
                for due_s in _moments(phase, began_s[-1], seed=len(began_s)):
                    if (early_s := due_s - time.perf_counter()) > 0:
                        await asyncio.sleep(early_s)
                    elif not number % 64:
                        await asyncio.sleep(0)  # answers are taken, however late the calls are
                    task = asyncio.ensure_future(one(number, due_s))
                    waiting.add(task)
                    task.add_done_callback(waiting.discard)
                    number += 1
                began_s.append(began_s[-1] + phase.seconds)
            await asyncio.gather(*waiting)
        finally:
            for channel in channels:
                await channel.close()
        order = np.argsort(np.array(due), kind="stable")
        calls_made = Calls(
            due_s=np.array(due)[order], took_s=np.array(took)[order], status=np.array(status, dtype=np.int8)[order]
        )
        return calls_made, began_s

    import uvloop

    return lambda amount: uvloop.run(load(amount))


def _moments(phase: Phase, begin_s: float, *, seed: int) -> Iterator[float]:
    random = np.random.Generator(np.random.PCG64(seed))
    due_s = begin_s
    while (due_s := due_s + random.exponential(1 / phase.rate)) < begin_s + phase.seconds:
        yield due_s


@dataclass(frozen=True, kw_only=True)
class ClientCalls:
    """Calls of the Python client.

    Attributes:
        calls: how many.
        errors: kind of error, with its message -> calls that ended so.
        degraded: answers that lack something.
        took_s: seconds of each that was answered.
    """

    calls: int
    errors: dict[str, int]
    degraded: int
    took_s: Float64Array

    @property
    def failed(self) -> int:
        """Calls that failed."""
        return sum(self.errors.values())


def by_client(addresses: Sequence[str], requests: Sequence[Any], clients: int, rate: float, stop: Any) -> Measure:
    """Calls of the Python client as it comes, with its retries, evenly at a rate until ``stop`` is set.

    Each client has a connection of its own. The measure gives :class:`ClientCalls`.

    Args:
        addresses: of servers; each client has them all, and goes to the next where one is away.
        requests: of user and candidates, in turn.
        clients: how many.
        rate: calls per second of all together.
        stop: an event.
    """

    async def load(seconds: float) -> ClientCalls:
        from recsys.client import AsyncClient, RpcError

        errors: Counter[str] = Counter()
        took, degraded, made = array("d"), 0, 0
        target = addresses[0] if len(addresses) == 1 else f"ipv4:{','.join(addresses)}"
        made_clients = [AsyncClient(target, timeout_s=5.0) for _ in range(clients)]
        begin_s = time.perf_counter()

        async def one(client: AsyncClient, number: int) -> None:
            nonlocal degraded, made
            request, began_s = requests[number % len(requests)], time.perf_counter()
            made += 1
            try:
                answer = await client.rank(user=request.user, candidates=request.candidates)
                took.append(time.perf_counter() - began_s)
                degraded += bool(answer.degraded)
            except RpcError as error:
                errors[f"{type(error).__name__}: {error.message}"[:300]] += 1

        async def caller(place: int, client: AsyncClient) -> None:
            number, waiting = place, set()
            while not stop.is_set() and (due_s := begin_s + number / rate) < begin_s + seconds:
                await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
                task = asyncio.ensure_future(one(client, number))
                waiting.add(task)
                task.add_done_callback(waiting.discard)
                number += clients
            await asyncio.gather(*waiting)

        try:
            await asyncio.gather(*(caller(place, client) for place, client in enumerate(made_clients)))
        finally:
            for client in made_clients:
                await client.close()
        return ClientCalls(calls=made, errors=dict(errors), degraded=degraded, took_s=np.array(took))

    return lambda seconds: asyncio.run(load(seconds))
