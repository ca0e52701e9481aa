"""Supervisor: starts the workers, restarts one that died or hangs, and stops all of them together.

All workers listen on one port (SO_REUSEPORT): the system gives each new connection to one of them. They map the same
tables, which are in memory once. The supervisor itself serves nothing; it holds what they share: the port, the private
Redis, the ready file. It decides which releases are served (``releases/coordinator.py``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from recsys.bundle import open_bundle
from recsys.errors import ConfigError, RecsysError
from recsys.feature_store.embedded.open_redis import redis_or_embedded
from recsys.serving.console import say
from recsys.serving.process.ending import END_MARGIN_S, bounded_end
from recsys.serving.process.item_columns import columns_in
from recsys.serving.process.listening.certificates import watched_certificates
from recsys.serving.process.listening.ports import reserved_port
from recsys.serving.process.ready_file import ready_file, remove_ready_file, write_ready_file
from recsys.serving.process.releases.coordinator import Coordinator
from recsys.serving.process.releases.first import FirstPlan, first_plan
from recsys.serving.process.releases.follow import Follower
from recsys.serving.process.releases.plan import Verified, bundle_plan, in_service
from recsys.serving.process.releases.switching import describe
from recsys.serving.process.signals import SIGNAL_POLL_S, forward_signals, sigterm_interrupts
from recsys.serving.process.workers.pool import WorkerEvent, WorkerPool
from recsys.serving.process.workers.worker import EXIT_GRACE_S
from recsys.serving.rpc.access.shared import shared_access
from recsys.serving.rpc.methods import METHODS
from recsys.serving.settings import Settings, bundle_folder
from recsys.serving.settings.tls import protection
from recsys.serving.telemetry.in_service import InService
from recsys.serving.telemetry.metrics import counter_file, metrics_endpoint


def supervise(settings: Settings, events: SimpleQueue[Any]) -> int:
    """Serve with ``settings.workers`` processes until SIGTERM or SIGINT, then let all finish; returns the exit code,
    0 if all ended.

    Args:
        settings: the server's.
        events: has the signals that came before.

    Raises:
        RecsysError: as ``serve``; during the start-up, the error of the first worker that failed; later, of a worker
            that cannot be restarted.
    """
    started_s, all_ended = time.perf_counter(), False
    try:
        cores = _worker_cores(settings)
        with (
            sigterm_interrupts(),
            ready_file(settings.ready_file),
            _shared_resources(settings) as (shared, first, verified),
            watched_certificates(settings) as certificates,
            shared_access(settings.access_file, workers=len(cores)) as access,
            counter_file(settings, workers=len(cores), methods=METHODS.values()) as counts,
            columns_in(settings) as columns,
            forward_signals(events),
            bounded_end(settings.drain_timeout_s + EXIT_GRACE_S + END_MARGIN_S) as begin_end,
        ):
            plan = bundle_plan(settings) if first is None else first.plan
            shown = in_service(plan, counts)
            pool = WorkerPool(
                shared,
                cores=cores,
                events=events,
                counts=counts,
                plan=None if first is None else first.plan,
                verified=verified,
                certificates=certificates,
                access=access,
                columns=columns,
            )
            try:
                with metrics_endpoint(settings, counts, shown, certificates) as page:
                    pool.start()
                    serving = _Serving(pool, events, shared, settings, started_s, page)
                    if first is None:
                        serving.run()
                    else:
                        assert counts is not None, "a server of releases counts"
                        _follow(serving, first, shown, counts)
            finally:
                begin_end()
                all_ended = pool.stop(timeout_s=settings.drain_timeout_s + EXIT_GRACE_S)
    except KeyboardInterrupt:
        say("stopped")
        return 130
    say("stopped")
    return 0 if all_ended else 1


def _follow(serving: _Serving, first: FirstPlan, shown: InService, counts: Path) -> None:
    """Serve releases: follow ``served.json``."""
    settings, events = serving.settings, serving.events
    assert settings.releases is not None
    follower = Follower(settings.releases, poll_s=settings.release_poll_s, seen=first.wanted, events=events)
    serving.follower = follower
    serving.coordinator = Coordinator(
        dataclasses.replace(settings, redis_url=serving.shared.redis_url),
        name=server_name(serving.shared),
        first=first,
        pool=serving.pool,
        events=events,
        in_service=shown,
        counts=counts,
        publish=follower.publish,
    )
    follower.start()
    try:
        serving.run()
    finally:
        follower.stop()


@dataclass(kw_only=False)
class _Serving:
    """A supervisor at work.

    Attributes:
        pool: its workers.
        events: theirs, signals, and those of releases.
        shared: settings that the workers share.
        settings: the server's.
        started_s: when it was started, ``time.perf_counter`` seconds.
        page: facts of the metrics page, for the ready file.
        coordinator, follower: of releases; None: it serves bundles.
    """

    pool: WorkerPool
    events: SimpleQueue[Any]
    shared: Settings
    settings: Settings
    started_s: float
    page: Mapping[str, str]
    coordinator: Coordinator | None = None
    follower: Follower | None = None
    _published: tuple[list[int], int] | None = None
    _took_s: float = 0.0
    _hung_up: bool = False

    def run(self) -> None:
        """Handle events until a signal ends it."""
        while True:
            event = None
            with contextlib.suppress(Empty):
                event = self.events.get(timeout=self._wait_s())
            if event == signal.SIGHUP and self.follower is not None:
                self._hung_up = True
                self._read_if_hung_up()
                continue
            if isinstance(event, signal.Signals):
                if self._published is None:
                    raise KeyboardInterrupt
                say(f"draining: running requests have {self.settings.drain_timeout_s:g} s to finish")
                remove_ready_file(self.settings.ready_file)
                return
            self._handle(event)
            if self.pool.all_started:
                self._publish()
                self._read_if_hung_up()

    def _read_if_hung_up(self) -> None:
        """Have ``served.json`` read if SIGHUP came, be it during the start-up."""
        if self._hung_up and self.follower is not None and self._published is not None:
            self._hung_up = False
            say("SIGHUP: reading served.json")
            self.follower.ask()

    def _wait_s(self) -> float:
        wait_s = min(self.pool.wait_s(), SIGNAL_POLL_S)
        return wait_s if self.coordinator is None else min(wait_s, self.coordinator.wait_s())

    def _handle(self, event: Any) -> None:
        try:
            self.pool.handle(event if isinstance(event, WorkerEvent) else None)
        except RecsysError as error:  # no worker serves
            back = self.coordinator is not None and self.coordinator.go_back(f"no worker starts: {error}")
            if not back:
                raise
        if self.coordinator is not None:
            self.coordinator.handle(event)
            if self.coordinator.asks_for_reload and self.follower is not None:
                self.follower.ask()

    def _publish(self) -> None:
        """Say where the server is, when that has changed."""
        pool, again = self.pool, self._published is not None
        now = (pool.pids(), 0 if self.coordinator is None else self.coordinator.confirmed.number)
        if now == self._published:
            return
        self._published = now
        self._took_s = self._took_s or time.perf_counter() - self.started_s
        address, pids = f"{self.settings.host}:{self.shared.port}", now[0]
        facts = {"address": address, "port": self.shared.port, "tls": protection(self.settings), "model": pool.model}
        facts |= {"model_version": pool.model_version, "release": pool.release, **self.page}
        if self.shared.health_port is not None:
            facts["health"] = f"{self.settings.host}:{self.shared.health_port}"
        if self.coordinator is not None:
            plan = self.coordinator.confirmed
            facts |= {"release": plan.first.name, "releases": {name: m.live for name, m in plan.models.items()}}
            facts |= {"model": plan.default, "model_version": plan.first.version}
        if self.shared.admin_port is not None:
            facts["admin"] = f"127.0.0.1:{self.shared.admin_port}"
        if pids:
            try:
                write_ready_file(
                    self.settings.ready_file, {**facts, "workers": pids, "start_s": round(self._took_s, 3)}
                )
            except ConfigError as error:
                if not again:
                    raise
                say(f"{error}")  # a full disk is no reason to stop serving
        else:
            remove_ready_file(self.settings.ready_file)
        if not again:
            pinned = ", each on a core of its own" if pool.pinned else ""
            workers = f"with {len(pids)} workers{pinned}"
            what = f"{pool.model} {pool.model_version}"
            if self.coordinator is not None:
                what = describe(self.coordinator.plan.models)
            say(f"serving {what} on {address} {workers} ({protection(self.settings)}, ready in {self._took_s:.2f} s)")


@contextlib.contextmanager
def _shared_resources(settings: Settings) -> Iterator[tuple[Settings, FirstPlan | None, Verified]]:
    """Open what workers share, a private Redis, checked bundles or releases, ports; yields their settings."""
    if settings.releases is None:
        bundle_folder(settings)  # its error comes before a Redis is started
    with contextlib.ExitStack() as stack:
        redis_url = stack.enter_context(redis_or_embedded(settings.redis_url, settings.redis_dir))
        port = stack.enter_context(reserved_port(settings.host, settings.port))
        own = dataclasses.replace(settings, port=port, redis_url=redis_url, verify="sizes", ready_file=None)
        if settings.health_port is not None:
            health_port = stack.enter_context(reserved_port(settings.host, settings.health_port))
            own = dataclasses.replace(own, health_port=health_port)
        if settings.releases is None:
            folders = [folder for folder in (bundle_folder(settings), settings.retrieval) if folder is not None]
            states = {folder: open_bundle(folder, verify=settings.verify).states for folder in folders}
            yield own, None, states if settings.verify == "full" else {}
            return
        if settings.admin_port is not None:
            admin_port = stack.enter_context(reserved_port("127.0.0.1", settings.admin_port))
            own = dataclasses.replace(own, admin_port=admin_port)
        yield own, first_plan(dataclasses.replace(settings, redis_url=redis_url), server=server_name(own)), {}


def server_name(settings: Settings) -> str:
    """The name of a server in its status: the machine's, and the port."""
    return f"{socket.gethostname()}:{settings.port}"


def _worker_cores(settings: Settings) -> list[int | None]:
    """The core of each worker; None for any."""
    if not hasattr(os, "sched_getaffinity"):
        return [None] * (settings.workers or os.cpu_count() or 1)
    cores = sorted(os.sched_getaffinity(0))
    count = settings.workers or len(cores)
    if settings.pin_workers == "off" or count != len(cores) or count == 1:
        return [None] * count
    return list(cores)
