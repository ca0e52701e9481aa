"""The server process: load, listen, serve, drain.

Start-up order: the bundle is verified and run once before the port answers, so a process that
accepts connections can rank. Redis may be away: the server then starts degraded and recovers by itself.
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
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio  # type: ignore[attr-defined]
from grpc_reflection.v1alpha import reflection

from recsys.bundle import open_bundle
from recsys.errors import ConfigError, StoreError, StoreUnavailableError
from recsys.feature_store.open_redis import redis_or_embedded
from recsys.feature_store.redis_store import RedisFeatureStore
from recsys.features.feature_set import FeatureSet
from recsys.serving._pb import feature_store_pb2_grpc, ranker_pb2_grpc
from recsys.serving.ranker import Ranker
from recsys.serving.service import FEATURE_STORE, RANKER, FeatureStoreService, RankerService
from recsys.serving.session import open_session
from recsys.serving.settings import Settings

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

    Raises:
        ConfigError: no bundle is set, the port is taken, or the Redis URL is malformed.
        BundleError: the bundle is missing, altered, or does not fit this program.
        StoreFormatError: the store was filled for another layout of the same FeatureSet.
    """
    uvloop.run(_serve(settings))
    return 0


async def _serve(settings: Settings) -> None:
    started_s = time.perf_counter()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running_server(settings) as server:
        # What start-up made lives for ever: out of the collector's way. It cut a store client's p99 from 100 to 20 ms.
        gc.collect()
        gc.freeze()
        _announce(server, settings, time.perf_counter() - started_s)
        await stop.wait()
        _say(f"draining: running requests have {settings.drain_timeout_s:g} s to finish")
    _say("stopped")


@contextlib.asynccontextmanager
async def running_server(settings: Settings) -> AsyncIterator[Running]:
    """Serve for the duration of an ``async with`` block; at its end, drain. Raises as :func:`serve` does."""
    if settings.bundle is None:
        raise ConfigError("bundle is not set; give the folder of a bundle (RECSYS_BUNDLE): `recsys export` writes one")
    # A private Redis is started first of all: gRPC's threads do not like a fork.
    with redis_or_embedded(settings.redis_url, settings.redis_dir) as redis_url:
        session = open_session(
            open_bundle(settings.bundle, verify=settings.verify), intra_op_threads=settings.intra_op_threads
        )
        async with _open_store(redis_url, session.features) as store:
            ranker = Ranker(
                session,
                store=store,
                max_in_flight=settings.max_in_flight,
                store_timeout_s=settings.store_timeout_ms / 1000,
            )
            # Left in the opposite order: calls end before what they use goes.
            with contextlib.closing(ranker):
                async with _grpc_server(settings) as (server, port):
                    health = _add_services(server, ranker, store, settings)
                    await server.start()
                    for name in ("", RANKER, FEATURE_STORE):
                        await health.set(name, health_pb2.HealthCheckResponse.SERVING)
                    try:
                        yield Running(f"{settings.host}:{port}", port, session.model, session.version)
                    finally:
                        await health.enter_graceful_shutdown()


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
async def _open_store(url: str, features: FeatureSet) -> AsyncIterator[RedisFeatureStore]:
    store = RedisFeatureStore.connect(url, features)
    checking = None
    try:
        if not await _layout_checked(store):
            checking = asyncio.create_task(_check_layout_later(store))
        yield store
    finally:
        if checking is not None:
            checking.cancel()
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
