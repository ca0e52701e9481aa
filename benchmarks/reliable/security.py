"""``security.cpu_share.mtls``: CPU of a Rank call with mTLS over that in the clear, less one; of server and caller.

Two servers of one bundle on the first core, one with mTLS; Redis and the callers on the last. Callers wait for their
answers, each over a connection of its own, which stands before the counting begins. The two take turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from harness.common import Line, cores, line, machine, pinned, rounded, say, spread
from harness.wire import Wire

from reliable.issuing import Issuer, put, server_options

if TYPE_CHECKING:
    from harness.workers import Measure

LIBRARIES = ("onnxruntime", "grpcio", "numpy", "redis", "hiredis", "protobuf", "cryptography")
TARGET = 0.10
_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Size:
    """Extent of the measurement."""

    rounds: int
    round_s: float
    callers: int = 8
    items: int = 1_000_000
    users: int = 256
    events: int = 1_000
    requests: int = 1_024
    candidates: int = 200


SIZES = {
    "full": Size(rounds=15, round_s=5.0),
    "quick": Size(rounds=5, round_s=1.0, items=100_000, users=32, requests=128),
    "tiny": Size(rounds=1, round_s=0.3, callers=2, items=1_000, users=8, events=120, requests=8, candidates=20),
}


def mtls_share(folder: Path, size: Size, *, bundles: Path) -> Iterator[Line]:
    """Measure the figure; what is written goes to ``folder``, the bundle to ``bundles``."""
    from harness.serving_parts import server
    from harness.workers import worker
    from ranking import setting as rank_setting

    secret = folder / "secret"
    put(secret, Issuer().issue(), 1)
    with contextlib.ExitStack() as stack:
        setting = stack.enter_context(
            rank_setting.redis_with_items(folder, items=size.items, candidates=size.candidates)
        )
        histories = rank_setting.fill(setting, length=size.events, users=size.users, items=size.items)
        bundle = rank_setting.reference_bundle(bundles, items=size.items)
        sent = rank_setting.messages(setting.requests(histories, size.requests))
        sides = {}
        for name, options in (("plaintext", []), ("mtls", server_options(secret))):
            (folder / name).mkdir()
            with pinned(cores()[0]):
                running = server(bundle, setting.redis_url, folder / name, *options)
                pid, address = stack.enter_context(running)
            with pinned(cores()[-1]):
                wire = Wire(secret=secret) if options else Wire()
                load = stack.enter_context(worker(calls, address, pid, wire, sent, size.callers))
            sides[name] = load
        taken = cpu_us(sides, rounds=size.rounds, round_s=size.round_s)
    shares = [secured / plain - 1 for plain, secured in zip(taken["plaintext"], taken["mtls"], strict=True)]
    yield line(
        "security.cpu_share.mtls", median(shares), "share", higher_is_better=False, target=TARGET,
        compared_with="CPU of the same calls in the clear, server and client together, in turns",
        spread=spread(shares), cpu_us={name: rounded(median(found)) for name, found in taken.items()},
        on=machine(LIBRARIES, **asdict(size)),
    )  # fmt: skip


def cpu_us(sides: Mapping[str, Measure], *, rounds: int, round_s: float) -> dict[str, list[float]]:
    """CPU of a call in us, of server and caller together, for each side and round; the sides take turns.

    Args:
        sides: name -> processes of :func:`calls`.
        rounds: of each side.
        round_s: length of one.
    """
    for load in sides.values():
        load(round_s / 2)  # caches are filled
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in (sides, dict(reversed(sides.items())))[number % 2]:
            answered, cpu_s = sides[name](round_s)
            taken[name].append(1e6 * cpu_s / answered)
        say(f"round {number + 1}: " + ", ".join(f"{name} {found[-1]:.0f} us" for name, found in taken.items()))
    return taken


def calls(address: str, pid: int, wire: Wire, messages: Sequence[bytes], callers: int) -> Measure:
    """Callers that each wait for their answer; gives the number of answers, and the CPU seconds of both processes.

    Args:
        address, pid: of the server.
        wire: how it is reached.
        messages: serialised requests.
        callers: connections, each of one call at a time.
    """

    async def load(seconds: float) -> tuple[int, float]:
        answered = 0
        async with contextlib.AsyncExitStack() as stack:
            asks = []
            for _ in range(callers):
                channel = await stack.enter_async_context(wire.channel(address))
                asks.append(wire.rank(channel))
                await asks[-1](messages[0], timeout=_TIMEOUT_S)
            begun_s, end_s = time.process_time() + _cpu_s(pid), time.perf_counter() + seconds

            async def caller(place: int) -> None:
                nonlocal answered
                number = place
                while time.perf_counter() < end_s:
                    await asks[place](messages[number % len(messages)], timeout=_TIMEOUT_S)
                    number += callers
                    answered += 1

            await asyncio.gather(*map(caller, range(callers)))
            return answered, time.process_time() + _cpu_s(pid) - begun_s

    import uvloop

    return lambda seconds: uvloop.run(load(seconds))


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process so far."""
    import psutil

    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
