"""Stage timer: the time of one request, stage by stage. A stage costs one reading of the clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Literal

from recsys.serving.current_call import CURRENT, CurrentCall

Stage = Literal[
    "wait", "convert", "store", "state", "encode", "filter", "retrieve", "user_graph", "rank_graph", "select"
]

STAGES = (
    "wait", "convert", "store", "state", "encode", "filter", "retrieve", "user_graph", "rank_graph", "select", "total",
)  # fmt: skip
"""All stages and their sum, in the order in which :meth:`StageTimer.in_us` gives them."""


def _traced_call() -> CurrentCall | None:
    call = CURRENT.get()
    return call if call is not None and call.trace_id else None


@dataclass(slots=True)
class StageTimer:
    """Nanoseconds of a request's stages; a new one starts the clock. The laps of a traced call are spans of it, too.

    Attributes:
        wait: for the model, while another request's runs.
        convert: messages to arrays and back.
        store: the round trip to the feature store, and its answer to arrays.
        state: the long history's state: read, checked, missing events read.
        encode: the graphs' inputs.
        filter: items that pass the request's filter, and are not withdrawn.
        retrieve: the retrieval model.
        user_graph, rank_graph: the graphs in ONNX Runtime.
        select: the best candidates, duplicates, the request log.
        total: from start to :meth:`finish`: at least the sum of the others.

    >>> timer = StageTimer()
    >>> timer.lap("convert"); timer.lap("store"); timer.lap("convert"); timer.finish()
    >>> timer.total >= timer.convert + timer.store > 0
    True
    >>> len(timer.in_us()) == len(STAGES)
    True
    """

    wait: int = 0
    convert: int = 0
    store: int = 0
    state: int = 0
    encode: int = 0
    filter: int = 0
    retrieve: int = 0
    user_graph: int = 0
    rank_graph: int = 0
    select: int = 0
    total: int = 0
    _start_ns: int = field(default_factory=perf_counter_ns, repr=False)
    _last_ns: int = field(default=0, repr=False)
    _traced: CurrentCall | None = field(default_factory=_traced_call, repr=False)

    def __post_init__(self) -> None:
        self._last_ns = self._start_ns

    def lap(self, stage: Stage) -> None:
        """Count the time since the last lap, or the start, to ``stage``; a stage may have several."""
        now_ns = perf_counter_ns()
        setattr(self, stage, getattr(self, stage) + now_ns - self._last_ns)
        if self._traced is not None:
            self._traced.add_lap(stage, self._last_ns, now_ns)
        self._last_ns = now_ns

    def finish(self) -> None:
        """Set ``total``; what comes after the last lap counts to it alone."""
        self.total = perf_counter_ns() - self._start_ns

    def in_us(self) -> tuple[int, ...]:
        """Microseconds in the order of ``STAGES``, rounded."""
        return tuple((getattr(self, stage) + 500) // 1000 for stage in STAGES)
