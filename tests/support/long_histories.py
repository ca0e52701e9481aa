"""A tiny model with a state, its store over a blocking link, and what its sums are by definition."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import redis

from recsys.arrays import Float32Array, Float64Array
from recsys.bundle import StateInfo
from recsys.feature_store.base import Span
from recsys.feature_store.blocking import BlockingFeatureStore, run_sync
from recsys.feature_store.item_cache import ItemCache
from recsys.feature_store.loop_thread import loop_in_thread
from recsys.feature_store.redis.keys import state_key
from recsys.feature_store.redis.link.blocking import BlockingLink
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.feature_store.redis.values.state import StoredState, unpack_state
from recsys.features.columns import Column
from recsys.features.feature_set import Categorical, FeatureSet, History
from recsys.features.history.records import Events, HistoryHeader, encode_history, make_events
from recsys.features.history.rules import visible
from recsys.serving.deadline import Deadline
from recsys.serving.long_history.inputs import StateInputs
from recsys.serving.long_history.states import LongStates

VERSION = "0123456789abcdef"
T0_MS = 1_700_000_000_000
ROWS, WIDTH, NEWEST, ITEMS = 6, 4, 3, 50
STATE = StateInfo(rows=ROWS, width=WIDTH, newest=NEWEST)
ITEM_KEYS = np.arange(2)

USER = 7
KEY = state_key("long_1", USER, VERSION)
LONG = 10_000

_random = np.random.Generator(np.random.PCG64(5))
_BUCKET_OF_ITEM = _random.integers(0, ROWS, ITEMS)
INTEGERS = _random.integers(-7, 8, (ITEMS, WIDTH)).astype(np.float32)
"""One vector for each item; sums of few are exact in fp16, whatever the order."""
REALS = _random.standard_normal((ITEMS, WIDTH)).astype(np.float32)


def features_of(*, max_events: int = 40, recent: int = 30, max_age_s: int = 0) -> FeatureSet:
    history = History(
        attributes=(Categorical(name="rating", storage="u8"),),
        max_events=max_events,
        recent=recent,
        max_age_s=max_age_s,
    )
    return FeatureSet(
        name="long_1",
        user_id=Categorical(name="user_id"),
        item_id=Categorical(name="item_id"),
        history=history,
    )


LONG_FEATURES = features_of(max_events=20_000, recent=20_000)


def events_of(features: FeatureSet, rows: Sequence[tuple[int, int, int]]) -> Events:
    """Events from (time, item, arrival), the times relative to T0_MS."""
    time, item, arrival = (np.array(c, dtype=np.int64) for c in (zip(*rows, strict=True) if rows else ((),) * 3))
    return make_events(features, item=item, timestamp_ms=T0_MS + time, arrival_ms=T0_MS + arrival)


def encode_with(vectors_VD: Float32Array, columns: dict[str, Column]) -> Float32Array:
    """An ``encode`` graph: every event's vector goes to its item's bucket; -1 is padding."""
    items = columns["history.item_id"]
    items = items[items >= 0]
    sums = np.zeros((ROWS, WIDTH), dtype=np.float32)
    np.add.at(sums, _BUCKET_OF_ITEM[items], vectors_VD[items])
    return sums


def defined_sums(vectors_VD: Float32Array, events: Events) -> Float64Array:
    """The sums of events by definition, in float64."""
    sums = np.zeros((ROWS, WIDTH))
    for item in events["item"].tolist():
        sums[_BUCKET_OF_ITEM[item]] += vectors_VD[item].astype(np.float64)
    return sums


@dataclass(kw_only=True)
class Model:
    """A server's view of users' long histories."""

    features: FeatureSet
    vectors_VD: Float32Array
    store: RedisFeatureStore
    states: LongStates

    def encode(self, columns: dict[str, Column]) -> Float32Array:
        return encode_with(self.vectors_VD, columns)

    def append(self, user: int, rows: Sequence[tuple[int, int, int]]) -> None:
        run_sync(self.store.append(user, events_of(self.features, rows), timeout_s=5))

    def request(self, user: int, at: int, *, timeout_s: float = 10.0) -> StateInputs:
        """What a request at T0_MS + at feeds its ``user`` graph."""
        time_ms = T0_MS + at
        inputs = run_sync(
            self.store.read_for_rank(user, ITEM_KEYS, time_ms=time_ms, timeout_s=5, state=self.states.read)
        )
        return self.states.for_request(user, inputs, time_ms=time_ms, deadline=Deadline.after(timeout_s))

    def next_sums(self, inputs: StateInputs) -> Float32Array:
        """What the ``user`` graph gives as ``state.next``."""
        fresh = inputs.events[inputs.fresh[: len(inputs.events)] == 1]
        return inputs.sums + self.encode(encode_history(self.features, fresh))

    def answer(self, user: int, inputs: StateInputs) -> None:
        """Hand the next state over, and wait until it is written if it is to be."""
        self.states.offer_write(user, inputs, self.next_sums(inputs))
        assert self.states.flush(timeout_s=30)

    def window(self, user: int, at: int) -> Events:
        """The events that count at T0_MS + at, by definition."""
        assert self.features.history is not None
        _, stored = run_sync(self.store.history(user, timeout_s=5))
        return visible(self.features, stored, T0_MS + at)[-self.features.history.recent :]


@contextmanager
def model_on(
    url: str, features: FeatureSet, *, vectors_VD: Float32Array = INTEGERS, ttl_s: int = 1_000
) -> Iterator[Model]:
    """A model on the Redis at a URL."""
    with loop_in_thread("store") as loop:
        store = RedisFeatureStore(features, link=BlockingLink(url, loop=loop), cache=ItemCache(features.item))
        states = LongStates(
            features, STATE, lambda c: encode_with(vectors_VD, c), BlockingFeatureStore(store), VERSION, ttl_s
        )
        try:
            yield Model(features=features, vectors_VD=vectors_VD, store=store, states=states)
        finally:
            states.close()
            run_sync(store.close())


def rows(count: int, *, start: int = 0) -> list[tuple[int, int, int]]:
    """Events one ms apart, for :func:`events_of`."""
    return [(n, n % 50, n) for n in range(start, start + count)]


def stored(admin: redis.Redis) -> StoredState | None:
    """The state of USER, if there is one."""
    value = admin.get(KEY)
    return None if value is None else unpack_state(value, version=VERSION, rows=STATE.rows, width=STATE.width)


def assert_exact(model: Model, inputs: StateInputs, at: int, *, user: int = USER) -> None:
    """A request's sums are those of all events that count, but for fp16's rounding."""
    window = model.window(user, at)
    assert not inputs.partial and inputs.history_events == len(window)
    expected = defined_sums(model.vectors_VD, window)
    rounding = inputs.base.roundings * 2.0**-11 * np.abs(expected).max()
    np.testing.assert_allclose(model.next_sums(inputs), expected, rtol=0, atol=rounding)


def settled(model: Model, count: int = LONG) -> None:
    """A user with so many events, whose state covers all of them."""
    model.append(USER, rows(count))
    model.answer(USER, model.request(USER, count))


class Slow:
    """An encoder that takes its time, and counts its calls."""

    def __init__(self, model: Model, *, delay_s: float) -> None:
        self._model = model
        self._delay_s = delay_s
        self.calls = 0

    def __call__(self, columns: dict[str, Column]) -> Any:
        self.calls += 1
        time.sleep(self._delay_s)
        return self._model.encode(columns)


def with_encoder(model: Model, encode: Callable[[dict[str, Column]], Any]) -> None:
    """Let the model's states use another encoder."""
    model.states.close()
    model.states = LongStates(model.features, STATE, encode, BlockingFeatureStore(model.store), VERSION, 1_000)


def with_store(model: Model, store: Any) -> None:
    """Let the model's states use another store."""
    model.states.close()
    model.states = LongStates(model.features, STATE, model.encode, BlockingFeatureStore(store), VERSION, 1_000)


class Meddled:
    """A store in which something happens before a read by number."""

    def __init__(self, store: Any, happenings: Iterator[Callable[[], object]]) -> None:
        self._store = store
        self._happenings = happenings

    async def span(self, user_key: int, first: int, end: int, *, header: HistoryHeader, timeout_s: float) -> Span:
        next(self._happenings, lambda: None)()
        span: Span = await self._store.span(user_key, first, end, header=header, timeout_s=timeout_s)
        return span

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class Blocked:
    """A store that takes no state before it may."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.go_on = threading.Event()

    async def put_states(self, states: Any, **options: Any) -> None:
        assert self.go_on.wait(60)
        await self._store.put_states(states, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)
