"""HistoryValue: one FeatureSet's histories as Redis values: the commands that read them, and the replies checked.

``L`` events. The bytes are those of ``features/history/records.py``; this is that module with the layout
worked out once instead of once per request (measured: 30 us of a 100 us read).
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from redis.exceptions import ResponseError

from recsys.arrays import Int64Array
from recsys.errors import InvalidInputError, StoreFormatError
from recsys.feature_store.redis.keys import HistoryKeys
from recsys.feature_store.redis.link.protocol import Command, Reply
from recsys.feature_store.redis.link.replies import value_of
from recsys.features.feature_set import FeatureSet
from recsys.features.hashing import KEY_LIMIT, MISSING
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
from recsys.features.values import MAX_TIME_MS

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
        self._wide = tuple(a.name for a in history.attributes if a.storage == "i64")
        self._narrow = tuple(a.name for a in history.attributes if a.storage == "i32")
        self._prefix = pack_header(features, self.none.header)[:_PREFIX_BYTES]
        spans = [dtype.fields[name][:2] for name in identity_fields(features)] if dtype.fields else []
        identity = " ".join(f"{start + 1}-{start + field.itemsize}" for field, start in spans)
        rules = _RULES.pack(dtype.itemsize, self.chunk, history.max_events, self.max_age_ms, history.ttl_s)
        self._rules = self._prefix + rules + identity.encode()
        self._returns_added = history.trending is not None

    def events_of(self, records: bytes) -> Events:
        """Events of packed records, as ``append.lua`` returns those that it added."""
        return np.frombuffer(records, dtype=self._dtype)

    def append_arguments(
        self, batches: Sequence[Events], source: str, offsets: Sequence[Int64Array] | None, rule: str = ""
    ) -> list[Command]:
        """The arguments of ``append.lua`` for each of some users' batches.

        All are put in order at once: one at a time, numpy's cost per call would be most of the work.

        Args:
            batches: their events.
            source: where these come from, if they have offsets.
            offsets: their places in it.
            rule: for the offsets: the most by which they may exceed the last one applied, ``restart``, or nothing.

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
        begin, now_s = 0, int(time.time())
        for end, arrival in zip(ends, arrivals, strict=True):
            batch = records[begin * width : end * width]
            told: Command = ("records",) if self._returns_added else ()
            if offsets is None:
                commands.append((self._rules, batch, arrival, *(("", "", "", now_s, *told) if told else ())))
            else:
                commands.append(
                    (self._rules, batch, arrival, source, numbers[20 * begin : 20 * end], rule, now_s, *told)
                )
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
        """The three reads that :meth:`parse_open` takes: header, the newest ``limit`` events, the count of chunks."""
        size_bytes = HEADER.size + limit * self._dtype.itemsize
        return [
            (b"GETRANGE", keys.open, 0, HEADER.size - 1),
            (b"GETRANGE", keys.open, -size_bytes, -1),
            (b"LLEN", keys.sealed),
        ]

    @staticmethod
    def open_values(keys: HistoryKeys, replies: Sequence[Reply]) -> tuple[bytes, bytes, int]:
        """The values of the replies to :meth:`open_commands`.

        Raises:
            StoreError: one is an error; it names the key. Where the open part is there, its chunks may be anything.
        """
        head, tail, chunks = replies
        if isinstance(chunks, ResponseError) and value_of(keys.open, head):
            chunks = 0
        return value_of(keys.open, head), value_of(keys.open, tail), value_of(keys.sealed, chunks)

    @staticmethod
    def whole_values(keys: HistoryKeys, replies: Sequence[Reply]) -> tuple[Any, Any, Any, Any]:
        """The values of the replies to :meth:`whole_commands`.

        Raises:
            StoreError: one is an error; it names the key.
        """
        # The first is of the open part: if that is well, and something is not, it is the chunks.
        head, sealed, chunks, value = replies
        first = value_of(keys.open, head)
        return first, value_of(keys.sealed, sealed), value_of(keys.sealed, chunks), value_of(keys.sealed, value)

    def parse_open(self, keys: HistoryKeys, head: bytes, tail: bytes, chunks: int, limit: int) -> Part:
        """At most ``limit`` of the events in the open part, from the replies to :meth:`open_commands`.

        Raises:
            StoreFormatError: they are no history, of a newer format or of an unknown layout.
        """
        if not head or not tail:
            # Sealed chunks without an open part: all of it tells whether somebody is just writing.
            return self.none if not chunks else self.none._replace(enough=False)
        # The tail is read with room for a header. If it came back shorter it is the whole
        # value, and its own header counts, even if somebody appended between the two reads.
        whole = len(tail) < HEADER.size + limit * self._dtype.itemsize
        header, dtype = self._header(keys, tail[: HEADER.size] if whole else head)
        body = tail[HEADER.size :] if whole else tail
        count, rest = divmod(len(body), dtype.itemsize)
        if whole and (rest or header.stored < count or (header.stored - count) % header.chunk):
            raise self.miscounted(keys, header)
        events = self._events(body[rest:], dtype)[-limit:] if limit else self.none.events
        # Two commands: if somebody wrote in between, be it records of another width, the two do not fit together. Nor
        # do they if the bytes are damaged: reading all of it tells.
        fits = not len(events) or (int(events["timestamp"][-1]) == header.newest_ms and not self._impossible(events))
        # Where chunks are sealed, the open part has less than two more.
        fits = fits and (not chunks or 0 <= header.stored - chunks * header.chunk < 2 * header.chunk)
        return Part(header, events, fits and (len(events) == limit or (whole and len(events) == header.stored)))

    def whole_commands(self, keys: HistoryKeys, limit: int, chunk: int) -> list[Command]:
        """The four reads that :meth:`parse_whole` takes, enough for ``limit`` events."""
        # Once a chunk was sealed, the open part has at least as many records as one.
        chunks = max(1, -(-(limit - chunk) // chunk))
        head: Command = (b"GETRANGE", keys.open, 0, HEADER.size - 1)
        return [head, (b"LRANGE", keys.sealed, -chunks, -1), (b"LLEN", keys.sealed), (b"GET", keys.open)]

    def parse_whole(
        self, keys: HistoryKeys, head: bytes, sealed: list[bytes], chunks: int, value: bytes | None, limit: int
    ) -> Part | None:
        """At most ``limit`` events, from the replies to :meth:`whole_commands`; None if somebody wrote
        between them: ask again.

        Raises:
            StoreFormatError: they are no history, of a newer format or of an unknown layout.
        """
        if not head or not value:
            if not head and value is not None and not value:
                raise self._corrupt(keys, "it is empty")
            if chunks and not head and not value:
                raise self.half(keys)
            return None if head or value else self.none
        if head != value[: HEADER.size]:
            return None
        header, dtype = self._header(keys, head)
        open_count, rest = divmod(len(value) - HEADER.size, dtype.itemsize)
        expected, uneven = divmod(header.stored - open_count, header.chunk)
        if rest or uneven or expected < 0 or chunks not in (0, expected):
            raise self.miscounted(keys, header)
        if set(map(len, sealed)) - {header.chunk * dtype.itemsize}:
            raise self.miscounted(keys, header)
        if expected and not chunks:
            # Evicted by Redis for want of memory: what is gone counts as trimmed, as the next append will have it.
            header = header._replace(trimmed=header.appended - open_count)
        events = self._events(b"".join([*sealed, value[HEADER.size :]]), dtype)
        if len(events) and int(events["timestamp"][-1]) != header.newest_ms:
            raise self._corrupt(keys, f"its newest event is of {events['timestamp'][-1]}, not of {header.newest_ms}")
        if impossible := self._impossible(events):
            raise self._corrupt(keys, impossible)
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
        events = self._events(body, self._dtype) if fits else None
        if events is not None and (impossible := self._impossible(events)):
            raise self._corrupt(keys, impossible)
        return now, events

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
            return self.miscounted(keys, self._header(keys, header)[0])
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

    def miscounted(self, keys: HistoryKeys, header: HistoryHeader) -> StoreFormatError:
        """The error for a history of which there are more or fewer bytes than its header counts."""
        return self._corrupt(keys, f"the bytes stored are not those of the {header.stored} events its header counts")

    def half(self, keys: HistoryKeys) -> StoreFormatError:
        """The error for a history whose open part is gone: what is left is no history, and no empty one."""
        return self._corrupt(keys, f"it is gone, but the older events in {keys.sealed.decode()} are there")

    @staticmethod
    def _corrupt(keys: HistoryKeys, problem: str) -> StoreFormatError:
        return StoreFormatError(f"{keys.open.decode()}: corrupt: {problem}")

    def _impossible(self, events: Events) -> str:
        """Values that no event of ours has; an empty text if there are none. 5 us for 50 events."""
        if not len(events):
            return ""
        times = events["timestamp"]
        if int(events["item"].view(np.uint64).max()) >= KEY_LIMIT:
            return "an event has an item that is no key"
        if int(times[0]) < 0 or int(times[-1]) > MAX_TIME_MS or (times[1:] < times[:-1]).any():
            return "its events are not in the order of their times"
        for name in self._wide:
            keys = events[name].view(np.uint64) + np.uint64(1)  # a missing one is 0
            if int(keys.max()) > KEY_LIMIT:
                return f"an event's {name!r} is no key"
        for name in self._narrow:
            if int(events[name].min()) < MISSING:
                return f"an event's {name!r} is no key"
        return ""
