"""Fixtures that more than one folder's tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import hypothesis
import pytest
import redis

from recsys.feature_store.embedded.server import EmbeddedRedis

# A shell starts background jobs with Ctrl-C ignored, and children inherit that; tests of Ctrl-C need it back.
signal.signal(signal.SIGINT, signal.default_int_handler)

# So it is with SIGHUP under nohup. The run itself still outlives the terminal; to children it is not ignored any more.
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda number, frame: None)

# Test machines are busy: how long an example takes, or takes to draw, says nothing about the code.
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")

# What an earlier version made, and how it made it: nothing to import today.
collect_ignore = ["golden"]

pytest.register_assert_rewrite("contracts.feature_store_contract")


@pytest.fixture(scope="session")
def _redis_of_the_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """One real Redis for the whole run; it keeps nothing on a disk, which may be slow."""
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        with redis.Redis.from_url(server.url) as admin:
            admin.config_set("appendonly", "no")
        yield server


@pytest.fixture(scope="module")
def redis_server(_redis_of_the_run: EmbeddedRedis) -> EmbeddedRedis:
    """That Redis, empty when a file's tests begin: another file's may have filled it under the same names."""
    with redis.Redis.from_url(_redis_of_the_run.url) as admin:
        admin.flushall()
    return _redis_of_the_run


@pytest.fixture
def redis_admin(redis_server: EmbeddedRedis) -> Iterator[redis.Redis]:
    """A plain client of that Redis, to look behind the store's back; empties it first, and again afterwards.

    The servers that a whole file shares take the Redis as it is, and would find another FeatureSet's layout there.
    """
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
        yield client
        client.flushall()


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis, redis_admin: redis.Redis) -> str:
    """URL of that Redis, empty."""
    return redis_server.url
