"""Server: one process that loads models, listens, serves, drains.

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
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from grpc_health.v1 import health_pb2

from recsys.certificates import Certificates, CertificateWatch
from recsys.feature_store.loop_thread import loop_in_thread
from recsys.serving.console import say
from recsys.serving.handlers.model_slot import ModelSlot
from recsys.serving.handlers.put_items import PutItems
from recsys.serving.handlers.related.trending import TrendingFinder
from recsys.serving.handlers.shadow import Shadow
from recsys.serving.process.assembly import make_routes, open_loaded_release, open_shared_parts
from recsys.serving.process.ending import END_MARGIN_S, bounded_end
from recsys.serving.process.exposure import check_exposure
from recsys.serving.process.item_columns import column_gauges, columns_in, followed_columns
from recsys.serving.process.listening.certificates import watched_certificates
from recsys.serving.process.listening.grpc_server import grpc_server, listen_privately
from recsys.serving.process.listening.health import health_server
from recsys.serving.process.listening.rooms import open_rooms
from recsys.serving.process.malloc import give_memory_back, limit_arenas
from recsys.serving.process.models import Models
from recsys.serving.process.ready_file import ready_file, remove_ready_file, write_ready_file
from recsys.serving.process.releases.plan import Plan, in_service, pushed_features
from recsys.serving.process.releases.switch import ReleaseSwitch
from recsys.serving.process.signals import forward_signals, sigterm_interrupts, wait_for_signal
from recsys.serving.process.startup import load_models
from recsys.serving.process.stores import open_stores, widest_of
from recsys.serving.process.watchdog import HealthReporter, make_private_address, request_path_probes, run_watchdog
from recsys.serving.rpc.access.opened import open_access
from recsys.serving.rpc.access.shared import SharedAccess
from recsys.serving.rpc.door import ranker_door
from recsys.serving.rpc.early_ends import EarlyEnds
from recsys.serving.rpc.health import Health
from recsys.serving.rpc.interceptors import Interceptor, list_interceptors
from recsys.serving.rpc.methods import METHODS, RANKER, SERVICES
from recsys.serving.rpc.observation import Observation
from recsys.serving.rpc.ranker_service import RankerService
from recsys.serving.rpc.registration import add_services
from recsys.serving.rpc.related_service import RelatedService
from recsys.serving.rpc.store_service import MAX_STREAMS, FeatureStoreService
from recsys.serving.scheduling import use_batch_scheduling
from recsys.serving.settings import Settings
from recsys.serving.settings.tls import protection
from recsys.serving.telemetry.counters import Telemetry
from recsys.serving.telemetry.metrics import counter_file, metrics_endpoint
from recsys.serving.telemetry.tracing.opened import open_tracer

_log = logging.getLogger("recsys.serving")

_NO_SUCH_MODEL = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

_SPARE_THREADS = 8
"""To refuse what there is no room for."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers.

    Attributes:
        address, port: ``host:port``, and the port alone.
        model, model_version, release: that it is published under.
        switch: changes over to other releases.
        health: ``host:port`` of health alone; empty: none.
        certificates: the server's; None: it speaks no TLS.
        access: interceptors that say who may call.
    """

    address: str
    port: int
    model: str
    model_version: str
    release: str
    switch: ReleaseSwitch
    health: str = ""
    certificates: CertificateWatch | None = None
    access: Sequence[Interceptor] = ()


def serve_alone(settings: Settings) -> int:
    """Serve as ``serve.serve`` does, with this one process."""
    started_s = time.perf_counter()
    try:
        with sigterm_interrupts(), ready_file(settings.ready_file), load_models(settings) as loaded:
            _serve(settings, *loaded, started_s)
    except KeyboardInterrupt:
        say("stopped")
        return 130
    say("stopped")
    return 0


def _serve(settings: Settings, plan: Plan, models: dict[str, Models], redis_url: str, started_s: float) -> None:
    limit_arenas()
    use_batch_scheduling()  # after the private Redis, which had it from us otherwise
    signals: SimpleQueue[Any] = SimpleQueue()
    with (
        forward_signals(signals),
        bounded_end(settings.drain_timeout_s + END_MARGIN_S) as begin_end,
        counter_file(settings, workers=1, methods=METHODS.values()) as counts,
        serving(settings, plan, models, redis_url, counts=counts) as server,
        metrics_endpoint(settings, counts, in_service(plan, counts), server.certificates) as page,
    ):
        took_s = time.perf_counter() - started_s
        facts = {"address": server.address, "port": server.port, "tls": protection(settings), "model": server.model}
        facts |= {"health": server.health} if server.health else {}
        facts |= {"model_version": server.model_version, "workers": [os.getpid()], "start_s": round(took_s, 3)}
        write_ready_file(settings.ready_file, {**facts, **page})
        what = f"{server.model} {server.model_version} on {server.address}"
        say(f"serving {what} ({protection(settings)}, ready in {took_s:.2f} s)")
        wait_for_signal(signals)
        begin_end()
        say(f"draining: running requests have {settings.drain_timeout_s:g} s to finish")
        remove_ready_file(settings.ready_file)


@contextlib.contextmanager
def running_server(settings: Settings) -> Iterator[RunningServer]:
    """Serve for the duration of a ``with`` block, from any thread; at its end, drain. Raises as ``serve`` does."""
    check_exposure(settings)
    with (
        load_models(settings) as (plan, models, redis_url),
        counter_file(settings, workers=1, methods=METHODS.values()) as counts,
        serving(settings, plan, models, redis_url, counts=counts) as server,
        metrics_endpoint(settings, counts, in_service(plan, counts), server.certificates),
    ):
        yield server


@contextlib.contextmanager
def serving(
    settings: Settings,
    plan: Plan,
    models: dict[str, Models],
    redis_url: str,
    *,
    share_port: bool = False,
    counts: Path | None = None,
    worker: int = 0,
    on_heartbeat: Callable[[str], None] | None = None,
    interceptors: Sequence[Interceptor] = (),
    fallback: Certificates | None = None,
    shared_access: SharedAccess | None = None,
    columns_folder: Path | None = None,
) -> Iterator[RunningServer]:
    """Answer calls for the duration of a ``with`` block; at its end, drain.

    Args:
        settings: the server's.
        plan: what is served.
        models: of its releases; emptied.
        redis_url: the feature store's Redis.
        share_port: let other processes listen on the same port: each gets some of the connections.
        counts: the file to count in (``telemetry/counters.py``); None: nothing is counted.
        worker: this process's row of it.
        on_heartbeat: gets each report of the watchdog (``watchdog.py``); None: this process has no supervisor.
        interceptors: run after the server's own (``rpc/interceptors.py``), in this order.
        fallback: certificates for the case that the files of the settings are no good now (``certificates.py``).
        shared_access: of all workers; None: this process is the only one.
        columns_folder: of the item columns that all workers share; None: this process is the only one.
    """
    first = models[plan.first.name].first
    model, model_version = first.model, first.version
    del first
    features = widest_of({name: models[name].features for name in plan.names})
    # One of a store may have a ranking model later.
    ranks = settings.releases is not None or any(release.ranking is not None for release in plan.releases.values())
    # Left in the opposite order: calls end before what they use goes.
    with contextlib.ExitStack() as stack:
        certificates = stack.enter_context(watched_certificates(settings, fallback=fallback))
        loop = stack.enter_context(loop_in_thread("store"))
        # Handler threads end after the stores, which cut off what outlasts the drain.
        rooms = stack.enter_context(open_rooms(2 * settings.max_in_flight + MAX_STREAMS + _SPARE_THREADS))
        telemetry = None if counts is None else Telemetry(counts, worker=worker)
        others = partial(pushed_features, settings.releases)
        opened = open_stores(redis_url, features, settings, loop=loop, others=others, telemetry=telemetry)
        stores = stack.enter_context(opened)
        tracer = stack.enter_context(open_tracer(settings, store=stores.name, worker=worker))
        access = stack.enter_context(open_access(settings.access_file, shared=shared_access, worker=worker))
        finds = settings.releases is not None or any(each.retrieval is not None for each in plan.releases.values())
        if columns_folder is None:
            columns_folder = stack.enter_context(columns_in(settings))
        columns, follower = stack.enter_context(
            followed_columns(columns_folder, stores, settings, finds=finds, telemetry=telemetry)
        )
        timeout_s = settings.store_timeout_ms / 1000
        trending = TrendingFinder(
            stores.blocking_store,
            lambda: stores.slot.current().features,
            store_timeout_s=timeout_s,
            columns=columns,
        )
        shared = stack.enter_context(
            open_shared_parts(settings, stores, ranks=ranks, telemetry=telemetry, columns=columns, trending=trending)
        )
        loaded = {}
        for name, release in plan.releases.items():
            loaded[name] = open_loaded_release(release, models.pop(name), shared)
        slot = stack.enter_context(contextlib.closing(ModelSlot(make_routes(plan, loaded), on_closed=give_memory_back)))
        loaded.clear()
        put_items = PutItems(slot, most=settings.max_added_items)
        if telemetry is not None:
            sources = {"states": shared.state_counts.read, "items": stores.cache.counts}
            sources["store_warnings"] = stores.warning_counts
            sources["trending_events"] = stores.trending_counts
            sources["item_rows"] = shared.added_items.counts.read
            sources["put_unknown_items"] = put_items.counts.read
            if certificates is not None:
                sources["certificates"] = certificates.counts
            if tracer is not None:
                sources["spans"] = tracer.counts.read
            sources |= access.sources
            stack.enter_context(telemetry.serving())  # clears gauges at its end, after the last poll
            added_items = shared.added_items
            gauges = {"added_items": added_items.count, "added_items_behind": added_items.behind}
            gauges |= column_gauges(columns, follower)
            gauges["items_never_found"] = lambda: put_items.never_found(follower.stored) if follower.writes else 0
            sources["filters"] = shared.filter_counts.read
            sources["rules"] = shared.rule_counts.read
            stack.enter_context(telemetry.polling(sources, gauges=gauges))
        shadow = None
        if telemetry is not None:
            places, lock = shared.admission, shared.model_lock
            shadow = Shadow(slot, admission=places, model_lock=lock, telemetry=telemetry)
            stack.enter_context(contextlib.closing(shadow))
        health, services = Health(), [service.full_name for service in SERVICES]

        def health_names() -> list[str]:
            return [*services, *slot.routes().models]

        ends = EarlyEnds(telemetry)
        private_address = None
        if settings.hang_timeout_s:  # entered before the server: it runs while that drains, too
            private_address = make_private_address()
            probed_parts = request_path_probes(
                private_address, rooms.calls, shared.model_lock, loop, arrived=lambda: ends.arrived
            )
            probes = stack.enter_context(probed_parts)
            reporter = HealthReporter(
                health,
                lambda: services,
                settings.hang_timeout_s,
                on_heartbeat=on_heartbeat,
                damage=lambda: slot.routes().damage(),
                models=lambda: [RANKER, *slot.routes().models],
                on_changed=(lambda serves: None) if telemetry is None else telemetry.set_serving,
            )
            stack.enter_context(run_watchdog(probes, interval_s=reporter.interval_s, report=reporter.report))
        secured = certificates is not None
        listed = list_interceptors(
            telemetry, interceptors, early_ends=ends, secured=secured, access=access.interceptors
        )
        every = [Observation(telemetry, tracer), *listed]
        listen: dict[str, Any] = {"share_port": share_port, "interceptors": every, "record": ends.record}
        probed = stack.enter_context(health_server(settings, health, rooms, **listen))
        door = ranker_door(shared.admission, default_s=settings.default_deadline_ms / 1000)
        made = grpc_server(settings, rooms, **listen, certificates=certificates, door=door)
        server, port = stack.enter_context(made)
        if private_address is not None:
            listen_privately(server, private_address)
        store_service = FeatureStoreService(
            stores.slot, settings, loop=loop, names=slot.names, on_items_put=put_items.put
        )
        ranker_service = RankerService(slot, settings, telemetry=telemetry, shadow=shadow)
        related_service = RelatedService(
            slot,
            settings,
            store=stores.blocking_store,
            features=lambda: stores.slot.current().features,
            trending=trending,
            telemetry=telemetry,
        )
        add_services(server, ranker_service, related_service, store_service, health)
        # What start-up made lives for ever: out of the collector's way. It cut a store client's p99 from 100 to 20 ms.
        # Models that are replaced are in no cycle: they need no collector.
        gc.collect()
        gc.freeze()
        server.start()
        for name in health_names():
            health.set(name, health_pb2.HealthCheckResponse.SERVING)
        if probed is not None:
            probed[0].start()
        stack.callback(health.enter_graceful_shutdown)

        def models_changed(before: Collection[str], after: Collection[str]) -> None:
            for name in set(before) ^ set(after):
                health.set(name, health_pb2.HealthCheckResponse.SERVING if name in after else _NO_SUCH_MODEL)

        switch = ReleaseSwitch(slot, shared, plan, models_changed=models_changed)
        yield RunningServer(
            f"{settings.host}:{port}",
            port,
            model,
            model_version,
            plan.first.name,
            switch,
            health="" if probed is None else f"{settings.host}:{probed[1]}",
            certificates=certificates,
            access=access.interceptors,
        )
