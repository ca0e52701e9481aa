"""ReleaseSwitch: releases change while calls run: each call is answered whole, by one of them, and none fails."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_bundle import FEATURES, ITEMS, reference_scores, write_tiny_bundle

from recsys.client import Client, Ranking
from recsys.errors import BundleError, ReleaseError
from recsys.feature_store.base import RankRead
from recsys.feature_store.blocking import BlockingFeatureStore
from recsys.serving.handlers.routes import LoadedRelease
from recsys.serving.process import server as server_module
from recsys.serving.process.models import Models
from recsys.serving.process.releases import switch as switch_module
from recsys.serving.process.releases.plan import Plan, PlannedRelease, bundle_plan
from recsys.serving.process.server import running_server
from recsys.serving.settings import Settings

CANDIDATES, AGE = [5, 1, 3], 1.0
HELD_USER = 99
EXPECTED = {
    "tiny": reference_scores(events=[], candidates=CANDIDATES, age=AGE),
    "other": reference_scores(events=[], candidates=CANDIDATES, age=2 * AGE),
}
"""The other model's items have twice the vectors."""


class Gate:
    """Holds calls about one user before they have read the store, until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.holds, self.opened = threading.Event(), threading.Event()
        read = BlockingFeatureStore.read_many_for_rank

        def held(store: BlockingFeatureStore, reads: Sequence[RankRead], **more: Any) -> Any:
            if reads[0].user_key == HELD_USER:
                self.holds.set()
                assert self.opened.wait(20)
            return read(store, reads, **more)

        monkeypatch.setattr(BlockingFeatureStore, "read_many_for_rank", held)


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The releases that were closed, in order."""
    names: list[str] = []

    def opened(planned: PlannedRelease, models: Models, shared: Any) -> LoadedRelease:
        loaded = open_loaded_release(planned, models, shared)
        model = models.first.model

        def close() -> None:
            names.append(model)
            loaded.close()

        return dataclasses.replace(loaded, close=close)

    open_loaded_release = server_module.open_loaded_release
    monkeypatch.setattr(server_module, "open_loaded_release", opened)
    monkeypatch.setattr(switch_module, "open_loaded_release", opened)
    return names


def plan_of(bundle: Path, *, number: int = 2) -> Plan:
    return dataclasses.replace(bundle_plan(Settings(bundle=bundle)), number=number)


def settings_of(bundle: Path, redis_url: str) -> Settings:
    return Settings(bundle=bundle, port=0, redis_url=redis_url, store_timeout_ms=5_000)


def ask(client: Client, *, user: int = 1) -> Ranking:
    return client.rank(user=user, candidates=CANDIDATES, features={"age": AGE}, timeout_s=20.0)


def test_calls_that_run_end_on_the_old_model_and_later_ones_have_the_new(
    tiny_bundle: Path, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch, closed: list[str]
) -> None:
    write_tiny_bundle(tmp_path / "other", model="other", items=2 * ITEMS)
    gate, stop = Gate(monkeypatch), threading.Event()

    def call_until_stop(address: str) -> list[Ranking]:
        answers = []
        with Client(address) as client:
            while not stop.is_set():
                answers.append(ask(client))
        return answers

    with (
        running_server(settings_of(tiny_bundle, redis_url)) as server,
        Client(server.address) as client,
        ThreadPoolExecutor(5) as pool,
    ):
        try:
            callers = [pool.submit(call_until_stop, server.address) for _ in range(3)]
            held = pool.submit(ask, client, user=HELD_USER)
            assert gate.holds.wait(20)
            server.switch.prepare(plan_of(tmp_path / "other"))
            assert ask(client).model == "tiny"
            closing = server.switch.commit(2)
            assert ask(client).model == "other"
            assert closing.is_alive() and not held.done() and closed == []
            gate.opened.set()
            before = held.result(20)
            closing.join(20)
            assert closed == ["tiny"]
        finally:
            gate.opened.set()
            stop.set()
        answers = [each.result(20) for each in callers]
    assert closed == ["tiny", "other"]
    for of_caller in [[before], *answers]:
        models = [answer.model for answer in of_caller]
        assert models == sorted(models, reverse=True), "no caller goes back to the old one"
        for answer in of_caller:
            np.testing.assert_allclose(answer.scores, EXPECTED[answer.model], atol=1e-6)
    assert before.model == "tiny"
    assert all({"tiny", "other"} == {answer.model for answer in of_caller} for of_caller in answers)


def test_a_release_of_another_feature_set_is_refused_and_the_old_one_serves_on(
    tiny_bundle: Path, tmp_path: Path, redis_url: str, closed: list[str]
) -> None:
    write_tiny_bundle(tmp_path / "foreign", model="foreign", features=dataclasses.replace(FEATURES, name="elsewhere"))
    with running_server(settings_of(tiny_bundle, redis_url)) as server, Client(server.address) as client:
        with pytest.raises(
            BundleError, match="'foreign-.*' and what is stored cannot share a store: name: tiny -> elsewhere"
        ):
            server.switch.prepare(plan_of(tmp_path / "foreign"))
        assert ask(client).model == "tiny"
    assert closed == ["tiny"]


def test_what_was_prepared_and_is_given_up_is_closed_and_cannot_be_changed_over_to(
    tiny_bundle: Path, tmp_path: Path, redis_url: str, closed: list[str]
) -> None:
    write_tiny_bundle(tmp_path / "other", model="other", items=2 * ITEMS)
    with running_server(settings_of(tiny_bundle, redis_url)) as server, Client(server.address) as client:
        server.switch.prepare(plan_of(tmp_path / "other"))
        server.switch.abort()
        assert closed == ["other"]
        with pytest.raises(ReleaseError, match="plan 2 is not prepared"):
            server.switch.commit(2)
        assert ask(client).model == "tiny"
    assert closed == ["other", "tiny"]


def test_a_release_that_stays_is_loaded_once(
    tiny_bundle: Path, tmp_path: Path, redis_url: str, closed: list[str]
) -> None:
    write_tiny_bundle(tmp_path / "other", model="other", items=2 * ITEMS)
    first, second = plan_of(tiny_bundle, number=1), plan_of(tmp_path / "other", number=2)
    both = dataclasses.replace(second, releases={**first.releases, **second.releases})
    back = dataclasses.replace(both, models=first.models, default=first.default, number=3)
    with running_server(settings_of(tiny_bundle, redis_url)) as server, Client(server.address) as client:
        server.switch.prepare(both)
        server.switch.commit(2).join(20)
        assert ask(client).model == "other" and closed == []
        server.switch.prepare(back)
        server.switch.commit(3).join(20)
        assert ask(client).model == "tiny" and closed == []
    assert sorted(closed) == ["other", "tiny"]
