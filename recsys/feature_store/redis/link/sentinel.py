"""SentinelLink: the Redis that Sentinel says is the primary."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from recsys.errors import StoreUnavailableError
from recsys.feature_store.redis.link.breaker import Breaker
from recsys.feature_store.redis.link.protocol import Changed, Command, Link, Reply
from recsys.feature_store.redis.link.replies import tells_of_server, value_of
from recsys.feature_store.redis.link.server import RedisLink, first_answer
from recsys.feature_store.redis.link.url import Address, parse_redis_url
from recsys.masking import mask_url

_WATCH_FIND_S = 5.0


class SentinelLink:
    """At most ``max_connections`` connections to the primary of the service at ``url``.

    The sentinels are asked at the first call and after trouble: a lost connection, a time-out, an error about the
    server, such as READONLY. All are asked at once and the first answer counts, so a dead sentinel costs no time. While
    they name the same primary again and again, or none answers, they are asked ever more rarely (Breaker).

    Raises:
        ConfigError: the URL is not one.
    """

    def __init__(self, url: str, *, max_connections: int = 16) -> None:
        self.name = mask_url(url)
        self._url = parse_redis_url(url)
        self._max_connections = max_connections
        self._sentinels = [RedisLink(self._url.sentinel(a), max_connections=1) for a in self._url.hosts]
        self._address: Address | None = None
        self._primary: RedisLink | None = None
        self._stale = True
        self._refreshing = asyncio.Lock()
        self._breaker = Breaker()

    async def round_trip(self, commands: Sequence[Command], *, timeout_s: float) -> list[Reply]:
        """Send commands together to the primary and return their replies in order.

        What the sentinels' new primary can do within ``timeout_s`` is sent again to that one.

        Raises:
            StoreUnavailableError: no sentinel or primary is reachable, or did not answer in ``timeout_s``.
        """
        deadline_s = time.monotonic() + timeout_s
        primary = await self._find(deadline_s)
        while True:
            tried, replies = not primary.circuit_open, []
            problem: StoreUnavailableError | None = None
            try:
                replies = await primary.round_trip(commands, timeout_s=deadline_s - time.monotonic())
            except StoreUnavailableError as error:
                problem = error
            if problem is None and not any(map(tells_of_server, replies)):
                self._breaker.succeeded()
                return replies
            if tried and primary is self._primary:
                self._stale = True
            other = await self._find(deadline_s)
            if other is primary:
                if problem is not None:
                    raise problem
                return replies
            primary = other

    async def watch(self, prefix: bytes, changed: Changed) -> None:
        """As ``Link.watch``, at the primary of now."""
        primary = await self._find(time.monotonic() + _WATCH_FIND_S)
        try:
            await primary.watch(prefix, changed)
        finally:
            if primary is self._primary:
                self._stale = True

    async def servers(self, *, timeout_s: float) -> list[Link]:
        """As ``Link.servers``: itself, which follows the primary."""
        return [self]

    async def close(self) -> None:
        """Close the connections."""
        for link in (*self._sentinels, self._primary):
            if link is not None:
                await link.close()

    async def _find(self, deadline_s: float) -> RedisLink:
        """The primary: the one known, unless it is in doubt and the sentinels name another."""
        known = self._primary
        if known is not None and (not self._stale or known.circuit_open or self._breaker.is_open):
            return known
        # Half of the time is for what was to be done at the primary.
        timeout_s = max(deadline_s - time.monotonic(), 0.0) / 2
        try:
            async with asyncio.timeout(timeout_s):
                async with self._refreshing:
                    if self._primary is not None and (self._primary is not known or not self._stale):
                        return self._primary  # another caller did meanwhile
                    return await self._refresh(timeout_s)
        except TimeoutError:
            problem = StoreUnavailableError(f"{self.name}: no sentinel answered within {timeout_s * 1000:.0f} ms")
        except StoreUnavailableError as error:
            problem = error
        if known is None:
            raise problem
        return known

    async def _refresh(self, timeout_s: float) -> RedisLink:
        self._breaker.check()
        try:
            address = await first_answer([self._primary_by(s, timeout_s) for s in self._sentinels], timeout_s=timeout_s)
        except StoreUnavailableError as error:
            self._breaker.failed(str(error))
            raise
        self._stale = False
        if self._primary is not None:
            if address == self._address:
                self._breaker.failed(f"{self.name}: the sentinels name the same primary")
                return self._primary
            await self._primary.close()
        self._address = address
        self._primary = RedisLink(self._url.server(address), max_connections=self._max_connections)
        return self._primary

    async def _primary_by(self, sentinel: RedisLink, timeout_s: float) -> Address:
        """Ask one sentinel for the primary's address."""
        service = self._url.service
        question: Command = (b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", service)
        (reply,) = await sentinel.round_trip([question], timeout_s=timeout_s)
        address = value_of(sentinel.name, reply)
        if address is None:
            raise StoreUnavailableError(
                f"{sentinel.name}: this sentinel knows no service {service!r}; the URL's path must be a name "
                "given in its `sentinel monitor` line"
            )
        return address[0].decode(), int(address[1])
