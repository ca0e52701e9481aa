"""FeatureStore: the calls of a feature store. ``redis.store.RedisFeatureStore`` is the implementation.

Users, items and other entities are named by their 62-bit keys (``features/hashing.py``); turning raw ids
into keys is the caller's job. Every call takes the seconds it may last and raises
``StoreUnavailableError`` when it could not finish in that time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from recsys.arrays import Float64Array, Int64Array, UInt8Array
from recsys.errors import InvalidInputError, StoreError, StoreFormatError
from recsys.features.columns import Column
from recsys.features.history.records import Events, HistoryHeader


@dataclass(frozen=True, slots=True)
class AppendResult:
    """Result of an append to one history.

    Attributes:
        added: events that were not there before and are there now.
        stored: events in the history now.
        refused: why nothing was done (the key holds bytes that are not ours, or an offset is too far ahead); only from
            calls for many users.
        skipped: events that were not looked at, as their offsets are not past the last one applied from their source.
        new: the events added, where the FeatureSet counts what is trending; None elsewhere.
    """

    added: int
    stored: int
    refused: StoreFormatError | InvalidInputError | None = None
    skipped: int = 0
    new: Events | None = field(default=None, compare=False, repr=False)


NOT_STORED, STORED, IS_WITHDRAWN = 0, 1, 2
"""An entity has no row; it has one; it is an item that was withdrawn."""


class EntityRows(NamedTuple):
    """Features of N entities, as far as they can be read.

    Attributes:
        columns: every feature, N rows each; missing for unknown and for damaged ones.
        damaged: places of those whose keys hold bytes that are not ours, rising, and why; each error names the key.
        stored: ``STORED``, ``NOT_STORED`` or ``IS_WITHDRAWN`` of each; uint8 [N].
    """

    columns: Mapping[str, Column]
    damaged: Mapping[int, StoreError]
    stored: UInt8Array


class ItemChanges(NamedTuple):
    """Items that were written.

    Attributes:
        keys: of the items, in the order of the writes, int64 [N]; one may come several times.
        times_ms: when each was written, ms since 1970 by the store's clock; int64 [N].
        position: to go on from, as ``since``.
        complete: every write since the position given is among these, or among those to come; False: some may have been
            dropped, so look at all items (``FeatureStore.item_keys``) once.
        more: there may be more already.
    """

    keys: Int64Array
    times_ms: Int64Array
    position: str
    complete: bool
    more: bool


HistoryRead = tuple[HistoryHeader, Events] | StoreFormatError
"""A history, or why it cannot be read; the error names the key."""


class StateRead(NamedTuple):
    """The part of a history that a bundle with a state reads.

    Attributes:
        version: of the states (``Manifest.state_version``), 16 hex digits.
        tail: count of the newest events read.
    """

    version: str
    tail: int


@dataclass(frozen=True, slots=True)
class UserInputs:
    """Everything about a user that a Rank request may need.

    Attributes:
        header: the history's counters.
        events: all that are stored, whether they count or not, oldest first; shape [L].
        columns: the user's features, N = 1; all missing for an unknown user.
        degraded: something could not be read and was taken as missing.
        state: the stored state's bytes, unchecked, if one was asked for and there is one.
    """

    header: HistoryHeader
    events: Events
    columns: Mapping[str, Column]
    degraded: bool
    state: bytes | None


class RankRead(NamedTuple):
    """The reads of a Rank request.

    Attributes:
        user_key: the user.
        item_keys: the candidates, int64 [C].
        time_ms: as of when.
        user: if the user was read before (``FeatureStore.read_user``), what was found; then only items are read.
    """

    user_key: int
    item_keys: Int64Array
    time_ms: int
    user: UserInputs | None = None


class Span(NamedTuple):
    """Events by their numbers.

    Attributes:
        header: the history's counters at that moment.
        first: number of the first event.
        events: shape [L], oldest first.
    """

    header: HistoryHeader
    first: int
    events: Events


@dataclass(frozen=True, slots=True)
class RankInputs:
    """Everything one Rank request reads.

    Attributes:
        events: the user's newest events that count at the request's time, oldest first; empty for an unknown user,
            and where a state was asked for.
        user_columns: the user's features, N = 1; all missing for an unknown user.
        item_columns: the candidates' features, N = C; missing for unknown items.
        user_degraded, items_degraded: that part could not be read and was taken as missing.
        header: with a state, the history's counters.
        tail: with a state, the newest events stored, whether they count or not; they end with number
            ``header.appended - 1``.
        state: the stored state's bytes, unchecked, if there is one.
    """

    events: Events
    user_columns: Mapping[str, Column]
    item_columns: Mapping[str, Column]
    user_degraded: bool
    items_degraded: bool
    header: HistoryHeader
    tail: Events
    state: bytes | None


class FeatureStore(Protocol):
    """Histories and entity features of one FeatureSet."""

    async def append(self, user_key: int, events: Events, *, timeout_s: float) -> AppendResult:
        """Add events to a user's history: atomic, idempotent, in any order.

        The history is the set of distinct events sent, in the order of ``features/history/rules.py``: a
        repetition adds nothing, a late event goes where it belongs. At least the newest
        ``History.max_events`` events are kept; what is not newer than everything trimmed is dropped.
        """
        ...

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
        """:meth:`append` for many users in one round trip; each user's append is atomic on its own.

        A history that is not ours is refused in its result, and is no reason to refuse the others.

        Args:
            batches: (user key, events) pairs; a user may come twice.
            source: where the events come from (a topic's partition, a stream), if ``offsets`` are given.
            offsets: for every batch the events' offsets in the source, 0 or more. The source gives a user's events
                in the order of their offsets; those up to the last one applied are not applied again, even if they
                have been changed since.
            offset_jump: most by which an offset may exceed the last one applied, or 0 where none was; default: any.
            restart_source: forget the last offsets applied of these users' source first, so that it may begin anew, or
                go on after a jump.
            timeout_s: for the whole call.
        """
        ...

    async def replace_many(
        self, batches: Sequence[tuple[int, Events]], *, arrived_until_ms: int, timeout_s: float
    ) -> list[AppendResult]:
        """Put whole histories in place of what is stored, each atomically: a reader sees the old one or the new.

        Stored events that arrived after ``arrived_until_ms`` stay: they came while the new history was
        prepared. ``AppendResult.added`` counts those.
        """
        ...

    async def history(
        self,
        user_key: int,
        *,
        limit: int | None = None,
        since_ms: int | None = None,
        until_ms: int | None = None,
        timeout_s: float,
    ) -> tuple[HistoryHeader, Events]:
        """A user's events, oldest first, and the history's counters; empty for an unknown user.

        Args:
            user_key: the user.
            limit: only the newest so many (of those in the range); default: all.
            since_ms, until_ms: only events with since_ms <= timestamp < until_ms.
            timeout_s: for the whole call.
        """
        ...

    async def histories(
        self, user_keys: Sequence[int], *, limit: int, timeout_s: float
    ) -> list[tuple[HistoryHeader, Events]]:
        """:meth:`history` of the newest ``limit`` events of many users, in one round trip.

        Raises:
            StoreFormatError: of the first history that cannot be read.
        """
        ...

    async def each_history(self, user_keys: Sequence[int], *, limit: int, timeout_s: float) -> list[HistoryRead]:
        """:meth:`histories`, but one that cannot be read is no reason to refuse the others."""
        ...

    async def span(self, user_key: int, first: int, end: int, *, header: HistoryHeader, timeout_s: float) -> Span:
        """A user's events with numbers from ``first`` up to but without ``end``, as far as they are stored.

        Events are numbered from 0 in the order of the history. As long as the header's ``rewritten`` is the same, a
        number means the same event.

        Args:
            user_key: the user.
            first, end: numbers.
            header: the counters as last read; if they are still the same, one round trip does.
            timeout_s: for the whole call.
        """
        ...

    def users(self) -> AsyncIterator[list[int]]:
        """The keys of all users with a history, some at a time, or none, in no order; one that changes meanwhile may
        come twice or not at all. Each time costs the store about half a millisecond."""
        ...

    async def states(self, user_keys: Sequence[int], *, version: str, timeout_s: float) -> list[bytes | None]:
        """The stored states of users of that version, unchecked (``redis/values/state.py``)."""
        ...

    async def put_states(
        self, states: Sequence[tuple[int, bytes]], *, version: str, ttl_s: int, timeout_s: float
    ) -> None:
        """Put states of users of that version in place of what is stored, each atomically, for ``ttl_s`` seconds."""
        ...

    async def trending(
        self, begins_ms: Sequence[int], *, timeout_s: float
    ) -> Mapping[int, tuple[Int64Array, Float64Array]]:
        """The counts of items in parts of the time, by the part's begin (``features/trending.py``): keys, numbers.

        Raises:
            InvalidInputError: the FeatureSet declares no trending.
        """
        ...

    async def put_entities(
        self, entity: str, keys: Int64Array, columns: Mapping[str, Column], *, timeout_s: float
    ) -> None:
        """Store the features of N users, items or other entities, replacing what was there; of items, and entities that
        have their ids, note which (:meth:`changed_items`).

        Args:
            entity: ``"user"``, ``"item"`` or the name of a declared entity.
            keys: shape [N].
            columns: every feature of the entity, N rows each.
            timeout_s: for the whole call.
        """
        ...

    async def entities(self, entity: str, keys: Int64Array, *, timeout_s: float) -> Mapping[str, Column]:
        """The features of N entities as they are stored now, duplicates allowed; missing for unknown ones.

        Raises:
            StoreFormatError: of the first row that cannot be read.
        """
        ...

    async def entity_rows(self, entity: str, keys: Int64Array, *, timeout_s: float) -> EntityRows:
        """:meth:`entities`, but a row that cannot be read is no reason to refuse the others."""
        ...

    async def withdraw_items(self, keys: Int64Array, *, timeout_s: float) -> None:
        """Withdraw N items, known or not: they lose their features, and are retrieved no more until they are put
        again. It is noted as a put is. Features of other entities that have the items' ids stay.
        """
        ...

    async def changed_items(self, since: str, *, limit: int, timeout_s: float) -> ItemChanges:
        """Read which items were written by :meth:`put_entities` since a position: each acknowledged write is here, and
        its rows, or newer ones, can be read by then. Old writes are dropped, the newest kept; the answer says if any
        that were asked for may be missing.

        Args:
            since: the position reached; empty: none was, so read from the oldest one that is kept, never ``complete``.
            limit: most writes to read, one of up to 100 items each.
            timeout_s: for the whole call.
        """
        ...

    def item_keys(self, entity: str = "item") -> AsyncIterator[list[int]]:
        """The keys of all items with features, or withdrawn, as :meth:`users` gives those of users; also of another
        entity that has the items' ids."""
        ...

    async def put_names(self, names: Mapping[int, str], *, timeout_s: float) -> None:
        """Remember the texts of string ids, by key: of items, and of the values of features and attributes.

        They stay for good. A key has one text only (``docs/specs/ids.md``), so writing it again changes nothing.
        """
        ...

    async def names(self, keys: Iterable[int], *, timeout_s: float) -> dict[int, str]:
        """The texts of string ids by key, as far as they are known; in any order, duplicates allowed."""
        ...

    async def read_for_rank(
        self,
        user_key: int,
        item_keys: Int64Array,
        *,
        time_ms: int,
        timeout_s: float,
        state: StateRead | None = None,
    ) -> RankInputs:
        """All that a Rank request needs as of ``time_ms``, in one round trip. Never raises for a store that is
        unreachable, slow or holds foreign bytes: the answer says what is degraded.

        Args:
            user_key: the user.
            item_keys: the candidates, shape [C].
            time_ms: events that count at this time are read.
            timeout_s: for the whole call.
            state: read a state and the newest events as they are stored, instead of the events that count.
        """
        ...

    async def read_many_for_rank(
        self, reads: Sequence[RankRead], *, timeout_s: float, state: StateRead | None = None
    ) -> list[RankInputs]:
        """:meth:`read_for_rank` for several requests, all in one round trip; none where nothing is left to read."""
        ...

    async def read_user(self, user_key: int, *, timeout_s: float, state: StateRead | None = None) -> UserInputs:
        """A user's part of :meth:`read_for_rank` with the whole history, in one round trip, for a request whose items
        are not known yet (``RankRead.user``, with the same ``state``). Never raises for the store's sake either.
        """
        ...

    async def positions(self, *, timeout_s: float) -> dict[str, str]:
        """The position reached in each source, as last given to :meth:`save_position`."""
        ...

    async def save_position(self, source: str, position: str, *, timeout_s: float) -> None:
        """Store the position reached in a source, next to the events that came from it."""
        ...

    async def ping(self, *, timeout_s: float) -> None:
        """Raise StoreUnavailableError unless the store answers, and StoreFormatError if it was filled
        with another layout than this program's: call it before serving."""
        ...

    async def check_primary(self, *, timeout_s: float) -> None:
        """See whether the server that reads come from still takes writes, and look for the one that does if not. Raises
        StoreUnavailableError if none answers."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
