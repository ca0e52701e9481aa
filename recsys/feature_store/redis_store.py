"""RedisFeatureStore: the feature store on one Redis, in one round trip per call.

``C`` candidates. The bytes are specified in ``docs/specs/redis_format.md``.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from importlib import resources

import numpy as np
from redis.exceptions import NoScriptError, ResponseError

from recsys.errors import InvalidInputError, StoreError, StoreFormatError, StoreUnavailableError
from recsys.feature_store.base import AppendResult, RankInputs
from recsys.feature_store.history_value import HistoryValue
from recsys.feature_store.item_cache import BoolArray, ItemCache
from recsys.feature_store.keys import check_layout, history_key, item_row_key, layouts, meta_key, user_row_key
from recsys.feature_store.link import Command, RedisLink, Reply, translate
from recsys.features.columns import Column, missing_column
from recsys.features.entities import pack_rows, unpack_rows
from recsys.features.feature_set import Feature, FeatureSet
from recsys.features.hashing import KEY_LIMIT, Int64Array
from recsys.features.history import Events, HistoryHeader, require_history

_log = logging.getLogger(__name__)
_LOG_EVERY_S = 10.0
_CLAIM_EVERY_S = 1.0
_SCRIPT = resources.files(__package__).joinpath("append.lua").read_bytes()
_SCRIPT_SHA = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest()
_NO_EVENTS: Events = np.empty(0, dtype=[("item", "<i8"), ("timestamp", "<i8"), ("arrival", "<i8")])


class RedisFeatureStore:
    """The :class:`~recsys.feature_store.base.FeatureStore` of one FeatureSet.

    Args:
        features: what is stored, and under which name.
        link: the Redis to use; closed by :meth:`close`.
        cache: item features kept in this process; writes by others show after its ``max_age_s``, new items
            after a second. Older features serve while Redis cannot be read.
    """

    def __init__(self, features: FeatureSet, *, link: RedisLink, cache: ItemCache) -> None:
        self._features = features
        self._name = features.name
        self._link = link
        self._cache = cache
        self._history = HistoryValue(features) if features.history is not None else None
        self._claimed_at_s: dict[str, float] = {}
        self._logged: dict[str, tuple[float, int]] = {}

    @classmethod
    def connect(
        cls,
        url: str,
        features: FeatureSet,
        *,
        max_connections: int = 16,
        cached_items: int = 131_072,
        item_max_age_s: float = 60.0,
    ) -> RedisFeatureStore:
        """A store on the Redis at ``redis://``, ``rediss://`` or ``unix://``; connects at the first call.

        Raises:
            ConfigError: the URL is none of these.
        """
        link = RedisLink(url, max_connections=max_connections)
        cache = ItemCache(features.item, capacity=cached_items, max_age_s=item_max_age_s)
        return cls(features, link=link, cache=cache)

    async def append(self, user_key: int, events: Events, *, timeout_s: float) -> AppendResult:
        """As the protocol says; raises as :meth:`append_many`."""
        return (await self.append_many([(user_key, events)], timeout_s=timeout_s))[0]

    async def append_many(self, batches: Sequence[tuple[int, Events]], *, timeout_s: float) -> list[AppendResult]:
        """As the protocol says. After an error just call again: nothing is added twice.

        Raises:
            InvalidInputError: no history is declared, events of another dtype, or a key out of range.
            StoreFormatError: a key holds foreign bytes; the other users' events were added.
            StoreUnavailableError: Redis is unreachable or too slow; any of the events may have been added.
            StoreError: Redis is out of memory, or refused for another reason.
        """
        value = self._declared_history()
        keys = [history_key(self._name, _checked(user)) for user, _ in batches]
        commands: list[Command] = [
            (b"EVALSHA", _SCRIPT_SHA, 1, key, *value.append_arguments, value.records(events))
            for key, (_, events) in zip(keys, batches, strict=True)
        ]
        deadline_s = time.monotonic() + timeout_s
        await self._claim("history", timeout_s=timeout_s)
        replies = await self._link.round_trip(commands, timeout_s=deadline_s - time.monotonic())
        unknown = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            again: list[Command] = [(b"SCRIPT", b"LOAD", _SCRIPT), *(commands[i] for i in unknown)]
            _, *rest = await self._link.round_trip(again, timeout_s=deadline_s - time.monotonic())
            for i, reply in zip(unknown, rest, strict=True):
                replies[i] = reply
        results = []
        for key, reply in zip(keys, replies, strict=True):
            if isinstance(reply, ResponseError) and str(reply).startswith("BADHISTORY"):
                raise value.append_error(key, bytes.fromhex(str(reply).split()[1]))
            added, stored = _value(key, reply)
            results.append(AppendResult(added=added, stored=stored))
        return results

    async def history(self, user_key: int, *, limit: int, timeout_s: float) -> tuple[HistoryHeader, Events]:
        """As the protocol says.

        Raises:
            InvalidInputError: no history is declared, a negative limit, or a key out of range.
            StoreFormatError: the key holds foreign bytes.
            StoreUnavailableError: Redis is unreachable or too slow.
        """
        value = self._declared_history()
        if limit < 0:
            raise InvalidInputError(f"limit is {limit}; allowed: 0 or more events")
        key = history_key(self._name, _checked(user_key))
        head, tail = await self._link.round_trip(value.read_commands(key, limit), timeout_s=timeout_s)
        return value.parse(key, _value(key, head), _value(key, tail), limit)

    async def put_users(self, keys: Int64Array, columns: Mapping[str, Column], *, timeout_s: float) -> None:
        """As the protocol says; raises as :meth:`put_items`."""
        names = [user_row_key(self._name, key) for key in _checked_all(keys)]
        await self._put("user", self._features.user, names, columns, timeout_s=timeout_s)

    async def put_items(self, keys: Int64Array, columns: Mapping[str, Column], *, timeout_s: float) -> None:
        """As the protocol says; this process reads the new features at once.

        Raises:
            InvalidInputError: a column is absent or of another length, or a key is out of range.
            StoreFormatError: the store was filled with other features.
            StoreUnavailableError: Redis is unreachable or too slow; either all or nothing was written.
            StoreError: Redis is out of memory, or refused for another reason.
        """
        names = [item_row_key(self._name, key) for key in _checked_all(keys)]
        try:
            await self._put("item", self._features.item, names, columns, timeout_s=timeout_s)
        finally:
            self._cache.forget(keys)

    async def items(self, keys: Int64Array, *, timeout_s: float) -> Mapping[str, Column]:
        """As the protocol says. Not from the cache: what is read here is stored for good, a stale
        "unknown" included.

        Raises:
            InvalidInputError: a key out of range.
            StoreFormatError: an item's key holds foreign bytes.
            StoreUnavailableError: Redis is unreachable or too slow.
        """
        features = self._features.item
        distinct, position = np.unique(keys, return_inverse=True)
        if not features or not len(distinct):
            return {f.name: missing_column(f, len(keys)) for f in features}
        names = [item_row_key(self._name, key) for key in _checked_all(distinct)]
        (reply,) = await self._link.round_trip([(b"MGET", *names)], timeout_s=timeout_s)
        rows = list(_value(f"{len(names)} items", reply))
        return {name: column[position] for name, column in unpack_rows(features, rows).items()}

    async def read_for_rank(self, user_key: int, item_keys: Int64Array, *, timeout_s: float) -> RankInputs:
        """As the protocol says; item_keys has shape [C]."""
        commands = self._user_commands(user_key)
        users = len(commands)
        generation = self._cache.generation
        # Copied before the wait: meanwhile other requests may put other items into the same slots.
        item_columns, known, fresh = self._cache.read(item_keys)
        unread = position = np.empty(0, dtype=np.int64)
        if self._features.item and not fresh.all():
            unread, position = np.unique(item_keys[~fresh], return_inverse=True)
            commands.append((b"MGET", *(item_row_key(self._name, key) for key in unread.tolist())))
        try:
            replies = await self._link.round_trip(commands, timeout_s=timeout_s) if commands else []
        except StoreError as error:
            replies = [error] * len(commands)
        events, user_columns, user_degraded = self._user_part(user_key, replies[:users])
        items_degraded = False
        if len(unread):
            fetched, absent, unreadable = self._item_part(unread, replies[users])
            items_degraded = bool(unreadable.any())
            if not items_degraded:
                self._cache.put(unread, fetched, generation=generation, absent=absent)
            # What could not be read keeps its expired features, where there are any.
            wanted = ~(known[~fresh] & unreadable[position])
            into = np.flatnonzero(~fresh)[wanted]
            for name, column in item_columns.items():
                column[into] = fetched[name][position[wanted]]
        return RankInputs(events, user_columns, item_columns, user_degraded, items_degraded)

    async def ping(self, *, timeout_s: float) -> None:
        """As the protocol says."""
        meta = meta_key(self._name)
        replies = await self._link.round_trip([(b"PING",), (b"HGETALL", meta)], timeout_s=timeout_s)
        _, stored = [_value(meta, reply) for reply in replies]
        found = dict(zip(stored[::2], stored[1::2], strict=True))
        for part, declared in layouts(self._features).items():
            check_layout(self._name, part, found.get(part.encode(), declared.encode()).decode(), declared)

    async def close(self) -> None:
        """Close the connections."""
        await self._link.close()

    def _declared_history(self) -> HistoryValue:
        require_history(self._features)
        assert self._history is not None
        return self._history

    async def _claim(self, part: str, *, timeout_s: float) -> None:
        """Before a write to a part: record its layout, or refuse if another is there.

        Asked again every second, as somebody may empty the Redis under a running program, and fill it anew.
        """
        last_s = self._claimed_at_s.get(part)
        if last_s is not None:
            if time.monotonic() - last_s < _CLAIM_EVERY_S:
                return
            self._claimed_at_s[part] = time.monotonic()  # writes that come while we ask need not ask too
        meta, declared = meta_key(self._name), layouts(self._features)[part]
        commands: list[Command] = [(b"HSETNX", meta, part, declared), (b"HGET", meta, part)]
        try:
            _, stored = [_value(meta, r) for r in await self._link.round_trip(commands, timeout_s=timeout_s)]
            check_layout(self._name, part, stored.decode(), declared)
        except BaseException:
            self._claimed_at_s.pop(part, None)
            raise
        self._claimed_at_s[part] = time.monotonic()

    async def _put(
        self,
        part: str,
        features: Sequence[Feature],
        names: Sequence[bytes],
        columns: Mapping[str, Column],
        *,
        timeout_s: float,
    ) -> None:
        for feature in features:
            count = len(columns[feature.name]) if feature.name in columns else "no"
            if count != len(names):
                raise InvalidInputError(f"feature {feature.name!r}: {count} values for {len(names)} {part}s")
        if not features or not names:
            return
        rows = pack_rows(features, {f.name: columns[f.name] for f in features})
        deadline_s = time.monotonic() + timeout_s
        await self._claim(part, timeout_s=timeout_s)
        command = (b"MSET", *(text for pair in zip(names, rows, strict=True) for text in pair))
        replies = await self._link.round_trip([command], timeout_s=deadline_s - time.monotonic())
        _value(f"{len(names)} {part}s", replies[0])

    def _user_commands(self, user: int) -> list[Command]:
        commands: list[Command] = []
        if self._history is not None:
            commands += self._history.read_commands(history_key(self._name, user), self._history.recent)
        if self._features.user:
            commands.append((b"GET", user_row_key(self._name, user)))
        return commands

    def _user_part(self, user: int, replies: Sequence[Reply]) -> tuple[Events, dict[str, Column], bool]:
        """Events and features from the replies to :meth:`_user_commands`; whether any was unreadable."""
        events, degraded = _NO_EVENTS, False
        columns: dict[str, Column] = {}
        if self._history is not None:
            key, value = history_key(self._name, user), self._history
            events = value.no_events
            try:
                _, events = value.parse(key, _value(key, replies[0]), _value(key, replies[1]), value.recent)
            except StoreError as error:
                degraded = self._degraded("history", error)
        if self._features.user:
            key = user_row_key(self._name, user)
            try:
                columns = unpack_rows(self._features.user, [_value(key, replies[-1])], entity=key.decode())
            except StoreError as error:
                columns = {f.name: missing_column(f, 1) for f in self._features.user}
                degraded = self._degraded("user", error)
        return events, columns, degraded

    def _item_part(self, keys: Int64Array, reply: Reply) -> tuple[dict[str, Column], BoolArray, BoolArray]:
        """Features from the reply to MGET; which items Redis does not have; which could not be read."""
        features, unreadable = self._features.item, np.zeros(len(keys), dtype=np.bool_)
        rows: list[bytes | None] = [None] * len(keys)
        try:
            rows = list(_value("items", reply))
        except StoreError as error:
            unreadable[:] = self._degraded("item", error)
        absent = np.fromiter((row is None for row in rows), dtype=np.bool_, count=len(rows))
        try:
            return unpack_rows(features, rows), absent, unreadable
        except StoreFormatError:
            # One foreign value must not take the other items' features away.
            for i, row in enumerate(rows):
                try:
                    unpack_rows(features, [row], entity=item_row_key(self._name, int(keys[i])).decode())
                except StoreFormatError as error:
                    rows[i], unreadable[i] = None, self._degraded("item", error)
            return unpack_rows(features, rows), absent, unreadable

    def _degraded(self, part: str, error: StoreError) -> bool:
        """Log it, each kind at most once in 10 s, and return True."""
        kind = "store" if isinstance(error, StoreUnavailableError) else part
        last_s, hidden = self._logged.get(kind, (-_LOG_EVERY_S, 0))
        now_s = time.monotonic()
        if now_s - last_s < _LOG_EVERY_S:
            self._logged[kind] = (last_s, hidden + 1)
        else:
            self._logged[kind] = (now_s, 0)
            _log.warning("degraded %s: %s (%d more not logged)", kind, error, hidden)
        return True


def _value(what: bytes | str, reply: Reply) -> Reply:
    """The reply, or raise the error it is."""
    if isinstance(reply, StoreError):
        raise reply
    if isinstance(reply, ResponseError):
        raise translate(reply, what.decode() if isinstance(what, bytes) else what) from reply
    return reply


def _checked(key: int) -> int:
    if not 0 <= key < KEY_LIMIT:
        raise InvalidInputError(f"key is {key}; allowed: 0 to 2^62 - 1 (see features/hashing.py)")
    return key


def _checked_all(keys: Int64Array) -> list[int]:
    if len(keys):
        _checked(int(keys.min()))
        _checked(int(keys.max()))
    plain: list[int] = keys.tolist()
    return plain
