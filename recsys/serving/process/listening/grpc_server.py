"""GrpcServer: gRPC's server, bound to its addresses; at its end it drains."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import grpc

from recsys.certificates import CertificateWatch
from recsys.serving.logs import log_stacks
from recsys.serving.process.listening.handler_pool import HandlerPool, Record, changed_internals
from recsys.serving.process.listening.ports import cannot_listen, probe_port
from recsys.serving.process.listening.rooms import Rooms
from recsys.serving.process.listening.tls import server_credentials
from recsys.serving.process.listening.waiting import WaitingCalls
from recsys.serving.process.malloc import give_memory_back
from recsys.serving.rpc.door import Door
from recsys.serving.rpc.interceptors import Interceptor
from recsys.serving.rpc.registration import MESSAGE_OPTIONS
from recsys.serving.settings import Settings

_log = logging.getLogger("recsys.serving")

MAX_WAITING = 8_192
"""Calls that may wait for their message; each takes 20 KB. Fewer, and callers that open 10,000 anew as the oldest are
ended cost more time of the processor than these cost memory: they cannot while theirs wait out their time."""

MIN_CLIENT_PING_MS = 10_000
"""Clients that ask more often whether the connection stands lose it (ENHANCE_YOUR_CALM)."""

MAX_UNREAD = 1_024
"""Calls whose answer may wait for their caller to take it."""

MAX_UNREAD_BYTES = 256 << 20
"""Bytes of all these answers: sixteen of the longest."""

_MESSAGE_GRACE_S = 1.0
"""Time that calls whose message is not here get when the drain begins."""

_TAKE_GRACE_S = 3.0
"""Time to take an answer while the server drains; and for calls that would last for ever, from when it begins to."""

_STOP_MARGIN_S = 2.0
"""Time for gRPC to end the calls that outlast the drain."""


@contextlib.contextmanager
def grpc_server(
    settings: Settings,
    rooms: Rooms,
    *,
    share_port: bool,
    interceptors: Sequence[Interceptor],
    record: Record,
    certificates: CertificateWatch | None,
    door: Door | None = None,
) -> Iterator[tuple[grpc.Server, int]]:
    """Bind a server to its port, over TLS if it has certificates, not started; at the end it drains.

    Args:
        settings: the server's.
        rooms: the threads of its handlers.
        share_port: let other processes listen on the same port.
        interceptors: of all calls.
        record: told of calls that end before a handler has them.
        certificates: the server's; None: in the clear.
        door: refuses calls before their message is here; None: none is.
    """
    options = [
        # Two servers on one port each get some of the connections; off, so that the second fails.
        ("grpc.so_reuseport", int(share_port)),
        *MESSAGE_OPTIONS,
        *_keepalive(settings),
        ("grpc.max_concurrent_streams", settings.connection_calls),
        # By calls that are open, as clients count them; not by those, too, whose memory is not free yet.
        ("grpc.http.overload_protection", 0),
        # A connection that says nothing; gRPC's own limit is two minutes.
        ("grpc.server_handshake_timeout_ms", int(1_000 * max(5.0, settings.receive_timeout_s))),
        # Calls that have come, and are not yet taken by the one thread of events, are refused at random from the first
        # number on, and all from the second. gRPC's own are 1,000 and 3,000: a burst of opened calls refused others.
        ("grpc.server.max_pending_requests", 10_000),
        ("grpc.server.max_pending_requests_hard_limit", 20_000),
        *_ages(settings),
    ]
    with message_first(settings, rooms, record) as (pool, limit, begin_drain):
        if door is not None and isinstance(pool, HandlerPool):
            # Imported when grpcio's internals are known to be there.
            from recsys.serving.process.listening.refusing_server import RefusingServer

            server: grpc.Server = RefusingServer(
                pool, interceptors=interceptors, options=options, door=door, record=record
            )
        else:
            server = grpc.server(pool, options=options, maximum_concurrent_rpcs=limit, interceptors=list(interceptors))
        try:
            yield server, _listen(server, settings, share_port=share_port, certificates=certificates)
        finally:
            began_s = time.monotonic()
            begin_drain(_MESSAGE_GRACE_S)
            stopped = server.stop(settings.drain_timeout_s)
            stopped.wait(_TAKE_GRACE_S)
            rooms.cancel_endless()
            limit_s = settings.drain_timeout_s + _STOP_MARGIN_S
            if not stopped.wait(began_s + limit_s - time.monotonic()):
                why = f"gRPC has not ended within {limit_s:g} s; the stacks of all threads"
                log_stacks(_log, why)
                raise TimeoutError(f"{why} are above")


@contextlib.contextmanager
def message_first(
    settings: Settings, rooms: Rooms, record: Record
) -> Iterator[tuple[ThreadPoolExecutor, int | None, Callable[[float], None]]]:
    """Make what a gRPC server has for a thread pool, which gives a call a thread when its message is here.

    Yields the pool, the most calls for gRPC to let in (None: the pool sees to it), and what begins the drain of calls
    that wait for their callers: takes the seconds for messages to come.
    """
    waiting = WaitingCalls(MAX_WAITING, after_crowd=give_memory_back)
    unread = WaitingCalls(MAX_UNREAD, most_bytes=MAX_UNREAD_BYTES)

    def begin_drain(grace_s: float) -> None:
        waiting.end_all_in(grace_s)
        unread.shorten(_TAKE_GRACE_S)

    if changed := changed_internals():
        _log.error(
            "gRPC %s is not known: %s; calls take a thread before their message is here: callers that send none can "
            "take all threads",
            grpc.__version__,
            changed,
        )
        yield rooms.calls.threads, rooms.calls.most, begin_drain
        return
    pool = HandlerPool(
        rooms.of,
        waiting,
        unread,
        receive_timeout_s=settings.receive_timeout_s,
        stream_idle_timeout_s=settings.stream_idle_timeout_s,
        record=record,
    )
    with waiting.running(), unread.running():
        yield cast("ThreadPoolExecutor", pool), None, begin_drain  # gRPC submits to it, and no more


def _keepalive(settings: Settings) -> list[tuple[str, int]]:
    """Options for connections whose other end is gone and did not say so: a machine that lost its power, a cable."""
    options = [
        # Clients may ask so often whether the connection still stands, be there a call or not; gRPC's own limits are
        # five minutes, and two hours without a call.
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_CLIENT_PING_MS),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
    if settings.keepalive_s:
        options += [
            ("grpc.keepalive_time_ms", max(1, round(1_000 * settings.keepalive_s))),
            ("grpc.keepalive_timeout_ms", max(1, round(1_000 * settings.keepalive_timeout_s))),
            ("grpc.http2.ping_timeout_ms", max(1, round(1_000 * settings.keepalive_timeout_s))),
            # gRPC asks twice, and then only beside data.
            ("grpc.http2.max_pings_without_data", 0),
        ]
    return options


def _ages(settings: Settings) -> list[tuple[str, int]]:
    """Options for the time that a connection lasts: gRPC adds up to 10 % to each, or takes it off."""
    if not settings.max_connection_age_s:
        return []
    return [
        ("grpc.max_connection_age_ms", max(1, round(1_000 * settings.max_connection_age_s))),
        ("grpc.max_connection_age_grace_ms", round(1_000 * settings.max_connection_grace_s)),
    ]


def _listen(server: grpc.Server, settings: Settings, *, share_port: bool, certificates: CertificateWatch | None) -> int:
    host, port = settings.host, settings.port
    try:
        if not share_port:
            probe_port(host, port)
        if certificates is None:
            return server.add_insecure_port(f"{host}:{port}")
        return server.add_secure_port(f"{host}:{port}", server_credentials(certificates))
    except RuntimeError:
        raise cannot_listen(host, port, "the address cannot be bound") from None


def listen_privately(server: grpc.Server, address: str) -> None:
    """Listen on an address of this process alone, too, for its watchdog."""
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:  # a connection that is refused counts as an answer
        _log.warning("cannot listen on %s: %s; a gRPC that hangs will not be noticed", address, error)
