"""TimedLink: a way to the store's Redis whose round trips are counted, and seen in their call's trace."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter_ns

from recsys.errors import StoreUnavailableError
from recsys.feature_store.redis.link.breaker import NotTriedError
from recsys.feature_store.redis.link.protocol import Changed, Command, Link, Reply
from recsys.serving.current_call import CURRENT, STORE_LAP
from recsys.serving.telemetry.counters import Telemetry


class TimedLink:
    """A :class:`Link` around another one; some 2 us a round trip.

    Args:
        link: does the work.
        kind: one of ``families.STORE_LINKS``.
        telemetry: counts; None for none.
    """

    def __init__(self, link: Link, kind: str, telemetry: Telemetry | None) -> None:
        self.name = link.name
        self._link = link
        self._kind = kind
        self._telemetry = telemetry

    async def round_trip(self, commands: Sequence[Command], *, timeout_s: float) -> list[Reply]:
        """As ``Link.round_trip``."""
        start_ns, outcome = perf_counter_ns(), "failed"
        try:
            replies = await self._link.round_trip(commands, timeout_s=timeout_s)
            # Of a cluster some nodes may be away.
            if not any(isinstance(reply, StoreUnavailableError) for reply in replies):
                outcome = "ok"
            return replies
        except NotTriedError:
            outcome = "skipped"
            raise
        finally:
            end_ns = perf_counter_ns()
            if self._telemetry is not None:
                self._telemetry.round_trip(self._kind, outcome, (end_ns - start_ns + 500) // 1000)
            call = CURRENT.get()
            if call is not None:
                call.add_lap(STORE_LAP, start_ns, end_ns)

    async def watch(self, prefix: bytes, changed: Changed) -> None:
        """As ``Link.watch``."""
        await self._link.watch(prefix, changed)

    async def servers(self, *, timeout_s: float) -> Sequence[Link]:
        """As ``Link.servers``; the round trips of those are not counted."""
        return await self._link.servers(timeout_s=timeout_s)

    async def close(self) -> None:
        """As ``Link.close``."""
        await self._link.close()
