"""CurrentCall: the record of a call while it runs, for whatever works on it: logs, counters, spans.

The outermost interceptor makes it (``rpc/observation.py``). It follows the call from its thread to the store's event
loop, for it is a context variable.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Literal

Refusal = Literal["places", "time_left", "streams", "quota"]

REFUSALS: tuple[Refusal, ...] = ("places", "time_left", "streams", "quota")
"""Reasons to refuse a call that another server, or a later moment, would take: no place is free, it could not be
answered in the time left, its streams are all open, the caller's quota is used up."""

Lap = tuple[str, int, int]
"""A stage, its start and its end, ``perf_counter_ns``."""

STORE_LAP = "redis"
"""A round trip to the store, among the laps."""

_MOST_LAPS = 200
"""A call that is cut into many pieces keeps the first."""


class CurrentCall:
    """One call of a method.

    Attributes:
        method: its name.
        request_id: the caller's name for it, or one that was made.
        trace_id: 32 hex digits if it is traced, else empty.
        laps: the stages so far, if it is traced; else None.
        caller: who made it, where access is checked; empty: not known.
        refused: why there was no room for it; empty: it was not refused.
        release, model: that answered it; empty until then.
        candidates: scored for it.
        degraded: parts that its answer lacks.
        ended: it is over: what still runs in its name, a task that it began, say, works for no call.
    """

    # Of the class until they are set: making one is in the way of every call.
    trace_id = caller = refused = release = model = ""
    laps: list[Lap] | None = None
    candidates = 0
    degraded: tuple[str, ...] = ()
    ended = False

    def __init__(self, method: str, *, request_id: str = "", trace_id: str = "") -> None:
        self.method = method
        self.request_id = request_id
        if trace_id:
            self.trace_id, self.laps = trace_id, []

    def add_lap(self, stage: str, start_ns: int, end_ns: int) -> None:
        """Keep a stage of a traced call."""
        if self.laps is not None and len(self.laps) < _MOST_LAPS and not self.ended:
            self.laps.append((stage, start_ns, end_ns))


CURRENT: ContextVar[CurrentCall | None] = ContextVar("recsys_call", default=None)
"""The call that this code works for; None outside of calls. :func:`running_call` also leaves out one that has ended."""


def running_call() -> CurrentCall | None:
    """The call that this code works for, if it has not ended."""
    call = CURRENT.get()
    return None if call is None or call.ended else call


def note_refusal(reason: Refusal) -> None:
    """Say why the current call is refused: it is counted so if it ends for want of room. Outside of a call: nothing.

    >>> note_refusal("quota")
    """
    assert reason in REFUSALS, reason
    call = CURRENT.get()
    if call is not None:
        call.refused = reason
