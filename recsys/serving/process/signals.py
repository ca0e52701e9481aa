"""Signals: SIGTERM, SIGINT and SIGHUP, before a server answers and after; SIGUSR1 for stacks.

SIGHUP comes when a terminal is closed, and from who wants a program to read its configuration again. A server of a
bundle drains, one of releases reads ``served.json``; under ``nohup`` it is ignored.
"""

from __future__ import annotations

import contextlib
import faulthandler
import signal
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]

SIGNAL_POLL_S = 1.0
"""The longest wait of the main thread. Handlers run between two steps of its interpreter, so a signal that arrives in
the instant before a wait begins, or that the system gives to another thread, is handled when the wait ends: it may not
last for ever."""


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into KeyboardInterrupt, as Ctrl-C is: it ends blocking work through every ``finally``.

    Within :func:`hangups_wait` SIGHUP stays what that made it.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    hangup_waits = isinstance(signal.getsignal(signal.SIGHUP), _Hangups)
    with _signal_handler((signal.SIGTERM,) if hangup_waits else (signal.SIGTERM, signal.SIGHUP), interrupt):
        yield


@contextlib.contextmanager
def hangups_wait(queue: SimpleQueue[Any]) -> Iterator[None]:
    """Put SIGHUP into a queue: who sends it to a server that starts wants it acted on when that is up."""
    with _signal_handler((signal.SIGHUP,), _Hangups(queue)):
        yield


class _Hangups:
    """A handler of SIGHUP that is known by its type."""

    def __init__(self, queue: SimpleQueue[Any]) -> None:
        self._queue = queue

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._queue.put(signal.Signals(number))


@contextlib.contextmanager
def forward_signals(queue: SimpleQueue[Any]) -> Iterator[None]:
    """Put SIGTERM, SIGINT and SIGHUP into a queue, and do nothing else.

    A SimpleQueue, for its ``put`` may interrupt another one; a Condition would wait for itself.
    """
    with _signal_handler(
        (signal.SIGTERM, signal.SIGINT, signal.SIGHUP), lambda number, frame: queue.put(signal.Signals(number))
    ):
        yield


def wait_for_signal(queue: SimpleQueue[Any], *, poll_s: float = SIGNAL_POLL_S) -> Any:
    """Wait for what :func:`forward_signals` or another thread puts into a queue, and take it.

    Args:
        queue: read until it has something.
        poll_s: a signal is handled within so many seconds.
    """
    while True:
        with contextlib.suppress(Empty):
            return queue.get(timeout=poll_s)


def dump_stacks_on_sigusr1() -> None:
    """Let SIGUSR1 print the stacks of all threads to standard error, also while native code keeps the interpreter's
    lock."""
    faulthandler.register(signal.SIGUSR1, file=2)


@contextlib.contextmanager
def _signal_handler(numbers: tuple[signal.Signals, ...], handler: Handler) -> Iterator[None]:
    numbers = tuple(n for n in numbers if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN)  # nohup
    previous = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, before in zip(numbers, previous, strict=True):
            signal.signal(number, before)
