"""HistoryValue: one FeatureSet's history as a Redis value, what to ask for and how to check what came.

``L`` events. The bytes are those of ``features/history.py``; this is that module with the layout
worked out once instead of once per request (measured: 30 us of a 100 us read).
"""

from __future__ import annotations

import struct

import numpy as np

from recsys.errors import InvalidInputError, StoreFormatError
from recsys.feature_store.link import Command
from recsys.features.feature_set import FeatureSet
from recsys.features.history import (
    HEADER,
    Events,
    HistoryHeader,
    event_dtype,
    pack_header,
    require_history,
    unpack_events,
    unpack_header,
)

_PREFIX_BYTES = 16
_COUNTERS = struct.Struct("<QQ")


class HistoryValue:
    """Reads and writes the histories that ``features`` declares.

    Raises:
        InvalidInputError: it declares none.
    """

    def __init__(self, features: FeatureSet) -> None:
        self._features = features
        history = require_history(features)
        self._dtype = event_dtype(features)
        self._prefix = pack_header(features, appended=0, trimmed=0)[:_PREFIX_BYTES]
        self.recent = history.recent
        self.no_events: Events = np.empty(0, dtype=self._dtype)
        self.append_arguments: Command = (
            self._prefix,
            self._dtype.itemsize,
            history.max_events,
            history.ttl_s,
        )
        """All but the last argument of ``append.lua``."""

    def records(self, events: Events) -> bytes:
        """The last argument of ``append.lua``: events as bytes, sorted by timestamp, ties as they came.

        Raises:
            InvalidInputError: they have another dtype.
        """
        if events.dtype != self._dtype:
            raise InvalidInputError(
                f"events have dtype {events.dtype}; FeatureSet {self._features.name!r} declares {self._dtype}: "
                "build them with features.history.make_events"
            )
        times = events["timestamp"]
        if (times[1:] < times[:-1]).any():
            events = events[np.argsort(times, kind="stable")]
        return events.tobytes()

    def read_commands(self, key: bytes, limit: int) -> list[Command]:
        """The two reads that :meth:`parse` takes: the header, and the newest ``limit`` events."""
        size_bytes = HEADER.size + limit * self._dtype.itemsize
        return [(b"GETRANGE", key, 0, HEADER.size - 1), (b"GETRANGE", key, -size_bytes, -1)]

    def parse(self, key: bytes, head: bytes, tail: bytes, limit: int) -> tuple[HistoryHeader, Events]:
        """The counters and at most ``limit`` events, oldest first, from the replies to :meth:`read_commands`.

        Raises:
            StoreFormatError: they are no history, of a newer format or of another layout.
        """
        if not head or not tail:
            return HistoryHeader(appended=0, trimmed=0), self.no_events
        # The tail was asked for with room for a header. If it came back shorter it is the whole
        # value, and its own header counts, even if somebody appended between the two reads.
        whole = len(tail) < HEADER.size + limit * self._dtype.itemsize
        header = self._header(key, tail[: HEADER.size] if whole else head)
        body = tail[HEADER.size :]
        if len(body) % self._dtype.itemsize:
            unpack_events(self._features, body, key=key.decode())  # raises
        events: Events = np.frombuffer(body, dtype=self._dtype)
        if whole and len(events) != header.appended - header.trimmed:
            raise self._miscounted(key, header)
        return header, events

    def append_error(self, key: bytes, header: bytes) -> StoreFormatError:
        """Why ``append.lua`` would not extend the value with this header."""
        try:
            return self._miscounted(key, self._header(key, header))
        except StoreFormatError as error:
            return error

    def _header(self, key: bytes, data: bytes) -> HistoryHeader:
        if len(data) == HEADER.size and data[:_PREFIX_BYTES] == self._prefix:
            appended, trimmed = _COUNTERS.unpack_from(data, _PREFIX_BYTES)
            if trimmed <= appended:
                return HistoryHeader(appended=appended, trimmed=trimmed)
        return unpack_header(self._features, data, key=key.decode())

    def _miscounted(self, key: bytes, header: HistoryHeader) -> StoreFormatError:
        return StoreFormatError(
            f"{key.decode()}: corrupt: its length is not that of the {header.appended - header.trimmed} events "
            "its header counts"
        )
