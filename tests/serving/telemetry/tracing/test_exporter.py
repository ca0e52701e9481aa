"""The queue of spans: bounded, never waited for, every span counted once."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from recsys.serving.telemetry.tracing.exporter import SpanQueue


class Result(NamedTuple):
    """An exporter's answer."""

    name: str


class Slow:
    """A collector that takes spans when it is let, and as it is told."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.let = threading.Event()
        self.ended = threading.Event()
        self.answer: Result | Exception = Result("SUCCESS")

    def export(self, spans: Sequence[Any], /) -> Result:
        self.let.wait(20)
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer.name == "SUCCESS":
            self.got.extend(spans)
        return self.answer

    def shutdown(self) -> None:
        self.ended.set()


def until(true: Any) -> None:
    deadline_s = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.005)


def test_a_collector_that_does_not_answer_holds_nobody_up_and_costs_spans_that_are_counted() -> None:
    slow = Slow()
    queue = SpanQueue(slow, waiting=10, every_s=0.01)
    queue.put(["first"])
    until(lambda: not queue._spans)  # the thread has it, and waits for the collector
    began_s = time.monotonic()
    for number in range(100):
        queue.put([number, number])
    assert time.monotonic() - began_s < 1
    assert queue.counts.read() == {"dropped": 190}
    slow.let.set()
    until(lambda: len(slow.got) == 11)
    queue.close()
    assert queue.counts.read() == {"dropped": 190, "sent": 11} and slow.ended.is_set()


def test_spans_that_are_not_taken_are_counted_and_the_next_are_sent() -> None:
    slow = Slow()
    slow.let.set()
    queue = SpanQueue(slow, every_s=0.01)
    for answer in (RuntimeError("no route"), Result("FAILURE"), Result("SUCCESS")):
        slow.answer = answer
        before = sum(queue.counts.read().values())
        queue.put(["a", "b"])
        until(lambda before=before: sum(queue.counts.read().values()) == before + 2)
    queue.close()
    assert queue.counts.read() == {"failed": 4, "sent": 2} and slow.got == ["a", "b"]


def test_what_waits_at_the_end_is_sent_and_an_end_does_not_wait_for_ever() -> None:
    slow = Slow()
    slow.let.set()
    queue = SpanQueue(slow, every_s=60)
    queue.put(["late"])
    queue.close()
    assert slow.got == ["late"]
    stuck = Slow()
    queue = SpanQueue(stuck, every_s=0.01)
    queue.put(["lost"])
    began_s = time.monotonic()
    queue.close(timeout_s=0.1)
    assert time.monotonic() - began_s < 5
    queue.put(["after the end"])
    assert queue.counts.read()["dropped"] >= 1
    stuck.let.set()
