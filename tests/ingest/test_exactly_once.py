"""Killed at any point and started again, an ingester leaves what one undisturbed run would."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from support.ingest_log import EVENTS, assert_store_holds, ingested, ingesting, make_log, write_jsonl, write_parquet

from recsys.feature_store.redis.keys import positions_key

COUNT = 12_000
LOG = make_log(COUNT)


def kill_and_restart(
    arguments: tuple[str | Path, ...], done: Callable[[], int], *, kills: int, url: str, cwd: Path
) -> None:
    """Run until ``done`` is near a random count, kill, and again; then to the end."""
    random = np.random.Generator(np.random.PCG64(kills))
    killed = 0
    for count in sorted(random.integers(0, COUNT * 8 // 10, size=kills).tolist()):
        with ingesting(*arguments, url=url, cwd=cwd) as process:
            wait_for(lambda at=count: done() >= at, process)
            time.sleep(random.uniform(0, 0.01))  # anywhere within a batch
            killed += process.poll() is None
            process.kill()
    assert killed == kills, "the log is too short: a run reached its end"
    with ingesting(*arguments, url=url, cwd=cwd) as process:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, (process.stderr and process.stderr.read(), "ended too early")
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


def position(admin: redis.Redis, name: str) -> int:
    for value in admin.hgetall(positions_key(EVENTS.name)).values():  # type: ignore[union-attr]
        return int(json.loads(value)[name])
    return 0


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.prove)])
def test_a_parquet_ingester_killed_at_random_loses_and_repeats_nothing(
    kills: int, redis_url: str, redis_admin: redis.Redis, tmp_path: Path
) -> None:
    file = write_parquet(tmp_path / "log.parquet", LOG)
    arguments = (file, "--batch-events", "50")
    kill_and_restart(arguments, lambda: position(redis_admin, "row"), kills=kills, url=redis_url, cwd=tmp_path)
    assert_store_holds(redis_url, LOG)
    assert position(redis_admin, "row") == COUNT


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.prove)])
def test_a_stream_ingester_killed_at_random_loses_and_repeats_nothing(
    kills: int, redis_url: str, redis_admin: redis.Redis, tmp_path: Path
) -> None:
    with redis_admin.pipeline(transaction=False) as pipe:
        for row in LOG:
            pipe.xadd("clicks", {"event": json.dumps(row)})
        places = {entry: place for place, entry in enumerate(pipe.execute(), start=1)}
    arguments = ("--redis-stream", "clicks", "--consumer", "one", "--flush-events", "50")

    def delivered() -> int:
        groups = redis_admin.xinfo_groups("clicks")
        pending = sum(g["pending"] for g in groups)  # type: ignore[union-attr]
        last = groups[0]["last-delivered-id"] if groups else b"0-0"  # type: ignore[index]
        return places.get(last, 0) - pending

    kill_and_restart(arguments, delivered, kills=kills, url=redis_url, cwd=tmp_path)
    assert_store_holds(redis_url, LOG)
    assert redis_admin.xpending("clicks", "recsys")["pending"] == 0  # type: ignore[index]


@pytest.fixture
def kafka() -> Iterator[tuple[str, str]]:
    """librdkafka's own mock cluster: brokers on real ports, in this process; (brokers, topic).

    It waits 3 s before it lets the first member of a group in, and throws out one with a shorter session.
    """
    kafka = pytest.importorskip("confluent_kafka")
    producer = kafka.Producer({"test.mock.num.brokers": 1, "linger.ms": 5})
    topic = "events"
    brokers = ",".join(f"{b.host}:{b.port}" for b in producer.list_topics(topic, timeout=10).brokers.values())
    for row in LOG:
        producer.produce(topic, json.dumps(row), key=str(row["user_id"]))
        producer.poll(0)
    assert producer.flush(30) == 0
    yield brokers, topic


@pytest.mark.parametrize("kills", [1, pytest.param(4, marks=pytest.mark.prove)])
def test_a_kafka_ingester_killed_at_random_loses_and_repeats_nothing(
    kills: int, kafka: tuple[str, str], redis_url: str, redis_admin: redis.Redis, tmp_path: Path
) -> None:
    brokers, topic = kafka
    arguments = ("--kafka", topic, "--brokers", brokers, "--group", "g", "--flush-events", "50")
    arguments += ("--kafka-option", "session.timeout.ms=3200", "--kafka-option", "heartbeat.interval.ms=200")

    def offsets() -> int:
        return sum(map(int, redis_admin.hgetall(positions_key(EVENTS.name)).values()))  # type: ignore[union-attr]

    kill_and_restart(arguments, offsets, kills=kills, url=redis_url, cwd=tmp_path)
    assert_store_holds(redis_url, LOG)
    assert offsets() == COUNT
    # A store that lost what the group has committed (here: all of it) is repaired from its own, older position.
    names = redis_admin.hkeys(positions_key(EVENTS.name))
    redis_admin.flushall()
    redis_admin.hset(positions_key(EVENTS.name), mapping=dict.fromkeys(names, "0"))  # type: ignore[arg-type]
    counts = ingested(*arguments, url=redis_url, cwd=tmp_path)
    assert (counts["events"], counts["behind"]) == (COUNT, 0)
    assert_store_holds(redis_url, LOG)


def test_a_follower_of_a_growing_file_killed_and_restarted_goes_on_where_it_was(
    redis_url: str, redis_admin: redis.Redis, tmp_path: Path
) -> None:
    file = write_jsonl(tmp_path / "log.jsonl", LOG[:1000])
    half = file.stat().st_size
    with ingesting(file, "--follow", url=redis_url, cwd=tmp_path) as process:
        wait_for(lambda: position(redis_admin, "offset") == half, process)
    with ingesting(file, "--follow", "--flush-ms", "10", url=redis_url, cwd=tmp_path) as process:
        with file.open("a") as grown:
            for row in LOG[1000:2000]:
                grown.write(json.dumps(row) + "\n")
                grown.flush()
        wait_for(lambda: position(redis_admin, "offset") == file.stat().st_size, process)
    assert_store_holds(redis_url, LOG[:2000])
