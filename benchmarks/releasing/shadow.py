"""``release.shadow_cost``: p99 of answers while a shadow scores a tenth of the requests, over that without one.

Two servers on the first core, one with a shadow and one without; calls come at 70 % of what one answers, to one after
the other in turns. Redis and the callers are on the last core. Both releases are the reference bundle.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from harness.common import Line, cores, line, machine, pinned, rounded, say, spread

from releasing.bundles import variant

LIBRARIES = ("onnxruntime", "grpcio", "numpy", "redis", "hiredis", "protobuf")
LOAD, PERCENT = 0.7, 10.0
TARGET = 1.1
_START_S = 60.0
_SETTLE_S = 1.5
"""More than a request waits for its shadow: then all that was offered has ended."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Extent of the measurement."""

    rounds: int
    round_s: float
    items: int = 1_000_000
    users: int = 256
    events: int = 1_000
    requests: int = 1_024
    candidates: int = 200
    callers: int = 8


SIZES = {
    "full": Size(rounds=9, round_s=20.0),
    "quick": Size(rounds=3, round_s=3.0, items=781_250, users=32, requests=128),
    "tiny": Size(rounds=1, round_s=0.3, items=1_000, users=8, events=120, requests=8, candidates=20),
}


def shadow_cost(folder: Path, size: Size, *, bundles: Path) -> Iterator[Line]:
    """Measure ``release.shadow_cost``; what is written goes to ``folder``, its bundle to ``bundles``."""
    import numpy as np
    from harness.workers import worker
    from ranking import load as rank_load
    from ranking import setting as rank_setting

    from recsys.serving.telemetry.release_figures import read_release_figures

    with contextlib.ExitStack() as stack:
        setting = stack.enter_context(
            rank_setting.redis_with_items(folder, items=size.items, candidates=size.candidates)
        )
        histories = rank_setting.fill(setting, length=size.events, users=size.users, items=size.items)
        bundle = variant(bundles, "base", items=size.items)
        sent = rank_setting.messages(setting.requests(histories, size.requests))
        addresses = {
            percent: stack.enter_context(_server(folder, bundle, setting.redis_url, percent))
            for percent in (0.0, PERCENT)
        }
        with pinned(cores()[-1]):
            closed = stack.enter_context(worker(rank_load.closed, addresses[0.0], sent, size.callers))
            closed(size.round_s / 4)
            rate = LOAD * len(closed(size.round_s / 4)) / (size.round_s / 4)
            loads = {
                percent: stack.enter_context(worker(rank_load.paced, address, sent, size.callers, rate, True))
                for percent, address in addresses.items()
            }
        loads[PERCENT](size.round_s / 4)  # the states of its users are computed
        time.sleep(_SETTLE_S)
        counts = folder / f"counts-{PERCENT:g}"
        before = read_release_figures(counts)[1]
        p99_ms: dict[float, list[float]] = {percent: [] for percent in loads}
        refused = dict.fromkeys(loads, 0)
        for number in range(size.rounds):
            for percent in (loads, dict(reversed(loads.items())))[number % 2]:
                taken = loads[percent](size.round_s).took_s
                refused[percent] += int(np.isnan(taken).sum())
                p99_ms[percent].append(1e3 * float(np.nanpercentile(taken, 99)))
            say(f"round {number + 1}: p99 {p99_ms[0.0][-1]:.2f} ms without a shadow, {p99_ms[PERCENT][-1]:.2f} with")
        time.sleep(_SETTLE_S)
        found = read_release_figures(counts)[1] - before
    ratios = [with_shadow / without for without, with_shadow in zip(p99_ms[0.0], p99_ms[PERCENT], strict=True)]
    yield line(
        "release.shadow_cost", median(ratios), "ratio", higher_is_better=False, target=TARGET,
        compared_with="p99 of the same load on the same bundle without a shadow, rounds in turns",
        percent=PERCENT, load=LOAD, calls_per_s=rounded(rate), spread=spread(ratios),
        p99_ms={f"{percent:g} %": rounded(median(taken)) for percent, taken in p99_ms.items()},
        refused={f"{percent:g} %": calls for percent, calls in refused.items()}, shadow=_facts(found),
        on=machine(LIBRARIES, **asdict(size)),
    )  # fmt: skip


def _facts(found: Any) -> dict[str, Any]:
    assert found.shadow_failed == 0 and found.difference_sum < 1e-3 * max(found.compared, 1), found
    return {
        "offered": found.shadow_offered,
        "scored": found.shadow_scored,
        "dropped": found.shadow_dropped,
        "p50_ms": rounded(found.shadow_latency.quantile_us(0.5) / 1e3),
    }


@contextlib.contextmanager
def _server(folder: Path, bundle: Path, redis_url: str, percent: float) -> Iterator[str]:
    """A server on the first core; its address."""
    import sys

    from harness.serving_parts import check_alive, running

    ready, log = folder / f"ready-{percent:g}", folder / f"server-{percent:g}.log"
    program = str(Path(__file__).with_name("plan_process.py"))
    arguments = (str(bundle), redis_url, str(ready), str(folder / f"counts-{percent:g}"), str(percent))
    with contextlib.ExitStack() as stack:
        with pinned(cores()[0]):
            process = stack.enter_context(running([sys.executable, program, *arguments], log))
        deadline_s = time.monotonic() + _START_S
        while not ready.exists():
            check_alive(process, log, deadline_s)
            time.sleep(0.01)
        yield ready.read_text()
