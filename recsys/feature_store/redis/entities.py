"""RedisEntities: one packed row per user, item or other entity, many in one round trip."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from recsys.arrays import Int64Array, UInt8Array
from recsys.errors import InvalidInputError, StoreError, StoreFormatError
from recsys.feature_store.base import IS_WITHDRAWN, NOT_STORED, STORED, EntityRows
from recsys.feature_store.redis.damage import DamageLog
from recsys.feature_store.redis.keys import entity_keys
from recsys.feature_store.redis.layouts import LayoutGuard
from recsys.feature_store.redis.link.protocol import Command, Link
from recsys.feature_store.redis.link.replies import value_of
from recsys.features.columns import Column, missing_column
from recsys.features.entities import WITHDRAWN, pack_rows, unpack_readable
from recsys.features.feature_set import Feature, FeatureSet
from recsys.features.hashing import KEY_LIMIT, check_key

_MANY = 2_000
"""Rows per command, so that Redis has others served in between."""

Row = bytes | StoreError | None
"""A stored row, None for an entity without one, or why it cannot be read."""


class RedisEntities:
    """The entities of ``features``."""

    def __init__(self, features: FeatureSet, *, link: Link, guard: LayoutGuard, damage: DamageLog) -> None:
        self._name = features.name
        self._declared = {name: features.entity(name).features for name in features.entity_names()}
        self._features = features
        self._link = link
        self._guard = guard
        self._damage = damage

    def names(self, entity: str, keys: Int64Array) -> list[str]:
        """The keys of N entities' rows."""
        if len(keys) and keys.view(np.uint64).max() >= KEY_LIMIT:  # as unsigned, negative keys are large
            check_key(int(keys[(keys < 0) | (keys >= KEY_LIMIT)][0]))
        return entity_keys(self._name, entity, keys.tolist())

    async def put(self, entity: str, keys: Int64Array, columns: Mapping[str, Column], *, timeout_s: float) -> None:
        """As ``FeatureStore.put_entities``."""
        declared = self._features_of(entity)
        names = self.names(entity, keys)
        for feature in declared:
            count = len(columns[feature.name]) if feature.name in columns else "no"
            if count != len(names):
                raise InvalidInputError(f"feature {feature.name!r}: {count} values for {len(names)} {entity}s")
        if not declared or not names:
            return
        rows = pack_rows(declared, {f.name: columns[f.name] for f in declared})
        deadline_s = time.monotonic() + timeout_s
        await self._guard.claim(entity, timeout_s=timeout_s)
        command: Command = (b"MSET", *(text for pair in zip(names, rows, strict=True) for text in pair))
        commands = [self._guard.record(entity), command]
        recorded, reply = await self._link.round_trip(commands, timeout_s=deadline_s - time.monotonic())
        value_of(f"{len(names)} {entity}s", reply)
        self._guard.recorded(entity, recorded)

    async def read(self, entity: str, keys: Int64Array, *, timeout_s: float) -> EntityRows:
        """As ``FeatureStore.entity_rows``."""
        declared = self._features_of(entity)
        if not declared or not len(keys):
            stored = np.zeros(len(keys), dtype=np.uint8)
            return EntityRows({f.name: missing_column(f, len(keys)) for f in declared}, {}, stored)
        position = None
        if len(keys) > _MANY:
            # A log's batch names few items many times. For a request's items it would cost more than it saves.
            keys, position = np.unique(keys, return_inverse=True)
        names = self.names(entity, keys)
        deadline_s = time.monotonic() + timeout_s
        commands: list[Command] = [(b"MGET", *names[i : i + _MANY]) for i in range(0, len(names), _MANY)]
        replies = await self._link.round_trip(commands, timeout_s=timeout_s)
        what = f"{len(keys)} {entity}s"
        rows: list[Row] = value_of(what, replies[0])
        if len(replies) > 1:
            rows = [row for reply in replies for row in value_of(what, reply)]
        await self.look_again(names, rows, timeout_s=deadline_s - time.monotonic())
        columns, damaged = self.readable(declared, rows, names)
        for error in damaged.values():
            if isinstance(error, StoreFormatError):
                self._damage.found(entity, error)
        stored = _stored(rows)
        if position is None:
            return EntityRows(columns, damaged, stored)
        places = {place: damaged[own] for place, own in enumerate(position.tolist()) if own in damaged}
        return EntityRows({name: column[position] for name, column in columns.items()}, places, stored[position])

    async def withdraw(self, entity: str, keys: Int64Array, *, timeout_s: float) -> None:
        """Put ``WITHDRAWN`` in place of the rows of N entities."""
        names = self.names(entity, keys)
        if not names:
            return
        command: Command = (b"MSET", *(text for name in names for text in (name, WITHDRAWN)))
        (reply,) = await self._link.round_trip([command], timeout_s=timeout_s)
        value_of(f"{len(names)} {entity}s", reply)

    async def look_again(self, names: Sequence[str], rows: list[Row], *, timeout_s: float) -> None:
        """Put right the rows that MGET did not find: for a key of another Redis type it says the same as for none.

        Raises:
            StoreError: Redis does not say.
        """
        if all_bytes(rows):
            return
        absent = [place for place, row in enumerate(rows) if row is None]
        # Key by key: in a cluster those of one command may be on two nodes while their slot moves.
        commands: list[Command] = [(b"STRLEN", names[place]) for place in absent]
        replies = await self._link.round_trip(commands, timeout_s=timeout_s)
        for place, reply in zip(absent, replies, strict=True):
            try:
                value_of(names[place], reply)
            except StoreFormatError as error:
                rows[place] = error

    def readable(
        self, declared: Sequence[Feature], rows: Sequence[Row], names: Sequence[str]
    ) -> tuple[dict[str, Column], dict[int, StoreError]]:
        """The features of rows, missing where one cannot be read; also the places of those, and why."""
        damaged: dict[int, StoreError] = {}
        values = cast(Sequence[bytes | None], rows)
        if not all_bytes(rows):
            damaged = {i: row for i, row in enumerate(rows) if isinstance(row, StoreError)}
            values = [None if isinstance(row, StoreError) else row for row in rows]
        columns, unreadable = unpack_readable(declared, values, names=names)
        damaged.update(unreadable)
        return columns, dict(sorted(damaged.items()))

    def _features_of(self, entity: str) -> tuple[Feature, ...]:
        if entity not in self._declared:
            self._features.entity(entity)  # says which there are
        return self._declared[entity]


def _stored(rows: Sequence[Row]) -> UInt8Array:
    """``STORED``, ``NOT_STORED`` or ``IS_WITHDRAWN`` of each row; one that cannot be read is stored; [N]."""
    of = [NOT_STORED if row is None else IS_WITHDRAWN if row == WITHDRAWN else STORED for row in rows]
    return np.array(of, dtype=np.uint8)


def all_bytes(rows: Sequence[Row]) -> bool:
    """True if every row was found and can be read; 4 us for 500, a fifth of a look at each."""
    try:
        b"".join(cast(Sequence[bytes], rows))
    except TypeError:
        return False
    return True
