"""The follower waits for a folder that hangs, so that the main thread need not."""

from __future__ import annotations

import threading
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pytest

from recsys.releases.served import Served, ServedModel, write_served
from recsys.serving.process.releases import follow
from recsys.serving.process.releases.follow import Follower


def test_a_change_is_reported_when_the_records_of_its_releases_were_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, answer = threading.Event(), threading.Event()
    names: list[str] = []

    def hanging(store: Path, name: str) -> None:
        names.append(name)
        reading.set()
        assert answer.wait(20)

    monkeypatch.setattr(follow, "open_release", hanging)
    before = Served(revision=1, models={"m": ServedModel(live="one")}, default="m")
    after = Served(revision=2, models={"m": ServedModel(live="two", shadow={"three": 1.0})}, default="m")
    write_served(tmp_path, before)
    events: SimpleQueue[Any] = SimpleQueue()
    follower = Follower(tmp_path, poll_s=0.01, seen=before, events=events)
    follower.start()
    write_served(tmp_path, after)
    assert reading.wait(20)
    with pytest.raises(Empty):
        events.get(timeout=0.3)
    answer.set()
    assert events.get(timeout=20).served == after
    assert sorted(names) == ["three", "two"]
    follower.stop()
