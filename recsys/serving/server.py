"""The server process: load, listen, serve, drain.

Start-up order: the bundle is verified and run once before the port answers, so a process that
accepts connections can rank. Redis may be away: the server then starts degraded and recovers by itself.
What blocks (a private Redis that loads, hashing, ONNX) comes before the event loop, so that a signal ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import grpc
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio  # type: ignore[attr-defined]
from grpc_reflection.v1alpha import reflection

from recsys.bundle import Bundle, open_bundle
from recsys.errors import ConfigError, StoreError, StoreUnavailableError
from recsys.feature_store.open_redis import redis_or_embedded
from recsys.feature_store.redis_store import RedisFeatureStore
from recsys.features.feature_set import FeatureSet
from recsys.features.hot_ids import HOT_IDS, read_hot_ids
from recsys.serving._pb import feature_store_pb2_grpc, ranker_pb2_grpc
from recsys.serving.ranker import Ranker
from recsys.serving.request_log import RequestLog
from recsys.serving.service import FEATURE_STORE, RANKER, FeatureStoreService, RankerService
from recsys.serving.session import Session, open_session
from recsys.serving.settings import Settings
from recsys.serving.warm_pages import advise_random, in_memory, larger_than_memory, warm_pages

_log = logging.getLogger("recsys.serving")

_STORE_CHECK_TIMEOUT_S = 0.5
_STORE_CHECK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers, at ``host:port``."""

    address: str
    port: int
    model: str
    model_version: str


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, then finish the running requests; returns the exit code.

    A signal during start-up ends that cleanly; the exit code is then 130. Call it from the main thread.

    Raises:
        ConfigError: no bundle is set, the port is taken, the Redis URL is malformed, or the ready file's
            place cannot be written.
        BundleError: the bundle is missing, altered, or does not fit this program.
        StoreFormatError: the store was filled for another layout of the same FeatureSet.
    """
    started_s = time.perf_counter()
    try:
        with _sigterm_interrupts(), _ready_file(settings.ready_file), _loaded(settings) as loaded:
            uvloop.run(_serve(settings, loaded, started_s))
    except KeyboardInterrupt:
        _say("stopped")
        return 130
    _say("stopped")
    return 0


async def _serve(settings: Settings, loaded: _Loaded, started_s: float) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with _serving(settings, loaded) as server:
        # What start-up made lives for ever: out of the collector's way. It cut a store client's p99 from 100 to 20 ms.
        gc.collect()
        gc.freeze()
        _announce(server, settings, time.perf_counter() - started_s)
        await stop.wait()
        _say(f"draining: running requests have {settings.drain_timeout_s:g} s to finish")
        _forget_address(settings.ready_file)


@contextlib.asynccontextmanager
async def running_server(settings: Settings) -> AsyncIterator[Running]:
    """Serve for the duration of an ``async with`` block; at its end, drain. Raises as :func:`serve` does."""
    with _loaded(settings) as loaded:
        async with _serving(settings, loaded) as server:
            yield server


@dataclass(frozen=True, slots=True)
class _Loaded:
    session: Session
    redis_url: str


@contextlib.contextmanager
def _loaded(settings: Settings) -> Iterator[_Loaded]:
    """What takes time and blocks."""
    if settings.bundle is None:
        raise ConfigError("bundle is not set; give the folder of a bundle (RECSYS_BUNDLE): `recsys export` writes one")
    # A private Redis is started first of all: gRPC's threads do not like a fork.
    with redis_or_embedded(settings.redis_url, settings.redis_dir) as redis_url:
        bundle = open_bundle(settings.bundle, verify=settings.verify)
        session = open_session(bundle, intra_op_threads=settings.intra_op_threads)
        _warm(settings, bundle, session)
        yield _Loaded(session, redis_url)


def _warm(settings: Settings, bundle: Bundle, session: Session) -> None:
    """Hot rows into memory, before the first request waits for the disk."""
    if settings.table_reads == "random" or (settings.table_reads == "auto" and larger_than_memory(bundle)):
        told = advise_random(bundle)
        _log.info("tables are read at random: %.1f GB of mappings told", told / 1e9)
    file = settings.warm_ids or bundle.path / HOT_IDS
    if not settings.warm_up_s or (settings.warm_ids is None and (not file.exists() or in_memory(bundle))):
        return
    done = warm_pages(session, read_hot_ids(file), timeout_s=settings.warm_up_s)
    _log.info(
        "rows of %d users and %d items read ahead in %.1f s%s",
        done.users,
        done.items,
        done.seconds,
        "" if done.complete else " (RECSYS_WARM_UP_S is over; the rest stays cold)",
    )


@contextlib.asynccontextmanager
async def _serving(settings: Settings, loaded: _Loaded) -> AsyncIterator[Running]:
    session = loaded.session
    async with _open_store(loaded.redis_url, session.features, settings) as store:
        logging_to = _request_log(settings, session.features)
        ranker = Ranker(
            session,
            store=store,
            max_in_flight=settings.max_in_flight,
            store_timeout_s=settings.store_timeout_ms / 1000,
            model_thread=settings.model_thread,
            request_log=logging_to,
        )
        # Left in the opposite order: calls end before what they use goes.
        with contextlib.closing(logging_to) if logging_to else contextlib.nullcontext(), contextlib.closing(ranker):
            async with _grpc_server(settings) as (server, port):
                health = _add_services(server, ranker, store, settings)
                await server.start()
                for name in ("", RANKER, FEATURE_STORE):
                    await health.set(name, health_pb2.HealthCheckResponse.SERVING)
                try:
                    yield Running(f"{settings.host}:{port}", port, session.model, session.version)
                finally:
                    await health.enter_graceful_shutdown()


def _request_log(settings: Settings, features: FeatureSet) -> RequestLog | None:
    if not settings.log_requests:
        return None
    return RequestLog(settings.request_log_dir, share=settings.log_requests, features=features)


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM as KeyboardInterrupt, which Ctrl-C raises by itself: it ends blocking work through every ``finally``."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _ready_file(path: Path | None) -> Iterator[None]:
    """The file is there only while this process serves: before and after, an address in it would be a wrong one."""
    try:
        if path is not None:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"ready file {str(path)!r} cannot be replaced: {error.strerror}; choose another") from error
    try:
        yield
    finally:
        _forget_address(path)


def _forget_address(path: Path | None) -> None:
    # A successor may have written its own by now.
    if path is not None:
        with contextlib.suppress(OSError, ValueError):
            if json.loads(path.read_text())["pid"] == os.getpid():
                path.unlink()


@contextlib.asynccontextmanager
async def _grpc_server(settings: Settings) -> AsyncIterator[tuple[grpc.aio.Server, int]]:
    """A server bound to its port, not started; at the end it drains."""
    options = [
        # Two servers on one port would each get some of the connections; off, so that the second fails.
        ("grpc.so_reuseport", 0),
        # The most that max_candidates allows, with long string ids.
        ("grpc.max_receive_message_length", 16 << 20),
    ]
    server = grpc.aio.server(options=options)
    try:
        yield server, _listen(server, settings)
    finally:
        await server.stop(settings.drain_timeout_s)


def _listen(server: grpc.aio.Server, settings: Settings) -> int:
    host, port = settings.host, settings.port
    try:
        # gRPC does not say why it cannot bind; the operating system does.
        family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
        return server.add_insecure_port(f"{host}:{port}")
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the address cannot be bound"
        raise ConfigError(
            f"cannot listen on {host}:{port}: {reason}; choose another host or port, or port 0 for any free one"
        ) from None


def _add_services(
    server: grpc.aio.Server, ranker: Ranker, store: RedisFeatureStore, settings: Settings
) -> health_aio.HealthServicer:
    ranker_pb2_grpc.add_RankerServicer_to_server(RankerService(ranker, settings), server)  # type: ignore[no-untyped-call]
    feature_store_pb2_grpc.add_FeatureStoreServicer_to_server(  # type: ignore[no-untyped-call]
        FeatureStoreService(store, ranker.features, settings), server
    )
    health = health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    names = (RANKER, FEATURE_STORE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
    reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
    return health


@contextlib.asynccontextmanager
async def _open_store(url: str, features: FeatureSet, settings: Settings) -> AsyncIterator[RedisFeatureStore]:
    store = RedisFeatureStore.connect(url, features, item_max_age_s=settings.item_max_age_s)
    tasks = []
    try:
        if not await _layout_checked(store):
            tasks.append(asyncio.create_task(_check_layout_later(store)))
        if settings.item_tracking == "auto" and settings.item_max_age_s:
            tasks.append(asyncio.create_task(store.follow_items()))
        yield store
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await store.close()


async def _layout_checked(store: RedisFeatureStore) -> bool:
    """Whether the store could be asked; StoreFormatError if it was filled for another layout."""
    try:
        await store.ping(timeout_s=_STORE_CHECK_TIMEOUT_S)
    except StoreUnavailableError as error:
        _log.warning("feature store: %s; starting without it, answers are degraded", error)
        return False
    return True


async def _check_layout_later(store: RedisFeatureStore) -> None:
    """Once the store is back, say whether it fits. If not, its data reads as unavailable: no reason to stop."""
    while True:
        await asyncio.sleep(_STORE_CHECK_EVERY_S)
        try:
            await store.ping(timeout_s=_STORE_CHECK_TIMEOUT_S)
        except StoreUnavailableError:
            continue
        except StoreError as error:
            _log.error("feature store: %s", error)
            return
        _log.warning("feature store: answers again")
        return


def _announce(server: Running, settings: Settings, took_s: float) -> None:
    facts = {
        "address": server.address,
        "port": server.port,
        "model": server.model,
        "model_version": server.model_version,
        "pid": os.getpid(),
        "start_s": round(took_s, 3),
    }
    if settings.ready_file is not None:
        # Renamed into place: whoever waits for the file never reads half of it.
        part = settings.ready_file.with_name(f".{settings.ready_file.name}.{os.getpid()}")
        part.write_text(json.dumps(facts) + "\n")
        part.replace(settings.ready_file)
    _say(f"serving {server.model} {server.model_version} on {server.address} (ready in {took_s:.2f} s)")


def _say(text: str) -> None:
    print(f"recsys: {text}", file=sys.stderr, flush=True)
