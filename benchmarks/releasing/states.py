"""``release.store_reads_after``: what requests read from Redis after a switch, over what they read before it.

Users with long histories are asked for one after another on a real server, some new events before each round. The
server goes from the reference bundle to one of which only the network is another, and to one with other vectors of all
items, whose states were precomputed at a bounded rate. Reads are counted by Redis (INFO commandstats). For comparison:
the second switch without precomputed states.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common import Line, line, machine, rounded, say

from releasing.bundles import variant

if TYPE_CHECKING:
    import redis

    from recsys.client import Client
    from recsys.serving.process.server import RunningServer

LIBRARIES = ("onnxruntime", "numpy", "redis", "hiredis")
TARGET = 1.5
READS = ("get", "getrange", "lrange", "mget", "hget", "hmget", "llen", "strlen")
"""Commands that read users, histories, states or items."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Extent of the measurement."""

    users: int
    events: int
    items: int
    candidates: int = 100
    rounds: int = 3
    new_events: int = 10
    max_users_per_s: float = 1_000.0


SIZES = {
    "full": Size(users=500, events=10_000, items=1_000_000),
    "quick": Size(users=64, events=3_000, items=781_250),
    "tiny": Size(users=4, events=1_500, items=1_000, candidates=10, rounds=1),
}


def store_reads_after(folder: Path, size: Size, *, bundles: Path) -> Iterator[Line]:
    """Measure both figures; what is written goes to ``folder``, bundles that others may use to ``bundles``."""
    import redis
    from harness.reference import FEATURES
    from ranking import setting as rank_setting

    from recsys.bundle import open_bundle
    from recsys.client import Client
    from recsys.serving.long_history.precompute import PrecomputeLimits, precompute_states
    from recsys.serving.process.server import running_server

    paths = {name: variant(bundles, name, items=size.items) for name in ("base", "network", "tables")}
    versions = {name: open_bundle(path, verify="sizes").manifest.state_version for name, path in paths.items()}
    assert versions["base"] == versions["network"] != versions["tables"], versions
    with contextlib.ExitStack() as stack:
        setting = stack.enter_context(
            rank_setting.redis_with_items(folder, items=size.items, candidates=size.candidates)
        )
        histories = rank_setting.fill(setting, length=size.events, users=size.users, items=size.items)
        admin = stack.enter_context(redis.Redis.from_url(setting.redis_url))
        server = stack.enter_context(running_server(_settings(paths["base"], setting.redis_url)))
        client = stack.enter_context(Client(server.address, timeout_s=30.0))
        asked = setting.requests(histories, size.users)
        shop = _Shop(size=size, server=server, client=client, admin=admin, asked=asked, next_ms=_after(histories))
        shop.round()  # states are computed, items are read into the cache
        normal = shop.rounds()
        shop.switch_to(paths["network"], setting.redis_url)
        unchanged = shop.rounds()
        shop.switch_to(paths["base"], setting.redis_url)
        say(f"precomputing the states of {size.users} users")
        made = precompute_states(
            open_bundle(paths["tables"], verify="sizes"),
            setting.redis_url,
            ttl_s=3_600,
            limits=PrecomputeLimits(max_users_per_s=size.max_users_per_s, low_priority=True),
        )
        assert made.written == size.users, made
        shop.switch_to(paths["tables"], setting.redis_url)
        precomputed = shop.rounds()
        shop.switch_to(paths["base"], setting.redis_url)
        for key in admin.scan_iter(f"recsys:v1:{{{FEATURES.name}:u:*}}:s:{versions['tables']}", count=1_000):
            admin.delete(key)
        shop.switch_to(paths["tables"], setting.redis_url)
        cold = shop.rounds()
    on = machine(LIBRARIES, **asdict(size))
    for figure, after, more in (
        ("release.store_reads_after", unchanged, {}),
        (
            "release.store_reads_after_precomputed",
            precomputed,
            {
                "not_precomputed": rounded(cold / normal),
                "precompute_s": rounded(made.elapsed_s),
            },
        ),
    ):
        yield line(
            figure,
            after / normal,
            "ratio",
            higher_is_better=False,
            target=TARGET,
            compared_with="reads of the store for each request before the switch",
            reads_before=rounded(normal),
            reads_after=rounded(after),
            **more,
            on=on,
        )


@dataclass(kw_only=True)
class _Shop:
    """A server that is asked, and the Redis that it reads.

    Attributes:
        next_ms: time of the next new event.
    """

    size: Size
    server: RunningServer
    client: Client
    admin: redis.Redis
    asked: list[Any]
    next_ms: int

    def switch_to(self, bundle: Path, redis_url: str) -> None:
        from recsys.serving.process.releases.plan import bundle_plan

        number = self.server.switch.plan.number + 1
        plan = dataclasses.replace(bundle_plan(_settings(bundle, redis_url)), number=number)
        self.server.switch.prepare(plan)
        self.server.switch.commit(number).join()

    def rounds(self) -> float:
        """Reads for each request, over all rounds; the first is the one right after what was done before."""
        return sum(self.round() for _ in range(self.size.rounds)) / self.size.rounds

    def round(self) -> float:
        """Ask for each user once; reads for each request, with what the server does in the background for it."""
        import numpy as np

        count = self.size.new_events
        times = [self.next_ms + 1_000 * number for number in range(count)]
        self.next_ms += 1_000 * count
        random = np.random.Generator(np.random.PCG64(self.next_ms))
        for request in self.asked:
            items = random.integers(0, self.size.items, size=count)
            categories = [int(item) % 1_000 for item in items]
            self.client.append_events(
                user=request.user, items=items.tolist(), timestamps_ms=times, attributes={"category": categories}
            )
        self.admin.config_resetstat()
        for request in self.asked:
            answer = self.client.rank(user=request.user, candidates=request.candidates)
            assert not answer.degraded, answer
        return self._reads() / len(self.asked)

    def _reads(self) -> int:
        """Reads so far, once no more are added."""
        before, now = -1, self._count()
        while now != before:
            time.sleep(0.3)
            before, now = now, self._count()
        return now

    def _count(self) -> int:
        stats: dict[str, dict[str, int]] = self.admin.info("commandstats")  # type: ignore[assignment]
        return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in READS)


def _settings(bundle: Path, redis_url: str) -> Any:
    from recsys.serving.settings import Settings

    return Settings(bundle=bundle, port=0, redis_url=redis_url, store_timeout_ms=10_000, release_replay=0)


def _after(histories: Any) -> int:
    return 1 + max(int(events["timestamp"][-1]) for events in histories.events)
