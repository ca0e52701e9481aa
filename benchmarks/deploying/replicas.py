"""Replicas: two servers join two behind one DNS name, under load; then one of the first two goes.

Each server is in a network namespace of its own, where the machine gives us such; elsewhere it has an address of the
loopback device.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.common import Line, line, machine, rounded, say

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))  # the fleet is the tests'

LIBRARIES = ("grpcio", "onnxruntime")
SHARE = 0.2
MARGIN_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Size:
    """Age of connections in seconds, and calls that a server's share is counted of."""

    age_s: int
    calls: int


SIZES = {"full": Size(age_s=30, calls=400), "quick": Size(age_s=3, calls=200), "tiny": Size(age_s=1, calls=50)}


def replicas(folder: Path, size: Size) -> Iterator[Line]:
    """``deploy.new_replicas_beyond_age_s`` and ``deploy.failed_calls_when_one_goes``."""
    from support.fleet import Callers, running_fleet, shares
    from support.network import namespaces_missing, network
    from support.tiny_bundle import write_tiny_bundle

    from recsys.feature_store.embedded.server import EmbeddedRedis

    missing = namespaces_missing()
    if missing:
        say(f"servers at addresses of the loopback device: {missing}")
    write_tiny_bundle(folder / "bundle")
    with EmbeddedRedis(folder / "redis") as redis:
        settings = {
            "RECSYS_BUNDLE": str(folder / "bundle"),
            "REDIS_URL": redis.url,
            "RECSYS_STORE_TIMEOUT_MS": "5000",
            "RECSYS_MAX_CONNECTION_AGE_S": str(size.age_s),
        }
        with (
            contextlib.nullcontext() if missing else network(4) as hosts,
            running_fleet(folder, hosts=hosts, **settings) as fleet,
        ):
            fleet.start(1, 2)
            with Callers(fleet.target) as callers:
                shares(fleet, callers, calls=size.calls)
                fleet.start(3, 4)
                began_s = time.monotonic()
                while True:
                    found = shares(fleet, callers, calls=size.calls)
                    took_s = time.monotonic() - began_s
                    if min(found[3], found[4]) >= SHARE or took_s > 10 * (size.age_s + MARGIN_S):
                        break
                before = callers.calls
                fleet.stop(1)
                shares(fleet, callers, calls=size.calls)
                during = callers.calls - before
    on = machine(LIBRARIES, namespaces=not missing, **asdict(size))
    yield line(
        "deploy.new_replicas_beyond_age_s",
        took_s - size.age_s,
        "s",
        higher_is_better=False,
        target=MARGIN_S,
        compared_with=f"the age of connections, {size.age_s} s; from the start of two servers beside two until each of "
        f"them has {SHARE:.0%} of the calls",
        seconds=rounded(took_s),
        shares={str(number): rounded(share) for number, share in found.items()},
        on=on,
    )
    yield line(
        "deploy.failed_calls_when_one_goes",
        len(callers.failures),
        "calls",
        higher_is_better=False,
        target=0,
        compared_with="all calls of two clients, from two servers to four, and while one of four is told to stop",
        calls=callers.calls,
        calls_while_it_went=during,
        failures=callers.failures[:3],
        on=on,
    )
