"""A server under 70 % load for half an hour: its memory must not grow after the warm-up, nor its p99.

The reference model on one core (``rank.py``); calls come evenly from eight connections, for ever new users, so that
states are written all the time. Every minute the server's resident memory and the minute's p99 are noted, the
latter also without the calls of moments in which a plain loop on the server's core was slow.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from harness.common import Line, cores, line, machine, main, parser, pinned, rounded, say

if TYPE_CHECKING:
    from recsys.arrays import Float64Array

LIBRARIES = ("onnxruntime", "grpcio", "numpy", "redis", "hiredis", "protobuf")
LOAD = 0.7
GROWTH_TARGET, P99_TARGET = 1.02, 1.25


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
    "tiny": Size(minutes=4, minute_s=0.2, items=1_000, users=8, events=120, requests=8, candidates=20),
}


def run(options: argparse.Namespace) -> Iterator[Line]:
    """All lines."""
    import numpy as np
    import psutil
    from harness.slow_moments import slow_moments
    from harness.workers import worker
    from ranking import load as rank_load
    from ranking import setting as rank_setting

    size = SIZES[options.size]
    on = machine(LIBRARIES, **asdict(size))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="recsys-bench-")))
        setting = stack.enter_context(
            rank_setting.redis_with_items(folder, items=size.items, candidates=size.candidates)
        )
        histories = rank_setting.fill(setting, length=size.events, users=size.users, items=size.items)
        bundle = rank_setting.reference_bundle(folder, items=size.items)
        sent = rank_setting.messages(setting.requests(histories, size.requests))
        pid, address = stack.enter_context(rank_setting.pinned_server(setting, bundle))
        with pinned(cores()[-1]):
            closed = stack.enter_context(worker(rank_load.closed, address, sent, size.callers))
            rate = LOAD * len(closed(size.minute_s / 6)) / (size.minute_s / 6)
            paced = stack.enter_context(worker(rank_load.paced, address, sent, size.callers, rate, False))
        moments = stack.enter_context(slow_moments(core=cores()[0]))
        memory_mb, p99_ms, quiet_ms, taken, slow = [], [], [], [], []
        for minute in range(size.minutes):
            calls = paced(size.minute_s)
            taken.append(calls.took_s)
            memory_mb.append(psutil.Process(pid).memory_info().rss / 1e6)
            p99_ms.append(_ms(calls.took_s, 99))
            quiet_ms.append(_ms(calls.took_s[moments.quiet(calls.due_s)], 99))
            slow.append(moments.slow_share([(float(calls.due_s.min()), float(calls.due_s.max()))]))
            say(f"minute {minute + 1}: {memory_mb[-1]:.0f} MB, p99 {p99_ms[-1]:.1f} ms, {len(calls.took_s)} calls")
    third = size.minutes // 3
    facts = {"calls_per_s": rounded(rate), "load": LOAD, "on": on}
    yield line(
        "soak.memory_growth", memory_mb[-1] / memory_mb[third], "ratio", higher_is_better=False, target=GROWTH_TARGET,
        compared_with="resident memory after a third of the time, that at the end over it",
        memory_mb=[rounded(mb) for mb in memory_mb], **facts,
    )  # fmt: skip
    yield line(
        "soak.p99_drift", median(p99_ms[-third:]) / median(p99_ms[third : 2 * third]), "ratio", higher_is_better=False,
        target=P99_TARGET, compared_with="p99 of the median minute of the second third, that of the last over it",
        p99_ms=[rounded(ms) for ms in p99_ms], p99_ms_without_slow_moments=[rounded(ms) for ms in quiet_ms],
        slow_share=[rounded(share) for share in slow], p999_ms=rounded(_ms(np.concatenate(taken), 99.9)),
        refused=int(np.isnan(np.concatenate(taken)).sum()), **facts,
    )  # fmt: skip


def _ms(seconds: Float64Array, percentile: float) -> float:
    """A percentile of what was answered; 0 of nothing."""
    import numpy as np

    answered = seconds[~np.isnan(seconds)]
    return 1e3 * float(np.percentile(answered, percentile)) if len(answered) else 0.0


if __name__ == "__main__":
    main("soak", run, parser(__doc__ or ""))
