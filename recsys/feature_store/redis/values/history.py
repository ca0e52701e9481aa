"""HistoryValue: one FeatureSet's histories as Redis values: the commands that read them, and the replies checked.

``L`` events. The bytes are those of ``features/history/records.py``; this is that module with the layout
worked out once instead of once per request (measured: 30 us of a 100 us read).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from recsys.arrays import Int64Array
from recsys.errors import InvalidInputError, StoreFormatError
from recsys.feature_store.redis.keys import HistoryKeys
from recsys.feature_store.redis.link.protocol import Command
from recsys.features.feature_set import FeatureSet
from recsys.features.history.records import (
    HEADER,
    Events,
    HistoryHeader,
    event_dtype,
    missing_events,
    pack_header,
    require_history,
    unpack_header,
    upgrade_events,
)
from recsys.features.history.rules import canonical, canonical_order, identity_fields, visible

_PREFIX_BYTES = 16
_RULES = struct.Struct("<IIqqI")
_COUNTERS = struct.Struct("<IIQQqq")
_LONG = 1_000
_CHUNK_BYTES = 4064
"""With Redis's own bytes around it a chunk then fills a 4 KiB allocation."""


class Part(NamedTuple):
    """Result of one read.

    Attributes:
        header: the counters.
        events: the newest events, oldest first; shape [L].
        enough: these are as many as were wanted, or all there are.
    """

    header: HistoryHeader
    events: Events
    enough: bool


class HistoryValue:
    """Reads and writes the histories that ``features`` declares.

    Raises:
        InvalidInputError: it declares none.
    """

    def __init__(self, features: FeatureSet) -> None:
        self._features = features
        self._history = history = require_history(features)
        self._dtype = dtype = event_dtype(features)
        self.recent = history.recent
        self.max_age_ms = 1000 * history.max_age_s
        # Small histories in small chunks, as up to two of them are kept beyond max_events; and no smaller than what
        # a model reads, so that one value holds it all, unless that is a long history, which is read by its state.
        self.chunk = max(
            min(history.recent, _LONG), min(_CHUNK_BYTES // dtype.itemsize, max(16, history.max_events // 4))
        )
        self.none = Part(HistoryHeader(chunk=self.chunk), np.empty(0, dtype=dtype), True)
        self._prefix = pack_header(features, self.none.header)[:_PREFIX_BYTES]
        spans = [dtype.fields[name][:2] for name in identity_fields(features)] if dtype.fields else []
        identity = " ".join(f"{start + 1}-{start + field.itemsize}" for field, start in spans)
        rules = _RULES.pack(dtype.itemsize, self.chunk, history.max_events, self.max_age_ms, history.ttl_s)
        self._rules = self._prefix + rules + identity.encode()

    def append_arguments(
        self, batches: Sequence[Events], source: str, offsets: Sequence[Int64Array] | None
    ) -> list[Command]:
        """The arguments of ``append.lua`` for each of some users' batches.

        All are put in order at once: one at a time, numpy's cost per call would be most of the work.

        Raises:
            InvalidInputError: the events have another dtype, or there are not as many offsets as events.
        """
        for i, events in enumerate(batches):
            self._check(events)
            if offsets is not None and len(offsets[i]) != len(events):
                raise InvalidInputError(f"{len(offsets[i])} offsets for {len(events)} events")
            if offsets is not None and (offsets[i] < 0).any():
                raise InvalidInputError(f"offset {offsets[i].min()}; allowed: 0 or more")
        if not batches:
            return []
        # Six times as fast as np.concatenate for many small batches of a structured type.
        together: Events = np.frombuffer(b"".join([events.tobytes() for events in batches]), dtype=self._dtype)
        lengths = np.fromiter(map(len, batches), dtype=np.int64, count=len(batches))
        user = np.repeat(np.arange(len(batches)), lengths)
        order = canonical_order(self._features, together, user)
        ends = np.cumsum(np.bincount(user[order], minlength=len(batches))).tolist()
        records, width = together[order].tobytes(), self._dtype.itemsize
        arrivals = [0] * len(batches)
        if self.max_age_ms:
            arrivals = [int(events["arrival"].max()) if len(events) else 0 for events in batches]
        numbers = ""
        if offsets is not None:
            numbers = "".join(f"{offset:020d}" for offset in np.concatenate(offsets)[order].tolist())
        commands: list[Command] = []
        begin = 0
        for end, arrival in zip(ends, arrivals, strict=True):
            batch = records[begin * width : end * width]
            if offsets is None:
                commands.append((self._rules, batch, arrival))
            else:
                commands.append((self._rules, batch, arrival, source, numbers[20 * begin : 20 * end]))
            begin = end
        return commands

    def replace_arguments(self, events: Events, *, keep_after_ms: int) -> Command:
        """The arguments of ``replace.lua``: of the events the newest ``max_events``, or a few more.

        Raises:
            InvalidInputError: the events have another dtype.
        """
        self._check(events)
        events = canonical(self._features, events)
        trimmed_until = -1
        if len(events) > self._history.max_events:
            # Between two timestamps, so that each is there completely or not at all.
            times = events["timestamp"]
            cut = int(np.searchsorted(times, times[-self._history.max_events]))
            trimmed_until = int(times[cut - 1]) if cut else -1
            events = events[cut:]
        return (self._rules, events.tobytes(), keep_after_ms, trimmed_until)

    def upgrade_arguments(self, header: bytes) -> Command | None:
        """The arguments of ``upgrade.lua`` for a value with this header; None if it is not of an older layout."""
        try:
            _, dtype = unpack_header(self._features, header)
        except StoreFormatError:
            return None
        if dtype == self._dtype:
            return None
        filler = missing_events(self._features, 1).tobytes()[dtype.itemsize :]
        return (header[:_PREFIX_BYTES], dtype.itemsize, self._prefix, self._dtype.itemsize, filler)

    def open_commands(self, keys: HistoryKeys, limit: int) -> list[Command]:
        """The two reads that :meth:`parse_open` takes: the header, and the newest ``limit`` events."""
        size_bytes = HEADER.size + limit * self._dtype.itemsize
        return [(b"GETRANGE", keys.open, 0, HEADER.size - 1), (b"GETRANGE", keys.open, -size_bytes, -1)]

    def parse_open(self, keys: HistoryKeys, head: bytes, tail: bytes, limit: int) -> Part:
        """At most ``limit`` of the events in the open part, from the replies to :meth:`open_commands`.

        Raises:
            StoreFormatError: they are no history, of a newer format or of an unknown layout.
        """
        if not head or not tail:
            return self.none
        # The tail is read with room for a header. If it came back shorter it is the whole
        # value, and its own header counts, even if somebody appended between the two reads.
        whole = len(tail) < HEADER.size + limit * self._dtype.itemsize
        header, dtype = self._header(keys, tail[: HEADER.size] if whole else head)
        body = tail[HEADER.size :] if whole else tail
        if whole and (len(body) % dtype.itemsize or (header.stored - len(body) // dtype.itemsize) % header.chunk):
            raise self._miscounted(keys, header)
        events = self._events(body[len(body) % dtype.itemsize :], dtype)[-limit:] if limit else self.none.events
        # Two commands: if somebody wrote in between, be it records of another width, the two do not fit together.
        fits = whole or not limit or int(events["timestamp"][-1]) == header.newest_ms
        return Part(header, events, fits and (len(events) == limit or (whole and len(events) == header.stored)))

    def whole_commands(self, keys: HistoryKeys, limit: int, chunk: int) -> list[Command]:
        """The three reads that :meth:`parse_whole` takes, enough for ``limit`` events."""
        # Once a chunk was sealed, the open part has at least as many records as one.
        chunks = max(1, -(-(limit - chunk) // chunk))
        head: Command = (b"GETRANGE", keys.open, 0, HEADER.size - 1)
        return [head, (b"LRANGE", keys.sealed, -chunks, -1), (b"GET", keys.open)]

    def parse_whole(
        self, keys: HistoryKeys, head: bytes, sealed: list[bytes], value: bytes | None, limit: int
    ) -> Part | None:
        """At most ``limit`` events, from the replies to :meth:`whole_commands`; None if somebody wrote
        between the three: ask again.

        Raises:
            StoreFormatError: they are no history, of a newer format or of an unknown layout.
        """
        if not head or not value:
            return None if head or value else self.none
        if head != value[: HEADER.size]:
            return None
        header, dtype = self._header(keys, head)
        open_count, rest = divmod(len(value) - HEADER.size, dtype.itemsize)
        expected, uneven = divmod(header.stored - open_count, header.chunk)
        if rest or uneven or expected < 0 or set(map(len, sealed)) - {header.chunk * dtype.itemsize}:
            raise self._miscounted(keys, header)
        if expected and not sealed:
            # Evicted by Redis for want of memory: what is gone counts as trimmed, as the next append will have it.
            header = header._replace(trimmed=header.appended - open_count)
        events = self._events(b"".join([*sealed, value[HEADER.size :]]), dtype)
        wanted = min(limit, header.stored)
        if len(events) < wanted:
            return Part(header, events, False)
        return Part(header, events[len(events) - wanted :], True)

    def span_commands(self, keys: HistoryKeys, header: HistoryHeader, first: int, end: int) -> list[Command]:
        """The reads that :meth:`parse_span` takes: events number ``first`` to ``end`` of a history with this header."""
        head: Command = (b"GETRANGE", keys.open, 0, HEADER.size - 1)
        commands, sealed = [head], self._sealed(header)
        begin, stop = first - header.trimmed, end - header.trimmed
        if begin < min(stop, sealed):
            chunks = (begin // header.chunk, (min(stop, sealed) - 1) // header.chunk)
            commands.append((b"LRANGE", keys.sealed, *chunks))
        if stop > max(begin, sealed):
            width = self._dtype.itemsize
            begin_bytes = HEADER.size + (max(begin, sealed) - sealed) * width
            commands.append((b"GETRANGE", keys.open, begin_bytes, HEADER.size + (stop - sealed) * width - 1))
        return [*commands, head]

    def parse_span(
        self, keys: HistoryKeys, header: HistoryHeader, first: int, end: int, replies: Sequence[Any]
    ) -> tuple[HistoryHeader, Events | None]:
        """The header of now, and the events, if nobody wrote since ``header`` was read.

        Raises:
            StoreFormatError: it is no history, of a newer format or of an unknown layout.
        """
        before, *parts, after = replies
        if not before:
            return self.none.header, None
        now, _ = self._header(keys, before)
        if before != after or now != header:
            return now, None
        skipped = 0
        begin, sealed = first - header.trimmed, self._sealed(header)
        if begin < min(end - header.trimmed, sealed):
            skipped, parts = begin % header.chunk, [*parts[0], *parts[1:]]
        width = self._dtype.itemsize
        body = b"".join(parts)[skipped * width : (skipped + end - first) * width]
        # Of another length: Redis evicted the sealed part, or the records are of an older layout.
        fits = len(body) == (end - first) * width and before[:_PREFIX_BYTES] == self._prefix
        return now, self._events(body, self._dtype) if fits else None

    def _sealed(self, header: HistoryHeader) -> int:
        """Events in sealed chunks: the open part has less than two chunks, and no less than one if any is sealed."""
        return max(0, header.stored // header.chunk - 1) * header.chunk

    def visible(self, events: Events, time_ms: int) -> Events:
        """The newest ``History.recent`` of stored events that count at a time."""
        return visible(self._features, events, time_ms)[-self.recent :]

    def older_may_count(self, events: Events, time_ms: int) -> bool:
        """True if events older than these may count at a time."""
        return not (self.max_age_ms and len(events) and int(events["timestamp"][0]) < time_ms - self.max_age_ms)

    def append_error(self, keys: HistoryKeys, header: bytes) -> StoreFormatError:
        """The reason for which a program of ours would not change the value with this header."""
        try:
            return self._miscounted(keys, self._header(keys, header)[0])
        except StoreFormatError as error:
            return error

    def _check(self, events: Events) -> None:
        if events.dtype is not self._dtype and events.dtype != self._dtype:
            raise InvalidInputError(
                f"events have dtype {events.dtype}; FeatureSet {self._features.name!r} declares {self._dtype}: "
                "build them with features.history.make_events"
            )

    def _events(self, body: bytes, dtype: np.dtype[np.void]) -> Events:
        events: Events = np.frombuffer(body, dtype=dtype)
        return events if dtype is self._dtype else upgrade_events(self._features, events)

    def _header(self, keys: HistoryKeys, data: bytes) -> tuple[HistoryHeader, np.dtype[np.void]]:
        if len(data) == HEADER.size and data[:_PREFIX_BYTES] == self._prefix:
            chunk, rewritten, appended, trimmed, until_ms, newest_ms = _COUNTERS.unpack_from(data, _PREFIX_BYTES)
            if trimmed <= appended and chunk:
                return HistoryHeader(chunk, rewritten, appended, trimmed, until_ms, newest_ms), self._dtype
        return unpack_header(self._features, data, key=keys.open.decode())

    def _miscounted(self, keys: HistoryKeys, header: HistoryHeader) -> StoreFormatError:
        return StoreFormatError(
            f"{keys.open.decode()}: corrupt: the bytes stored are not those of the {header.stored} events "
            "its header counts"
        )
