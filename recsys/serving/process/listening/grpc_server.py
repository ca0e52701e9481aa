"""GrpcServer: gRPC's server, bound to its addresses; at its end it drains."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc

from recsys.serving.process.listening.ports import cannot_listen, probe_port
from recsys.serving.rpc.interceptors import Interceptor
from recsys.serving.rpc.registration import MESSAGE_OPTIONS
from recsys.serving.settings import Settings

_log = logging.getLogger("recsys.serving")


@contextlib.contextmanager
def grpc_server(
    settings: Settings,
    threads: ThreadPoolExecutor,
    limit: int,
    *,
    share_port: bool,
    interceptors: Sequence[Interceptor],
) -> Iterator[tuple[grpc.Server, int]]:
    """Bind a server to its port, not started; at the end it drains."""
    options = [
        # Two servers on one port each get some of the connections; off, so that the second fails.
        ("grpc.so_reuseport", int(share_port)),
        *MESSAGE_OPTIONS,
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


def listen_privately(server: grpc.Server, address: str) -> None:
    """Listen on an address of this process alone, too, for its watchdog."""
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:  # a connection that is refused counts as an answer
        _log.warning("cannot listen on %s: %s; a gRPC that hangs will not be noticed", address, error)
