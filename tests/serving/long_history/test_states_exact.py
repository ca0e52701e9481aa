"""Whatever happens to a history, the sums of a request are those of all events that count."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.long_histories import (
    INTEGERS,
    ITEMS,
    NEWEST,
    REALS,
    T0_MS,
    Model,
    defined_sums,
    encode_with,
    events_of,
    features_of,
    model_on,
)

from recsys.feature_store.blocking import run_sync
from recsys.features.history.records import encode_history
from recsys.serving.long_history import states as long_state
from recsys.serving.long_history import window as long_window

_users = itertools.count(1)

_FEATURES = {
    "capped": features_of(max_events=40, recent=30),
    "kept longer": features_of(max_events=90, recent=30),
    "uncapped": features_of(max_events=4_000, recent=4_000),
    "aged": features_of(max_events=90, recent=60, max_age_s=1),
}


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that few events are a long history."""
    monkeypatch.setattr(long_state, "SLACK", 12)
    monkeypatch.setattr(long_state, "WRITE_AFTER", 3)
    monkeypatch.setattr(long_state, "MOST_ROUNDINGS", 5)
    monkeypatch.setattr(long_window, "BLOCK", 7)


@pytest.fixture(params=[(name, kind) for name in _FEATURES for kind in ("integers", "reals")], ids=str)
def model(request: pytest.FixtureRequest, redis_url: str, small_steps: None) -> Iterator[Model]:
    name, kind = request.param
    with model_on(redis_url, _FEATURES[name], vectors_VD=INTEGERS if kind == "integers" else REALS) as model:
        yield model


_item = st.integers(0, ITEMS - 1)
_newer = st.tuples(st.just("newer"), st.integers(1, 9) | st.integers(1, 40), st.integers(1, 30), _item)
"""So many events, so far apart, from this item on."""
_late = st.tuples(st.just("late"), st.integers(0, 30), st.integers(0, 300), _item)
"""One event between others, so far back; it arrives so long after its time."""
_again = st.tuples(st.just("again"), st.integers(0, 40), st.integers(0, 50), _item)
"""An event sent again, with another arrival."""
_future = st.tuples(st.just("future"), st.integers(1, 60), st.integers(1, 200), _item)
"""So many events, that are known so long before their time."""
_replaced = st.tuples(st.just("replaced"), st.integers(0, 50), st.integers(1, 9), _item)
_request = st.tuples(st.just("request"), st.sampled_from(["written", "lost"]), st.integers(1, 60), st.just(0))
_of_the_past = st.tuples(st.just("request"), st.sampled_from(["written", "lost"]), st.integers(-90, 0), st.just(0))
_usual = st.tuples(_newer, _request)
_rare = _late | _again | _future | _replaced | _of_the_past
_steps = st.lists(_usual | _usual | _usual | st.tuples(_rare), max_size=20).map(
    lambda found: list(itertools.chain(*found))
)
"""Mostly new events, then a request."""


@given(steps=_steps)
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
def test_the_sums_of_a_request_are_those_of_all_events_that_count(
    model: Model, steps: list[tuple[str, int | str, int, int]]
) -> None:
    user, now, sent, largest = next(_users), 1_000, list[tuple[int, int, int]](), 1.0
    for step, first, second, item in [*steps, ("request", "written", 0, 0)]:
        rows: list[tuple[int, int, int]] = []
        if step == "newer":
            rows = [(now + n * second, (item + n) % ITEMS, now + n * second) for n in range(int(first))]
            now += int(first) * second
        elif step == "late":
            time = max(now - int(first) * 20, 0)
            rows = [(time, item, time + second)]
        elif step == "again" and sent:
            time, same, arrival = sent[int(first) % len(sent)]
            rows = [(time, same, max(arrival + second - 25, 0))]
        elif step == "future":
            rows = [(now + second + n, (item + n) % ITEMS, now) for n in range(int(first))]
        elif step == "replaced":
            events = events_of(model.features, [(now - n * second, (item + n) % ITEMS, 0) for n in range(int(first))])
            run_sync(model.store.replace_many([(user, events)], arrived_until_ms=T0_MS + now, timeout_s=5))
        elif step == "request":
            inputs = model.request(user, now + second)
            window = model.window(user, now + second)
            expected = defined_sums(model.vectors_VD, window)
            largest = max(largest, float(np.abs(expected).max()))
            fresh = inputs.events[inputs.fresh[: len(inputs.events)] == 1]
            found = inputs.sums.astype(np.float64) + defined_sums(model.vectors_VD, fresh)
            # Each rounding is off by at most 2^-12 of the largest sum. What is left of a bucket after others went may
            # be taken for such an error, and so be off by as much again.
            bound = 0.0 if model.vectors_VD is INTEGERS else 2 * inputs.base.roundings * 2.0**-11 * largest + 1e-4
            assert not inputs.partial
            assert inputs.history_events == len(window)
            np.testing.assert_allclose(found, expected, rtol=0, atol=bound)
            assert inputs.events[-NEWEST:].tolist() == window[-NEWEST:].tolist()
            if first == "written":
                model.answer(user, inputs)
        if rows:
            sent += rows
            model.append(user, rows)


def test_the_tiny_encoder_is_additive_and_ignores_padding() -> None:
    features = _FEATURES["capped"]
    events = events_of(features, [(n, n, n) for n in range(9)])
    parts = [encode_with(INTEGERS, encode_history(features, part)) for part in (events[:4], events[4:], events[:0])]
    np.testing.assert_array_equal(sum(parts), encode_with(INTEGERS, encode_history(features, events)))
