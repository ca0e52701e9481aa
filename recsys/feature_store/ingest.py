"""Bulk feed of a store: histories and entity features, many users per round trip, idempotent.

If it stops half-way, run it again: events and rows that are there already are not added twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from recsys.feature_store.base import AppendResult, FeatureStore
from recsys.features.columns import Column
from recsys.features.hashing import Int64Array
from recsys.features.history import Events

Progress = Callable[[int], None]
"""Called with the number of events or rows done so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestResult:
    """What a feed did.

    Attributes:
        users: histories fed; a user that came twice counts twice.
        events: events fed.
        added: events that were not in the store before.
        elapsed_s: seconds it took.
    """

    users: int
    events: int
    added: int
    elapsed_s: float

    @property
    def events_per_s(self) -> float:
        """Events fed per second."""
        return self.events / max(self.elapsed_s, 1e-9)


async def ingest_histories(
    store: FeatureStore,
    histories: Iterable[tuple[int, Events]],
    *,
    events_per_batch: int = 10_000,
    timeout_s: float = 30.0,
    progress: Progress | None = None,
) -> IngestResult:
    """Append (user key, events) pairs, in any order, users may repeat.

    Args:
        store: where to.
        histories: read lazily, so it may be larger than memory.
        events_per_batch: most events per round trip; longer histories are split. Redis serves
            nobody else while it appends one user's share of a batch, about 1 us per event.
        timeout_s: per round trip.
        progress: called after each round trip.

    Raises:
        StoreError: as ``FeatureStore.append_many``; what came before is stored.
    """
    started_s = time.monotonic()
    users = events_done = added = 0
    sending: asyncio.Task[list[AppendResult]] | None = None
    try:
        for batch, users_begun in _batches(histories, events_per_batch):
            # This batch was made while Redis worked on the one before. Only one is under way at
            # a time, so that the parts of one user's history arrive in order.
            if sending is not None:
                added += sum(result.added for result in await sending)
                if progress is not None:
                    progress(events_done)
            sending = asyncio.create_task(store.append_many(batch, timeout_s=timeout_s))
            users += users_begun
            events_done += sum(len(events) for _, events in batch)
            await asyncio.sleep(0)  # lets it send
        if sending is not None:
            added += sum(result.added for result in await sending)
            if progress is not None:
                progress(events_done)
    finally:
        if sending is not None:
            sending.cancel()
    elapsed_s = time.monotonic() - started_s
    return IngestResult(users=users, events=events_done, added=added, elapsed_s=elapsed_s)


class _Put(Protocol):
    async def __call__(self, keys: Int64Array, columns: Mapping[str, Column], *, timeout_s: float) -> None: ...


async def put_in_chunks(
    put: _Put,
    keys: Int64Array,
    columns: Mapping[str, Column],
    *,
    rows_per_chunk: int = 5_000,
    timeout_s: float = 30.0,
    progress: Progress | None = None,
) -> None:
    """Call ``store.put_users`` or ``store.put_items`` with N entities, a chunk at a time.

    Args:
        put: one of the two.
        keys: shape [N].
        columns: encoded features, N rows each.
        rows_per_chunk: rows per round trip.
        timeout_s: per round trip.
        progress: called after each round trip.

    Raises:
        InvalidInputError, StoreError: as ``put``; the chunks before are stored.
    """
    for start in range(0, len(keys), rows_per_chunk):
        chunk = slice(start, start + rows_per_chunk)
        await put(keys[chunk], {name: column[chunk] for name, column in columns.items()}, timeout_s=timeout_s)
        if progress is not None:
            progress(min(start + rows_per_chunk, len(keys)))


def _batches(
    histories: Iterable[tuple[int, Events]], events_per_batch: int
) -> Iterator[tuple[list[tuple[int, Events]], int]]:
    """Batches of at most events_per_batch events, and how many histories begin in each."""
    batch: list[tuple[int, Events]] = []
    room, users_begun = events_per_batch, 0
    for user_key, events in histories:
        users_begun += 1
        while len(events):
            batch.append((user_key, events[:room]))
            events = events[room:]
            room -= len(batch[-1][1])
            if room == 0:
                yield batch, users_begun
                batch, room, users_begun = [], events_per_batch, 0
    if batch or users_begun:
        yield batch, users_begun
