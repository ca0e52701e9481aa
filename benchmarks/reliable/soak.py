"""``soak``: half an hour at 70 % load with everything on that a server can have on. Server on the first core.

As ``soak.py``, which has everything off: calls for ever new users, so that states are written all the time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.common import Line, cores, line, machine, pinned, rounded, say

from reliable import stage

LOAD, GROWTH_TARGET = 0.7, 1.02

EVERYTHING = {"RECSYS_METRICS_PORT": "0", "RECSYS_LOG_REQUESTS": "0.01"}
"""Settings that turn on what is off by default; the request log's folder is added."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Length of the soak, and its callers."""

    minutes: int
    minute_s: float
    items: int = 1_000_000
    users: int = 4_096
    events: int = 1_000
    requests: int = 8_192
    candidates: int = 200
    callers: int = 8


SIZES = {
    "full": Size(minutes=30, minute_s=60.0),
    "quick": Size(minutes=6, minute_s=2.0, items=50_000, users=64, requests=128),
    "tiny": Size(minutes=3, minute_s=0.2, items=1_000, users=8, events=120, requests=8, candidates=20),
}


def soak(folder: Path, size: Size) -> Iterator[Line]:
    """Measure growth of memory, and tell p99.9."""
    import numpy as np
    import psutil
    from harness.slow_moments import slow_moments
    from harness.workers import worker
    from ranking import load as rank_load
    from ranking import setting as rank_setting

    on = machine(stage.LIBRARIES, **asdict(size))
    with contextlib.ExitStack() as stack:
        setting = stack.enter_context(
            rank_setting.redis_with_items(folder, items=size.items, candidates=size.candidates)
        )
        histories = rank_setting.fill(setting, length=size.events, users=size.users, items=size.items)
        bundle = rank_setting.reference_bundle(folder, items=size.items)
        sent = rank_setting.messages(setting.requests(histories, size.requests))
        settings = {**EVERYTHING, "RECSYS_REQUEST_LOG_DIR": str(folder / "requests")}
        arguments = ("--port", "0", "--redis-url", setting.redis_url)
        with pinned(cores()[0]):
            process, facts, _ = stack.enter_context(stage.server(folder, bundle, "soak", *arguments, **settings))
        with pinned(cores()[-1]):
            closed = stack.enter_context(worker(rank_load.closed, facts["address"], sent, size.callers))
            rate = LOAD * len(closed(size.minute_s / 6)) / (size.minute_s / 6)
            paced = stack.enter_context(worker(rank_load.paced, facts["address"], sent, size.callers, rate, False))
        moments = stack.enter_context(slow_moments(core=cores()[0]))
        memory_mb: list[float] = []
        every: list[Any] = []
        for minute in range(size.minutes):
            every.append(paced(size.minute_s))
            memory_mb.append(psutil.Process(process.pid).memory_info().rss / 1e6)
            say(f"minute {minute + 1}: {memory_mb[-1]:.0f} MB, {len(every[-1].took_s)} calls")
    due_s, took_s = (np.concatenate(parts) for parts in zip(*every, strict=True))
    refused = np.isnan(took_s)
    quiet = moments.quiet(due_s) & ~refused
    details = {
        "calls": len(took_s),
        "refused": int(refused.sum()),
        "load": LOAD,
        "calls_per_s": rounded(rate),
        "settings": sorted(settings),
        "on": on,
    }
    third = size.minutes // 3
    yield line(
        "everything_on.memory_growth", memory_mb[-1] / memory_mb[third], "ratio", higher_is_better=False,
        target=GROWTH_TARGET, compared_with="resident memory after a third of the time, that at the end over it",
        memory_mb=[rounded(mb) for mb in memory_mb], **details,
    )  # fmt: skip
    yield line(
        "everything_on.p999_ms", 1e3 * float(np.percentile(took_s[~refused], 99.9)), "ms", higher_is_better=False,
        compared_with="nothing: told",
        p50_ms=rounded(1e3 * float(np.percentile(took_s[~refused], 50))),
        p99_ms=rounded(1e3 * float(np.percentile(took_s[~refused], 99))),
        slow_share=rounded(moments.slow_share([(float(due_s.min()), float(due_s.max()))])),
        p999_ms_without_slow_moments=rounded(1e3 * float(np.percentile(took_s[quiet], 99.9))) if quiet.any() else None,
        **details,
    )  # fmt: skip
