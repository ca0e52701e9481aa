"""Processes by a name that no other one ever has: a status says who wrote it, and a reader on the same machine if it
is still there. A server that is killed says no farewell."""

from __future__ import annotations

import os
from pathlib import Path

_GONE_STATES = frozenset("ZX")
"""Of a process that has ended and whose parent has not asked for its exit code yet."""


def own_process() -> str:
    """Name this process: the machine's start, the namespace of its number, its number, its own start. Empty where the
    system does not tell."""
    try:
        return f"{_place()}/{os.getpid()}/{_stat(os.getpid())[1]}"
    except OSError:
        return ""


def has_ended(process: str) -> bool:
    """Decide if a process is known to have ended; False also for one of another machine, or of another container.

    Args:
        process: from :func:`own_process`.

    >>> has_ended(own_process())
    False
    >>> has_ended("of/another/machine")
    False
    """
    place, _, number_and_start = process.partition("/")
    number, _, start = number_and_start.partition("/")
    try:
        if place != _place() or not number.isdecimal():
            return False
        state, started = _stat(int(number))
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return started != start or state in _GONE_STATES


def _place() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}:{os.stat('/proc/self/ns/pid').st_ino}"


def _stat(number: int) -> tuple[str, str]:
    """State of a process, and when it began (proc_pid_stat(5)); the name before them may hold anything."""
    fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    return fields[0], fields[19]
