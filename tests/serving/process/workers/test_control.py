"""Control of a worker: orders are followed in their turn, whatever comes after them meanwhile."""

from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import IO, ClassVar

import pytest
from support.tiny_bundle import write_tiny_bundle
from support.tiny_workers import until

from recsys.serving.process.releases.plan import Plan, bundle_plan
from recsys.serving.process.releases.switch import ReleaseSwitch
from recsys.serving.process.server import running_server
from recsys.serving.process.workers.control import control
from recsys.serving.process.workers.messages import (
    Abort,
    Commands,
    Commit,
    Committed,
    Damaged,
    Output,
    Prepare,
    Prepared,
    Task,
)
from recsys.serving.settings import Settings


class Supervisor:
    """The other end of a worker's pipes, in the test's own process."""

    _all: ClassVar[list[Supervisor]] = []
    """Held to the end: a worker whose supervisor is gone ends its process, and that is the test's."""

    def __init__(self) -> None:
        self._all.append(self)
        orders, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        self.write, self._found = os.fdopen(self._orders, "wb"), SimpleQueue[object]()
        threading.Thread(target=self._read, args=(os.fdopen(self._answers, "rb"),), daemon=True).start()
        self.commands = Commands(os.fdopen(orders, "rb"), limit_s=60.0)
        self.output = Output(os.fdopen(answers, "wb"))

    def send(self, *commands: object) -> None:
        for command in commands:
            self.write.write(pickle.dumps(command))
        self.write.flush()

    def answer(self) -> object:
        return self._found.get(timeout=20)

    def _read(self, stream: IO[bytes]) -> None:
        while True:
            self._found.put(pickle.load(stream))


def plan_of(bundle: Path, *, number: int) -> Plan:
    plan = bundle_plan(Settings(bundle=bundle))
    return Plan(number=number, models=plan.models, default=plan.default, releases=plan.releases)


def test_a_plan_that_is_given_up_takes_none_with_it_that_waits_for_its_commit(
    tiny_bundle: Path, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_bundle(tmp_path / "other", model="other")
    opened, commit = threading.Event(), ReleaseSwitch.commit

    def slow(switch: ReleaseSwitch, number: int) -> threading.Thread:
        assert opened.wait(20)
        return commit(switch, number)

    monkeypatch.setattr(ReleaseSwitch, "commit", slow)
    settings, supervisor = Settings(bundle=tiny_bundle, port=0, redis_url=redis_url, release_replay=0), Supervisor()
    task = Task(number=1, settings=settings, plan=None, core=None, counts=None)
    with running_server(settings) as server, control(task, server, supervisor.commands, supervisor.output):
        supervisor.send(Prepare(plan=plan_of(tmp_path / "other", number=2)))
        assert supervisor.answer() == Prepared(plan=2)
        supervisor.send(Commit(plan=2), Abort(plan=3))
        until(lambda: supervisor.commands.aborted == 3)
        opened.set()
        assert supervisor.answer() == Committed(plan=2)
        assert server.switch.plan.number == 2


def test_a_release_that_is_damaged_again_after_it_was_whole_is_reported_again(
    tiny_bundle: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage: dict[str, str] = {}
    monkeypatch.setattr(ReleaseSwitch, "damaged", lambda switch: dict(damage))
    settings, supervisor = Settings(bundle=tiny_bundle, port=0, redis_url=redis_url, release_replay=0), Supervisor()
    task = Task(number=1, settings=settings, plan=None, core=None, counts=None)
    with running_server(settings) as server, control(task, server, supervisor.commands, supervisor.output):
        for why in ("once", "twice"):
            damage["a"] = why
            assert supervisor.answer() == Damaged(release="a", why=why)
            damage.clear()
            damage["b"] = why
            assert supervisor.answer() == Damaged(release="b", why=why), "it has looked since"
            damage.clear()
            threading.Event().wait(0.6)
