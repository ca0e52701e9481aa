"""RedisLink: bounded round trips to one Redis, and its errors in our terms.

redis-py's pool does not fit: it waits without a common deadline, checks every connection before each use
and retries with its own clock. Every command this package sends is idempotent, so a connection found dead, or one
whose server is not the primary any more, is simply replaced once.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from recsys.errors import StoreError, StoreUnavailableError
from recsys.feature_store.redis.link.breaker import Breaker
from recsys.feature_store.redis.link.protocol import Changed, Command, Link, Reply
from recsys.feature_store.redis.link.replies import translate, value_of
from recsys.feature_store.redis.link.url import server_options, tls_context
from recsys.feature_store.redis.link.wire import Push, Wire, open_wire
from recsys.masking import mask_url

T = TypeVar("T")

_WATCH_PING_S = 10.0
"""A watched connection that does not answer a PING for so long is lost."""


class RedisLink:
    """At most ``max_connections`` connections to the Redis at ``url``; more callers wait, as long as they have time.

    Raises:
        ConfigError: the URL is not one.
    """

    def __init__(self, url: str, *, max_connections: int = 16) -> None:
        self.name = mask_url(url)
        self._options = server_options(url)
        self._tls: ssl.SSLContext | None = None
        self._idle: list[Wire] = []
        self._watching: set[Wire] = set()
        self._room = asyncio.Semaphore(max_connections)
        self._breaker = Breaker()
        self._closed = False

    @property
    def circuit_open(self) -> bool:
        """True while calls are refused without a try, because others failed a moment ago."""
        return self._breaker.is_open

    async def round_trip(self, commands: Sequence[Command], *, timeout_s: float) -> list[Reply]:
        """Send commands together and return their replies in order.

        Raises:
            StoreUnavailableError: Redis is unreachable, did not answer in ``timeout_s``, or is no Redis.
        """
        timeout_s = max(timeout_s, 0.0)
        with guarded(self.name, self._breaker, timeout_s=timeout_s):
            async with asyncio.timeout(timeout_s):
                async with self._room:
                    return await self._talk(commands)

    async def watch(self, prefix: bytes, changed: Changed) -> None:
        """As ``Link.watch``."""

        def pushed(message: list[Any]) -> None:
            if message[0] == b"invalidate":
                changed(message[1])  # None after a FLUSHALL

        wire = None
        try:
            wire = await self._open(pushed)
            self._watching.add(wire)
            (reply,) = await wire.exchange([(b"CLIENT", b"TRACKING", b"ON", b"BCAST", b"PREFIX", prefix)])
            value_of(f"{self.name}: CLIENT TRACKING", reply)
            changed(None)
            while not wire.lost.done():
                await asyncio.wait([wire.lost], timeout=_WATCH_PING_S)
                async with asyncio.timeout(_WATCH_PING_S):
                    await wire.exchange([(b"PING",)])
        except ResponseError as error:
            raise translate(error, f"{self.name}: HELLO 3") from error
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            raise StoreUnavailableError(f"{self.name}: {error or 'no answer'}") from error
        finally:
            if wire is not None:
                self._watching.discard(wire)
                wire.close()

    async def servers(self, *, timeout_s: float) -> list[Link]:
        """As ``Link.servers``: itself."""
        return [self]

    async def close(self) -> None:
        """Close the connections: idle ones now, others when they are done."""
        self._closed = True
        self._drop_idle()

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()

    async def _talk(self, commands: Sequence[Command]) -> list[Reply]:
        if self._idle:
            wire = self._idle.pop()
            try:
                replies = await self._exchange(wire, commands)
            except (RedisConnectionError, OSError):
                # Redis was restarted, or closed an idle connection: all idle ones are suspect.
                self._drop_idle()
            else:
                if not wire.outdated:
                    return replies
                # So are they where another server has taken over, and so is what is watched.
                self._drop_idle()
                for watching in self._watching:
                    watching.close()
        return await self._exchange(await self._open(), commands)

    async def _open(self, on_push: Push | None = None) -> Wire:
        if self._tls is None:
            # Loading the certificates takes tens of milliseconds: once, not for every connection.
            self._tls = tls_context(self._options)
        return await open_wire(self._options, tls=self._tls, on_push=on_push)

    async def _exchange(self, wire: Wire, commands: Sequence[Command]) -> list[Reply]:
        try:
            replies = await wire.exchange(commands)
        except BaseException:
            # Cut off in the middle, its next reply would belong to this request.
            wire.close()
            raise
        if self._closed or wire.outdated:
            wire.close()
        else:
            self._idle.append(wire)
        return replies


@contextmanager
def guarded(name: str, breaker: Breaker, *, timeout_s: float) -> Iterator[None]:
    """Run the block under the circuit breaker, with its errors in our terms.

    Raises:
        StoreUnavailableError: Redis is unreachable, did not answer in ``timeout_s``, or is no Redis.
    """
    breaker.check()
    try:
        yield
    except (TimeoutError, RedisTimeoutError):
        reason = f"{name}: no answer within {timeout_s * 1000:.0f} ms"
        breaker.failed(reason, timed_out=True)
        raise StoreUnavailableError(reason) from None
    except (RedisError, OSError) as error:
        # Not only lost connections: what listens there may not speak Redis at all.
        reason = f"{name}: {error}"
        breaker.failed(reason)
        raise StoreUnavailableError(reason) from error
    breaker.succeeded()


async def first_answer(questions: Sequence[Coroutine[Any, Any, T]], *, timeout_s: float) -> T:
    """Return the first answer to questions put at once, so that a dead one delays nobody; the others are cancelled.

    Raises:
        StoreUnavailableError: nobody answered in time; the message is of one of them.
    """
    tasks = [asyncio.ensure_future(question) for question in questions]
    problem = StoreUnavailableError(f"none of {len(tasks)} answered within {timeout_s * 1000:.0f} ms")
    try:
        async with asyncio.timeout(max(timeout_s, 0.0)):
            waiting = set(tasks)
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    try:
                        return task.result()
                    except StoreError as error:
                        problem = StoreUnavailableError(str(error))
    except TimeoutError:
        pass
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    raise problem
