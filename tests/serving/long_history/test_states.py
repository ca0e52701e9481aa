"""Long histories of requests: what is read, shared and written, and what trouble does to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import redis
from support.long_histories import (
    INTEGERS,
    KEY,
    LONG,
    LONG_FEATURES,
    NEWEST,
    T0_MS,
    USER,
    VERSION,
    Blocked,
    Meddled,
    Model,
    Slow,
    assert_exact,
    defined_sums,
    events_of,
    model_on,
    rows,
    settled,
    stored,
    with_encoder,
    with_store,
)

from recsys.feature_store.blocking import run_sync
from recsys.feature_store.redis.keys import history_keys
from recsys.feature_store.redis.values.state import pack_state
from recsys.features.feature_set import Categorical
from recsys.serving.deadline import Deadline
from recsys.serving.long_history.inputs import StateInputs
from recsys.serving.long_history.states import MOST_ROUNDINGS, SLACK, WRITE_AFTER
from recsys.serving.long_history.window import BLOCK


@pytest.fixture
def model(redis_url: str) -> Iterator[Model]:
    with model_on(redis_url, LONG_FEATURES) as model:
        yield model


def test_a_user_without_a_past_has_one_missing_event(model: Model, redis_admin: redis.Redis) -> None:
    inputs = model.request(USER, 1)
    assert len(inputs.events) == 0 and inputs.fresh.tolist() == [0.0] and not inputs.sums.any()
    assert (inputs.history_events, inputs.partial) == (0, False)
    model.answer(USER, inputs)
    assert redis_admin.keys() == []


def test_a_history_that_is_read_whole_needs_no_state(model: Model, redis_admin: redis.Redis) -> None:
    model.append(USER, rows(100))
    inputs = model.request(USER, 200)
    assert inputs.fresh.tolist() == [1.0] * 100 and inputs.covered == 0
    model.answer(USER, inputs)
    assert stored(redis_admin) is None and model.states.counts() == {"without": 1}


def test_a_long_history_is_summed_once_and_then_used_as_it_is(model: Model, redis_admin: redis.Redis) -> None:
    settled(model)
    assert model.states.counts() == {"read": 1, "computed": 1, "written": 1}
    state = stored(redis_admin)
    assert state is not None and (state.first, state.end, state.roundings) == (0, LONG, 1)
    assert 900 < redis_admin.ttl(KEY) <= 1_000
    model.append(USER, rows(5, start=LONG))
    redis_admin.config_resetstat()
    inputs = model.request(USER, LONG + 5)
    assert model.states.counts()["used"] == 1
    assert redis_admin.info("commandstats")["cmdstat_getrange"]["calls"] == 2, "nothing but what was read with it"
    assert inputs.fresh.tolist() == [1.0] * 5 and inputs.covered == LONG
    assert_exact(model, inputs, LONG + 5)


def test_a_state_holds_when_the_store_is_extended_by_another_attribute(model: Model, redis_url: str) -> None:
    settled(model)
    assert LONG_FEATURES.history is not None
    attributes = (*LONG_FEATURES.history.attributes, Categorical(name="device"))
    extended = replace(LONG_FEATURES, history=replace(LONG_FEATURES.history, attributes=attributes))
    with model_on(redis_url, extended) as other:
        other.append(USER, rows(5, start=LONG))
        with_store(model, other.store)
        model.store = other.store
        inputs = model.request(USER, LONG + 5)
        assert model.states.counts() == {"used": 1} and inputs.covered == LONG
        assert_exact(model, inputs, LONG + 5)
        other.append(USER, rows(WRITE_AFTER, start=LONG + 5))
        model.answer(USER, model.request(USER, LONG + 5 + WRITE_AFTER))
        assert model.request(USER, LONG + 5 + WRITE_AFTER).covered == LONG + 5 + WRITE_AFTER
        assert model.states.counts() == {"used": 3, "written": 1}
        model.states.close()


def test_the_newest_events_are_there_though_the_state_covers_them(model: Model) -> None:
    settled(model)
    inputs = model.request(USER, LONG)
    assert inputs.fresh.tolist() == [0.0] * NEWEST
    assert inputs.events.tolist() == model.window(USER, LONG)[-NEWEST:].tolist()


@pytest.mark.parametrize("count", [1, WRITE_AFTER - 1, WRITE_AFTER, SLACK, SLACK + NEWEST, 5_000])
def test_a_state_is_written_again_after_enough_events(model: Model, redis_admin: redis.Redis, count: int) -> None:
    settled(model)
    model.append(USER, rows(count, start=LONG))
    inputs = model.request(USER, LONG + count)
    assert_exact(model, inputs, LONG + count)
    model.answer(USER, inputs)
    state = stored(redis_admin)
    enough = count >= WRITE_AFTER
    assert state is not None and (state.end, state.roundings) == ((LONG + count, 2) if enough else (LONG, 1))
    assert_exact(model, model.request(USER, LONG + count), LONG + count)


def test_a_state_rounded_often_is_made_anew(model: Model, redis_admin: redis.Redis) -> None:
    settled(model)
    state = stored(redis_admin)
    assert state is not None
    worn = state._replace(sums=state.sums + 0.25, roundings=MOST_ROUNDINGS)
    redis_admin.set(KEY, pack_state(worn, version=VERSION))
    model.append(USER, rows(WRITE_AFTER, start=LONG))
    model.answer(USER, model.request(USER, LONG + WRITE_AFTER))
    renewed = stored(redis_admin)
    assert renewed is not None and (renewed.end, renewed.roundings) == (LONG + WRITE_AFTER, 1)
    np.testing.assert_array_equal(renewed.sums % 1.0, 0.0)


def test_a_late_event_among_those_covered_makes_the_state_void(model: Model) -> None:
    settled(model)
    model.append(USER, [(5_000, 49, 10_001)])
    inputs = model.request(USER, LONG + 5)
    assert inputs.base.stored is False and inputs.history_events == LONG + 1
    assert_exact(model, inputs, LONG + 5)


def test_a_late_event_after_those_covered_is_one_more_event(model: Model) -> None:
    settled(model)
    model.append(USER, [(LONG + 90, 3, LONG + 90)])
    model.append(USER, [(LONG + 50, 4, LONG + 91)])
    inputs = model.request(USER, LONG + 95)
    assert inputs.base.stored and inputs.fresh.tolist()[-2:] == [1.0, 1.0]
    assert_exact(model, inputs, LONG + 95)


def test_events_of_the_future_wait_for_their_time(model: Model, redis_admin: redis.Redis) -> None:
    settled(model)
    model.append(USER, rows(40, start=LONG) + [(LONG + 9_000 + n, n, LONG) for n in range(40)])
    inputs = model.request(USER, LONG + 100)
    assert_exact(model, inputs, LONG + 100)
    model.answer(USER, inputs)
    state = stored(redis_admin)
    assert state is not None and state.end == LONG + 40
    assert_exact(model, model.request(USER, LONG + 9_500), LONG + 9_500)


def test_more_events_of_the_future_than_are_read_hide_nothing(model: Model) -> None:
    settled(model, 1_000)
    model.append(USER, [(5_000 + n, n % 50, 1_000) for n in range(3 * SLACK)])
    inputs = model.request(USER, 2_000)
    assert_exact(model, inputs, 2_000)
    assert inputs.events[-NEWEST:].tolist() == model.window(USER, 2_000)[-NEWEST:].tolist()


@pytest.mark.parametrize("late", [5, 5_000, LONG - 5], ids=["the oldest", "in the middle", "among the newest"])
def test_no_state_is_made_of_events_among_which_one_has_not_arrived(
    model: Model, redis_admin: redis.Redis, late: int
) -> None:
    model.append(USER, [row for row in rows(LONG) if row[0] > 5] + [(late, 49, LONG + 50)])
    inputs = model.request(USER, LONG)
    assert_exact(model, inputs, LONG)
    model.answer(USER, inputs)
    assert (state := stored(redis_admin)) is None or state.end < LONG
    inputs = model.request(USER, LONG + 60)
    assert inputs.history_events == LONG - 5
    assert_exact(model, inputs, LONG + 60)


def test_a_request_of_the_past_does_without_the_state_and_leaves_it(model: Model, redis_admin: redis.Redis) -> None:
    settled(model)
    before = redis_admin.get(KEY)
    inputs = model.request(USER, LONG - 500)
    assert inputs.history_events == LONG - 500
    assert_exact(model, inputs, LONG - 500)
    model.answer(USER, inputs)
    assert redis_admin.get(KEY) == before


def test_a_request_of_a_time_to_come_leaves_no_state_that_is_of_no_use_until_then(
    model: Model, redis_admin: redis.Redis
) -> None:
    model.append(USER, rows(LONG))
    inputs = model.request(USER, int(time.time() * 1000) - T0_MS + 3_600_000)
    assert inputs.history_events == LONG
    model.answer(USER, inputs)
    assert stored(redis_admin) is None


def test_a_state_of_a_history_that_was_replaced_by_a_short_one_does_not_stay(
    model: Model, redis_admin: redis.Redis
) -> None:
    settled(model)
    few = events_of(LONG_FEATURES, rows(20, start=LONG))
    run_sync(model.store.replace_many([(USER, few)], arrived_until_ms=T0_MS + 2 * LONG, timeout_s=5))
    inputs = model.request(USER, 2 * LONG)
    assert_exact(model, inputs, 2 * LONG)
    model.answer(USER, inputs)
    state = stored(redis_admin)
    assert state is not None and (state.first, state.end) == (LONG, LONG + 20)
    assert_exact(model, model.request(USER, 2 * LONG), 2 * LONG)
    assert model.states.counts()["used"] == 1


def test_without_time_the_newest_events_are_answered_for_and_the_rest_is_done_later(
    model: Model, redis_admin: redis.Redis
) -> None:
    model.append(USER, rows(LONG))
    slow = Slow(model, delay_s=0.3)
    with_encoder(model, slow)
    inputs = model.request(USER, LONG, timeout_s=0.5)
    assert inputs.partial
    newest = LONG - inputs.history_events
    expected = defined_sums(INTEGERS, model.window(USER, LONG)[newest:])
    np.testing.assert_allclose(model.next_sums(inputs), expected, atol=1e-3)
    assert model.states.flush(timeout_s=30)
    state = stored(redis_admin)
    assert state is not None and (state.first, state.end) == (0, LONG)
    assert_exact(model, model.request(USER, LONG), LONG)


def test_a_partial_answer_is_not_stored(model: Model, redis_admin: redis.Redis) -> None:
    model.append(USER, rows(LONG))
    with_encoder(model, Slow(model, delay_s=0.3))
    inputs = model.request(USER, LONG, timeout_s=0.5)
    assert inputs.partial and inputs.end == -1


def test_requests_that_see_a_user_first_together_compute_once(model: Model) -> None:
    model.append(USER, rows(LONG))
    slow = Slow(model, delay_s=0.5)
    with_encoder(model, slow)
    time_ms, together = T0_MS + LONG, threading.Barrier(6)
    read = model.store.read_for_rank(USER, np.arange(1), time_ms=time_ms, timeout_s=5, state=model.states.read)
    inputs = run_sync(read)

    def ask(_: int) -> StateInputs:
        together.wait(30)
        return model.states.for_request(USER, inputs, time_ms=time_ms, deadline=Deadline.after(60))

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(ask, range(6)))
    assert slow.calls == -(-(LONG - SLACK - NEWEST) // BLOCK)
    for one in found:
        assert_exact(model, one, LONG)


@pytest.mark.parametrize("late", [100, LONG - 100, LONG], ids=["among the oldest", "in the tail", "at the end"])
def test_events_that_come_while_a_history_is_read_confuse_nothing(model: Model, late: int) -> None:
    model.append(USER, rows(LONG))
    happenings: list[Callable[[], object]] = [
        lambda: None,
        lambda: model.append(USER, [(late, 48, late)]),
        lambda: model.append(USER, [(late + 1, 47, late + 1)]),
    ]
    store = Meddled(model.store, iter(happenings))
    with_store(model, store)
    inputs = model.request(USER, LONG + 10)
    # What comes at the end came after this request's newest events were read.
    window = model.window(USER, LONG + 10)[: LONG if late == LONG else None]
    assert not inputs.partial and inputs.history_events == len(window)
    np.testing.assert_array_equal(model.next_sums(inputs), defined_sums(INTEGERS, window))
    model.answer(USER, inputs)
    assert_exact(model, model.request(USER, LONG + 10), LONG + 10)


def test_answers_do_not_wait_for_writes_and_what_is_too_much_is_dropped(model: Model, redis_admin: redis.Redis) -> None:
    model.append(USER, rows(LONG))
    store = Blocked(model.store)
    with_store(model, store)
    inputs = model.request(USER, LONG)
    sums = model.next_sums(inputs)
    for user in range(3_000):
        model.states.offer_write(user, inputs, sums)
    dropped = model.states.counts()["dropped"]
    assert 0 < dropped < 3_000 and redis_admin.keys("*:s:*") == []
    store.go_on.set()
    assert model.states.flush(timeout_s=60)
    assert len(redis_admin.keys("*:s:*")) == 3_000 - dropped == model.states.counts()["written"]


def test_of_the_states_of_one_user_that_wait_the_newest_is_written(model: Model, redis_admin: redis.Redis) -> None:
    model.append(USER, rows(LONG))
    store = Blocked(model.store)
    with_store(model, store)
    for at in (LONG - 2, LONG - 1, LONG):
        inputs = model.request(USER, at)
        model.states.offer_write(USER, inputs, model.next_sums(inputs))
    store.go_on.set()
    assert model.states.flush(timeout_s=60)
    state = stored(redis_admin)
    assert state is not None and state.end == LONG and model.states.counts()["written"] <= 2


def test_what_waits_is_written_before_it_closes(model: Model, redis_admin: redis.Redis) -> None:
    model.append(USER, rows(LONG))
    inputs = model.request(USER, LONG)
    model.states.offer_write(USER, inputs, model.next_sums(inputs))
    model.states.close()
    assert stored(redis_admin) is not None
    model.states.offer_write(USER, inputs, model.next_sums(inputs))
    assert model.states.counts()["dropped"] == 1


def test_threads_that_rank_and_append_for_one_user_get_whole_answers(model: Model) -> None:
    settled(model)

    def rank(_: int) -> Sequence[bool]:
        answers = []
        for _ in range(20):
            inputs = model.request(USER, LONG + 400)
            model.states.offer_write(USER, inputs, model.next_sums(inputs))
            answers.append(inputs.partial)
        return answers

    with ThreadPoolExecutor(5) as pool:
        ranked = [pool.submit(rank, n) for n in range(4)]
        for n in range(0, 400, 10):
            model.append(USER, rows(10, start=LONG + n))
        assert not any(partial for future in ranked for partial in future.result())
    assert model.states.flush(timeout_s=30)
    assert_exact(model, model.request(USER, LONG + 400), LONG + 400)


@pytest.mark.parametrize("new", [60, 500], ids=["read with the state", "read after it"])
def test_events_that_redis_evicted_leave_the_sums_with_them(model: Model, redis_admin: redis.Redis, new: int) -> None:
    chunk = LONG // 10
    count = LONG + chunk - 30  # so many more, and another chunk is sealed: then what is gone shows
    settled(model, count)
    redis_admin.delete(history_keys(LONG_FEATURES.name, USER).sealed)
    model.append(USER, rows(new, start=count))
    header, _ = run_sync(model.store.history(USER, timeout_s=5))
    assert header.trimmed > 0 and header.chunk == chunk
    assert_exact(model, model.request(USER, count + new), count + new)


def test_a_state_that_would_lack_an_event_known_later_is_not_written(model: Model) -> None:
    settled(model)
    model.append(USER, [(LONG, 1, LONG + 500), *rows(2 * WRITE_AFTER, start=LONG + 1)])
    at = LONG + 2 * WRITE_AFTER + 1
    inputs = model.request(USER, at)
    assert inputs.fresh_count == 2 * WRITE_AFTER
    model.answer(USER, inputs)
    assert model.states.counts()["written"] == 1, "the one before"
    assert_exact(model, model.request(USER, LONG + 600), LONG + 600)
