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
from recsys.serving.handlers.model_slot import ModelSlot
from recsys.serving.handlers.routes import LoadedRelease, Route, Routes
from recsys.serving.inference.ranking_session import open_ranking_session
from recsys.serving.long_history.states import LongStates
from recsys.serving.process.assembly import open_loaded_release, open_shared_parts
from recsys.serving.process.models import Models
from recsys.serving.process.releases.plan import PlannedRelease
from recsys.serving.process.stores import Stores
from recsys.serving.settings import Settings


class Closes:
    """Releases that note when they are closed."""

    def __init__(self) -> None:
        self.closed: list[str] = []

    def release(self, name: str) -> LoadedRelease:
        return LoadedRelease(
            name=name, features=FEATURES, ranker=None, recommender=None, close=lambda: self.closed.append(name)
        )


def routes(*loaded: LoadedRelease) -> Routes:
    """Routes to the first of these; the others are kept."""
    return Routes(models={"m": Route(name="m", live=loaded[0])}, default="m", loaded=loaded)


@pytest.fixture
def closes() -> Closes:
    return Closes()


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def test_a_call_keeps_the_releases_it_began_with_and_they_are_closed_after_it(closes: Closes) -> None:
    first, second = routes(closes.release("first")), routes(closes.release("second"))
    slot, calls = ModelSlot(first), threading.Barrier(3)
    ends = threading.Event()

    def call() -> Routes:
        with slot.current() as mine:
            calls.wait(20)
            assert ends.wait(20)
            return mine

    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(call) for _ in range(2)]
        calls.wait(20)
        closing = slot.replace(second, timeout_s=20)
        with slot.current() as mine:
            assert mine is second
        assert closing.is_alive() and closes.closed == []
        ends.set()
        assert [each.result(20) for each in running] == [first, first]
        closing.join(20)
    assert closes.closed == ["first"]
    slot.close()
    assert closes.closed == ["first", "second"]


def test_a_release_that_is_kept_is_closed_when_it_is_named_no_more(closes: Closes) -> None:
    first, second = closes.release("first"), closes.release("second")
    told: list[list[str]] = []
    slot = ModelSlot(routes(first), on_closed=lambda: told.append(list(closes.closed)))
    slot.replace(routes(second, first), timeout_s=20).join(20)
    assert closes.closed == [] and told == []
    slot.replace(routes(first, second), timeout_s=20).join(20)
    assert closes.closed == [], "a rollback finds what was kept"
    slot.replace(routes(first), timeout_s=20).join(20)
    assert closes.closed == ["second"] and told == [["second"]]
    slot.close()
    assert closes.closed == ["second", "first"]


def test_a_release_is_not_closed_while_a_call_of_older_routes_uses_it(closes: Closes) -> None:
    first, second = closes.release("first"), closes.release("second")
    slot = ModelSlot(routes(first, second))
    with slot.current():
        one = slot.replace(routes(second), timeout_s=20)
        two = slot.replace(routes(closes.release("third")), timeout_s=20)
        two.join(0.2)
        assert closes.closed == []
    one.join(20), two.join(20)
    assert sorted(closes.closed) == ["first", "second"]


def test_a_call_that_does_not_end_keeps_nobody_from_replacing(closes: Closes) -> None:
    slot = ModelSlot(routes(closes.release("first")))
    with slot.current():
        slot.replace(routes(closes.release("second")), timeout_s=0.01).join(20)
        assert closes.closed == ["first"]
    assert closes.closed == ["first"]


def test_a_call_that_fails_ends_too(closes: Closes) -> None:
    slot = ModelSlot(routes(closes.release("first")))
    with pytest.raises(ValueError, match="of the caller"), slot.current():
        raise ValueError("of the caller")
    slot.replace(routes(closes.release("second")), timeout_s=60).join(20)
    assert closes.closed == ["first"]


def test_releases_that_are_replaced_have_left_memory_without_the_collector_when_it_is_told(
    tiny_bundle: Path, stores: Stores, no_collector: None
) -> None:
    planned = PlannedRelease(name="r", ranking=tiny_bundle, retrieval=None)
    gone: list[bool] = []

    def opened() -> Routes:
        models = Models(open_ranking_session(open_bundle(tiny_bundle)), None)
        return routes(open_loaded_release(planned, models, shared))

    with open_shared_parts(Settings(), stores) as shared:
        slot = ModelSlot(opened(), on_closed=lambda: gone.append(session() is None))
        with slot.current() as mine:
            assert mine.first.ranker is not None
            session = weakref.ref(mine.first.ranker.session)
        del mine
        slot.replace(opened(), timeout_s=20).join(20)
        assert gone == [True]
        slot.close()


def test_states_leave_memory_without_the_collector(blocking_store: BlockingFeatureStore, no_collector: None) -> None:
    with closing(LongStates(LONG_FEATURES, STATE, lambda _: None, blocking_store, VERSION, 60)) as states:  # type: ignore[arg-type, return-value]
        found = weakref.ref(states)
    del states
    assert found() is None
