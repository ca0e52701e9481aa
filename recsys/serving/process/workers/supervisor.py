"""Supervisor: starts the workers, restarts one that died or hangs, and stops all of them together.

All workers listen on one port (SO_REUSEPORT): the system gives each new connection to one of them. They map the same
tables, which are in memory once. The supervisor itself serves nothing; it holds what they share: the port, the private
Redis, the ready file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import Iterator, Mapping
from queue import Empty, SimpleQueue
from typing import Any

from recsys.bundle import open_bundle
from recsys.errors import ConfigError
from recsys.feature_store.embedded.open_redis import redis_or_embedded
from recsys.serving.console import say
from recsys.serving.process.ports import reserved_port
from recsys.serving.process.ready_file import ready_file, remove_ready_file, write_ready_file
from recsys.serving.process.releases.plan import bundle_plan, in_service
from recsys.serving.process.signals import SIGNAL_POLL_S, forward_signals, sigterm_interrupts
from recsys.serving.process.workers.pool import WorkerPool
from recsys.serving.process.workers.worker import EXIT_GRACE_S
from recsys.serving.rpc.methods import METHODS
from recsys.serving.settings import Settings, bundle_folder
from recsys.serving.telemetry.metrics import counter_file, metrics_endpoint


def supervise(settings: Settings) -> int:
    """Serve with ``settings.workers`` processes until SIGTERM or SIGINT, then let all finish; returns the exit code.

    Raises:
        RecsysError: as ``serve``; during the start-up, the error of the first worker that failed; later, of a worker
            that cannot be restarted.
    """
    started_s = time.perf_counter()
    events: SimpleQueue[Any] = SimpleQueue()
    try:
        cores = _worker_cores(settings)
        with (
            sigterm_interrupts(),
            ready_file(settings.ready_file),
            _shared_resources(settings) as shared,
            counter_file(settings, workers=len(cores), methods=METHODS.values()) as counts,
            metrics_endpoint(settings, counts, in_service(bundle_plan(settings), counts)) as page,
            forward_signals(events),
        ):
            pool = WorkerPool(shared, cores=cores, events=events, counts=counts)
            try:
                pool.start()
                _serve(pool, events, shared, settings, started_s, page)
            finally:
                pool.stop(timeout_s=settings.drain_timeout_s + EXIT_GRACE_S)
    except KeyboardInterrupt:
        say("stopped")
        return 130
    say("stopped")
    return 0


def _serve(
    pool: WorkerPool,
    events: SimpleQueue[Any],
    shared: Settings,
    settings: Settings,
    started_s: float,
    page: Mapping[str, str],
) -> None:
    """Handle the workers' events until a signal comes."""
    published: list[int] | None = None
    took_s = 0.0
    while True:
        event = None
        with contextlib.suppress(Empty):
            event = events.get(timeout=min(pool.wait_s(), SIGNAL_POLL_S))
        if isinstance(event, signal.Signals):
            if published is None:
                raise KeyboardInterrupt
            say(f"draining: running requests have {settings.drain_timeout_s:g} s to finish")
            remove_ready_file(settings.ready_file)
            return
        pool.handle(event)
        if pool.all_started and pool.pids() != published:
            took_s = took_s or time.perf_counter() - started_s
            _publish(pool, shared, settings, took_s, page, again=published is not None)
            published = pool.pids()


def _publish(
    pool: WorkerPool, shared: Settings, settings: Settings, took_s: float, page: Mapping[str, str], *, again: bool
) -> None:
    address, pids = f"{settings.host}:{shared.port}", pool.pids()
    facts = {"address": address, "port": shared.port, "model": pool.model, "model_version": pool.model_version}
    facts |= page
    if pids:
        try:
            write_ready_file(settings.ready_file, {**facts, "workers": pids, "start_s": round(took_s, 3)})
        except ConfigError as error:
            if not again:
                raise
            say(f"{error}")  # a full disk is no reason to stop serving
    else:
        remove_ready_file(settings.ready_file)
    if not again:
        pinned = ", each on a core of its own" if pool.pinned else ""
        workers = f"with {len(pids)} workers{pinned}"
        say(f"serving {pool.model} {pool.model_version} on {address} {workers} (ready in {took_s:.2f} s)")


@contextlib.contextmanager
def _shared_resources(settings: Settings) -> Iterator[Settings]:
    """Open what workers share, a private Redis, checked bundles, the port; yields their settings."""
    folder = bundle_folder(settings)
    with redis_or_embedded(settings.redis_url, settings.redis_dir) as redis_url:
        open_bundle(folder, verify=settings.verify)
        if settings.retrieval is not None:
            open_bundle(settings.retrieval, verify=settings.verify)
        with reserved_port(settings.host, settings.port) as port:
            own = dataclasses.replace(settings, port=port, redis_url=redis_url, verify="sizes", ready_file=None)
            yield own


def _worker_cores(settings: Settings) -> list[int | None]:
    """The core of each worker; None for any."""
    if not hasattr(os, "sched_getaffinity"):
        return [None] * (settings.workers or os.cpu_count() or 1)
    cores = sorted(os.sched_getaffinity(0))
    count = settings.workers or len(cores)
    if settings.pin_workers == "off" or count != len(cores) or count == 1:
        return [None] * count
    return list(cores)
