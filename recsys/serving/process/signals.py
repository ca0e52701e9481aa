"""SIGTERM and SIGINT, before a server answers and after; SIGUSR1."""

from __future__ import annotations

import contextlib
import faulthandler
import signal
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]

HEARD_WITHIN_S = 1.0
"""The longest wait of the main thread. Handlers run between two steps of its interpreter, so a signal that arrives in
the instant before a wait begins, or that the system gives to another thread, is heard when the wait ends: it may not
last for ever."""


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM as KeyboardInterrupt, which Ctrl-C raises by itself: it ends blocking work through every ``finally``."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handled((signal.SIGTERM,), interrupt):
        yield


@contextlib.contextmanager
def signals_to(queue: SimpleQueue[Any]) -> Iterator[None]:
    """SIGTERM and SIGINT as their numbers in a queue, and nothing else.

    A SimpleQueue, for its ``put`` may interrupt another one; a Condition would wait for itself.
    """
    with _handled((signal.SIGTERM, signal.SIGINT), lambda number, frame: queue.put(signal.Signals(number))):
        yield


def heard(queue: SimpleQueue[Any], *, every_s: float = HEARD_WITHIN_S) -> Any:
    """Wait for what :func:`signals_to` or another thread puts into a queue, and take it.

    Args:
        queue: what is waited for.
        every_s: a signal is heard within so many seconds.
    """
    while True:
        with contextlib.suppress(Empty):
            return queue.get(timeout=every_s)


def stacks_on_sigusr1() -> None:
    """From now on SIGUSR1 prints the stacks of all threads to standard error, also while native code keeps the
    interpreter's lock."""
    faulthandler.register(signal.SIGUSR1, file=2)


@contextlib.contextmanager
def _handled(numbers: tuple[signal.Signals, ...], handler: Handler) -> Iterator[None]:
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, handled in zip(numbers, before, strict=True):
            signal.signal(number, handled)
