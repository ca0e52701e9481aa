"""BlockingLink: round trips to Redis from threads that have no event loop.

A thread that waits in ``recv`` spends two thirds of what a round trip costs on an event loop (ADR 18). ``round_trip``
stays a coroutine, so that a store does not care which link it has; it never suspends, so that
``feature_store.blocking`` can drive the store's coroutines in the caller's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError

from recsys.errors import StoreUnavailableError
from recsys.feature_store.redis.link.breaker import Breaker
from recsys.feature_store.redis.link.connect import open_link
from recsys.feature_store.redis.link.protocol import Changed, Command, Link, Reply
from recsys.feature_store.redis.link.server import guarded
from recsys.feature_store.redis.link.url import parse_redis_url, server_options, tls_context
from recsys.feature_store.redis.link.wire import CLOSED, Replies, check_login, hello, pack
from recsys.masking import mask_url

T = TypeVar("T")

_RECEIVED_BYTES = 1 << 16
_LOOP_SLACK_S = 0.1
"""Beyond the time-out of the link on the loop, for a loop that is busy."""


class BlockingLink:
    """A :class:`~recsys.feature_store.redis.link.protocol.Link` for any number of threads, each of which blocks
    while it waits.

    A single Redis is spoken to over sockets, as many as there are callers at a time. Sentinel and Cluster are
    followed by the link that does so on ``loop``, and the calling thread waits for it.

    Args:
        url: any URL of a Redis.
        loop: runs in another thread, and until :meth:`close` has returned.

    Raises:
        ConfigError: the URL is malformed.
    """

    def __init__(self, url: str, *, loop: asyncio.AbstractEventLoop) -> None:
        self.name = mask_url(url)
        self._by_loop = _LoopLink(open_link(url), loop)
        self._sockets = _Sockets(url, loop) if parse_redis_url(url).kind == "server" else None

    async def round_trip(self, commands: Sequence[Command], *, timeout_s: float) -> list[Reply]:
        """As ``Link.round_trip``; never suspends."""
        if self._sockets is not None:
            return self._sockets.round_trip(commands, timeout_s=max(timeout_s, 0.0))
        return await self._by_loop.round_trip(commands, timeout_s=timeout_s)

    async def watch(self, prefix: bytes, changed: Changed) -> None:
        """As ``Link.watch``, on the loop; this one does suspend."""
        await self._by_loop.watch(prefix, changed)

    async def servers(self, *, timeout_s: float) -> list[Link]:
        """As ``Link.servers``, each of which blocks, too; never suspends."""
        return [self] if self._sockets is not None else await self._by_loop.servers(timeout_s=timeout_s)

    async def close(self) -> None:
        """Close the connections; callers that still wait get an error."""
        if self._sockets is not None:
            self._sockets.close()
        await self._by_loop.close()


class _LoopLink:
    """A :class:`~recsys.feature_store.redis.link.protocol.Link` whose work another one does on ``loop``, while the
    calling thread waits."""

    def __init__(self, link: Link, loop: asyncio.AbstractEventLoop) -> None:
        self.name = link.name
        self._link = link
        self._loop = loop

    async def round_trip(self, commands: Sequence[Command], *, timeout_s: float) -> list[Reply]:
        return self._wait_for(self._link.round_trip(commands, timeout_s=timeout_s), timeout_s=timeout_s)

    async def watch(self, prefix: bytes, changed: Changed) -> None:
        watching = asyncio.run_coroutine_threadsafe(self._link.watch(prefix, changed), self._loop)
        await asyncio.wrap_future(watching)

    async def servers(self, *, timeout_s: float) -> list[Link]:
        found = self._wait_for(self._link.servers(timeout_s=timeout_s), timeout_s=timeout_s)
        return [_LoopLink(server, self._loop) for server in found]

    async def close(self) -> None:
        self._wait_for(self._link.close(), timeout_s=1.0)

    def _wait_for(self, coroutine: Coroutine[Any, Any, T], *, timeout_s: float) -> T:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        timeout_s = max(timeout_s, 0.0)
        try:
            return future.result(timeout_s + _LOOP_SLACK_S)
        except TimeoutError:
            future.cancel()
            reason = f"{self.name}: no answer within {timeout_s * 1000:.0f} ms: the event loop is busy"
            raise StoreUnavailableError(reason) from None


class _Sockets:
    """Connections to one Redis. Lists, sets and the breaker's counters change under the interpreter's lock: no other is
    needed, and two callers that probe a dead Redis at once do no harm."""

    def __init__(self, url: str, loop: asyncio.AbstractEventLoop) -> None:
        self._name = mask_url(url)
        self._loop = loop
        self._options = server_options(url)
        self._tls: ssl.SSLContext | None = None
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._breaker = Breaker()
        self._closed = False

    def round_trip(self, commands: Sequence[Command], *, timeout_s: float) -> list[Reply]:
        with guarded(self._name, self._breaker, timeout_s=timeout_s):
            return self._talk(commands, time.monotonic() + timeout_s)

    def close(self) -> None:
        self._closed = True
        self._drop_idle()
        for connection in list(self._busy):
            connection.cut()

    def _talk(self, commands: Sequence[Command], deadline_s: float) -> list[Reply]:
        try:
            # The one used last: the others are there for more callers at a time.
            connection = self._idle.pop()
        except IndexError:
            return self._exchange(self._open(deadline_s), commands, deadline_s)
        try:
            replies = self._exchange(connection, commands, deadline_s)
        except TimeoutError:
            raise
        except (RedisConnectionError, OSError):
            # Redis was restarted, or closed an idle connection: all idle ones are suspect.
            self._drop_idle()
        else:
            if not connection.outdated:
                return replies
            self._drop_idle()  # so are they where another server has taken over
        return self._exchange(self._open(deadline_s), commands, deadline_s)

    def _open(self, deadline_s: float) -> _Connection:
        if self._closed:
            raise RedisConnectionError("Connection closed by us.")
        if self._tls is None:
            # Loading the certificates takes tens of milliseconds: once, not for every connection.
            self._tls = tls_context(self._options)
        return _connect(self._options, self._tls, self._dial(deadline_s), deadline_s)

    def _dial(self, deadline_s: float) -> socket.socket:
        if "path" in self._options:
            channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                channel.settimeout(_left_s(deadline_s))
                channel.connect(self._options["path"])
            except BaseException:
                channel.close()
                raise
            return channel
        host, port = self._options.get("host", "localhost"), self._options.get("port", 6379)
        # On the loop: the system's resolver knows no deadline, and would keep this thread until it has given up.
        names = asyncio.run_coroutine_threadsafe(
            self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM), self._loop
        )
        try:
            return _first_to_connect(names.result(_left_s(deadline_s)), deadline_s)
        finally:
            names.cancel()

    def _exchange(self, connection: _Connection, commands: Sequence[Command], deadline_s: float) -> list[Reply]:
        self._busy.add(connection)
        try:
            replies = connection.exchange(commands, deadline_s)
        except BaseException:
            # Cut off in the middle, its next reply would belong to this request.
            connection.close()
            raise
        finally:
            self._busy.discard(connection)
        if connection.outdated:
            connection.close()
        else:
            self._idle.append(connection)
        if self._closed:
            self._drop_idle()
        return replies

    def _drop_idle(self) -> None:
        with contextlib.suppress(IndexError):  # other threads take from it too
            while True:
                self._idle.pop().close()


class _Connection:
    """A socket; one exchange at a time."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._replies = Replies()

    def exchange(self, commands: Sequence[Command], deadline_s: float) -> list[Reply]:
        """As ``Wire.exchange``.

        Raises:
            TimeoutError: the deadline (``time.monotonic`` seconds) has passed.
        """
        if not commands:
            return []
        self._replies.expect(len(commands))
        self._channel.settimeout(_left_s(deadline_s))
        self._channel.sendall(pack(commands))
        complete = False
        while not complete:
            self._channel.settimeout(_left_s(deadline_s))
            data = self._channel.recv(_RECEIVED_BYTES)
            if not data:
                raise RedisConnectionError(CLOSED)
            complete = self._replies.feed(data)
        return self._replies.take()

    @property
    def outdated(self) -> bool:
        """See ``Replies``."""
        return self._replies.outdated

    def cut(self) -> None:
        """End an exchange of another thread: its read fails."""
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._channel.close()


def _first_to_connect(addresses: Sequence[Any], deadline_s: float) -> socket.socket:
    """A socket connected to the first address that answers; each gets its share of the time left."""
    problem = OSError("the host has no address")
    for place, (family, kind, protocol, _, address) in enumerate(addresses):
        channel = socket.socket(family, kind, protocol)
        try:
            channel.settimeout(_left_s(deadline_s) / (len(addresses) - place))
            channel.connect(address)
            channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:  # TimeoutError is one
            channel.close()
            problem = error
        else:
            return channel
    raise problem


def _connect(
    options: Mapping[str, Any], tls: ssl.SSLContext | None, channel: socket.socket, deadline_s: float
) -> _Connection:
    """Log in over a connected socket; raises as ``open_wire``, and TimeoutError."""
    try:
        channel.settimeout(_left_s(deadline_s))
        if tls is not None:
            channel = tls.wrap_socket(channel, server_hostname=options.get("host", "localhost"))
        connection = _Connection(channel)
        check_login(connection.exchange(hello(options, resp3=False), deadline_s))
    except BaseException:
        channel.close()
        raise
    return connection


def _left_s(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
