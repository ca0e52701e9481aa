"""RedisEntities: one packed row per user, item or other entity, many in one round trip."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from recsys.arrays import Int64Array
from recsys.errors import InvalidInputError
from recsys.feature_store.redis.keys import entity_keys
from recsys.feature_store.redis.layouts import LayoutGuard
from recsys.feature_store.redis.link.protocol import Command, Link
from recsys.feature_store.redis.link.replies import value_of
from recsys.features.columns import Column, missing_column
from recsys.features.entities import pack_rows, unpack_rows
from recsys.features.feature_set import Feature, FeatureSet
from recsys.features.hashing import KEY_LIMIT, check_key

_MANY = 2_000
"""Rows per command, so that Redis has others served in between."""


class RedisEntities:
    """The entities of ``features``."""

    def __init__(self, features: FeatureSet, *, link: Link, guard: LayoutGuard) -> None:
        self._name = features.name
        self._declared = {name: features.entity(name).features for name in features.entity_names()}
        self._features = features
        self._link = link
        self._guard = guard

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

    async def get(self, entity: str, keys: Int64Array, *, timeout_s: float) -> Mapping[str, Column]:
        """As ``FeatureStore.entities``."""
        declared = self._features_of(entity)
        if not declared or not len(keys):
            return {f.name: missing_column(f, len(keys)) for f in declared}
        position = None
        if len(keys) > _MANY:
            # A log's batch names few items many times. For a request's items it would cost more than it saves.
            keys, position = np.unique(keys, return_inverse=True)
        names = self.names(entity, keys)
        commands: list[Command] = [(b"MGET", *names[i : i + _MANY]) for i in range(0, len(names), _MANY)]
        replies = await self._link.round_trip(commands, timeout_s=timeout_s)
        what = f"{len(keys)} {entity}s"
        rows = (
            value_of(what, replies[0]) if len(replies) == 1 else [r for reply in replies for r in value_of(what, reply)]
        )
        columns = unpack_rows(declared, rows, entity=entity)
        return columns if position is None else {name: column[position] for name, column in columns.items()}

    def _features_of(self, entity: str) -> tuple[Feature, ...]:
        if entity not in self._declared:
            self._features.entity(entity)  # says which there are
        return self._declared[entity]
