"""One server process: load, listen, serve, drain.

Start-up order: the bundle is verified and run once before the port answers, so a process that
accepts connections can rank. Redis may be away: the server then starts degraded and recovers by itself.
Calls are handled by threads (docs/adr/0018); the main thread waits for a signal.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import HealthServicer

from recsys.feature_store.loop_thread import loop_in_thread
from recsys.serving.console import say
from recsys.serving.process.assembly import ranker_service
from recsys.serving.process.models import Models
from recsys.serving.process.ports import cannot_listen, probe_port
from recsys.serving.process.ready_file import forget_address, ready_file, write_address
from recsys.serving.process.scheduling import run_as_batch
from recsys.serving.process.signals import heard, signals_to, sigterm_interrupts
from recsys.serving.process.startup import loaded
from recsys.serving.process.stores import open_stores
from recsys.serving.process.watchdog import Watched, make_own_address, pulse, request_path
from recsys.serving.rpc.interceptors import CallCounts
from recsys.serving.rpc.ranker_service import RANKER
from recsys.serving.rpc.registration import add_services
from recsys.serving.rpc.store_service import FEATURE_STORE, MAX_STREAMS, FeatureStoreService
from recsys.serving.settings import Settings
from recsys.serving.telemetry.counters import Telemetry
from recsys.serving.telemetry.metrics import counted, metrics

_log = logging.getLogger("recsys.serving")

_SPARE_THREADS = 8
"""For health checks, reflection, and to refuse what there is no room for."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers, at ``host:port``."""

    address: str
    port: int
    model: str
    model_version: str


def serve_alone(settings: Settings) -> int:
    """``serve.serve`` with this one process."""
    started_s = time.perf_counter()
    try:
        with sigterm_interrupts(), ready_file(settings.ready_file), loaded(settings) as (models, redis_url):
            _serve(settings, models, redis_url, started_s)
    except KeyboardInterrupt:
        say("stopped")
        return 130
    say("stopped")
    return 0


def _serve(settings: Settings, models: Models, redis_url: str, started_s: float) -> None:
    run_as_batch()  # after the private Redis, which had it from us otherwise
    signals: SimpleQueue[Any] = SimpleQueue()
    with (
        signals_to(signals),
        counted(settings, workers=1) as counts,
        serving(settings, models, redis_url, counts=counts) as server,
        metrics(settings, counts, server.model, server.model_version) as page,
    ):
        took_s = time.perf_counter() - started_s
        facts = {"address": server.address, "port": server.port, "model": server.model}
        facts |= {"model_version": server.model_version, "workers": [os.getpid()], "start_s": round(took_s, 3)}
        write_address(settings.ready_file, {**facts, **page})
        say(f"serving {server.model} {server.model_version} on {server.address} (ready in {took_s:.2f} s)")
        heard(signals)
        say(f"draining: running requests have {settings.drain_timeout_s:g} s to finish")
        forget_address(settings.ready_file)


@contextlib.contextmanager
def running_server(settings: Settings) -> Iterator[Running]:
    """Serve for the duration of a ``with`` block, from any thread; at its end, drain. Raises as ``serve`` does."""
    with (
        loaded(settings) as (models, redis_url),
        counted(settings, workers=1) as counts,
        serving(settings, models, redis_url, counts=counts) as server,
        metrics(settings, counts, server.model, server.model_version),
    ):
        yield server


@contextlib.contextmanager
def serving(
    settings: Settings,
    models: Models,
    redis_url: str,
    *,
    share_port: bool = False,
    counts: Path | None = None,
    worker: int = 0,
    beat: Callable[[str], None] | None = None,
) -> Iterator[Running]:
    """Answer calls for the duration of a ``with`` block; at its end, drain.

    Args:
        settings: the server's.
        models: what is served.
        redis_url: the feature store's Redis.
        share_port: let other processes listen on the same port: each gets some of the connections.
        counts: the file to count in (``telemetry.py``); None: nothing is counted.
        worker: this process's row of it.
        beat: told of each beat of this process's pulse (``pulse.py``); None: nobody watches this process.
    """
    first = models.first
    # Left in the opposite order: calls end before what they use goes.
    with contextlib.ExitStack() as stack:
        loop = stack.enter_context(loop_in_thread("store"))
        # Handler threads end after the stores, which cut off what outlasts the drain.
        limit = 2 * settings.max_in_flight + MAX_STREAMS + _SPARE_THREADS
        threads = stack.enter_context(ThreadPoolExecutor(limit, thread_name_prefix="call"))
        stores = stack.enter_context(open_stores(redis_url, models.features, settings, loop=loop))
        telemetry = None if counts is None else Telemetry(counts, worker=worker)
        service = ranker_service(stack, settings, models, stores, telemetry)
        interceptors = () if telemetry is None else (CallCounts(telemetry),)
        health = HealthServicer()
        own_address = None
        if settings.hang_timeout_s:  # entered before the server: a drain is watched, too
            own_address = make_own_address()
            steps = stack.enter_context(request_path(own_address, threads, service.model_lock, loop))
            watched = Watched(health, (RANKER, FEATURE_STORE), settings.hang_timeout_s, tell=beat)
            stack.enter_context(pulse(steps, every_s=watched.every_s, said=watched.said))
        made = _grpc_server(settings, threads, limit, share_port=share_port, interceptors=interceptors)
        server, port = stack.enter_context(made)
        if own_address is not None:
            _listen_to_itself(server, own_address)
        store_service = FeatureStoreService(stores.async_store, models.features, settings, loop=stores.loop)
        add_services(server, service, store_service, health)
        # What start-up made lives for ever: out of the collector's way. It cut a store client's p99 from 100 to 20 ms.
        gc.collect()
        gc.freeze()
        server.start()
        for name in (RANKER, FEATURE_STORE):
            health.set(name, health_pb2.HealthCheckResponse.SERVING)
        stack.callback(health.enter_graceful_shutdown)
        yield Running(f"{settings.host}:{port}", port, first.model, first.version)


@contextlib.contextmanager
def _grpc_server(
    settings: Settings,
    threads: ThreadPoolExecutor,
    limit: int,
    *,
    share_port: bool,
    interceptors: Sequence[grpc.ServerInterceptor[Any, Any]],
) -> Iterator[tuple[grpc.Server, int]]:
    """A server bound to its port, not started; at the end it drains."""
    options = [
        # Two servers on one port each get some of the connections; off, so that the second fails.
        ("grpc.so_reuseport", int(share_port)),
        # The most that max_candidates allows, with long string ids.
        ("grpc.max_receive_message_length", 16 << 20),
        # Clients may ask so often whether the connection still stands; gRPC's own limit is five minutes.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ]
    # A call more than there are threads is refused by gRPC itself, rather than queued.
    server = grpc.server(threads, options=options, maximum_concurrent_rpcs=limit, interceptors=list(interceptors))
    try:
        yield server, _listen(server, settings, share_port=share_port)
    finally:
        server.stop(settings.drain_timeout_s).wait()


def _listen(server: grpc.Server, settings: Settings, *, share_port: bool) -> int:
    host, port = settings.host, settings.port
    try:
        if not share_port:
            probe_port(host, port)
        return server.add_insecure_port(f"{host}:{port}")
    except RuntimeError:
        raise cannot_listen(host, port, "the address cannot be bound") from None


def _listen_to_itself(server: grpc.Server, address: str) -> None:
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:  # a connection that is refused counts as an answer
        _log.warning("this system lets nobody listen on %s: %s; a gRPC that hangs would not be noticed", address, error)
