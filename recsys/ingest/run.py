"""Sources into the store: read, check, sort by user, append, remember; one batch under way while the next is made.

A batch is remembered (the position saved, the entries acknowledged) only after all its events are stored. What is
read again after a crash changes nothing: the store holds each event once (``FeatureStore.append_many``).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from recsys.arrays import Int64Array
from recsys.backoff import backoff_s
from recsys.errors import DataFileError, InvalidInputError, StoreUnavailableError
from recsys.feature_store.base import AppendResult, FeatureStore
from recsys.features.feature_set import ITEM, FeatureSet
from recsys.features.history.records import Events, require_history
from recsys.ingest.dead_letters import DeadLetters, rejection
from recsys.ingest.records import Decoded, decode, lacking
from recsys.ingest.source import RawBatch, Refusal, Source
from recsys.rows.rejects import RejectCounts

_USERS_PER_CALL = 1_000
_CALLS_AT_ONCE = 2
_TIMEOUT_S = 30.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestCounts:
    """Counts of what was done so far.

    Attributes:
        events: read from the sources and remembered as done; the refused ones included.
        added: events that the store had not held before; not those of a batch that was broken off and sent again.
        rejected: events that went to the dead letters.
        reasons: the commonest reasons, in words.
        left: what was left at the end of sources, in words.
        newest_ms: the newest timestamp among the events; -1 if there was none.
        behind: events known to be waiting in the source that is read; None where it cannot tell.
        elapsed_s: since the start.
    """

    events: int = 0
    added: int = 0
    rejected: int = 0
    reasons: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    newest_ms: int = -1
    behind: int | None = None
    elapsed_s: float = 0.0

    @property
    def events_per_s(self) -> float:
        """Events per second."""
        return self.events / max(self.elapsed_s, 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sorted:
    """A batch that is ready to be sent: events by user, each user's in the order of the source."""

    raw: RawBatch
    users: list[tuple[int, Events]]
    rows: list[Int64Array]
    """Per user, which events of ``raw`` these are."""
    offsets: list[Int64Array] | None
    refused: list[Refusal]
    newest_ms: int
    texts: dict[int, str]
    """Of the string ids of items and attributes, by key."""


async def ingest(
    store: FeatureStore,
    features: FeatureSet,
    sources: Sequence[Source],
    *,
    dead_letters: DeadLetters,
    future_tolerance_s: int = 300,
    retry_for_s: float = 60.0,
    restart: bool = False,
    strict: bool = False,
    report: Callable[[IngestCounts], None] | None = None,
) -> IngestCounts:
    """Read sources to their ends, one after another, and store their events.

    Args:
        store: where to.
        features: of that store.
        sources: each begins where the store remembers it ended; closed at the end.
        dead_letters: for refused events, also those of a user whose key holds foreign bytes; they never stop the
            others.
        future_tolerance_s: how far in the future an event's times may be (clock skew).
        retry_for_s: how long the store may be away before this gives up.
        restart: read sources from their beginnings whatever is remembered.
        strict: whether the first event that does not fit is an error.
        report: called after every batch.

    Raises:
        StoreUnavailableError: the store was away from the start, or for longer than ``retry_for_s``.
        StoreError: the store is full, or was filled with another layout. What came before is stored and remembered.
        InvalidInputError: a source cannot be read, or no event of a file fits; the FeatureSet declares no history.
    """
    require_history(features)
    run = _Run(store, features, dead_letters, future_tolerance_s, strict, report)
    await store.ping(timeout_s=_TIMEOUT_S)
    for source in sources:
        try:
            await run.read(source, retry_for_s=retry_for_s, restart=restart)
        finally:
            await source.close()
    if run.unfit:
        reasons = "; ".join(run.counts.reasons)
        raise DataFileError(
            f"{', '.join(run.unfit)}: no event fits, and none is remembered as read. {reasons}. All are dead letters"
        )
    return run.counts


class _Run:
    def __init__(
        self,
        store: FeatureStore,
        features: FeatureSet,
        dead_letters: DeadLetters,
        future_tolerance_s: int,
        strict: bool,
        report: Callable[[IngestCounts], None] | None,
    ) -> None:
        self._store = store
        self._features = features
        self._dead_letters = dead_letters
        self._future_tolerance_s = future_tolerance_s
        self._strict = strict
        self._rejects = RejectCounts()
        self._fitting = 0
        self.unfit: list[str] = []
        self._report = report
        self._started_s = time.monotonic()
        self.counts = IngestCounts()

    async def read(self, source: Source, *, retry_for_s: float, restart: bool) -> None:
        """One source to its end; while the store is away, try again from what it remembers."""
        done, last_success_s, failures = False, time.monotonic(), 0
        before, self._fitting = self.counts, 0
        while not done:
            events_before = self.counts.events
            try:
                positions = {} if restart else await self._store.positions(timeout_s=_TIMEOUT_S)
                await source.start(positions)
                await self._pump(source)
                done = True
                file = source.name.removeprefix("file:")
                if self.counts.events == before.events and source.name in positions:
                    again = f"{file}: nothing new since it was read; --restart reads it again"
                    self.counts = replace(self.counts, left=(*self.counts.left, again))
                if self.counts.rejected > before.rejected and not self._fitting and file != source.name:
                    self.unfit.append(file)
                if left := source.left():
                    self.counts = replace(self.counts, left=(*self.counts.left, left))
            except StoreUnavailableError:
                now_s = time.monotonic()
                if self.counts.events > events_before:
                    restart = False
                    last_success_s, failures = now_s, 0
                failures += 1
                wait_s = backoff_s(failures, first_s=_FIRST_WAIT_S, longest_s=_LONGEST_WAIT_S)
                if now_s + wait_s - last_success_s > retry_for_s:
                    raise
                await asyncio.sleep(wait_s)

    async def _pump(self, source: Source) -> None:
        preparing = asyncio.create_task(self._prepare(source))
        try:
            while (batch := await asyncio.shield(preparing)) is not None:
                preparing = asyncio.create_task(self._prepare(source))
                await self._apply(source, batch)
        finally:
            # A thread cannot be cancelled, and the source must not be touched while it reads.
            await asyncio.wait([preparing])
            with contextlib.suppress(BaseException):
                preparing.result()

    async def _prepare(self, source: Source) -> _Sorted | None:
        raw = await source.read()
        if raw is None:
            return None
        if not raw.length:
            refused = list(raw.refused)
            return _Sorted(raw=raw, users=[], rows=[], offsets=None, refused=refused, newest_ms=-1, texts={})
        decoded = await asyncio.to_thread(
            decode, self._features, raw.contract, raw, future_tolerance_s=self._future_tolerance_s
        )
        decoded = await self._inherit(decoded)
        refused = list(raw.refused)
        refused += [Refusal(reason, *raw.locate(index)) for index, reason in decoded.refused]
        return await asyncio.to_thread(_sort, raw, decoded, refused)

    async def _inherit(self, decoded: Decoded) -> Decoded:
        """Give events the attributes that they lack and their items have, as ``data/log/encoder.py`` does for a log.

        Items are read for every batch: what is stored with an event is stored for good, so no old
        features from a cache. Events of an item that cannot be read are refused.
        """
        events = decoded.events
        lack = lacking(self._features, events)
        if not lack:
            return decoded
        rows = np.logical_or.reduce(list(lack.values()))
        columns, damaged, _ = await self._store.entity_rows(ITEM, events["item"][rows], timeout_s=_TIMEOUT_S)
        for name, mask in lack.items():
            events[name][mask] = columns[name][mask[rows]]
        if not damaged:
            return decoded
        places = np.flatnonzero(rows)[list(damaged)]
        reasons = [InvalidInputError(f"its item cannot be read: {error}") for error in damaged.values()]
        return decoded.without(places, reasons)

    async def _apply(self, source: Source, batch: _Sorted) -> None:
        if batch.texts:
            await self._store.put_names(batch.texts, timeout_s=_TIMEOUT_S)
        results = await self._append(batch)
        refused = batch.refused
        for result, rows in zip(results, batch.rows, strict=True):
            if result.refused is not None:
                refused += [
                    Refusal(InvalidInputError(str(result.refused)), *batch.raw.locate(row)) for row in rows.tolist()
                ]
        for refusal in refused:
            found = rejection(batch.raw.source, refusal)
            if self._strict:
                raise DataFileError(f"{found} (--strict: the first event that does not fit ends it)")
            self._rejects.add(found)
        if refused:
            await self._dead_letters.write(batch.raw.source, refused)
        self._fitting += batch.raw.length + len(batch.raw.refused) - len(refused)
        # A source of which no event fits was most likely read with wrong options: it is to be read again.
        if batch.raw.position and self._fitting:
            await self._store.save_position(batch.raw.source, batch.raw.position, timeout_s=_TIMEOUT_S)
        await source.applied(batch.raw)
        counts = self.counts
        self.counts = replace(
            counts,
            events=counts.events + batch.raw.length + len(batch.raw.refused),
            added=counts.added + sum(result.added for result in results),
            rejected=counts.rejected + len(refused),
            reasons=tuple(self._rejects.lines()) if refused else counts.reasons,
            newest_ms=max(counts.newest_ms, batch.newest_ms),
            behind=source.behind(),
            elapsed_s=time.monotonic() - self._started_s,
        )
        if self._report is not None:
            self._report(self.counts)

    async def _append(self, batch: _Sorted) -> list[AppendResult]:
        """Several calls at once: a user is in one of them only, so that their order does not matter."""
        results: list[AppendResult] = []
        under_way: list[asyncio.Task[list[AppendResult]]] = []
        try:
            for begin in range(0, len(batch.users), _USERS_PER_CALL):
                if len(under_way) == _CALLS_AT_ONCE:
                    results += await under_way[0]
                    del under_way[0]
                part = slice(begin, begin + _USERS_PER_CALL)
                call = self._store.append_many(
                    batch.users[part],
                    source=batch.raw.source if batch.offsets is not None else "",
                    offsets=None if batch.offsets is None else batch.offsets[part],
                    timeout_s=_TIMEOUT_S,
                )
                under_way.append(asyncio.create_task(call))
                await asyncio.sleep(0)  # lets it send
            for task in under_way:
                results += await task
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
        return results


def _sort(raw: RawBatch, decoded: Decoded, refused: list[Refusal]) -> _Sorted:
    order = np.argsort(decoded.user_keys, kind="stable")
    user_keys, events = decoded.user_keys[order], decoded.events
    ordered = events[order]
    begins = np.flatnonzero(np.diff(user_keys, prepend=-1))
    spans = list(zip(begins.tolist(), [*begins[1:].tolist(), len(order)], strict=False))
    users = [(user, ordered[a:b]) for user, (a, b) in zip(user_keys[begins].tolist(), spans, strict=False)]
    numbered = decoded.kept[order]
    rows = [numbered[a:b] for a, b in spans[: len(users)]]
    offsets = None
    if raw.offsets is not None:
        numbers = raw.offsets[numbered]
        offsets = [numbers[a:b] for a, b in spans[: len(users)]]
    newest_ms = int(events["timestamp"].max()) if len(events) else -1
    return _Sorted(
        raw=raw,
        users=users,
        rows=rows,
        offsets=offsets,
        refused=refused,
        newest_ms=newest_ms,
        texts=decoded.texts,
    )
