"""The feature store beside bare Redis: what its guarantees cost, in time and in memory.

One Redis on one core, the client on another, over TCP. Both sides of a comparison take turns in this run.
Feast is measured too when its Python is given (``--feast-python``, an environment with ``feast[redis]``).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import redis
import redis.asyncio
from harness.common import Line, cores, free_port, line, machine, main, parser, pinned, rounded, say, spread

from recsys.feature_store.embedded.server import redis_binary
from recsys.feature_store.redis.keys import entity_key, history_keys
from recsys.feature_store.redis.link.connect import open_link
from recsys.feature_store.redis.link.protocol import Command
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.feature_set import Categorical, FeatureSet, History, Numeric
from recsys.features.history.records import Events, event_dtype, make_events

SHOP = FeatureSet(
    name="bench",
    user_id=Categorical(name="user_id"),
    item_id=Categorical(name="item_id"),
    item=tuple(Numeric(name=f"f{i}") for i in range(10)),
    history=History(
        attributes=(Categorical(name="category"), Categorical(name="action", storage="u8")), max_events=1_000_000
    ),
)
WIDTH = event_dtype(SHOP).itemsize
T0_MS = 1_700_000_000_000
ITEMS = 500
Work = Callable[[], Awaitable[object]]
SIZES: dict[str, dict[str, int]] = {
    "full": {
        "turns": 15,
        "calls": 300,
        "users": 2_000,
        "long": 100_000,
        "projected_users": 10_000,
        "ingested": 1_000_000,
    },
    "quick": {
        "turns": 5,
        "calls": 100,
        "users": 1_000,
        "long": 100_000,
        "projected_users": 2_000,
        "ingested": 1_000_000,
    },
    "tiny": {"turns": 1, "calls": 5, "users": 20, "long": 2_000, "projected_users": 20, "ingested": 2_000},
}


def events(first: int, count: int) -> Events:
    """Events number first, first + 1, ... of some user, one a second."""
    numbers = np.arange(first, first + count)
    times = T0_MS + 1000 * numbers
    columns = {"category": numbers % 100, "action": numbers % 5}
    return make_events(SHOP, item=numbers % 100_000, timestamp_ms=times, arrival_ms=times, attributes=columns)


@contextlib.contextmanager
def server() -> Iterator[str]:
    """A Redis without persistence, on a port of this machine; its URL."""
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with tempfile.TemporaryDirectory() as folder, pinned(cores()[-1]):
        process = subprocess.Popen([redis_binary(), *options], cwd=folder, stdout=subprocess.DEVNULL)
        try:
            with redis.Redis(port=port) as admin:
                while True:
                    with contextlib.suppress(redis.ConnectionError):
                        admin.ping()
                        break
                    time.sleep(0.01)
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


async def turns(count: int, calls: int, sides: Mapping[str, Work]) -> dict[str, list[float]]:
    """Seconds per call of each side, one number per turn."""
    took: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(count + 1):
        for name, work in sides.items():
            started_s = time.perf_counter()
            for _ in range(calls):
                await work()
            if turn:  # the first warms up
                took[name].append((time.perf_counter() - started_s) / calls)
    return took


def ratio(took: Mapping[str, list[float]], one: str, other: str) -> list[float]:
    """One side over the other, turn by turn."""
    return [a / b for a, b in zip(took[one], took[other], strict=True)]


async def tail(store: RedisFeatureStore, url: str, size: Mapping[str, int], on: dict[str, Any]) -> AsyncIterator[Line]:
    """The newest 1,000 events as an array, beside GETRANGE of as many bytes as an array."""
    say("tail of 1,000 events")
    link = open_link(url)
    await store.append(1, events(0, 5_000), timeout_s=30)
    await link.round_trip([(b"SET", b"bare", events(0, 5_000).tobytes())], timeout_s=30)
    dtype = event_dtype(SHOP)

    async def ours() -> None:
        _, found = await store.history(1, limit=1_000, timeout_s=5)
        assert len(found) == 1_000

    async def bare() -> None:
        (reply,) = await link.round_trip([(b"GETRANGE", b"bare", -1_000 * WIDTH, -1)], timeout_s=5)
        assert len(np.frombuffer(reply, dtype=dtype)) == 1_000

    took = await turns(size["turns"], size["calls"], {"ours": ours, "bare": bare})
    ratios = ratio(took, "ours", "bare")
    yield line(
        "store.tail_over_getrange",
        statistics.median(ratios),
        "ratio",
        higher_is_better=False,
        target=1.3,
        compared_with="GETRANGE of the same bytes through the same connection, into numpy",
        spread=spread(ratios),
        ours_us=1e6 * statistics.median(took["ours"]),
        bare_us=1e6 * statistics.median(took["bare"]),
        on=on,
    )
    await link.close()


async def items(
    store: RedisFeatureStore, url: str, size: Mapping[str, int], on: dict[str, Any], feast: str | None
) -> AsyncIterator[Line]:
    """500 items x 10 numbers as columns, beside MGET of as many bytes, and beside Feast."""
    say("500 items of 10 features")
    link = open_link(url)
    keys = np.arange(20_000)
    random = np.random.default_rng(0)
    columns = {f.name: random.random(len(keys), dtype=np.float32) for f in SHOP.item}
    for start in range(0, len(keys), 5_000):
        chunk = slice(start, start + 5_000)
        await store.put_entities("item", keys[chunk], {n: c[chunk] for n, c in columns.items()}, timeout_s=30)
    wanted = random.choice(keys, ITEMS, replace=False)
    names = [entity_key(SHOP.name, "item", key) for key in wanted.tolist()]

    async def ours() -> None:
        found = await store.entities("item", wanted, timeout_s=5)
        assert len(found["f0"]) == ITEMS

    async def bare() -> None:
        (reply,) = await link.round_trip([(b"MGET", *names)], timeout_s=5)
        assert len(reply) == ITEMS

    took = await turns(size["turns"], size["calls"], {"ours": ours, "bare": bare})
    ratios = ratio(took, "ours", "bare")
    ours_us, bare_us = (1e6 * statistics.median(took[side]) for side in ("ours", "bare"))
    yield line(
        "store.items_over_mget",
        statistics.median(ratios),
        "ratio",
        higher_is_better=False,
        target=1.5,
        compared_with="MGET of the same keys, whose names are at hand, through the same connection",
        spread=spread(ratios),
        ours_us=ours_us,
        bare_us=bare_us,
        on=on,
    )
    await link.close()
    if feast is None:
        say("store.items_vs_feast is skipped: give --feast-python, a Python with feast[redis]")
        return
    say("the same through Feast")
    peer = Path(__file__).parent / "peers" / "feast_items.py"
    address = url.removeprefix("redis://")
    done = subprocess.run([feast, peer, address, str(ITEMS)], capture_output=True, text=True, check=False)
    if done.returncode:
        say(f"store.items_vs_feast is skipped: {done.stderr.strip()[-500:]}")
        return
    theirs = json.loads(done.stdout.strip().splitlines()[-1])
    again = await turns(size["turns"], size["calls"], {"ours": ours})
    ours_us = 1e6 * statistics.median(again["ours"])
    yield line(
        "store.items_vs_feast",
        theirs["us"] / ours_us,
        "ratio",
        higher_is_better=True,
        target=30.0,
        compared_with=f"get_online_features of Feast {theirs['feast']}, the same Redis, items and features",
        ours_us=ours_us,
        feast_us=theirs["us"],
        on=on,
    )


async def appends(
    store: RedisFeatureStore, url: str, size: Mapping[str, int], on: dict[str, Any]
) -> AsyncIterator[Line]:
    """Batches of new events for many users, beside APPEND of the same bytes."""
    for per_user in (100, 10, 1):
        say(f"appending {per_user} events to each of {size['users']} users")
        yield await _append_figure(store, url, per_user, size, on)


async def _append_figure(
    store: RedisFeatureStore, url: str, per_user: int, size: Mapping[str, int], on: dict[str, Any]
) -> Line:
    link, client = open_link(url), redis.asyncio.Redis.from_url(url)
    users = range(size["users"])
    firsts = {side: itertools.count(0, per_user) for side in ("ours", "pipelined", "bare")}

    async def ours() -> None:
        made = events(next(firsts["ours"]), per_user)
        results = await store.append_many([(per_user << 32 | user, made) for user in users], timeout_s=30)
        assert results[0].added == per_user

    async def pipelined() -> None:
        made = events(next(firsts["pipelined"]), per_user).tobytes()
        pipe = client.pipeline(transaction=False)
        for user in users:
            pipe.append(f"pipelined:{per_user}:{user}", made)
        assert len(await pipe.execute()) == len(users)

    async def bare() -> None:
        made = events(next(firsts["bare"]), per_user).tobytes()
        commands: list[Command] = [(b"APPEND", f"bare:{per_user}:{user}", made) for user in users]
        assert len(await link.round_trip(commands, timeout_s=30)) == len(users)

    took = await turns(size["turns"], 1, {"ours": ours, "pipelined": pipelined, "bare": bare})
    await client.aclose()
    await link.close()
    ratios = ratio(took, "pipelined", "ours")
    rate = {side: round(per_user * len(users) / statistics.median(took[side])) for side in took}
    return line(
        "store.append_over_raw" + ("" if per_user == 10 else f".{per_user}_events"),
        statistics.median(ratios),
        "ratio",
        higher_is_better=True,
        target=0.6,
        compared_with="redis-py's pipeline of APPEND of the same bytes (rate of events)",
        spread=spread(ratios),
        events_per_user=per_user,
        ours_events_per_s=rate["ours"],
        pipeline_events_per_s=rate["pipelined"],
        bare_protocol_events_per_s=rate["bare"],
        over_bare_protocol=rounded(statistics.median(ratio(took, "bare", "ours"))),
        on=on,
    )


async def growth(store: RedisFeatureStore, size: Mapping[str, int], on: dict[str, Any]) -> AsyncIterator[Line]:
    """Cost of an append and a read when the history is a thousand times as long."""
    say(f"histories of 100 and {size['long']:,} events")
    lengths = {"short": (2, 100), "long": (3, size["long"])}
    for user, length in lengths.values():
        for start in range(0, length, 10_000):
            await store.append(user, events(start, min(10_000, length - start)), timeout_s=30)
    numbers = {name: itertools.count(length) for name, (_, length) in lengths.items()}

    def append(name: str) -> Work:
        async def work() -> None:
            await store.append(lengths[name][0], events(next(numbers[name]), 1), timeout_s=5)

        return work

    def read(name: str) -> Work:
        async def work() -> None:
            _, found = await store.history(lengths[name][0], limit=50, timeout_s=5)
            assert len(found) == 50

        return work

    # The short history grows meanwhile, so every turn has its own.
    for figure, make in (("store.tail_growth", read), ("store.append_growth", append)):
        took = await turns(size["turns"], size["calls"], {name: make(name) for name in lengths})
        ratios = ratio(took, "long", "short")
        yield line(
            figure,
            statistics.median(ratios),
            "ratio",
            higher_is_better=False,
            target=1.2,
            compared_with="the same with 100 events in the history at first",
            spread=spread(ratios),
            long_us=1e6 * statistics.median(took["long"]),
            short_us=1e6 * statistics.median(took["short"]),
            long_events=size["long"],
            on=on,
        )


async def memory(
    store: RedisFeatureStore, url: str, size: Mapping[str, int], on: dict[str, Any]
) -> AsyncIterator[Line]:
    """Bytes of Redis's memory per event, of histories that grew event by event."""
    say("memory")
    client = redis.asyncio.Redis.from_url(url)
    users = range(5_000_000, 5_000_020)
    for start in range(0, 1_000, 5):
        await store.append_many([(user, events(start, 5)) for user in users], timeout_s=30)
    used = 0
    for user in users:
        for key in history_keys(SHOP.name, user):
            used += await client.memory_usage(key, samples=0) or 0
    yield line(
        "store.memory_over_record",
        used / len(users) / 1_000 / WIDTH,
        "ratio",
        higher_is_better=False,
        target=1.2,
        compared_with=f"{WIDTH} bytes of a record; histories of 1,000 events, appended 5 at a time",
        bytes_per_event=used / len(users) / 1_000,
        on=on,
    )
    before = (await client.info("memory"))["used_memory"]
    users = range(6_000_000, 6_000_000 + size["projected_users"])
    for start in range(0, 200, 5):
        made = events(start, 5)
        for first in range(0, len(users), 2_000):
            await store.append_many([(user, made) for user in users[first : first + 2_000]], timeout_s=30)
    per_user = ((await client.info("memory"))["used_memory"] - before) / len(users)
    yield line(
        "store.gib_per_million_users",
        per_user * 1e6 / 2**30,
        "GiB",
        higher_is_better=False,
        compared_with=f"{200 * WIDTH * 1e6 / 2**30:.2f} GiB of bare records; 200 events a user, projected",
        measured_users=len(users),
        bytes_per_user=per_user,
        record_bytes=WIDTH,
        on=on,
    )
    await client.aclose()


def ingest(url: str, size: Mapping[str, int], on: dict[str, Any]) -> Line:
    """`recsys ingest` of a Parquet file in time order, as a process of its own on one core."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    count, users = size["ingested"], max(1, size["ingested"] // 20)
    say(f"recsys ingest of {count:,} events of {users:,} users from Parquet")
    random = np.random.default_rng(0)
    columns = {
        "user_id": random.integers(0, users, count),
        "item_id": random.integers(0, 100_000, count),
        "timestamp_ms": np.sort(random.integers(T0_MS, T0_MS + 86_400_000, count)),
        "category": random.integers(0, 100, count),
        "action": random.integers(0, 5, count),
    }
    rates, added = [], 0
    with tempfile.TemporaryDirectory() as folder, pinned(cores()[0]):
        pq.write_table(pa.table(columns), f"{folder}/log.parquet")
        for turn in range(max(1, size["turns"] // 5)):
            name = f"ingest{turn}"
            Path(folder, "features.json").write_text(dataclasses.replace(SHOP, name=name).to_json())
            command = [
                sys.executable,
                "-m",
                "recsys.cli",
                "ingest",
                "log.parquet",
                "--features",
                "features.json",
                "--json",
            ]
            done = subprocess.run(
                [*command, "--redis-url", url], cwd=folder, capture_output=True, text=True, check=True
            )
            found = json.loads(done.stdout)
            rates.append(count / found["elapsed_s"])
            added = found["added"]
    return line(
        "ingest.events_per_s",
        statistics.median(rates),
        "events/s",
        higher_is_better=True,
        target=150_000,
        compared_with="nothing: one core for recsys ingest, Redis on the other",
        spread=spread(rates),
        added=added,
        events=count,
        users=users,
        on=on,
    )


async def _figures(url: str, size: Mapping[str, int], on: dict[str, Any], feast: str | None) -> AsyncIterator[Line]:
    store = RedisFeatureStore.connect(url, SHOP)
    try:
        for part in (
            tail(store, url, size, on),
            items(store, url, size, on, feast),
            appends(store, url, size, on),
            growth(store, size, on),
            memory(store, url, size, on),
        ):
            async for made in part:
                yield made
    finally:
        await store.close()


def run(given: argparse.Namespace) -> Iterator[Line]:
    """Every figure."""
    import uvloop

    size = SIZES[given.size]
    on = machine(["redis", "hiredis", "numpy"], **size)
    with server() as url, pinned(cores()[0]), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        with redis.Redis.from_url(url) as admin:
            facts = admin.info("server")
            name = (
                "valkey" if "valkey_version" in facts else "redis"
            )  # Valkey also gives the Redis that it stands in for
            on["versions"][f"{name}-server"] = facts[f"{name}_version"]
        figures = _figures(url, size, on, given.feast_python)
        while True:
            try:
                yield runner.run(anext(figures))
            except StopAsyncIteration:
                break
        yield ingest(url, size, on)


if __name__ == "__main__":
    options = parser(__doc__ or "")
    options.add_argument("--feast-python", metavar="PATH", help="a Python interpreter that has feast[redis]")
    main("feature_store", run, options)
    sys.exit(0)
