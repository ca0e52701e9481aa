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

_LOWEST = 19
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


def lower_priority(thread: int = 0) -> None:
    """Let a thread have little of a core while others want it (Linux).

    For good: to raise a priority again takes a right.

    Args:
        thread: its id, or that of a process's first one; 0: the calling thread's.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread or threading.get_native_id(), _LOWEST)


def use_idle_scheduling(thread: int = 0) -> None:
    """Let a thread, and those that it starts, have a core only while no other wants it (SCHED_IDLE, Linux); for good.

    Niceness alone is not enough beside :func:`use_batch_scheduling`: a batch thread that is woken waits for the one
    that runs, however nice that is, until the next tick, 4 ms. From an idle thread it takes the core at once.

    For processes: an idle thread may hold a lock of its process, the interpreter's or that of its memory, for as long
    as others want the core.

    Args:
        thread: as of :func:`lower_priority`.
    """
    lower_priority(thread)
    if hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))


def at_low_priority(work: Callable[[], T]) -> T:
    """Run native work in a thread that has little of a core while others want it; waits for it.

    For work that gives up the interpreter's lock: a thread of low priority that holds it keeps all others waiting as
    long as another program wants the core. The thread ends with the work.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="loader", initializer=lower_priority) as pool:
        return pool.submit(work).result()


_in_short_turns = 0
_long_turn_s = 0.0
_turns_lock = threading.Lock()


@contextlib.contextmanager
def short_turns() -> Iterator[None]:
    """Let threads take turns at the interpreter's lock every half millisecond for the duration of a ``with`` block.

    A call takes that lock some ten times, and beside a thread that computes in Python it waits for each of them as long
    as a turn takes, 5 ms by default. Blocks of several threads may overlap.
    """
    global _in_short_turns, _long_turn_s
    with _turns_lock:
        if not _in_short_turns:
            _long_turn_s = sys.getswitchinterval()
            sys.setswitchinterval(_TURN_S)
        _in_short_turns += 1
    try:
        yield
    finally:
        with _turns_lock:
            _in_short_turns -= 1
            if not _in_short_turns:
                sys.setswitchinterval(_long_turn_s)
