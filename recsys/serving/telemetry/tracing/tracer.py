"""Tracer: decides which calls are traced, and has their spans made when they have ended (``spans.py``)."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from recsys.serving.current_call import CurrentCall
from recsys.serving.telemetry.tracing.exporter import SpanQueue
from recsys.serving.telemetry.tracing.traceparent import Traceparent, parse_traceparent


class Trace(NamedTuple):
    """A traced call's place.

    Attributes:
        trace_id, span_id: of the call's span, hex digits.
        parent: the caller's span; None: the trace begins here.
    """

    trace_id: str
    span_id: str
    parent: Traceparent | None


class Clock(NamedTuple):
    """A moment by two clocks, to tell the time of day of the other one's readings."""

    wall_ns: int
    perf_ns: int

    @classmethod
    def now(cls) -> Clock:
        """Read both."""
        return cls(time.time_ns(), time.perf_counter_ns())

    def wall(self, perf_ns: int) -> int:
        """The time of day, ns since 1970, of a reading of ``perf_counter_ns``."""
        return self.wall_ns + perf_ns - self.perf_ns


class Maker(Protocol):
    """Makes the spans of a call: ``spans.SpanMaker``."""

    def spans(
        self, trace: Trace, call: CurrentCall, clock: Clock, *, end_ns: int, service: str, code: str
    ) -> Sequence[Any]:
        """Make them."""
        ...


class Tracer:
    """Traces a share of the calls. Safe to use from several threads.

    Args:
        share: of calls whose caller has not decided.
        maker: makes spans.
        queue: takes the spans; closed by who made it.

    Attributes:
        counts: of spans, by outcome.
    """

    def __init__(self, share: float, *, maker: Maker, queue: SpanQueue) -> None:
        self.counts = queue.counts
        self._share = share
        self._maker = maker
        self._queue = queue

    def start(self, header: str | None) -> Trace | None:
        """Decide on a call that begins; None: it is not traced.

        Args:
            header: its caller's ``traceparent``. One that is malformed counts as none.
        """
        parent = None if header is None else parse_traceparent(header)
        if parent is not None:
            return Trace(parent.trace_id, new_span_id(), parent) if parent.sampled else None
        if random.random() >= self._share:
            return None
        return Trace(f"{random.getrandbits(128) or 1:032x}", new_span_id(), None)

    def end(self, trace: Trace, call: CurrentCall, clock: Clock, *, end_ns: int, service: str, code: str) -> None:
        """Have the spans of a call that has ended made and sent; some 100 us. Arguments as of ``SpanMaker.spans``."""
        self._queue.put(self._maker.spans(trace, call, clock, end_ns=end_ns, service=service, code=code))


def new_span_id() -> str:
    """Draw the id of a span, 16 hex digits."""
    return f"{random.getrandbits(64) or 1:016x}"
