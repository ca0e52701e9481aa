"""The promises that hold when the primary is killed while events are appended."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from contracts.feature_store_contract.shop import Row, events_of, rows_of
from support.redis_servers import repeated

from recsys.feature_store.redis.store import RedisFeatureStore

USERS = range(24)
"""Over all nodes of a small cluster."""


async def check_failover(
    store: RedisFeatureStore, *, wait_for_replicas: Callable[[], None], kill: Callable[[], None]
) -> None:
    """Appends go on after the failover, and the histories are those of the events sent.

    Promised: what the replica had is kept, and so is what is acknowledged after the failover. Not promised, as
    replication is asynchronous: what the killed primary acknowledged in its last moments. Sending that again
    mends it, and adds nothing twice.
    """
    early: list[tuple[int, Row]] = [(user, (t, t, 1, t)) for t in range(3) for user in USERS]
    late: list[tuple[int, Row]] = [(user, (t, t, 1, t)) for t in range(3, 5) for user in USERS]
    acknowledged_at: dict[tuple[int, Row], int] = {}
    clock, killed_at = itertools.count(), 1 << 30

    async def send(event: tuple[int, Row]) -> None:
        user, row = event
        await repeated(lambda: store.append(user, events_of([row]), timeout_s=1))
        acknowledged_at[event] = next(clock)

    async def stored(user: int) -> list[Row]:
        _, events = await repeated(lambda: store.history(user, limit=None, timeout_s=1))
        return rows_of(events)

    async def load(events: list[tuple[int, Row]]) -> None:
        turns = iter(events)

        async def work() -> None:
            for event in turns:
                await send(event)

        await asyncio.gather(*(work() for _ in range(4)))

    await load(early)
    wait_for_replicas()
    loading = asyncio.create_task(load(late))
    while len(acknowledged_at) < len(early) + 5:
        await asyncio.sleep(0)
    kill()
    killed_at = next(clock)
    await loading
    assert len(acknowledged_at) == len(early) + len(late)
    for user in USERS:
        rows = await stored(user)
        # A call that was under way when the primary died may be noted after the kill: only later ones count.
        kept = [row for (u, row), at in acknowledged_at.items() if u == user and (row[0] < 3 or at > killed_at + 4)]
        assert set(kept) <= set(rows) and len(set(rows)) == len(rows)
    await load(late)
    for user in USERS:
        assert await stored(user) == [(t, t, 1, t) for t in range(5)]
