"""Link: a way to a Redis, whichever kind it is, and Redis's errors in our terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from recsys.errors import StoreError, StoreFormatError, StoreUnavailableError
from recsys.feature_store.redis.link.url import parse_redis_url, redact

__all__ = ["Changed", "Command", "Link", "Reply", "open_link", "redact", "translate", "value_of"]

Command = tuple[bytes | str | int, ...]
Reply = Any
"""What redis-py makes of a reply; an error reply is a ResponseError, not raised."""

Changed = Callable[[Sequence[bytes] | None], None]
"""Called with keys that were written; with None when any may have been."""

_LATER = (ReadOnlyError, MasterDownError, ClusterDownError, TryAgainError)


class Link(Protocol):
    """A way to a Redis: one server, whatever Sentinel says is the primary, or a cluster."""

    name: str
    """The URL without its secrets."""

    async def round_trip(self, commands: Sequence[Command], *, timeout_s: float) -> list[Reply]:
        """Send commands together and return their replies in order.

        The commands are EVALSHA, EVAL, MGET, MSET and those whose first argument is the key. The keys of one
        command are in one hash slot, but for MGET and MSET: in a cluster those are taken apart and put together.

        A cluster of which some nodes answered gives a StoreUnavailableError in place of the other nodes' replies.

        Raises:
            StoreUnavailableError: Redis is unreachable, did not answer in ``timeout_s``, or is no Redis.
        """
        ...

    async def watch(self, prefix: bytes, changed: Changed) -> None:
        """Follow the writes to keys that start with ``prefix``, over a connection of its own, until it is lost.

        ``changed`` is called with ``None`` at first: what was written before is not told.

        Raises:
            StoreUnavailableError: Redis cannot be reached, or the connection was lost: begin anew.
            StoreError: this Redis does not offer it (RESP3 client tracking, from version 6 on), or not to this user.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


def open_link(url: str, *, max_connections: int = 16) -> Link:
    """The link a URL stands for (``docs/redis.md``), with so many connections at most to each server.

    Raises:
        ConfigError: the URL is malformed.
    """
    # Imported here, as these modules import this one.
    from recsys.feature_store.redis.link.cluster import ClusterLink
    from recsys.feature_store.redis.link.sentinel import SentinelLink
    from recsys.feature_store.redis.link.server import RedisLink

    kinds: dict[str, type[RedisLink] | type[SentinelLink] | type[ClusterLink]] = {
        "server": RedisLink,
        "sentinel": SentinelLink,
        "cluster": ClusterLink,
    }
    return kinds[parse_redis_url(url).kind](url, max_connections=max_connections)


def value_of(what: bytes | str, reply: Reply) -> Reply:
    """The reply, or raise the error it is; ``what`` names the key or the call."""
    if isinstance(reply, StoreError):
        raise reply
    if isinstance(reply, ResponseError):
        raise translate(reply, what.decode() if isinstance(what, bytes) else what) from reply
    return reply


def translate(error: ResponseError, what: str) -> StoreError:
    """The StoreError an error reply stands for; ``what`` names the key or the call."""
    text = str(error)
    if isinstance(error, OutOfMemoryError) or "OOM command not allowed" in text:
        return StoreError(
            f"{what}: Redis is out of memory: nothing was written. Raise its maxmemory, or let "
            "histories expire (ttl_s); reads go on"
        )
    if text.startswith("WRONGTYPE"):
        return StoreFormatError(f"{what}: the key holds another Redis type: some other program writes to it")
    if isinstance(error, _LATER) or text.startswith(("BUSY", "NOREPLICAS")):
        return StoreUnavailableError(f"{what}: Redis refuses for now: {text}")
    return StoreError(f"{what}: Redis refused: {text}")
