"""RedisStates: the states that models keep of users, and the list of users.

A state is one value, written with one SET: a reader sees the old one or the new one, however its writer ends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from recsys.errors import InvalidInputError
from recsys.feature_store.redis.keys import history_pattern, state_key
from recsys.feature_store.redis.link.protocol import Command, Link
from recsys.feature_store.redis.link.replies import value_of
from recsys.feature_store.redis.scan import scan_numbers
from recsys.features.hashing import check_key


class RedisStates:
    """The states of the users of one FeatureSet."""

    def __init__(self, name: str, *, link: Link) -> None:
        self._name = name
        self._link = link

    def key(self, user_key: int, version: str) -> bytes:
        """The key of a user's state."""
        return state_key(self._name, check_key(user_key), version)

    async def get(self, user_keys: Sequence[int], *, version: str, timeout_s: float) -> list[bytes | None]:
        """As ``FeatureStore.states``."""
        keys = [self.key(user, version) for user in user_keys]
        replies = await self._link.round_trip([(b"GET", key) for key in keys], timeout_s=timeout_s) if keys else []
        return [value_of(key, reply) for key, reply in zip(keys, replies, strict=True)]

    async def put(self, states: Sequence[tuple[int, bytes]], *, version: str, ttl_s: int, timeout_s: float) -> None:
        """As ``FeatureStore.put_states``."""
        if ttl_s < 1:
            raise InvalidInputError(f"ttl_s is {ttl_s}; allowed: 1 or more seconds")
        keys = [self.key(user, version) for user, _ in states]
        commands: list[Command] = [
            (b"SET", key, value, b"EX", ttl_s) for key, (_, value) in zip(keys, states, strict=True)
        ]
        replies = await self._link.round_trip(commands, timeout_s=timeout_s) if commands else []
        for key, reply in zip(keys, replies, strict=True):
            value_of(key, reply)

    async def users(self) -> AsyncIterator[list[int]]:
        """As ``FeatureStore.users``."""
        async for users in scan_numbers(self._link, history_pattern(self._name)):
            yield users
