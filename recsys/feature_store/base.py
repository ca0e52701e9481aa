"""What a feature store promises. ``redis_store.RedisFeatureStore`` is the implementation.

Users and items are named by their 62-bit keys (``features/hashing.py``); turning raw ids into keys
is the caller's job. Every call takes the seconds it may last and raises ``StoreUnavailableError``
when it could not finish in that time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from recsys.features.columns import Column
from recsys.features.hashing import Int64Array
from recsys.features.history import Events, HistoryHeader


@dataclass(frozen=True, slots=True)
class AppendResult:
    """What one append did to one history.

    Attributes:
        added: events that were not there before and are there now.
        stored: events in the history now.
    """

    added: int
    stored: int


@dataclass(frozen=True, slots=True)
class RankInputs:
    """Everything one Rank request reads.

    Attributes:
        events: the user's newest events, oldest first; empty for an unknown user.
        user_columns: the user's features, N = 1; all missing for an unknown user.
        item_columns: the candidates' features, N = C; missing for unknown items.
        user_degraded, items_degraded: that part could not be read and was taken as missing.
    """

    events: Events
    user_columns: Mapping[str, Column]
    item_columns: Mapping[str, Column]
    user_degraded: bool = False
    items_degraded: bool = False


class FeatureStore(Protocol):
    """Histories and entity features of one FeatureSet."""

    async def append(self, user_key: int, events: Events, *, timeout_s: float) -> AppendResult:
        """Add events to a user's history: atomic, idempotent, in any order.

        An event equal to a stored one in everything but its arrival is not added again. The
        history stays sorted by timestamp (equal timestamps keep the order they came in), and keeps
        at least the newest ``History.max_events`` events.
        """
        ...

    async def append_many(self, batches: Sequence[tuple[int, Events]], *, timeout_s: float) -> list[AppendResult]:
        """:meth:`append` for many users in one round trip; each user's append is atomic on its own."""
        ...

    async def history(self, user_key: int, *, limit: int, timeout_s: float) -> tuple[HistoryHeader, Events]:
        """The newest ``limit`` events, oldest first, and the history's counters; empty for an unknown user."""
        ...

    async def put_users(self, keys: Int64Array, columns: Mapping[str, Column], *, timeout_s: float) -> None:
        """Store the features of N users, replacing what was there. ``columns`` holds every feature."""
        ...

    async def put_items(self, keys: Int64Array, columns: Mapping[str, Column], *, timeout_s: float) -> None:
        """Store the features of N items, replacing what was there. ``columns`` holds every feature."""
        ...

    async def items(self, keys: Int64Array, *, timeout_s: float) -> Mapping[str, Column]:
        """The features of N items as they are stored now, duplicates allowed; missing for unknown items."""
        ...

    async def read_for_rank(self, user_key: int, item_keys: Int64Array, *, timeout_s: float) -> RankInputs:
        """All that a Rank request needs, in one round trip. Never raises for a store that is
        unreachable, slow or holds foreign bytes: the answer says what is degraded."""
        ...

    async def ping(self, *, timeout_s: float) -> None:
        """Raise StoreUnavailableError unless the store answers, and StoreFormatError if it was filled
        with another layout than this program's: call it before serving."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
