"""Reading the names of all keys of a kind, some at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator

from recsys.feature_store.redis.link.protocol import Link
from recsys.feature_store.redis.link.replies import value_of
from recsys.features.hashing import KEY_LIMIT

_SCANNED_AT_ONCE = 1_000
_SCAN_TIMEOUT_S = 30.0


async def scan_numbers(link: Link, pattern: bytes) -> AsyncIterator[list[int]]:
    """The 62-bit keys in the names of all Redis keys of a pattern, some at a time, or none, in no order; one that comes
    or goes meanwhile may come twice or not at all. Each time costs Redis about half a millisecond.

    Args:
        link: to the Redis.
        pattern: the last ``*`` stands for the key, in decimal, and no other name fits it.

    Raises:
        StoreUnavailableError: Redis is unreachable or too slow.
    """
    after = pattern.rpartition(b"*")[2]
    for server in await link.servers(timeout_s=_SCAN_TIMEOUT_S):
        cursor = b"0"
        while True:
            command = (b"SCAN", cursor, b"MATCH", pattern, b"COUNT", _SCANNED_AT_ONCE)
            (reply,) = await server.round_trip([command], timeout_s=_SCAN_TIMEOUT_S)
            cursor, keys = value_of("SCAN", reply)
            texts = [key[: len(key) - len(after)].rpartition(b":")[2] for key in keys]
            yield [number for text in texts if text.isdigit() and (number := int(text)) < KEY_LIMIT]
            if cursor == b"0":
                break
