"""Appending events that a call or a stream of messages brought. Knows nothing of gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from recsys.arrays import Int64Array
from recsys.errors import InvalidInputError, RecsysError, StoreFormatError
from recsys.feature_store.base import AppendResult, FeatureStore
from recsys.features.feature_set import ITEM, FeatureSet
from recsys.features.hashing import MISSING
from recsys.features.history.records import Events, event_dtype, upgrade_events
from recsys.features.history.rules import inherited_attributes
from recsys.serving.deadline import Deadline

BATCH_MESSAGES = 200
BATCH_BYTES = 1 << 20
"""A batch is full with so many messages, or so many bytes of packed events. Batches of 50 to 1,000 messages of 50
events were equally fast (150,000 events/s), and of 25 to 200 equally hard on Rank requests next to them."""

MAX_REJECTIONS = 100
"""So many are listed; the others are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """One user's events, checked.

    Attributes:
        user_key: the user.
        events: shape [L].
        texts: of the string ids in them, by key.
        source, offsets: where they come from and their places in it, [L]; or empty and None.
        restart_source: forget the last offset applied of the user's source first.
    """

    user_key: int
    events: Events
    texts: Mapping[int, str] = field(default_factory=dict)
    source: str = ""
    offsets: Int64Array | None = None
    restart_source: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSummary:
    """Counts of a stream's messages and events, and the messages rejected.

    Attributes:
        messages, events: received.
        added: events added.
        rejected: messages that were not allowed, or whose user's history, or an item of which, is not ours.
        skipped: events whose offsets were not past the last one applied.
        rejections: place in the stream and reason, of the first 100.
    """

    messages: int
    events: int
    added: int
    rejected: int
    rejections: tuple[tuple[int, str], ...]
    skipped: int = 0


Write = Callable[[Sequence[Append]], Awaitable[list[AppendResult]]]
"""Appends a batch and returns what became of each; bounds its own time."""


def as_declared(append: Append, features: FeatureSet) -> Append:
    """Events that were converted by this FeatureSet, or by one that it extends, as this one's."""
    if append.events.dtype == event_dtype(features):
        return append
    return replace(append, events=upgrade_events(features, append.events))


async def write(
    store: FeatureStore,
    features: FeatureSet,
    appends: Sequence[Append],
    *,
    deadline: Deadline,
    offset_jump: int | None = None,
) -> list[AppendResult]:
    """Append all of them, in their order; one result each.

    Attributes that events lack and that items have are taken from the items, as ``data.events`` does for a log. Where
    an item cannot be read, what names it is refused: what is stored with an event is stored for good.

    Args:
        store: where to.
        features: of that store.
        appends: checked.
        deadline: of all of it.
        offset_jump: see ``FeatureStore.append_many``.

    Raises:
        StoreError: as ``FeatureStore.append_many``.
        TimeoutError: the deadline has passed.
    """
    refused = await _fill_from_items(store, features, appends, deadline)
    if texts := {key: text for append in appends for key, text in append.texts.items()}:
        await store.put_names(texts, timeout_s=deadline.remaining_s())
    results = {index: AppendResult(0, 0, refused=error) for index, error in refused.items()}
    for indices in _calls(appends, [index for index in range(len(appends)) if index not in refused]):
        first = appends[indices[0]]
        found = await store.append_many(
            [(appends[i].user_key, appends[i].events) for i in indices],
            source=first.source,
            offsets=[o for i in indices if (o := appends[i].offsets) is not None] if first.source else None,
            offset_jump=offset_jump,
            restart_source=first.restart_source,
            timeout_s=deadline.remaining_s(),
        )
        results.update(zip(indices, found, strict=True))
    return [results[i] for i in range(len(appends))]


def _calls(appends: Sequence[Append], indices: Sequence[int]) -> list[list[int]]:
    """Appends that go into one call of the store each: of one source, and with or without a restart, in their order."""
    calls: list[list[int]] = []
    last: dict[str, int] = {}
    for index in indices:
        append = appends[index]
        call = last.get(append.source)
        if call is None or appends[calls[call][0]].restart_source != append.restart_source:
            call = last[append.source] = len(calls)
            calls.append([])
        calls[call].append(index)
    return calls


async def _fill_from_items(
    store: FeatureStore, features: FeatureSet, appends: Sequence[Append], deadline: Deadline
) -> dict[int, StoreFormatError]:
    """Fill in what items have; returns which appends name an item that cannot be read, and why."""
    names = inherited_attributes(features)
    lacks = [np.logical_or.reduce([a.events[name] == MISSING for name in names]) for a in appends] if names else []
    if not any(rows.any() for rows in lacks):
        return {}
    items = np.concatenate([a.events["item"][rows] for a, rows in zip(appends, lacks, strict=True)])
    columns, damaged, _ = await store.entity_rows(ITEM, items, timeout_s=deadline.remaining_s())
    start, refused = 0, dict[int, StoreFormatError]()
    for index, (append, rows) in enumerate(zip(appends, lacks, strict=True)):
        found = slice(start, start + int(rows.sum()))
        for name in names:
            own = append.events[name][rows]
            append.events[name][rows] = np.where(own == MISSING, columns[name][found], own)
        unreadable = next((place for place in damaged if found.start <= place < found.stop), None)
        if unreadable is not None:
            refused[index] = StoreFormatError(f"an event takes attributes from its item: {damaged[unreadable]}")
        start = found.stop
    return refused


class AppendStream:
    """Gathers messages into batches: while one is written, the next is gathered, and then :meth:`add` waits.

    Made by :func:`append_stream`.
    """

    def __init__(self, write_batch: Write, limit: asyncio.Timeout) -> None:
        self.failure: Exception | None = None
        self._write_batch = write_batch
        self._limit = limit
        self._gathered: list[tuple[int, Append]] = []
        self._size_bytes = 0
        self._room = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._messages = self._events = self._added = self._rejected = self._skipped = self._done = 0
        self._rejections: list[tuple[int, str]] = []

    def reject(self, events: int, error: InvalidInputError) -> None:
        """Count a message of so many events that is not allowed."""
        self._refuse(self._messages, error)
        self._messages += 1
        self._events += events

    def _refuse(self, message: int, error: RecsysError) -> None:
        if len(self._rejections) < MAX_REJECTIONS:
            self._rejections.append((message, str(error)))
        self._rejected += 1

    async def add(self, append: Append) -> None:
        """Take a message; waits while as much is gathered as may be."""
        size_bytes = append.events.nbytes
        while self._gathered and (len(self._gathered) >= BATCH_MESSAGES or self._size_bytes + size_bytes > BATCH_BYTES):
            self._room.clear()
            await self._room.wait()
        self._gathered.append((self._messages, append))
        self._size_bytes += size_bytes
        self._messages += 1
        self._events += len(append.events)
        if self._writer is None and self.failure is None:
            self._writer = asyncio.create_task(self._write_all())

    async def drain(self) -> None:
        """Wait until everything is written, or could not be: see ``failure``."""
        if self._writer is not None:
            await self._writer

    async def stop(self) -> None:
        """Give up what is not written."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.wait([self._writer])

    def summary(self) -> StreamSummary:
        """Sum up the stream so far."""
        return StreamSummary(
            messages=self._messages,
            events=self._events,
            added=self._added,
            rejected=self._rejected,
            rejections=tuple(sorted(self._rejections)),
            skipped=self._skipped,
        )

    def progress(self) -> str:
        """Say how far the stream came, for a caller that gets an error."""
        return (
            f"the first {self._done} messages of the stream are applied, unless they were rejected; "
            "of those after them any may be: send all again, nothing is added twice"
        )

    async def _write_all(self) -> None:
        try:
            while self._gathered:
                batch, self._gathered, self._size_bytes = self._gathered, [], 0
                covered = self._messages
                self._room.set()
                results = await self._write_batch([append for _, append in batch])
                for (message, _), result in zip(batch, results, strict=True):
                    self._added += result.added
                    self._skipped += result.skipped
                    if result.refused is not None:
                        self._refuse(message, result.refused)
                self._done = covered
        except Exception as error:
            self.failure = error
            if not self._limit.expired():
                # Ends the wait for the next message, which may be long.
                self._limit.reschedule(asyncio.get_running_loop().time())
        finally:
            self._writer = None


@asynccontextmanager
async def append_stream(write_batch: Write, *, timeout_s: float) -> AsyncIterator[AppendStream]:
    """An AppendStream for the duration of an ``async with`` block; at its end everything is written.

    When a batch cannot be written, the block is cancelled. The error's message then says how far it came.

    Raises:
        RecsysError: as ``write_batch``.
        TimeoutError: it took longer than ``timeout_s``.
    """
    stream = None
    try:
        async with asyncio.timeout(timeout_s) as limit:
            stream = AppendStream(write_batch, limit)
            try:
                yield stream
                await stream.drain()
            finally:
                await stream.stop()
    except TimeoutError:
        if stream is None or stream.failure is None:
            passed = f"the stream's time of {timeout_s:g} s has passed"
            raise TimeoutError(passed if stream is None else f"{passed}; {stream.progress()}") from None
    if stream is not None and stream.failure is not None:
        error = stream.failure
        if isinstance(error, RecsysError | TimeoutError):
            raise type(error)(f"{error}; {stream.progress()}") from error
        raise error
