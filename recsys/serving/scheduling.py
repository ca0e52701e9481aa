"""Scheduling: the policy of the system's scheduler for a server process and its threads."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

LOWEST = 19
"""Niceness of who has a core only when nobody else wants it."""

_TURN_S = 0.0005


def use_batch_scheduling() -> None:
    """Let threads that are woken wait for the one that runs (SCHED_BATCH); for threads started from now on, too.

    A call wakes a dozen threads one after the other, most of which then want the interpreter's lock that the waker
    still holds. Without this each of them pushes the waker off the core first: 14 switches a call instead of 9, and
    on one core a tenth of a call's cost beyond the model.
    """
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):  # a container may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def lower_priority() -> None:
    """Let this thread have a core only when the others there have nothing to do (Linux).

    For good: to raise a priority again takes a right.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)


def at_low_priority(work: Callable[[], T]) -> T:
    """Run native work in a thread that has a core only when the others there have nothing to do; waits for it.

    For work that gives up the interpreter's lock: a thread of low priority that holds it keeps all others waiting as
    long as another program wants the core. The thread ends with the work.
    """

    with ThreadPoolExecutor(1, thread_name_prefix="loader", initializer=lower_priority) as pool:
        return pool.submit(work).result()


@contextlib.contextmanager
def short_turns() -> Iterator[None]:
    """Let threads take turns at the interpreter's lock every half millisecond for the duration of a ``with`` block.

    A call takes that lock some ten times, and beside a thread that computes in Python it waits for each of them as long
    as a turn takes, 5 ms by default.
    """
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(_TURN_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before_s)
