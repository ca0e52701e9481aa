"""RedisItemChanges: which items were written, and when, in a Redis Stream that keeps the newest writes.

An entry is added after the rows are stored and before the write is acknowledged: whoever finds it reads these rows or
newer ones, and no acknowledged write is without one. Writing the same twice names an item twice, which does no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from recsys.arrays import Int64Array
from recsys.errors import InvalidInputError, StoreFormatError
from recsys.feature_store.base import ItemChanges
from recsys.feature_store.redis.damage import DamageLog
from recsys.feature_store.redis.keys import item_changes_key
from recsys.feature_store.redis.link.protocol import Command, Link
from recsys.feature_store.redis.link.replies import value_of
from recsys.features.hashing import KEY_LIMIT

KEPT = 100_000
"""Entries that are kept at least; older ones may go. All are of 100 items where tables of items are loaded: 80 MB."""

MOST_ITEMS = 100
"""Items in an entry."""

_ITEMS = b"items"
_NONE_YET = "0-0"
"""Position of an empty log: no entry has this number."""


class RedisItemChanges:
    """The changed items of the FeatureSet called ``name``."""

    def __init__(self, name: str, *, link: Link, damage: DamageLog) -> None:
        self._key = item_changes_key(name)
        self._link = link
        self._damage = damage

    async def add(self, keys: Int64Array, *, timeout_s: float) -> None:
        """Note that items were written, keys [N]; in one round trip."""
        packed = np.ascontiguousarray(keys, dtype="<i8")
        commands: list[Command] = [
            (b"XADD", self._key, b"MAXLEN", b"~", KEPT, b"*", _ITEMS, packed[start : start + MOST_ITEMS].tobytes())
            for start in range(0, len(packed), MOST_ITEMS)
        ]
        for reply in await self._link.round_trip(commands, timeout_s=timeout_s) if commands else []:
            value_of(self._key, reply)

    async def read(self, since: str, *, limit: int, timeout_s: float) -> ItemChanges:
        """As ``FeatureStore.changed_items``.

        The entry at ``since`` is read again: as long as it is there, none after it has been dropped.
        """
        if limit < 1:
            raise InvalidInputError(f"limit is {limit}; allowed: 1 or more writes")
        begin = since if since not in ("", _NONE_YET) else "-"
        count = limit + (begin != "-")
        commands: list[Command] = [(b"XRANGE", self._key, begin, b"+", b"COUNT", count), (b"XLEN", self._key)]
        replies = await self._link.round_trip(commands, timeout_s=timeout_s)
        entries, length = [value_of(self._key, reply) for reply in replies]
        names = [entry[0].decode() for entry in entries]
        if since == _NONE_YET:
            complete = length < KEPT  # as many are kept, so none of those since has gone
        else:
            complete = bool(since) and names[:1] == [since]
        if begin != "-" and names[:1] == [since]:
            entries, names = entries[1:], names[1:]
        keys, times_ms, damaged = self._items(names, entries)
        if names:
            position = names[-1]
        elif complete:
            position = since
        else:
            position = "" if length else _NONE_YET  # others than these: begin anew
        return ItemChanges(keys, times_ms, position, complete and not damaged, len(entries) == limit)

    def _items(self, names: Sequence[str], entries: Sequence[Any]) -> tuple[Int64Array, Int64Array, bool]:
        """Keys and times of entries, [N] each, and whether one of them holds other bytes than ours."""
        parts, times_ms, damaged = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)], False
        for name, (_, fields) in zip(names, entries, strict=True):
            packed = fields[1] if len(fields) == 2 and fields[0] == _ITEMS else b"?"
            keys = np.frombuffer(packed, dtype="<i8") if len(packed) % 8 == 0 else None
            if keys is None or (len(keys) and keys.view("<u8").max() >= KEY_LIMIT):
                damaged = True
                problem = f"{self._key.decode()}: entry {name} does not hold keys of items: some other program wrote it"
                self._damage.found("changed items", StoreFormatError(problem))
                continue
            parts.append(keys.astype(np.int64))
            times_ms.append(np.full(len(keys), int(name.partition("-")[0]), dtype=np.int64))
        return np.concatenate(parts), np.concatenate(times_ms), damaged
