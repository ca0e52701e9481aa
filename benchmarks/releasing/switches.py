"""``release.failed_calls``, ``release.p99_in_switch``, ``release.anonymous_mb_per_worker``: many switches under load.

Calls come evenly at 70 % of what two workers reach, callers and Redis on the same cores, for the whole time. A round
is a switch and as long a time without one. A switch's window goes from the write of served.json until every worker has
changed over, and some seconds on. No release is kept, so each switch checks, loads and replays.

The machine's own slow moments fill the tail in and out of switches. So beside the p99 of all calls there is that of the
calls that a plain loop beside them found no slow moment for.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from harness.common import Line, line, rounded, say, spread
from harness.slow_moments import SlowMoments, slow_moments

from releasing.stage import LOAD, server

if TYPE_CHECKING:
    from recsys.arrays import Float64Array
    from releasing.load import Calls
    from releasing.stage import Server, Stage

P99_TARGET, ANONYMOUS_TARGET_MB = 1.5, 100.0
FLAT_AFTER = 5
NOT_KEPT = {"RECSYS_RELEASE_KEEP_S": "0"}
_MOST_S = 6 * 3_600.0

Span = tuple[float, float]
"""Begin and end, ``time.perf_counter`` seconds."""


@dataclass(kw_only=True)
class _Rounds:
    """Outcome of the rounds; ``steal`` is the share of processor time that the host took, per window."""

    in_switch: list[Span] = field(default_factory=list)
    outside: list[Span] = field(default_factory=list)
    switch_s: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    anonymous_mb: list[list[float]] = field(default_factory=list)
    steal_in_switch: list[float] = field(default_factory=list)
    steal_outside: list[float] = field(default_factory=list)


def switches(stage: Stage, on: dict[str, Any]) -> Iterator[Line]:
    """Measure the three figures."""
    from harness.workers import worker

    from releasing import load

    size = stage.size
    stop = multiprocessing.get_context("spawn").Event()
    with contextlib.ExitStack() as stack:
        moments = stack.enter_context(slow_moments())
        running = stack.enter_context(server(stage, "switches", **NOT_KEPT))
        rate = paced_rate(stage, running)
        arguments = (running.address, stage.messages, running.workers, size.callers, rate, stop)
        paced = stack.enter_context(worker(load.paced, *arguments))
        with load.in_background(paced, stop, at_most_s=_MOST_S) as found:
            time.sleep(size.warm_s)
            rounds = _rounds(stage, running)
        replaced = running.replaced()
    yield from _lines(stage, found[0], rounds, running, rate=rate, replaced=replaced, moments=moments, on=on)


def paced_rate(stage: Stage, running: Server) -> float:
    """70 % of the calls per second that the server's workers reach, callers on the same cores."""
    from harness.workers import worker

    from releasing import load

    size = stage.size
    with worker(load.closed, running.address, stage.messages, running.workers, size.callers) as closed:
        closed(size.closed_s / 3)
        reached = closed(size.closed_s)
    say(f"{reached:.0f} calls/s are reached; calls come at {LOAD * reached:.0f}")
    return float(LOAD * reached)


def _rounds(stage: Stage, running: Server) -> _Rounds:
    size, done = stage.size, _Rounds()
    done.anonymous_mb.append(_anonymous_mb(running.workers))
    while len(done.switch_s) < size.switches:
        if len(done.refused) > size.switches:
            raise RuntimeError(f"{len(done.refused)} switches were refused, the last one because: {done.refused[-1]}")
        release, before = stage.other(), stage.live()
        steal, began_s = _steal(), time.perf_counter()
        refused = running.switch(release)
        done_s = time.perf_counter()
        running.watch_status(done_s + size.after_s)
        end_s = time.perf_counter()
        done.in_switch.append((began_s, end_s))
        done.steal_in_switch.append(_steal_share(steal))
        if refused:
            say(f"a switch was refused: {refused}")
            done.refused.append(refused)
            stage.promote(before)
        else:
            done.switch_s.append(done_s - began_s)
            done.anonymous_mb.append(_anonymous_mb(running.workers))
        steal = _steal()
        running.watch_status(end_s + min(end_s - began_s, size.outside_s))
        done.outside.append((end_s, time.perf_counter()))
        done.steal_outside.append(_steal_share(steal))
        of_round = " and ".join(f"{mb:.0f}" for mb in done.anonymous_mb[-1])
        say(f"switch {len(done.switch_s)} of {size.switches}: {done_s - began_s:.1f} s; anonymous: {of_round} MB")
    return done


def _lines(
    stage: Stage,
    calls: Calls,
    rounds: _Rounds,
    running: Server,
    *,
    rate: float,
    replaced: int,
    moments: SlowMoments,
    on: dict[str, Any],
) -> Iterator[Line]:
    steal = {"in_switch": rounds.steal_in_switch, "outside": rounds.steal_outside}
    facts = {
        "switches": len(rounds.switch_s),
        "refused_switches": rounds.refused,
        "workers_replaced": replaced,
        "load": LOAD,
        "calls_per_s": rounded(rate),
        "table_mb": rounded(stage.table_bytes / 1e6),
    }
    yield line(
        "release.failed_calls", calls.failed, "calls", higher_is_better=False, target=0,
        compared_with="nothing: calls of the whole run that failed, without any retry",
        calls=len(calls.took_s), errors=calls.errors, lacking=calls.lacking,
        degraded_in_switch=calls.degraded_within(rounds.in_switch),
        degraded_outside=calls.degraded_within(rounds.outside),
        failed_in_switch=calls.failed_within(rounds.in_switch), failed_outside=calls.failed_within(rounds.outside),
        **facts, on=on,
    )  # fmt: skip
    inside, outside = calls.took_within(rounds.in_switch), calls.took_within(rounds.outside)
    by_round = [
        _ms(calls.took_within([with_switch]), 99) / _ms(calls.took_within([without]), 99)
        for with_switch, without in zip(rounds.in_switch, rounds.outside, strict=True)
    ]
    quiet = [took[moments.quiet(due)] for due, took in (calls.within(rounds.in_switch), calls.within(rounds.outside))]
    yield line(
        "release.p99_in_switch", _ms(inside, 99) / _ms(outside, 99), "ratio", higher_is_better=False, target=P99_TARGET,
        compared_with="p99 of all calls outside of switches, rounds in turns; that of all calls in switches over it",
        median_of_rounds=rounded(median(by_round)), spread=spread(by_round),
        p99_ms=_both(inside, outside, 99), p50_ms=_both(inside, outside, 50), p90_ms=_both(inside, outside, 90),
        p99_ms_by_phase={
            phase: rounded(_ms(calls.took_within(spans), 99)) for phase, spans in _by_phase(rounds, running).items()
            if len(calls.took_within(spans))
        },
        calls_in_switch=len(inside), calls_outside=len(outside),
        switch_s=rounded(median(rounds.switch_s)), switch_s_spread=spread(rounds.switch_s), after_s=stage.size.after_s,
        stolen_share={kind: rounded(sum(shares) / len(shares)) for kind, shares in steal.items()},
        slow_share={
            "in_switch": rounded(moments.slow_share(rounds.in_switch)),
            "outside": rounded(moments.slow_share(rounds.outside)),
        },
        without_slow_moments={
            "value": rounded(_ms(quiet[0], 99) / _ms(quiet[1], 99)), "p99_ms": _both(*quiet, 99),
            "calls_in_switch": len(quiet[0]), "calls_outside": len(quiet[1]),
        } if all(map(len, quiet)) else None, **facts, on=on,
    )  # fmt: skip
    series = list(zip(*rounds.anonymous_mb, strict=True))
    flat_from = min(FLAT_AFTER, len(rounds.switch_s))
    yield line(
        "release.anonymous_mb_per_worker", max(of_worker[-1] - of_worker[0] for of_worker in series), "MB",
        higher_is_better=False, target=ANONYMOUS_TARGET_MB,
        compared_with="anonymous memory of the worker before the first switch; growth to after the last, worse worker",
        rise_after_fifth_mb=rounded(max(max(each[flat_from:]) - each[flat_from] for each in series)),
        mb_per_switch_after_fifth=[rounded(_slope(each[flat_from:])) for each in series],
        anonymous_mb=[[rounded(mb) for mb in each] for each in series], **facts, on=on,
    )  # fmt: skip


def _by_phase(rounds: _Rounds, running: Server) -> dict[str, list[Span]]:
    """Spans of the phases of switches, as the status said them."""
    found: dict[str, list[Span]] = {}
    ends = [began_s for began_s, _ in running.phases[1:]] + [rounds.in_switch[-1][1]]
    for (began_s, phase), end_s in zip(running.phases, ends, strict=True):
        window = next(span for span in rounds.in_switch if span[0] <= began_s <= span[1])
        found.setdefault(phase, []).append((began_s, min(end_s, window[1])))
    return found


def _anonymous_mb(pids: Sequence[int]) -> list[float]:
    """Anonymous resident memory of each process; NaN is not a number that a line can have: a dead one counts as 0."""
    found = []
    for pid in pids:
        try:
            rows = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            rows = []
        found.append(sum(float(row.split()[1]) for row in rows if row.startswith("RssAnon:")) * 1024 / 1e6)
    return found


def _ms(seconds: Float64Array, percentile: float) -> float:
    if not len(seconds):
        raise RuntimeError("no call was answered in a window that is to be compared; the server's log says more")
    return 1e3 * float(np.percentile(seconds, percentile))


def _both(inside: Float64Array, outside: Float64Array, percentile: float) -> dict[str, float]:
    return {"in_switch": rounded(_ms(inside, percentile)), "outside": rounded(_ms(outside, percentile))}


def _slope(values: Sequence[float]) -> float:
    return float(np.polyfit(np.arange(len(values)), values, 1)[0]) if len(values) > 1 else 0.0


def _steal() -> tuple[float, float]:
    """Processor time that the host took from this machine, and all of it, in ticks."""
    try:
        ticks = [float(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except OSError:
        return 0.0, 0.0
    return ticks[7], sum(ticks)


def _steal_share(before: tuple[float, float]) -> float:
    stolen, everything = np.subtract(_steal(), before)
    return float(stolen / everything) if everything else 0.0
