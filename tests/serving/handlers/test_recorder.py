"""The recorder: bounded in number, bytes and time, and kept by the model's name, not by the release."""

from __future__ import annotations

import time

import numpy as np
import pytest

from recsys.arrays import Int64Array
from recsys.releases.served import ServedModel
from recsys.serving.handlers import recorder as recorder_module
from recsys.serving.handlers.recorder import MOST_CANDIDATES, RecordedQuery, Recorder, Ring


def recorder_of(**models: ServedModel) -> Recorder:
    recorder = Recorder()
    recorder.follow(models)
    return recorder


def keep(recorder: Recorder, release: str, *, user: int = 1, items: Int64Array | None = None) -> None:
    keys = np.arange(3) if items is None else items
    recorder.keep_request(
        release,
        user_key=user,
        user_columns={"age": np.ones(1, dtype=np.float32)},
        values={"hour": [3]},
        events=None,
        item_keys=keys,
        item_columns={"price": np.ones(len(keys), dtype=np.float32)},
        degraded=False,
    )


def users(recorder: Recorder, route: str, count: int = 1_000) -> list[int]:
    return [request.user_key for request in recorder.recorded(route, count).requests]


def test_requests_stay_with_the_name_when_another_release_answers_it() -> None:
    recorder = recorder_of(feed=ServedModel(live="a", split={"b": 10.0}), shop=ServedModel(live="c"))
    keep(recorder, "a", user=1)
    keep(recorder, "b", user=2)
    keep(recorder, "c", user=3)
    recorder.follow({"feed": ServedModel(live="d")})
    keep(recorder, "d", user=4)
    keep(recorder, "a", user=5)
    assert users(recorder, "feed") == [4, 2, 1], "the newest first; a release that answers no more records no more"
    assert users(recorder, "shop") == [], "nothing is kept of a name that is served no more"
    assert not recorder.wants_request("c") and not recorder.wants_query("shadow")


def test_only_the_latest_are_kept_and_the_first_candidates_of_each() -> None:
    recorder = recorder_of(feed=ServedModel(live="a"))
    for user in range(300):
        keep(recorder, "a", user=user)
    assert users(recorder, "feed") == list(range(299, 299 - 256, -1))
    assert users(recorder, "feed", 2) == [299, 298]
    keep(recorder, "a", items=np.arange(MOST_CANDIDATES + 500))
    newest = recorder.recorded("feed", 1).requests[0]
    assert newest.item_keys.tolist() == list(range(MOST_CANDIDATES))
    assert len(newest.item_columns["price"]) == MOST_CANDIDATES
    assert newest.item_keys.base is None and newest.item_columns["price"].base is None, "no view of what is larger"


def test_all_that_is_kept_is_within_its_bytes() -> None:
    ring: Ring[RecordedQuery] = Ring(10_000)
    for user in range(50):
        ring.put(RecordedQuery(user_key=user, taken=np.zeros(300, dtype=np.int64), top_k=1))
    kept = ring.latest(100)
    assert [query.user_key for query in kept] == [49, 48, 47]
    assert sum(query.size_bytes for query in kept) <= 10_000
    ring.put(RecordedQuery(user_key=50, taken=np.zeros(3_000, dtype=np.int64), top_k=1))
    assert ring.latest(100) == [], "what is too large alone is not kept"


def test_after_the_first_ones_a_request_is_kept_now_and_then_however_many_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = [0.0]
    monkeypatch.setattr(recorder_module.time, "monotonic", lambda: now_s[0])
    recorder = recorder_of(feed=ServedModel(live="a"))
    kept = 0
    for step in range(20_000):  # 10 s at 2,000 a second
        now_s[0] = 1.0 + step / 2_000
        if recorder.wants_request("a"):
            keep(recorder, "a")
            kept += 1
    assert 64 + 13 <= kept <= 64 + 32


def test_the_request_path_pays_next_to_nothing() -> None:
    recorder = recorder_of(feed=ServedModel(live="a"))
    for _ in range(64):
        keep(recorder, "a")
    recorder.wants_request("a")
    best_s = min(_seconds(recorder) for _ in range(20))
    assert best_s < 5e-6, "0.3 us on a machine with nothing else to do"


def _seconds(recorder: Recorder) -> float:
    began_s = time.perf_counter()
    for _ in range(100):
        recorder.wants_request("a")
    return (time.perf_counter() - began_s) / 100
