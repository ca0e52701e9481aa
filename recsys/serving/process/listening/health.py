"""Health alone, on a port without TLS: for probes that speak none, Kubernetes' among them.

With several workers all share the port, and the system gives a probe to any of them: it learns what a new caller would.
A worker that hangs is the supervisor's to replace, and is no reason to restart the others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import grpc
from grpc_health.v1 import health_pb2_grpc

from recsys.errors import ConfigError
from recsys.serving.process.listening.grpc_server import message_first
from recsys.serving.process.listening.handler_pool import Record
from recsys.serving.process.listening.ports import probe_port
from recsys.serving.process.listening.rooms import Rooms
from recsys.serving.rpc.health import Health
from recsys.serving.rpc.interceptors import Interceptor
from recsys.serving.settings import Settings

_STOP_S = 1.0

_OPTIONS = (
    # Probes make a new connection each time, and who keeps one shall not keep the room.
    ("grpc.max_connection_age_ms", 60_000),
    ("grpc.max_connection_age_grace_ms", 5_000),
    ("grpc.max_concurrent_streams", 16),
    ("grpc.max_receive_message_length", 4_096),
    ("grpc.server_handshake_timeout_ms", 5_000),
)


@contextlib.contextmanager
def health_server(
    settings: Settings,
    health: Health,
    rooms: Rooms,
    *,
    share_port: bool,
    interceptors: Sequence[Interceptor],
    record: Record,
) -> Iterator[tuple[grpc.Server, int] | None]:
    """Bind a server of health alone to ``health_port``, not started; yields it and its port, or None if none is set.

    Args:
        settings: the server's.
        health: answers.
        rooms: the threads of its handlers.
        share_port: let other processes listen on the same port.
        interceptors: of all calls.
        record: told of calls that end before a handler has them.

    Raises:
        ConfigError: the port cannot be listened on.
    """
    if settings.health_port is None:
        yield None
        return
    host, port = settings.host, settings.health_port
    options = [("grpc.so_reuseport", int(share_port)), *_OPTIONS]
    with message_first(settings, rooms, record) as (pool, most, begin_drain):
        server = grpc.server(pool, options=options, maximum_concurrent_rpcs=most, interceptors=list(interceptors))
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        try:
            if not share_port:
                probe_port(host, port)
            bound = server.add_insecure_port(f"{host}:{port}")
        except (ConfigError, RuntimeError) as error:
            raise ConfigError(f"health_port {port}: {host}:{port} cannot be listened on: {error}") from None
        try:
            yield server, bound
        finally:
            begin_drain(0.0)
            server.stop(0).wait(_STOP_S)
