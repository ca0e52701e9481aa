"""RankReader: the reads of Rank requests in one round trip, with stand-ins for parts that cannot be read.

Recommend, which learns its candidates from the user's history, reads the user first, then what it needs of the items.

``C`` candidates.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recsys.arrays import BoolArray, Int64Array
from recsys.errors import StoreError, StoreFormatError, StoreUnavailableError
from recsys.feature_store.base import RankInputs, RankRead, StateRead, UserInputs
from recsys.feature_store.item_cache import ItemCache
from recsys.feature_store.redis.damage import DamageLog
from recsys.feature_store.redis.entities import RedisEntities, Row, all_bytes
from recsys.feature_store.redis.histories import RedisHistories
from recsys.feature_store.redis.keys import entity_key
from recsys.feature_store.redis.link.protocol import Command, Link, Reply
from recsys.feature_store.redis.link.replies import value_of
from recsys.feature_store.redis.states import RedisStates
from recsys.features.columns import Column, missing_column
from recsys.features.entities import unpack_rows
from recsys.features.feature_set import ITEM, USER, FeatureSet
from recsys.features.history.records import Events, HistoryHeader
from recsys.rate_limited_log import RateLimitedLog

_log = logging.getLogger(__name__)
_NO_KEYS: Int64Array = np.empty(0, dtype=np.int64)
_NO_HEADER = HistoryHeader(chunk=1)
_NO_EVENTS: Events = np.empty(0, dtype=[("item", "<i8"), ("timestamp", "<i8"), ("arrival", "<i8")])


class _Reading(NamedTuple):
    """One request's part of a round trip: its commands, and the columns that the cache had.

    Attributes:
        read: the request.
        user_commands: its commands about the user.
        commands: the place of these, and of one for its items if any is to be read, among all.
        generation: the cache's, before.
        item_columns, known, fresh: its answer (``ItemCache.read``).
        unread: keys of the items to read, ascending.
        names: of their rows in Redis.
        position: index in ``unread`` of each item that was not fresh.
    """

    read: RankRead
    user_commands: list[Command]
    commands: slice
    generation: int
    item_columns: dict[str, Column]
    known: BoolArray
    fresh: BoolArray
    unread: Int64Array
    names: list[str]
    position: Int64Array


class RankReader:
    """Reads for Rank requests of one FeatureSet."""

    def __init__(
        self,
        features: FeatureSet,
        *,
        link: Link,
        cache: ItemCache,
        rows: RedisEntities,
        histories: RedisHistories | None,
        states: RedisStates,
        damage: DamageLog,
    ) -> None:
        self._features = features
        self._name = features.name
        self._link = link
        self._cache = cache
        self._rows = rows
        self._histories = histories
        self._states = states
        self._damage = damage
        self._trouble = RateLimitedLog(_log)

    async def read(
        self, reads: Sequence[RankRead], *, timeout_s: float, state: StateRead | None = None
    ) -> list[RankInputs]:
        """As ``FeatureStore.read_many_for_rank``."""
        deadline_s = time.monotonic() + timeout_s
        parts, commands = [], list[Command]()
        for read in reads:
            parts.append(self._commands_of(read, state, commands))
        try:
            replies = await self._link.round_trip(commands, timeout_s=timeout_s) if commands else []
        except StoreError as error:
            replies = [error] * len(commands)
        await self._look_again(parts, replies, deadline_s)
        return [await self._inputs_of(part, replies[part.commands], deadline_s, state) for part in parts]

    async def read_user(self, user_key: int, *, timeout_s: float, state: StateRead | None = None) -> UserInputs:
        """As ``FeatureStore.read_user``."""
        deadline_s = time.monotonic() + timeout_s
        commands = user_commands = self._user_commands(user_key, state)
        if self._histories is not None:
            commands = user_commands + self._histories.whole_commands(user_key)
        try:
            replies = await self._link.round_trip(commands, timeout_s=timeout_s) if commands else []
        except StoreError as error:
            replies = [error] * len(commands)
        columns, degraded = self._user_row(user_commands, replies)
        stored_state = self._state(user_commands, replies, state)
        header, events = _NO_HEADER, _NO_EVENTS
        if self._histories is not None:
            events = self._histories.value.none.events
            try:
                left_s = deadline_s - time.monotonic()
                header, events = await self._histories.whole(user_key, replies[len(user_commands) :], timeout_s=left_s)
            except StoreError as error:
                degraded = self._degraded("history", error)
        return UserInputs(header, events, columns, degraded, stored_state)

    async def _look_again(self, parts: Sequence[_Reading], replies: list[Reply], deadline_s: float) -> None:
        """Put an error in the place of each row that was not found because its key is of another Redis type.

        One more round trip for items that were not found, which the cache then knows not to be there.
        """
        found = [part for part in parts if len(part.unread) and isinstance(replies[part.commands.stop - 1], list)]
        if all(all_bytes(replies[part.commands.stop - 1]) for part in found):
            return
        rows: list[Row] = [row for part in found for row in replies[part.commands.stop - 1]]
        names = [name for part in found for name in part.names]
        try:
            await self._rows.look_again(names, rows, timeout_s=deadline_s - time.monotonic())
        except StoreError:
            return  # what another part's node took the time for: what was not found is most likely not there
        start = 0
        for part in found:
            replies[part.commands.stop - 1] = rows[start : start + len(part.unread)]
            start += len(part.unread)

    def _commands_of(self, read: RankRead, state: StateRead | None, commands: list[Command]) -> _Reading:
        """Append the commands of one request."""
        first = len(commands)
        user_commands: list[Command] = []
        if read.user is None:
            user_commands = self._user_commands(read.user_key, state)
            if self._histories is not None:
                limit = self._newest(self._histories, state)
                user_commands += self._histories.value.open_commands(self._histories.keys(read.user_key), limit)
        commands += user_commands
        generation = self._cache.generation
        # Copied before the wait: meanwhile other requests may put other items into the same slots.
        item_columns, known, fresh = self._cache.read(read.item_keys)
        unread = position = _NO_KEYS
        names: list[str] = []
        if self._features.item and not fresh.all():
            unread, position = np.unique(read.item_keys[~fresh], return_inverse=True)
            names = self._rows.names(ITEM, unread)
            commands.append((b"MGET", *names))
        own = slice(first, len(commands))
        return _Reading(read, user_commands, own, generation, item_columns, known, fresh, unread, names, position)

    async def _inputs_of(
        self, part: _Reading, replies: Sequence[Reply], deadline_s: float, state: StateRead | None
    ) -> RankInputs:
        user_commands, users, user = part.user_commands, len(part.user_commands), part.read.user
        if user is None:
            user_columns, degraded = self._user_row(user_commands, replies)
            header, tail, events, history_degraded = await self._past(part.read, replies[:users], deadline_s, state)
            degraded |= history_degraded
            stored_state = self._state(user_commands, replies, state)
        else:
            user_columns, degraded, header, stored_state = dict(user.columns), user.degraded, user.header, user.state
            tail, events = self._of_whole(user.events, part.read.time_ms, state)
        items_degraded = False
        if len(part.unread):
            fetched, absent, unreadable = self._item_part(part.names, replies[users])
            items_degraded = bool(unreadable.any())
            if not items_degraded:
                self._cache.put(part.unread, fetched, generation=part.generation, absent=absent)
            # What could not be read keeps its expired features, where there are any.
            wanted = ~(part.known[~part.fresh] & unreadable[part.position])
            into = np.flatnonzero(~part.fresh)[wanted]
            for name, column in part.item_columns.items():
                if name in fetched:  # but not while a switch to more features lets the cache hold them already
                    column[into] = fetched[name][part.position[wanted]]
        return RankInputs(
            events,
            user_columns,
            part.item_columns,
            degraded,
            items_degraded,
            header,
            tail,
            stored_state,
        )

    def _user_commands(self, user: int, state: StateRead | None) -> list[Command]:
        """The reads of a user's row and state.

        They come before the history's, lest a state covers events that were not there yet when the history was read.
        """
        commands: list[Command] = []
        if self._features.user:
            commands.append((b"GET", entity_key(self._name, USER, user)))
        if state is not None:
            commands.append((b"GET", self._states.key(user, state.version)))
        return commands

    @staticmethod
    def _newest(histories: RedisHistories, state: StateRead | None) -> int:
        """Count of the newest events to read."""
        return histories.value.recent if state is None else min(state.tail, histories.value.chunk)

    def _user_row(self, user_commands: Sequence[Command], replies: Sequence[Reply]) -> tuple[dict[str, Column], bool]:
        """The user's features, and whether they were unreadable."""
        if not self._features.user:
            return {}, False
        key = user_commands[0][1]
        assert isinstance(key, bytes)
        try:
            return unpack_rows(self._features.user, [value_of(key, replies[0])], entity=key.decode()), False
        except StoreError as error:
            return {f.name: missing_column(f, 1) for f in self._features.user}, self._degraded(USER, error)

    async def _past(
        self, read: RankRead, replies: Sequence[Reply], deadline_s: float, state: StateRead | None
    ) -> tuple[HistoryHeader, Events, Events, bool]:
        """``RankInputs``' header, tail and events, and whether they were unreadable."""
        if self._histories is None:
            return _NO_HEADER, _NO_EVENTS, _NO_EVENTS, False
        user, time_ms = read.user_key, read.time_ms
        value, keys = self._histories.value, self._histories.keys(user)
        none = value.none.events
        limit = self._newest(self._histories, state)
        try:
            part = value.parse_open(keys, *value.open_values(keys, replies[-3:]), limit)
            left_s = deadline_s - time.monotonic()
            if state is not None:
                if part.enough:
                    return part.header, part.events, none, False
                ((header, events),) = await self._histories.newest([user], limit, timeout_s=left_s)
                return header, events, none, False
            events = value.visible(part.events, time_ms)
            short = len(events) < len(part.events) < part.header.stored and value.older_may_count(part.events, time_ms)
            if not part.enough or short:
                # Rare: somebody wrote meanwhile, or events of the future are among the newest.
                events = await self._histories.as_of(user, time_ms, timeout_s=left_s)
        except StoreError as error:
            return _NO_HEADER, none, none, self._degraded("history", error)
        return part.header, none, events, False

    def _of_whole(self, events: Events, time_ms: int, state: StateRead | None) -> tuple[Events, Events]:
        """``RankInputs``' tail and events, of all that are stored: as :meth:`_past` gives them."""
        if self._histories is None:
            return _NO_EVENTS, _NO_EVENTS
        value = self._histories.value
        if state is not None:
            return events[-self._newest(self._histories, state) :], value.none.events
        return value.none.events, value.visible(events, time_ms)

    def _state(
        self, user_commands: Sequence[Command], replies: Sequence[Reply], state: StateRead | None
    ) -> bytes | None:
        """The stored state, if one was read."""
        if state is None:
            return None
        place = 1 if self._features.user else 0
        key = user_commands[place][1]
        assert isinstance(key, bytes)
        try:
            value: bytes | None = value_of(key, replies[place])
        except StoreError as error:
            self._degraded("state", error)
            return None
        return value

    def _item_part(self, names: Sequence[str], reply: Reply) -> tuple[dict[str, Column], BoolArray, BoolArray]:
        """Features from the reply to MGET; which items Redis does not have; which could not be read."""
        unreadable = np.zeros(len(names), dtype=np.bool_)
        rows: list[Row] = [None] * len(names)
        try:
            rows = value_of("items", reply)
        except StoreError as error:
            unreadable[:] = self._degraded(ITEM, error)
        absent = np.fromiter((row is None for row in rows), dtype=np.bool_, count=len(rows))
        columns, damaged = self._rows.readable(self._features.item, rows, names)
        for place, why in damaged.items():
            unreadable[place] = self._degraded(ITEM, why)
        return columns, absent, unreadable

    def _degraded(self, part: str, error: StoreError) -> bool:
        """Log it, a damaged key once and anything else at most once in 10 s, and return True."""
        if isinstance(error, StoreFormatError):
            self._damage.found(part, error)
            return True
        kind = "store" if isinstance(error, StoreUnavailableError) else part
        self._trouble.warning(kind, "degraded %s: %s", kind, error)
        return True
