"""``overload``: five times the load. Server on the first core, callers and Redis on the last.

First the rate that eight callers reach who each wait for their answer. Then calls come at random moments, whether or
not earlier ones are answered, each with the same deadline and none made again: at 80 % of that rate, at five times it,
at 80 % again. The rate that is reached is measured again at the end; the figures go by the mean of both.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from harness.common import Line, cores, line, machine, pinned, rounded, say

from reliable.stage import LIBRARIES

if TYPE_CHECKING:
    from reliable.load import Calls

LOAD, OVERLOAD = 0.8, 5.0
DEADLINE_S = 0.05
"""Deadline of each call: as much as a page that shows a ranking can give it."""

LONGER_S = (0.1, 0.25, 1.0)
"""Deadlines of shorter measurements beside it: the queue is as long as callers say that they wait."""

GOODPUT_TARGET, P99_TARGET, REJECTION_TARGET_MS, BACK_TARGET_S = 0.9, 2.0, 20.0, 2.0
_WINDOW_S = 0.25
_WARM_S = 0.3
_PAUSE_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Size:
    """Seconds of each part, and what is served."""

    peak_s: float
    before_s: float
    overload_s: float
    after_s: float
    rounds: int = 3
    items: int = 1_000_000
    users: int = 256
    events: int = 1_000
    requests: int = 512
    candidates: int = 200
    callers: int = 8
    deadline_s: float = DEADLINE_S


SIZES = {
    "full": Size(peak_s=3.0, before_s=60.0, overload_s=60.0, after_s=20.0),
    "quick": Size(peak_s=1.0, before_s=8.0, overload_s=10.0, after_s=5.0, items=50_000, users=32, requests=64),
    "tiny": Size(peak_s=0.2, before_s=0.5, overload_s=0.5, after_s=0.5, rounds=1, items=1_000, users=8, events=120,
                 requests=8, candidates=20),
}  # fmt: skip


def overload(folder: Path, size: Size) -> Iterator[Line]:
    """Measure the four figures."""
    from harness.slow_moments import slow_moments
    from harness.workers import worker
    from ranking import load as rank_load
    from ranking import setting as rank_setting

    from reliable import load

    with contextlib.ExitStack() as stack:
        setting = stack.enter_context(
            rank_setting.redis_with_items(folder, items=size.items, candidates=size.candidates)
        )
        histories = rank_setting.fill(setting, length=size.events, users=size.users, items=size.items)
        bundle = rank_setting.reference_bundle(folder, items=size.items)
        sent = rank_setting.messages(setting.requests(histories, size.requests))
        bare_inputs = rank_setting.bare_requests(bundle, setting, histories, min(size.requests, 128))
        _, address = stack.enter_context(rank_setting.pinned_server(setting, bundle))
        with pinned(cores()[-1]):
            closed = stack.enter_context(worker(rank_load.closed, address, sent, size.callers))

        def peak() -> float:
            return median(len(closed(size.peak_s)) / size.peak_s for _ in range(size.rounds))

        closed(max(_WARM_S, size.peak_s / 2))
        reached = [peak()]
        say(f"{reached[0]:.0f} calls/s are reached; {OVERLOAD * reached[0]:.0f} come")
        phases = [
            load.Phase(rate=share * reached[0], seconds=seconds)
            for share, seconds in ((LOAD, size.before_s), (OVERLOAD, size.overload_s), (LOAD, size.after_s))
        ]
        with slow_moments(core=cores()[0]) as moments:
            with pinned(cores()[-1]):
                phased = stack.enter_context(worker(load.phased, address, sent, size.callers, size.deadline_s, phases))
            calls, began_s = phased(0.0)
        longer = {}
        for deadline_s in LONGER_S:
            seconds = size.overload_s / 4
            only = [load.Phase(rate=OVERLOAD * reached[0], seconds=seconds)]
            with pinned(cores()[-1]):
                phased = stack.enter_context(worker(load.phased, address, sent, size.callers, deadline_s, only))
            of_it = phased(0.0)[0].with_status(load.OK)
            per_s = rounded(len(of_it.due_s) / seconds)
            longer[f"{1e3 * deadline_s:g} ms"] = {"answers_per_s": per_s, "p99_ms": rounded(of_it.ms(99))}
            time.sleep(_PAUSE_S)
        reached.append(peak())
        with pinned(cores()[0]):
            bare = stack.enter_context(
                worker(rank_load.bare_paced, bundle, bare_inputs, size.callers, LOAD * reached[0], True)
            )
        of_bare = bare(size.before_s / 2)
    before, during, after = (calls.due_in(*span) for span in zip(began_s, began_s[1:], strict=False))
    peak_rate = sum(reached) / 2
    answered = during.with_status(load.OK)
    usual = before.with_status(load.OK)
    facts = {
        "peak_calls_per_s": [rounded(rate) for rate in reached],
        "deadline_ms": 1e3 * size.deadline_s,
        "with_longer_deadlines": longer,
        "during": during.by_status(),
        "before": before.by_status(),
        "after": after.by_status(),
        "slow_share": [rounded(moments.slow_share([span])) for span in zip(began_s, began_s[1:], strict=False)],
        "on": machine(LIBRARIES, **asdict(size)),
    }
    yield line(
        "overload.goodput", len(answered.due_s) / size.overload_s / peak_rate, "ratio", higher_is_better=True,
        target=GOODPUT_TARGET, compared_with="answers per second that eight callers reach who wait for each answer",
        calls_per_s=rounded(len(during.due_s) / size.overload_s), **facts,
    )  # fmt: skip
    import numpy as np

    bare_ms = 1e3 * float(np.percentile(of_bare.took_s, 99))
    yield line(
        "overload.p99", answered.ms(99) / max(usual.ms(99), 1e-9), "ratio", higher_is_better=False, target=P99_TARGET,
        compared_with="p99 of answers at 80 % of the load that is reached; that at five times it over it",
        p99_ms=rounded(answered.ms(99)), p50_ms=rounded(answered.ms(50)),
        p99_ms_before=rounded(usual.ms(99)), p50_ms_before=rounded(usual.ms(50)),
        before_over_bare_p99=rounded(usual.ms(99) / bare_ms), bare_p99_ms=rounded(bare_ms), **facts,
    )  # fmt: skip
    refused = during.with_status(load.REFUSED)
    yield line(
        "overload.rejection_p99_ms", refused.ms(99), "ms", higher_is_better=False, target=REJECTION_TARGET_MS,
        compared_with="nothing: from when a call that is refused was due until its caller knows",
        p50_ms=rounded(refused.ms(50)), refusals=len(refused.due_s), **facts,
    )  # fmt: skip
    yield line(
        "overload.back_to_normal_s", back_to_normal_s(after, began_s[2], usual), "s", higher_is_better=False,
        target=BACK_TARGET_S,
        compared_with="the end of the overload; until a quarter of a second in which no call fails and the median is "
        "at most twice that before", **facts,
    )  # fmt: skip


def back_to_normal_s(after: Calls, ended_s: float, usual: Calls) -> float:
    """Seconds from the end of the overload to the first window of time that is as before; all there are if none is."""
    last_s, begin_s = float(after.due_s[-1]) if len(after.due_s) else ended_s, ended_s
    while begin_s + _WINDOW_S <= last_s:
        window = after.due_in(begin_s, begin_s + _WINDOW_S)
        if len(window.due_s) and not window.status.any() and window.ms(50) <= 2 * usual.ms(50):
            return begin_s - ended_s
        begin_s += _WINDOW_S / 5
    return last_s - ended_s
