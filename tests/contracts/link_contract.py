"""The contract of every Link about the servers behind it."""

from __future__ import annotations

from recsys.feature_store.redis.link.protocol import Link

KEYS = [b"key-%d" % i for i in range(200)]
"""Over all nodes of a small cluster."""


async def check_servers(link: Link) -> int:
    """Each key is found at one server and at no other; the count of servers."""
    assert await link.round_trip([(b"MSET", *(part for key in KEYS for part in (key, b"1")))], timeout_s=5) == [b"OK"]
    servers = await link.servers(timeout_s=5)
    found: list[bytes] = []
    for server in servers:
        cursor = b"0"
        while True:
            command = (b"SCAN", cursor, b"MATCH", b"key-*", b"COUNT", 1_000)
            ((cursor, keys),) = await server.round_trip([command], timeout_s=5)
            found += keys
            if cursor == b"0":
                break
    assert sorted(found) == sorted(KEYS)
    return len(servers)
