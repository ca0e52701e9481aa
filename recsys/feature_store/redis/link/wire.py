"""Wire: one connection to one Redis on an event loop, commands in, replies out; and what any connection needs.

hiredis does the protocol; redis-py parses URLs and makes TLS contexts. Between the two there is only this: no
stream buffer and no coroutine per reply, which took a third of a round trip.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse

from recsys.feature_store.redis.link.protocol import Command, Reply
from recsys.feature_store.redis.link.replies import error_of, tells_of_server

CLOSED = "Connection closed by server."
"""Message of the error for a lost connection."""

_MORE = object()
_SLICE = 128
"""Commands packed and sent at a time."""
_CONNECT_ANEW_S = 0.5
"""Age from which a connection is replaced if its server says that it cannot serve: that may last, so not every time."""

Push = Callable[[list[Any]], None]
"""Called with Redis's push messages (RESP3)."""


class Replies:
    """The replies to one exchange at a time, from the bytes that come.

    Args:
        on_push: gets Redis's push messages.
    """

    def __init__(self, on_push: Push | None = None) -> None:
        self._on_push = on_push
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=self._error, notEnoughData=_MORE, encoding=None
        )
        self._came: list[Reply] = []
        self._wanted = 0
        self._refusal: RedisConnectionError | None = None
        self._since_s = time.monotonic()
        self._misplaced = False

    def expect(self, count: int) -> None:
        """Begin an exchange of so many commands."""
        self._came, self._wanted, self._misplaced = [], count, False

    def feed(self, data: bytes) -> bool:
        """Take bytes; True when all replies are there.

        Raises:
            redis.exceptions.InvalidResponse: this is not Redis's protocol.
        """
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _MORE:
                if isinstance(reply, hiredis.PushNotification):
                    if self._on_push is not None:
                        self._on_push(reply)
                else:
                    self._came.append(reply)
        except (ValueError, TypeError) as error:  # TypeError: a map whose keys are lists
            raise InvalidResponse(str(error)) from error
        return len(self._came) >= self._wanted

    def take(self) -> list[Reply]:
        """The replies, when all are there; error replies are exceptions in the list.

        Raises:
            redis.exceptions.ConnectionError: Redis refused to serve this connection.
            redis.exceptions.InvalidResponse: there are more replies than commands.
        """
        if self._refusal is not None:
            raise self._refusal
        replies, self._came = self._came, []
        if len(replies) > self._wanted:
            raise InvalidResponse(f"{len(replies)} replies to {self._wanted} commands")
        return replies

    @property
    def outdated(self) -> bool:
        """True if a reply told that the server cannot serve (it is a replica by now, say), and the connection is not
        new: its address, a proxy's or a name, may lead to another server."""
        return self._misplaced and time.monotonic() - self._since_s >= _CONNECT_ANEW_S

    def _error(self, text: str) -> Exception:
        """The exception an error reply stands for; one about the connection ends the exchange."""
        error = error_of(text)
        self._misplaced |= tells_of_server(error)
        if isinstance(error, RedisConnectionError):
            self._refusal = error
        return error


class Wire(asyncio.Protocol):
    """A connection; one exchange at a time."""

    def __init__(self, on_push: Push | None = None) -> None:
        self._replies = Replies(on_push)
        self._transport: asyncio.Transport | None = None
        self._answered: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the connection is gone."""

    async def exchange(self, commands: Sequence[Command]) -> list[Reply]:
        """Send commands and return their replies; error replies are exceptions in the list.

        After a cancellation the connection is of no use any more: :meth:`close` it.

        Raises:
            redis.exceptions.ConnectionError: the connection is gone, or what came is not Redis's protocol.
        """
        if self._transport is None or self.lost.done():
            raise RedisConnectionError(CLOSED)
        if not commands:
            return []
        self._replies.expect(len(commands))
        self._answered = asyncio.get_running_loop().create_future()
        try:
            for start in range(0, len(commands), _SLICE):
                if start:
                    # Redis works on what was sent while the next commands are packed.
                    await asyncio.sleep(0)
                    await self._writable.wait()
                if self._answered.done():  # with an error: the connection is gone
                    break
                self._transport.write(pack(commands[start : start + _SLICE]))
            await self._answered
        finally:
            self._answered = None
        return self._replies.take()

    @property
    def outdated(self) -> bool:
        """See ``Replies``."""
        return self._replies.outdated

    def close(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's callback."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """asyncio's callback."""
        try:
            complete = self._replies.feed(data)
        except InvalidResponse as error:
            self._fail(error)
            self.close()
            return
        if complete and self._answered is not None and not self._answered.done():
            self._answered.set_result(None)

    def pause_writing(self) -> None:
        """asyncio's callback."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """asyncio's callback."""
        self._writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        """asyncio's callback."""
        self._writable.set()
        self._fail(RedisConnectionError(str(error) if error else CLOSED))
        if not self.lost.done():
            self.lost.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)


def pack(commands: Sequence[Command]) -> bytes:
    """The bytes of commands."""
    return b"".join(map(hiredis.pack_command, commands))


async def open_wire(
    options: Mapping[str, Any], *, tls: ssl.SSLContext | None = None, on_push: Push | None = None
) -> Wire:
    """Connect and log in.

    Args:
        options: as ``url.server_options`` gives them.
        tls: for an encrypted connection.
        on_push: use RESP3, and pass on its push messages.

    Raises:
        OSError: nobody is there.
        redis.exceptions.RedisError: the login was refused, or it is no Redis.
    """
    loop = asyncio.get_running_loop()
    if "path" in options:
        _, wire = await loop.create_unix_connection(lambda: Wire(on_push), options["path"])
    else:
        host, port = options.get("host", "localhost"), options.get("port", 6379)
        _, wire = await loop.create_connection(
            lambda: Wire(on_push), host, port, ssl=tls, server_hostname=host if tls else None
        )
    try:
        check_login(await wire.exchange(hello(options, resp3=on_push is not None)))
    except BaseException:
        wire.close()
        raise
    return wire


def hello(options: Mapping[str, Any], *, resp3: bool) -> list[Command]:
    """The first commands of a connection with these options (``url.server_options``)."""
    user, password, database = (options.get(name) for name in ("username", "password", "db"))
    login = ("AUTH", user or "default", password or "") if user or password else ()
    commands: list[Command] = []
    if resp3:
        commands.append(("HELLO", 3, *login))
    elif login:
        # Without a user: Redis before 6 knows no users.
        commands.append(login if user else ("AUTH", password or ""))
    if database:
        commands.append(("SELECT", int(database)))
    return commands


def check_login(replies: Sequence[Reply]) -> None:
    """Raise the first error among the replies to :func:`hello`."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
