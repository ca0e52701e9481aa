"""One server process: load, listen, serve, drain.

Start-up order: the bundle is verified and run once before the port answers, so a process that
accepts connections can rank. Redis may be away: the server then starts degraded and recovers by itself.
Calls are handled by threads (docs/adr/0018); the main thread waits for a signal.
"""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer
from grpc_reflection.v1alpha import reflection

from recsys.features.feature_set import FeatureSet
from recsys.serving._pb import feature_store_pb2_grpc, ranker_pb2_grpc
from recsys.serving.announce import forget_address, ready_file, say, write_address
from recsys.serving.loading import loaded
from recsys.serving.long_state import LongStates
from recsys.serving.loop_thread import loop_in_thread
from recsys.serving.ports import cannot_listen, probe_port
from recsys.serving.ranker import Ranker
from recsys.serving.request_log import RequestLog
from recsys.serving.service import RANKER, RankerService
from recsys.serving.session import Session
from recsys.serving.settings import Settings
from recsys.serving.signals import signals_to, sigterm_interrupts
from recsys.serving.store_service import FEATURE_STORE, MAX_STREAMS, FeatureStoreService
from recsys.serving.stores import Stores, open_stores

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
        with sigterm_interrupts(), ready_file(settings.ready_file), loaded(settings) as (session, redis_url):
            _serve(settings, session, redis_url, started_s)
    except KeyboardInterrupt:
        say("stopped")
        return 130
    say("stopped")
    return 0


def _serve(settings: Settings, session: Session, redis_url: str, started_s: float) -> None:
    signals: SimpleQueue[Any] = SimpleQueue()
    with signals_to(signals), serving(settings, session, redis_url) as server:
        took_s = time.perf_counter() - started_s
        facts = {"address": server.address, "port": server.port, "model": server.model}
        facts |= {"model_version": server.model_version, "workers": [os.getpid()], "start_s": round(took_s, 3)}
        write_address(settings.ready_file, facts)
        say(f"serving {server.model} {server.model_version} on {server.address} (ready in {took_s:.2f} s)")
        signals.get()
        say(f"draining: running requests have {settings.drain_timeout_s:g} s to finish")
        forget_address(settings.ready_file)


@contextlib.contextmanager
def running_server(settings: Settings) -> Iterator[Running]:
    """Serve for the duration of a ``with`` block, from any thread; at its end, drain. Raises as ``serve`` does."""
    with loaded(settings) as (session, redis_url), serving(settings, session, redis_url) as server:
        yield server


@contextlib.contextmanager
def serving(settings: Settings, session: Session, redis_url: str, *, share_port: bool = False) -> Iterator[Running]:
    """Answer calls for the duration of a ``with`` block; at its end, drain.

    Args:
        settings: the server's.
        session: the model.
        redis_url: the feature store's Redis.
        share_port: let other processes listen on the same port: each gets some of the connections.
    """
    # Left in the opposite order: calls end before what they use goes.
    with contextlib.ExitStack() as stack:
        loop = stack.enter_context(loop_in_thread("store"))
        # Handler threads end after the stores, which cut off what outlasts the drain.
        limit = 2 * settings.max_in_flight + MAX_STREAMS + _SPARE_THREADS
        threads = stack.enter_context(ThreadPoolExecutor(limit, thread_name_prefix="call"))
        stores = stack.enter_context(open_stores(redis_url, session.features, settings, loop=loop))
        ranker = Ranker(
            session,
            store=stores.blocking,
            max_in_flight=settings.max_in_flight,
            store_timeout_s=settings.store_timeout_ms / 1000,
            states=_states(stack, settings, session, stores),
            request_log=_request_log(stack, settings, session.features),
        )
        server, port = stack.enter_context(_grpc_server(settings, threads, limit, share_port=share_port))
        health = _add_services(server, ranker, stores, settings)
        # What start-up made lives for ever: out of the collector's way. It cut a store client's p99 from 100 to 20 ms.
        gc.collect()
        gc.freeze()
        server.start()
        for name in (RANKER, FEATURE_STORE):
            health.set(name, health_pb2.HealthCheckResponse.SERVING)
        stack.callback(health.enter_graceful_shutdown)
        yield Running(f"{settings.host}:{port}", port, session.model, session.version)


def _states(
    stack: contextlib.ExitStack, settings: Settings, session: Session, stores: Stores
) -> LongStates | None:
    if session.state is None:
        return None
    states = LongStates(
        session.features,
        session.state,
        session.encode,
        stores.blocking,
        session.version,
        ttl_s=settings.state_ttl_s,
    )
    return stack.enter_context(contextlib.closing(states))


def _request_log(stack: contextlib.ExitStack, settings: Settings, features: FeatureSet) -> RequestLog | None:
    if not settings.log_requests:
        return None
    log = RequestLog(settings.request_log_dir, share=settings.log_requests, features=features)
    return stack.enter_context(contextlib.closing(log))


@contextlib.contextmanager
def _grpc_server(
    settings: Settings, threads: ThreadPoolExecutor, limit: int, *, share_port: bool
) -> Iterator[tuple[grpc.Server, int]]:
    """A server bound to its port, not started; at the end it drains."""
    options = [
        # Two servers on one port each get some of the connections; off, so that the second fails.
        ("grpc.so_reuseport", int(share_port)),
        # The most that max_candidates allows, with long string ids.
        ("grpc.max_receive_message_length", 16 << 20),
    ]
    # A call more than there are threads is refused by gRPC itself, rather than queued.
    server = grpc.server(threads, options=options, maximum_concurrent_rpcs=limit)
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


def _add_services(server: grpc.Server, ranker: Ranker, stores: Stores, settings: Settings) -> HealthServicer:
    ranker_pb2_grpc.add_RankerServicer_to_server(RankerService(ranker, settings), server)  # type: ignore[no-untyped-call]
    store_service = FeatureStoreService(stores.waiting, ranker.features, settings, loop=stores.loop)
    feature_store_pb2_grpc.add_FeatureStoreServicer_to_server(store_service, server)  # type: ignore[no-untyped-call]
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    names = (RANKER, FEATURE_STORE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
    reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
    return health
