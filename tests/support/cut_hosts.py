"""A Redis Cluster of six nodes and three rankers, a host each, and callers that write down what became of each call."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recsys.client import Client, RpcError
from support.fleet import Fleet, running_fleet
from support.network import Host, Network, network
from support.redis_servers import cluster
from support.tiny_bundle import write_tiny_bundle

USERS = 60
"""Callers ask for them in turn: each primary has a third of them, about."""
TIMEOUT_S = 1.0
"""Longest wait of a caller for an answer."""


@dataclass(frozen=True)
class Call:
    """One call: when it was made, how long it took, why it failed or what its answer lacked."""

    at_s: float
    took_s: float
    failure: str = ""
    degraded: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cut:
    """Calls from the pulling of a cable until all was well for ``QUIET_S``.

    Attributes:
        whole_s: from the cut to the end of the last call that failed or lacked something.
        calls, failed, degraded: all, and those that had no answer or a degraded one.
        worst_s: the slowest answer.
        failures, lacked: kinds of failures; what answers lacked.
    """

    whole_s: float
    calls: int
    failed: int
    degraded: int
    worst_s: float
    failures: tuple[str, ...]
    lacked: tuple[str, ...]


QUIET_S = 5.0
LIMIT_S = 120.0


class Watch:
    """Threads that call Rank until the ``with`` block ends."""

    def __init__(self, target: str, *, clients: int = 2) -> None:
        self.calls: list[Call] = []
        self._target = target
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(place,)) for place in range(clients)]

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def since(self, moment_s: float) -> Cut | None:
        """What became of the calls since then; None: not well for long enough."""
        assert all(thread.is_alive() for thread in self._threads), "a caller ended by an error that no call may have"
        calls = [call for call in list(self.calls) if call.at_s + call.took_s >= moment_s]
        bad = [call for call in calls if call.failure or call.degraded]
        last_s = max((call.at_s + call.took_s for call in bad), default=moment_s)
        if time.monotonic() - last_s < QUIET_S or not calls:
            return None
        return Cut(
            whole_s=last_s - moment_s,
            calls=len(calls),
            failed=sum(bool(call.failure) for call in calls),
            degraded=sum(bool(call.degraded) for call in calls),
            worst_s=max(call.took_s for call in calls if not call.failure),
            failures=tuple(sorted({call.failure for call in calls} - {""})),
            lacked=tuple(sorted({part for call in calls for part in call.degraded})),
        )

    def until_well(self, moment_s: float) -> Cut:
        """Wait until all calls are whole again."""
        while (found := self.since(moment_s)) is None:
            assert time.monotonic() - moment_s < LIMIT_S, self.calls[-5:]
            time.sleep(0.05)
        return found

    def _call(self, place: int) -> None:
        with Client(self._target, timeout_s=TIMEOUT_S) as client:
            for user in itertools.cycle(range(1 + place, USERS + 1)):
                if self._ended.is_set():
                    return
                began_s = time.monotonic()
                failure, degraded = "", ()
                try:
                    degraded = client.rank(user=user, candidates=[1, 2]).degraded
                except RpcError as error:
                    failure = type(error).__name__
                self.calls.append(Call(began_s, time.monotonic() - began_s, failure, degraded))
                time.sleep(0.005)


@dataclass(frozen=True)
class Cluster:
    """What runs: hosts of primaries and of rankers, both from 1, the fleet of the latter."""

    primaries: dict[int, Host]
    rankers: dict[int, Host]
    fleet: Fleet

    def cut_primary(self, watch: Watch) -> Cut:
        """Pull the cable of a primary for good, that is until its replica has taken its place."""
        return _cut(self.primaries[1], watch)

    def cut_ranker(self, watch: Watch) -> Cut:
        """Pull the cable of a ranker, which stays under its name."""
        return _cut(self.rankers[1], watch)


def _cut(host: Host, watch: Watch) -> Cut:
    host.cut()
    cut = watch.until_well(time.monotonic())
    host.mend()
    return cut


@contextlib.contextmanager
def cut_hosts(folder: Path, *, rankers: int = 3, node_timeout_ms: int = 2000, **settings: str) -> Iterator[Cluster]:
    """All of it, for the duration of a ``with`` block, with rows and histories of the users."""
    write_tiny_bundle(folder / "bundle")
    with contextlib.ExitStack() as stack:
        hosts = stack.enter_context(network(6 + rankers))
        own = {number: hosts.hosts[6 + number] for number in range(1, rankers + 1)}
        nodes = [hosts.hosts[number] for number in range(1, 7)]
        servers = stack.enter_context(cluster(folder, nodes, node_timeout_ms=node_timeout_ms))
        url = "redis+cluster://" + ",".join(server.address for server in servers)
        given = {"RECSYS_BUNDLE": str(folder / "bundle"), "REDIS_URL": url, **settings}
        fleet = stack.enter_context(running_fleet(folder, hosts=Network(hosts.address, own), **given))
        fleet.start(*own)
        with Client(fleet.target, timeout_s=10.0) as client:
            for user in range(1, USERS + 1):
                client.append_events(user=user, items=[1], timestamps_ms=[1_700_000_000_000 + user])
        yield Cluster({n: hosts.hosts[n] for n in range(1, 4)}, own, fleet)
