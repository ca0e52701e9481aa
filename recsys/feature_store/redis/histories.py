"""RedisHistories: append to, replace and read the histories of one FeatureSet.

Writes are Lua programs (``lua/``), so each is atomic; reads are plain commands whose replies go straight
to numpy.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from redis.exceptions import NoScriptError, ResponseError

from recsys.arrays import Int64Array
from recsys.errors import InvalidInputError, StoreFormatError
from recsys.feature_store.base import AppendResult, HistoryRead, Span
from recsys.feature_store.redis.damage import DamageLog
from recsys.feature_store.redis.keys import HISTORY, HistoryKeys, history_keys
from recsys.feature_store.redis.layouts import LayoutGuard
from recsys.feature_store.redis.link.protocol import Command, Link, Reply
from recsys.feature_store.redis.link.replies import translate, value_of
from recsys.feature_store.redis.scripts import APPEND, REPLACE, UPGRADE, Script
from recsys.feature_store.redis.values.history import HistoryValue, Part
from recsys.features.feature_set import FeatureSet
from recsys.features.hashing import check_key
from recsys.features.history.records import HEADER, Events, HistoryHeader

_ALL = 1 << 40
"""More events than any history has."""

_TRIES = 2
"""Reads in which the chunks that a history seems to need are asked for; then all are."""

_EVENTS_PER_CALL = 5_000
"""Redis serves nobody else while it merges a call's events, about 1 us each; larger batches of a user are several
calls. They may come in any order, so nothing else changes."""


class RedisHistories:
    """The histories of ``features``.

    Raises:
        InvalidInputError: it declares none.
    """

    def __init__(self, features: FeatureSet, *, link: Link, guard: LayoutGuard, damage: DamageLog) -> None:
        self.value = HistoryValue(features)
        self._name = features.name
        self._link = link
        self._guard = guard
        self._damage = damage

    def keys(self, user_key: int) -> HistoryKeys:
        """The keys of a user's history."""
        return history_keys(self._name, check_key(user_key))

    async def append_many(
        self,
        batches: Sequence[tuple[int, Events]],
        *,
        source: str = "",
        offsets: Sequence[Int64Array] | None = None,
        offset_jump: int | None = None,
        restart_source: bool = False,
        timeout_s: float,
    ) -> list[AppendResult]:
        """As ``FeatureStore.append_many``."""
        if (offsets is not None) != bool(source):
            raise InvalidInputError("source and offsets are given together or not at all")
        if offsets is not None and len(offsets) != len(batches):
            raise InvalidInputError(f"{len(offsets)} arrays of offsets for {len(batches)} batches")
        pieces = [
            (i, slice(start, start + _EVENTS_PER_CALL))
            for i, (_, events) in enumerate(batches)
            for start in range(0, max(len(events), 1), _EVENTS_PER_CALL)
        ]
        keys = [self.keys(batches[i][0]) for i, _ in pieces]
        arguments = self.value.append_arguments(
            [batches[i][1][part] for i, part in pieces],
            source,
            None if offsets is None else [offsets[i][part] for i, part in pieces],
            "restart" if restart_source else "" if offset_jump is None else str(offset_jump),
        )
        calls = [APPEND.call(k, given) for k, given in zip(keys, arguments, strict=True)]
        results = await self._run(APPEND, keys, calls, timeout_s=timeout_s)
        if len(results) == len(batches):
            return results
        together = [AppendResult(0, 0) for _ in batches]
        for (i, _), result in zip(pieces, results, strict=True):
            refused = together[i].refused or result.refused
            added, skipped = together[i].added + result.added, together[i].skipped + result.skipped
            new = [each for each in (together[i].new, result.new) if each is not None]
            together[i] = AppendResult(added, result.stored, refused, skipped, new=np.concatenate(new) if new else None)
        return together

    async def replace_many(
        self, batches: Sequence[tuple[int, Events]], *, arrived_until_ms: int, timeout_s: float
    ) -> list[AppendResult]:
        """As ``FeatureStore.replace_many``."""
        keys = [self.keys(user) for user, _ in batches]
        calls = [
            REPLACE.call(k, self.value.replace_arguments(events, keep_after_ms=arrived_until_ms))
            for k, (_, events) in zip(keys, batches, strict=True)
        ]
        return await self._run(REPLACE, keys, calls, timeout_s=timeout_s)

    async def read(
        self, user_key: int, *, limit: int | None, since_ms: int | None, until_ms: int | None, timeout_s: float
    ) -> tuple[HistoryHeader, Events]:
        """As ``FeatureStore.history``."""
        wanted = _ALL if limit is None else limit
        if wanted < 0:
            raise InvalidInputError(f"limit is {limit}; allowed: 0 or more events")
        deadline_s = time.monotonic() + timeout_s
        if since_ms is None and until_ms is None:
            return (await self.newest([user_key], wanted, timeout_s=timeout_s))[0]
        # A range ends up to now as a rule, so it is looked for from the newest event backwards.
        count = min(wanted, self.value.chunk)
        while True:
            ((header, events),) = await self.newest([user_key], count, timeout_s=deadline_s - time.monotonic())
            everything = len(events) == header.stored
            reached = since_ms is not None and len(events) > 0 and int(events["timestamp"][0]) < since_ms
            found = in_range(events, since_ms, until_ms)
            if everything or reached or len(found) >= wanted:
                return header, found[len(found) - min(wanted, len(found)) :]
            count = 8 * max(count, 1)

    async def as_of(self, user_key: int, time_ms: int, *, timeout_s: float) -> Events:
        """The newest ``History.recent`` events that count at a time, however many stored ones do not yet."""
        deadline_s = time.monotonic() + timeout_s
        wanted, count = self.value.recent, 2 * self.value.recent
        while True:
            ((header, events),) = await self.newest([user_key], count, timeout_s=deadline_s - time.monotonic())
            found = self.value.visible(events, time_ms)
            if len(found) >= wanted or len(events) == header.stored or not self.value.older_may_count(events, time_ms):
                return found
            count *= 8

    async def span(self, user_key: int, first: int, end: int, *, header: HistoryHeader, timeout_s: float) -> Span:
        """As ``FeatureStore.span``."""
        deadline_s = time.monotonic() + timeout_s
        keys = self.keys(user_key)
        while True:
            begin = min(max(first, header.trimmed), header.appended)
            stop = max(min(end, header.appended), begin)
            commands = self.value.span_commands(keys, header, begin, stop)
            found = await self._link.round_trip(commands, timeout_s=deadline_s - time.monotonic())
            # The first is of the open part: if that is well, and something is not, it is the chunks.
            replies = [value_of(keys.sealed if place else keys.open, reply) for place, reply in enumerate(found)]
            now, events = self.value.parse_span(keys, header, begin, stop, replies)
            if events is not None:
                return Span(now, begin, events)
            if now == header:
                # Nobody wrote, but the parts are not where the header says: all of it tells what there is.
                ((now, events),) = await self.newest([user_key], _ALL, timeout_s=deadline_s - time.monotonic())
                oldest = now.appended - len(events)
                begin = max(first - oldest, 0)
                return Span(now, oldest + begin, events[begin : max(end - oldest, begin)])
            header = now

    async def whole(self, user_key: int, replies: Sequence[Reply], *, timeout_s: float) -> tuple[HistoryHeader, Events]:
        """All events of a user, from the replies to :meth:`whole_commands`; read again if somebody wrote between.

        Raises:
            StoreError: they cannot be read.
        """
        keys = self.keys(user_key)
        part = self.value.parse_whole(keys, *self.value.whole_values(keys, replies), _ALL)
        if part is not None and part.enough:
            return part.header, part.events
        return (await self.newest([user_key], _ALL, timeout_s=timeout_s))[0]

    def whole_commands(self, user_key: int) -> list[Command]:
        """The reads that :meth:`whole` takes."""
        return self.value.whole_commands(self.keys(user_key), _ALL, self.value.chunk)

    async def newest(
        self, user_keys: Sequence[int], limit: int, *, timeout_s: float
    ) -> list[tuple[HistoryHeader, Events]]:
        """:meth:`each`, of which every one can be read.

        Raises:
            StoreFormatError: of the first that cannot.
        """
        found = []
        for read in await self.each(user_keys, limit, timeout_s=timeout_s):
            if isinstance(read, StoreFormatError):
                raise read
            found.append(read)
        return found

    async def each(self, user_keys: Sequence[int], limit: int, *, timeout_s: float) -> list[HistoryRead]:
        """The newest ``limit`` events of many users, in one round trip if nobody writes meanwhile.

        One that cannot be read is no reason to refuse the others; it is logged once.
        """
        deadline_s = time.monotonic() + timeout_s
        keys = [self.keys(user) for user in user_keys]
        parts: list[Part | StoreFormatError | None] = [None] * len(keys)
        if limit <= self.value.chunk:
            commands = [c for k in keys for c in self.value.open_commands(k, limit)]
            replies = await self._link.round_trip(commands, timeout_s=timeout_s)
            for i, k in enumerate(keys):
                parts[i] = self._open_part(k, replies[3 * i : 3 * i + 3], limit)
        tries = 0
        while missing := [i for i, part in enumerate(parts) if not _is_enough(part)]:
            commands, tries = [], tries + 1
            for i in missing:
                part, chunk, stored = parts[i], self.value.chunk, _ALL
                if isinstance(part, Part):  # smaller chunks than this program makes need more of them
                    chunk, stored = min(chunk, part.header.chunk), part.header.stored
                if tries > _TRIES:  # should that not do, all of them will
                    chunk, stored = 1, _ALL
                commands += self.value.whole_commands(keys[i], min(limit, stored), chunk)
            replies = await self._link.round_trip(commands, timeout_s=deadline_s - time.monotonic())
            for n, i in enumerate(missing):
                parts[i] = part = self._whole_part(keys[i], replies[4 * n : 4 * n + 4], limit)
                if tries > _TRIES and isinstance(part, Part) and not part.enough:
                    parts[i] = self.value.miscounted(keys[i], part.header)  # nobody wrote, and all was read
        for part in parts:
            if isinstance(part, StoreFormatError):
                self._damage.found("history", part)
        return [(part.header, part.events) if isinstance(part, Part) else part for part in parts if part is not None]

    def _open_part(self, keys: HistoryKeys, replies: Sequence[Reply], limit: int) -> Part | StoreFormatError:
        """The part that the replies to ``open_commands`` hold, or why they hold none."""
        try:
            return self.value.parse_open(keys, *self.value.open_values(keys, replies), limit)
        except StoreFormatError as error:
            return error

    def _whole_part(self, keys: HistoryKeys, replies: Sequence[Reply], limit: int) -> Part | StoreFormatError | None:
        """The same for ``whole_commands``; None if somebody wrote meanwhile."""
        try:
            return self.value.parse_whole(keys, *self.value.whole_values(keys, replies), limit)
        except StoreFormatError as error:
            return error

    async def _run(
        self, script: Script, keys: Sequence[HistoryKeys], calls: list[Command], *, timeout_s: float
    ) -> list[AppendResult]:
        """One call of a script per user; raises the first error that is not about one user's bytes."""
        deadline_s = time.monotonic() + timeout_s
        await self._guard.claim(HISTORY, timeout_s=timeout_s)
        commands = [self._guard.record(HISTORY), *calls]
        recorded, *replies = await self._link.round_trip(commands, timeout_s=deadline_s - time.monotonic())
        self._guard.recorded(HISTORY, recorded)
        while again := [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]:
            # One text makes a Redis remember the program; in a cluster the next turn is for the next node.
            first, *others = (calls[i] for i in again)
            await self._again(again, [script.call_with_text(first), *others], replies, deadline_s)
        found = {i: self._upgrade_of(reply) for i, reply in enumerate(replies) if isinstance(reply, ResponseError)}
        if upgrades := {i: arguments for i, arguments in found.items() if arguments is not None}:
            older = list(upgrades)
            texts = [UPGRADE.call_with_text(UPGRADE.call(keys[i], upgrades[i])) for i in older]
            await self._again(older, texts, replies, deadline_s)
            await self._again(older, [calls[i] for i in older], replies, deadline_s)
        results = []
        for k, reply in zip(keys, replies, strict=True):
            try:
                if isinstance(reply, ResponseError) and str(reply).startswith("BADHISTORY"):
                    raise self.value.append_error(k, _bad_header(reply))
                if isinstance(reply, ResponseError) and str(reply).startswith("WRONGKEY"):
                    raise translate(ResponseError("WRONGTYPE"), str(reply).split()[1])
                if isinstance(reply, ResponseError) and str(reply).startswith("HALFHISTORY"):
                    raise self.value.half(k)
                if isinstance(reply, ResponseError) and str(reply).startswith("BADOFFSET"):
                    raise StoreFormatError(
                        f"{k.offsets.decode()}: corrupt: what it holds of the source is no offset; restart the source"
                    )
                if isinstance(reply, ResponseError) and str(reply).startswith("OFFSETJUMP"):
                    raise _too_far(str(reply))
                added, stored, *more = value_of(k.open, reply)
                new = self.value.events_of(more[1]) if len(more) > 1 else None
                results.append(AppendResult(added, stored, skipped=sum(more[:1]), new=new))
            except (StoreFormatError, InvalidInputError) as error:
                results.append(AppendResult(0, 0, refused=error))
        return results

    async def _again(self, indices: list[int], calls: list[Command], replies: list[Reply], deadline_s: float) -> None:
        found = await self._link.round_trip(calls, timeout_s=deadline_s - time.monotonic())
        for i, reply in zip(indices, found, strict=True):
            replies[i] = reply

    def _upgrade_of(self, error: ResponseError) -> Command | None:
        """The arguments that bring the value a program refused to this layout; None if that was not the reason."""
        if not str(error).startswith("BADHISTORY"):
            return None
        header = _bad_header(error)
        return self.value.upgrade_arguments(header) if len(header) == HEADER.size else None


def in_range(events: Events, since_ms: int | None, until_ms: int | None) -> Events:
    """Of events sorted by time those with since_ms <= timestamp < until_ms."""
    times = events["timestamp"]
    begin = 0 if since_ms is None else int(np.searchsorted(times, since_ms))
    end = len(events) if until_ms is None else int(np.searchsorted(times, until_ms))
    return events[begin:end]


def _bad_header(reply: ResponseError) -> bytes:
    return bytes.fromhex(str(reply).split()[1])


def _is_enough(part: Part | StoreFormatError | None) -> bool:
    return part is not None and (isinstance(part, StoreFormatError) or part.enough)


def _too_far(reply: str) -> InvalidInputError:
    """The error for the reply OFFSETJUMP, the last offset applied (-: none), the newest one, the most allowed."""
    _, last, newest, most = reply.split()
    since = "0, as none of this source was applied yet" if last == "-" else f"{int(last)}, the last one applied"
    return InvalidInputError(
        f"offsets: {int(newest)} is more than {int(most):,} beyond {since}; allowed: offsets that grow along the "
        "source, event by event. If the source did jump, set restart_source with these events"
    )
