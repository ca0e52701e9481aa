"""RedisNames: the texts of string ids by key, in hashes beside everything else. No Rank request reads them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping

from recsys.errors import StoreFormatError
from recsys.feature_store.redis.damage import DamageLog
from recsys.feature_store.redis.keys import BUCKETS, names_key
from recsys.feature_store.redis.link.protocol import Command, Link
from recsys.feature_store.redis.link.replies import value_of
from recsys.features.hashing import string_key

_MANY = 2_000
"""Names per command, so that Redis has others served in between."""

_REMEMBERED = 1 << 18
_REMEMBERED_S = 60.0
"""Events name the same items over and over: what was written in the last minute is not written again. No longer than
that, so that a Redis that was emptied has them again."""


class RedisNames:
    """The names of the FeatureSet called ``name``."""

    def __init__(self, name: str, *, link: Link, damage: DamageLog) -> None:
        self._name = name
        self._link = link
        self._damage = damage
        self._written: set[int] = set()
        self._since_s = time.monotonic()

    async def put(self, names: Mapping[int, str], *, timeout_s: float) -> None:
        """As ``FeatureStore.put_names``."""
        if time.monotonic() - self._since_s > _REMEMBERED_S or len(self._written) > _REMEMBERED:
            self._written, self._since_s = set(), time.monotonic()
        new = names.keys() - self._written
        if not new:
            return
        pairs: dict[int, list[bytes | str]] = {}
        for key in new:
            # What UTF-8 cannot express (a lone surrogate) has no text that a caller could be given.
            with contextlib.suppress(UnicodeEncodeError):
                pairs.setdefault(key % BUCKETS, []).extend((str(key), names[key].encode()))
        parts = [
            (names_key(self._name, bucket), given[i : i + 2 * _MANY])
            for bucket, given in pairs.items()
            for i in range(0, len(given), 2 * _MANY)
        ]
        commands: list[Command] = [(b"HSET", key, *given) for key, given in parts]
        replies = await self._link.round_trip(commands, timeout_s=timeout_s) if commands else []
        for (name, _), reply in zip(parts, replies, strict=True):
            value_of(name, reply)
        self._written |= new

    async def get(self, keys: Iterable[int], *, timeout_s: float) -> dict[int, str]:
        """As ``FeatureStore.names``. What is not the text of its key, or cannot be read, is unknown, and logged."""
        wanted: dict[int, list[int]] = {}
        for key in dict.fromkeys(keys):
            wanted.setdefault(key % BUCKETS, []).append(key)
        parts = [
            (bucket, given[i : i + _MANY]) for bucket, given in wanted.items() for i in range(0, len(given), _MANY)
        ]
        if not parts:
            return {}
        commands: list[Command] = [
            (b"HMGET", names_key(self._name, bucket), *(str(key) for key in part)) for bucket, part in parts
        ]
        replies = await self._link.round_trip(commands, timeout_s=timeout_s)
        found: dict[int, str] = {}
        for (bucket, part), reply in zip(parts, replies, strict=True):
            name = names_key(self._name, bucket)
            try:
                texts = value_of(name, reply)
            except StoreFormatError as error:
                self._damage.found("names", error)
                continue
            for key, text in zip(part, texts, strict=True):
                if text is None:
                    continue
                if (own := text_of(key, text)) is None:
                    problem = f"{name.decode()}: corrupt: some of what it holds are not the texts of their keys"
                    self._damage.found("names", StoreFormatError(problem))
                else:
                    found[key] = own
        return found


def text_of(key: int, text: bytes) -> str | None:
    """The text of a key; None if these bytes are not: a key is the hash of its text."""
    try:
        own = text.decode()
    except UnicodeDecodeError:
        return None
    return own if string_key(own) == key else None
