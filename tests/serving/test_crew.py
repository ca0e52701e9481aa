"""The crew of workers without any process: what keeps one from being started, and how one ended."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from recsys.errors import ConfigError
from recsys.serving import crew
from recsys.serving.crew import MAX_STARTS, Crew
from recsys.serving.settings import Settings
from recsys.serving.worker import Task


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The numbers of the workers that were tried on a system that has no process to give."""
    numbers: list[int] = []

    def refused(task: Task) -> subprocess.Popen[bytes]:
        numbers.append(task.number)
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(crew, "_started", refused)
    monkeypatch.setattr(crew, "_BACKOFF_S", 0.0)
    yield numbers


def test_without_a_process_to_be_had_the_start_ends(tried: list[int]) -> None:
    workers = Crew(Settings(), cores=[None, None], events=SimpleQueue())
    with pytest.raises(ConfigError, match="no process for worker 1: Resource temporarily unavailable"):
        workers.start()
    workers.end(timeout_s=1.0)


def test_without_a_process_to_be_had_later_it_is_tried_as_often_as_one_that_cannot_start(
    tried: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    workers = Crew(Settings(), cores=[None], events=SimpleQueue())
    workers.complete = True
    for _ in range(MAX_STARTS - 1):
        workers.heed(None)
        assert workers.rest_s() == 0.0
    with pytest.raises(ConfigError, match="no process for worker 1"):
        workers.heed(None)
    assert tried == [1] * MAX_STARTS
    assert f"worker 1 could not start ({MAX_STARTS - 1} times in a row): no process" in capfd.readouterr().err


def test_while_another_worker_serves_it_is_tried_again_and_again(tried: list[int]) -> None:
    workers = Crew(Settings(), cores=[None, None], events=SimpleQueue())
    workers.complete = True
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as serving:
        workers._workers[1].process, workers._workers[1].ready_s = serving, 0.0
        for _ in range(2 * MAX_STARTS):
            workers.heed(None)
        assert tried == [1] * 2 * MAX_STARTS
        workers._workers[1].ready_s = None
        with pytest.raises(ConfigError, match="no process for worker 1"):
            workers.heed(None)
        workers.end(timeout_s=5.0)


@pytest.mark.parametrize(
    ("code", "how"), [(3, "ended with code 3"), (-9, "was killed by SIGKILL"), (-40, "was killed by signal 40")]
)
def test_every_end_of_a_process_has_words(code: int, how: str) -> None:
    assert crew._how(code) == how
