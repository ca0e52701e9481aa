"""Long histories of requests in trouble: spoilt states, writers that die, Redis away."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import redis
from support.long_histories import (
    KEY,
    LONG,
    LONG_FEATURES,
    NEWEST,
    STATE,
    T0_MS,
    USER,
    VERSION,
    Meddled,
    Model,
    assert_exact,
    model_on,
    rows,
    settled,
    stored,
    with_encoder,
    with_store,
)
from support.paths import TESTS
from support.redis_servers import eventually

from recsys.feature_store.blocking import run_sync
from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.feature_store.redis.values.state import pack_state, unpack_state
from recsys.features.columns import Column
from recsys.serving.deadline import Deadline
from recsys.serving.long_history.inputs import StateInputs
from recsys.serving.long_history.states import SLACK


@pytest.fixture
def model(redis_url: str) -> Iterator[Model]:
    with model_on(redis_url, LONG_FEATURES) as model:
        yield model


def good_state(model: Model, admin: redis.Redis) -> bytes:
    settled(model)
    value: bytes = admin.get(KEY)
    return value


def _ahead(value: bytes) -> bytes:
    state = unpack_state(value, version=VERSION, rows=STATE.rows, width=STATE.width)
    return pack_state(state._replace(end=LONG + 1), version=VERSION)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda v: v[:-20], "cut-off state"),
        (lambda v: v[:-1] + bytes([v[-1] ^ 1]), "altered state"),
        (lambda v: b"", "not a state"),
        (lambda v: v[:8] + bytes.fromhex("ab" * 8) + v[16:], "state of version abababababababab, not of"),
        (_ahead, f"state of {LONG + 1} events; its history has {LONG}"),
    ],
    ids=["half-written", "altered", "empty", "of another version", "newer than the history"],
)
def test_a_state_that_is_not_one_is_taken_as_absent_and_replaced(
    model: Model,
    redis_admin: redis.Redis,
    spoil: Callable[[bytes], bytes],
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    redis_admin.set(KEY, spoil(good_state(model, redis_admin)))
    with caplog.at_level(logging.WARNING):
        inputs = model.request(USER, LONG)
    assert message in caplog.text and model.states.counts()["refused"] == 1
    assert_exact(model, inputs, LONG)
    model.answer(USER, inputs)
    assert stored(redis_admin) is not None


def test_a_value_of_another_type_is_taken_as_absent(model: Model, redis_admin: redis.Redis) -> None:
    model.append(USER, rows(LONG))
    redis_admin.rpush(KEY, "x")
    inputs = model.request(USER, LONG)
    assert_exact(model, inputs, LONG)
    model.answer(USER, inputs)
    assert stored(redis_admin) is not None, "SET takes the place of any type"


def test_a_first_sight_that_fails_leaves_nobody_waiting(model: Model) -> None:
    model.append(USER, rows(LONG))

    def fails(columns: dict[str, Column]) -> Any:
        time.sleep(0.2)
        raise RuntimeError("no model")

    with_encoder(model, fails)

    def ask(_: int) -> StateInputs | None:
        try:
            return model.request(USER, LONG, timeout_s=20)
        except RuntimeError:
            return None

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(ask, range(3)))
    assert None in found
    assert all(inputs.partial for inputs in found if inputs is not None)


def test_a_history_that_changes_all_the_time_gives_a_partial_answer(model: Model) -> None:
    model.append(USER, rows(LONG))
    late = itertools.count(1)
    with_store(model, Meddled(model.store, itertools.repeat(lambda: model.append(USER, [(-next(late), 48, 5)]))))
    inputs = model.request(USER, LONG + 10)
    assert inputs.partial and inputs.history_events >= NEWEST


@pytest.fixture
def own_redis(tmp_path: Any) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path / "redis") as server:
        yield server


def test_redis_that_goes_away_between_read_and_write_costs_the_state_only(
    own_redis: EmbeddedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    with model_on(own_redis.url, LONG_FEATURES) as model:
        model.append(USER, rows(LONG))
        inputs = model.request(USER, LONG)
        own_redis.stop()
        with caplog.at_level(logging.WARNING):
            for _ in range(5):
                model.answer(USER, inputs)
        assert model.states.counts()["failed"] == 5
        assert sum("states: StoreUnavailableError" in record.getMessage() for record in caplog.records) == 1


def test_redis_that_goes_away_during_a_first_sight_makes_it_partial(own_redis: EmbeddedRedis) -> None:
    with model_on(own_redis.url, LONG_FEATURES) as model:
        model.append(USER, rows(LONG))
        time_ms = T0_MS + LONG
        inputs = run_sync(
            model.store.read_for_rank(USER, np.arange(1), time_ms=time_ms, timeout_s=5, state=model.states.read)
        )
        own_redis.stop()
        found = model.states.for_request(USER, inputs, time_ms=time_ms, deadline=Deadline.after(5))
        assert found.partial and found.history_events == SLACK + NEWEST and found.end == -1


def test_a_request_whose_time_is_over_is_told_so(model: Model) -> None:
    model.append(USER, rows(LONG))
    with pytest.raises(TimeoutError):
        model.request(USER, LONG, timeout_s=0.0)


_WRITER = """
import asyncio, sys
import numpy as np
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.feature_store.redis.values.state import StoredState, pack_state
from support.long_histories import LONG_FEATURES, USER, VERSION

async def write(url):
    store = RedisFeatureStore.connect(url, LONG_FEATURES)
    sums = np.ones((512, 128), dtype=np.float32)
    values = [pack_state(StoredState(sums * n, 0, n, 0, 0, 0, 1), version=VERSION) for n in (1, 2)]
    while True:
        for value in values:
            await store.put_states([(USER, value)], version=VERSION, ttl_s=100, timeout_s=5)

asyncio.run(write(sys.argv[1]))
"""


def test_a_writer_that_is_killed_leaves_the_old_state_or_the_new_one(redis_url: str, redis_admin: redis.Redis) -> None:
    path = str(TESTS)
    for kill in range(4):
        redis_admin.delete(KEY)
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, redis_url], env={**os.environ, "PYTHONPATH": path})
        try:
            eventually(lambda: redis_admin.exists(KEY))
            time.sleep(0.003 * kill)
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.wait(10)
        for _ in range(3):
            state = unpack_state(redis_admin.get(KEY), version=VERSION, rows=512, width=128)
            np.testing.assert_array_equal(state.sums, float(state.end))
