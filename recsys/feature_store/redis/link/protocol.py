"""Link: the one interface to a Redis, whichever kind it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

Command = tuple[bytes | str | int, ...]
Reply = Any
"""A reply as redis-py converts it; an error reply is a ResponseError, not raised."""

Changed = Callable[[Sequence[bytes] | None], None]
"""Called with keys that were written; with None when any may have been."""


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

        ``changed`` is called with ``None`` at first: earlier writes are not reported.

        Raises:
            StoreUnavailableError: Redis cannot be reached, or the connection was lost: begin anew.
            StoreError: this Redis does not offer it (RESP3 client tracking, from version 6 on), or not to this user.
        """
        ...

    async def servers(self, *, timeout_s: float) -> Sequence[Link]:
        """Links that together reach every key, each to one server: this one, or those of a cluster's primaries.

        They also take commands without a key, such as SCAN, and are closed with this link.

        Raises:
            StoreUnavailableError: as :meth:`round_trip`.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
