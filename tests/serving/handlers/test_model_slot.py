"""ModelSlot: a call keeps the models it began with, and what was replaced is closed once, after its last call."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from support.long_histories import LONG_FEATURES, STATE, VERSION
from support.tiny_bundle import FEATURES

from recsys.bundle import open_bundle
from recsys.feature_store.blocking import BlockingFeatureStore
from recsys.serving.handlers.model_slot import ModelSlot, ServedModels
from recsys.serving.inference.ranking_session import open_ranking_session
from recsys.serving.long_history.states import LongStates
from recsys.serving.process.assembly import open_served_models, open_shared_parts
from recsys.serving.process.models import Models
from recsys.serving.settings import Settings


class Closes:
    """Models that note when they are closed."""

    def __init__(self) -> None:
        self.closed: list[str] = []

    def models(self, name: str) -> ServedModels:
        return ServedModels(ranker=None, recommender=None, close=lambda: self.closed.append(name))


@pytest.fixture
def closes() -> Closes:
    return Closes()


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def test_a_call_keeps_the_models_it_began_with_and_they_are_closed_after_it(closes: Closes) -> None:
    first, second = closes.models("first"), closes.models("second")
    slot, calls = ModelSlot(first), threading.Barrier(3)
    ends = threading.Event()

    def call() -> ServedModels:
        with slot.current() as models:
            calls.wait(20)
            assert ends.wait(20)
            return models

    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(call) for _ in range(2)]
        calls.wait(20)
        replacing = pool.submit(slot.replace, second, timeout_s=20)
        while slot._current.models is first:
            pass
        with slot.current() as models:
            assert models is second
        assert not replacing.done() and closes.closed == []
        ends.set()
        assert [each.result(20) for each in running] == [first, first]
        replacing.result(20)
    assert closes.closed == ["first"]
    slot.close()
    assert closes.closed == ["first", "second"]


def test_a_call_that_does_not_end_keeps_nobody_from_replacing(closes: Closes) -> None:
    slot = ModelSlot(closes.models("first"))
    with slot.current():
        slot.replace(closes.models("second"), timeout_s=0.01)
        assert closes.closed == ["first"]
    assert closes.closed == ["first"]


def test_a_call_that_fails_ends_too(closes: Closes) -> None:
    slot = ModelSlot(closes.models("first"))
    with pytest.raises(ValueError, match="of the caller"), slot.current():
        raise ValueError("of the caller")
    slot.replace(closes.models("second"), timeout_s=60)
    assert closes.closed == ["first"]


def test_models_that_are_replaced_leave_memory_without_the_collector(
    tiny_bundle: Path, blocking_store: BlockingFeatureStore, no_collector: None
) -> None:
    def opened() -> Models:
        return Models(open_ranking_session(open_bundle(tiny_bundle)), None)

    with open_shared_parts(Settings(), FEATURES, blocking_store) as shared:
        slot = ModelSlot(open_served_models(opened(), shared))
        with slot.current() as models:
            assert models.ranker is not None
            session = weakref.ref(models.ranker.session)
        del models
        slot.replace(open_served_models(opened(), shared), timeout_s=20)
        assert session() is None


def test_states_leave_memory_without_the_collector(blocking_store: BlockingFeatureStore, no_collector: None) -> None:
    with closing(LongStates(LONG_FEATURES, STATE, lambda _: None, blocking_store, VERSION, 60)) as states:  # type: ignore[arg-type, return-value]
        found = weakref.ref(states)
    del states
    assert found() is None
