"""Events from a Redis Stream, as one consumer of a group.

An entry is read, its event stored, and only then acknowledged; what a consumer that died had not
acknowledged is read again by itself (under the same name) or, after a while, by another one. Events are
told apart by what they are, not by their entries' ids: entries of a dead consumer come late.

Each read is a small Lua program, because XREADGROUP names its key too late for ``Link``. It does not block
Redis, so a stream without events is asked every 20 ms. An error is returned, not raised: Redis 6.2 puts words of its
own before the text of one that a program raises.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from recsys.errors import InvalidInputError, StoreUnavailableError
from recsys.feature_store.redis.link.protocol import Command, Link
from recsys.feature_store.redis.link.replies import value_of
from recsys.ingest.source import Pace, RawBatch, Refusal
from recsys.rows.contract import RowContract
from recsys.rows.text import parse_json

EVENT = "event"
"""The field of an entry that holds a whole event in JSON; without it, the entry's fields are the event's."""

_POLL_S = 0.02
_QUIET_S = 1.0
_READ_EVENTS = 5_000
_MAX_BYTES = 1 << 20
_CREATE = """
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
if made.err and not made.err:find('BUSYGROUP') then return made end
return 1"""
_READ = "return redis.pcall('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[3], 'STREAMS', KEYS[1], ARGV[4])"

Entry = tuple[bytes, list[bytes] | None]


class RedisStreamSource:
    """One stream, read as ``consumer`` of ``group``; the group is made if need be, from the stream's start.

    Args:
        stream: its key.
        contract: of an event.
        link: the Redis that has it; closed by its owner.
        group, consumer: under which names; a consumer's name is its own.
        pace: of batches.
        claim_idle_s: entries that another consumer got and has not acknowledged for so long are taken over.
        timeout_s: per round trip.
    """

    def __init__(
        self,
        stream: str,
        contract: RowContract,
        *,
        link: Link,
        group: str,
        consumer: str,
        pace: Pace,
        claim_idle_s: float,
        timeout_s: float = 30.0,
    ) -> None:
        self.name = f"redis-stream:{stream}"
        self._stream = stream
        self._contract = contract
        self._link = link
        self._group, self._consumer = group, consumer
        self._pace = pace
        self._claim_idle_s = claim_idle_s
        self._timeout_s = timeout_s
        self._own_after: bytes | None = b"0"
        self._claim_from = b"0-0"
        self._claim_at_s = 0.0

    async def start(self, positions: Mapping[str, str]) -> None:
        """As the protocol says: first what this consumer got and has not acknowledged."""
        await self._ask((b"EVAL", _CREATE, 1, self._stream, self._group))
        self._own_after, self._claim_from, self._claim_at_s = b"0", b"0-0", 0.0

    async def read(self) -> RawBatch | None:
        """As the protocol says."""
        entries: list[Entry] = []
        started_s = time.monotonic()
        due_s = started_s + _QUIET_S
        while len(entries) < self._pace.flush_events and time.monotonic() < due_s:
            found = await self._next(min(_READ_EVENTS, self._pace.flush_events - len(entries)))
            if found and not entries:
                due_s = time.monotonic() + self._pace.flush_s
            entries += found
            if found:
                continue
            if not self._pace.follow:
                if not entries:
                    return None
                break
            await asyncio.sleep(_POLL_S)
        return self._batch(entries)

    async def applied(self, batch: RawBatch) -> None:
        """Acknowledge the entries."""
        ids: list[bytes] = batch.token
        for begin in range(0, len(ids), _READ_EVENTS):
            await self._ask((b"XACK", self._stream, self._group, *ids[begin : begin + _READ_EVENTS]))

    def behind(self) -> int | None:
        """Not asked for."""
        return None

    def left(self) -> str | None:
        """Nothing: every event is whole."""
        return None

    async def close(self) -> None:
        """Nothing to do."""

    async def _next(self, count: int) -> list[Entry]:
        """This consumer's unacknowledged entries, then other consumers' old ones, then new ones."""
        if self._own_after is not None:
            entries = await self._read_group(count, self._own_after)
            self._own_after = entries[-1][0] if entries else None
            if entries:
                return entries
        if time.monotonic() >= self._claim_at_s:
            idle_ms = int(1000 * self._claim_idle_s)
            claim: Command = (b"XAUTOCLAIM", self._stream, self._group, self._consumer, idle_ms, self._claim_from)
            self._claim_from, found, *_ = await self._ask((*claim, b"COUNT", count))
            if self._claim_from == b"0-0":
                self._claim_at_s = time.monotonic() + self._claim_idle_s / 4
            # Redis 6.2 gives nil for entries that were deleted from the stream.
            if claimed := [(e[0], e[1]) for e in found if e is not None]:
                return claimed
        return await self._read_group(count, b">")

    async def _read_group(self, count: int, after: bytes) -> list[Entry]:
        reply = await self._ask((b"EVAL", _READ, 1, self._stream, self._group, self._consumer, count, after))
        return [(e[0], e[1]) for e in reply[0][1]] if reply else []

    async def _ask(self, command: Command) -> Any:
        (reply,) = await self._link.round_trip([command], timeout_s=self._timeout_s)
        if isinstance(reply, Exception) and str(reply).startswith("NOGROUP"):
            # Redis was emptied, or the stream deleted: who starts anew makes the group again.
            raise StoreUnavailableError(f"{self.name}: group {self._group!r} is gone")
        return value_of(self.name, reply)

    def _batch(self, entries: list[Entry]) -> RawBatch:
        events: list[dict[str, Any]] = []
        ids: list[str] = []
        refused: list[Refusal] = []
        for entry_id, values in entries:
            if values is None:
                continue  # deleted from the stream: acknowledged with the others
            try:
                event = self._event(values)
                self._contract.check_names(event)
            except InvalidInputError as error:
                refused.append(Refusal(error, entry_id.decode(), _texts(values)))
                continue
            events.append(event)
            ids.append(entry_id.decode())
        return RawBatch(
            source=self.name,
            contract=self._contract,
            columns=self._contract.raw_columns(events),
            length=len(events),
            read_ms=time.time_ns() // 1_000_000,
            locate=lambda index: (ids[index], events[index]),
            refused=refused,
            token=[entry_id for entry_id, _ in entries],
        )

    def _event(self, values: list[bytes]) -> dict[str, Any]:
        if sum(map(len, values)) > _MAX_BYTES:
            raise InvalidInputError(f"the entry is longer than {_MAX_BYTES:,} bytes")
        if len(values) == 2 and values[0] == EVENT.encode():
            return parse_json(values[1])
        try:
            texts = [value.decode() for value in values]
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"not UTF-8: {error}") from None
        return dict(zip(texts[::2], texts[1::2], strict=True))


def _texts(values: list[bytes]) -> dict[str, str]:
    texts = [value[:_MAX_BYTES].decode(errors="replace") for value in values]
    return dict(zip(texts[::2], texts[1::2], strict=True))
