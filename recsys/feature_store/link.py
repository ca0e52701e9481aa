"""RedisLink: bounded round trips to one Redis, and its errors in our terms.

redis-py's connections do the protocol; its pool does not fit: it waits without a common deadline,
checks every connection before each use and retries with its own clock. Every command this package
sends is idempotent, so a connection found dead is simply replaced once.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from recsys.errors import ConfigError, StoreError, StoreFormatError, StoreUnavailableError

Command = tuple[bytes | str | int, ...]
Reply = Any
"""What redis-py makes of a reply; an error reply is a ResponseError, not raised."""

_LATER = (ReadOnlyError, MasterDownError, ClusterDownError, TryAgainError)


def redact(url: str) -> str:
    """A URL that may be shown: without user name, password and query values that look secret.

    >>> redact("rediss://app:s3cret@cache:6380/0?ssl_password=x")
    'rediss://***@cache:6380/0?ssl_password=***'
    """
    url = re.sub(r"(?s)://.*@", "://***@", url)
    return re.sub(r"(?i)([?&][^=&]*(?:pass|token|secret)[^=&]*=)[^&]*", r"\1***", url)


def translate(error: ResponseError, what: str) -> StoreError:
    """The StoreError an error reply stands for; ``what`` names the key or the call."""
    text = str(error)
    if isinstance(error, OutOfMemoryError) or "OOM command not allowed" in text:
        return StoreError(
            f"{what}: Redis is out of memory: nothing was written. Raise its maxmemory, or choose a "
            "maxmemory-policy that may evict; reads go on"
        )
    if text.startswith("WRONGTYPE"):
        return StoreFormatError(f"{what}: the key holds another Redis type: some other program writes to it")
    if isinstance(error, _LATER) or text.startswith(("BUSY", "NOREPLICAS")):
        return StoreUnavailableError(f"{what}: Redis refuses for now: {text}")
    return StoreError(f"{what}: Redis refused: {text}")


class Breaker:
    """Refuses calls for a while after failures, so that a dead Redis costs a request nothing.

    The wait starts at 50 ms, doubles with every failed probe up to 2 s, and is shortened by up to
    half at random, lest many processes probe together. A time-out opens it only when it is the third in
    a row: one may be the fault of a caller with little time left.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._timeouts = 0
        self._failures = 0
        self._retry_at_s = 0.0
        self._reason = ""

    def check(self) -> None:
        """Raise StoreUnavailableError while open; let one caller through as a probe when the wait is over."""
        if self._failures:
            now_s = self._clock()
            if now_s < self._retry_at_s:
                raise StoreUnavailableError(f"{self._reason} (not tried again yet)")
            self._retry_at_s = now_s + self._wait_s()

    def succeeded(self) -> None:
        """Close."""
        self._failures = self._timeouts = 0

    def failed(self, reason: str, *, timed_out: bool = False) -> None:
        """Note a failure, and open if that was enough."""
        self._timeouts = self._timeouts + 1 if timed_out else 0
        if timed_out and self._timeouts < 3 and not self._failures:
            return
        self._failures += 1
        self._reason = reason
        self._retry_at_s = self._clock() + self._wait_s()

    def _wait_s(self) -> float:
        return min(2.0, 0.05 * 2.0 ** min(self._failures - 1, 10)) * random.uniform(0.5, 1.0)


class RedisLink:
    """At most ``max_connections`` connections to the Redis at ``url``.

    Raises:
        ConfigError: the URL is not one.
    """

    def __init__(self, url: str, *, max_connections: int = 16) -> None:
        self.name = redact(url)
        # RESP2 and no driver info: a new connection then needs no round trip before its first command.
        self._options: dict[str, Any] = {"protocol": 2, "driver_info": None, "socket_timeout": None}
        problem = None
        try:
            self._options.update(parse_url(url))
            self._connection: type[AbstractConnection] = self._options.pop("connection_class", Connection)
            self._connection(**self._options)
        except Exception as error:  # redis-py's own message may quote the password
            problem = type(error).__name__
        if problem or (url.startswith("unix:") and not self._options.get("path")):
            raise ConfigError(
                f"Redis URL {self.name!r}: not understood; allowed: redis://[user:password@]host[:port][/db], "
                "rediss://... (TLS), unix:///path/to/socket[?db=N]"
            )
        self._idle: list[AbstractConnection] = []
        self._room = asyncio.Semaphore(max_connections)
        self._breaker = Breaker()

    async def round_trip(self, commands: Sequence[Command], *, timeout_s: float) -> list[Reply]:
        """Send commands together and return their replies in order.

        Raises:
            StoreUnavailableError: Redis is unreachable, did not answer in ``timeout_s``, or is no Redis.
        """
        self._breaker.check()
        timeout_s = max(timeout_s, 0.0)
        packed = b"".join(map(hiredis.pack_command, commands))
        try:
            async with asyncio.timeout(timeout_s):
                async with self._room:
                    replies = await self._talk(packed, len(commands))
        except (TimeoutError, RedisTimeoutError):
            reason = f"{self.name}: no answer within {timeout_s * 1000:.0f} ms"
            self._breaker.failed(reason, timed_out=True)
            raise StoreUnavailableError(reason) from None
        except (RedisError, OSError) as error:
            # Not only lost connections: what listens there may not speak Redis at all.
            reason = f"{self.name}: {error}"
            self._breaker.failed(reason)
            raise StoreUnavailableError(reason) from error
        self._breaker.succeeded()
        return replies

    async def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            await self._idle.pop().disconnect()

    async def _talk(self, packed: bytes, count: int) -> list[Reply]:
        if self._idle:
            try:
                return await self._exchange(self._idle.pop(), packed, count)
            except (RedisConnectionError, OSError):
                # Redis was restarted, or closed an idle connection: all idle ones are suspect.
                await self.close()
        return await self._exchange(self._connection(**self._options), packed, count)

    async def _exchange(self, connection: AbstractConnection, packed: bytes, count: int) -> list[Reply]:
        replies: list[Reply] = []
        try:
            await connection.send_packed_command(packed, check_health=False)
            for _ in range(count):
                try:
                    replies.append(await connection.read_response())
                except ResponseError as error:
                    replies.append(error)
        except BaseException:
            # Cut off in the middle, its next reply would belong to this request.
            await connection.disconnect(nowait=True)
            raise
        self._idle.append(connection)
        return replies
