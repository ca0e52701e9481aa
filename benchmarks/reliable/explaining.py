"""``explain.p99_of_others``: p99 of Rank calls beside a caller of Explain who asks again at once, over that without it.

Server on the first core, callers and Redis on the last. Calls of Rank come at random moments at half the rate that
eight waiting callers reach. Rounds with the other caller and without it take turns.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from harness.common import Line, cores, line, machine, pinned, rounded, say, spread
from harness.workers import Measure

from reliable.stage import LIBRARIES

LOAD, TARGET = 0.5, 1.5
EXPLAIN = "/recsys.v1.Ranker/Explain"


@dataclass(frozen=True, kw_only=True)
class Size:
    """Rounds, seconds of each, and what is served."""

    rounds: int
    round_s: float
    peak_s: float = 2.0
    items: int = 1_000_000
    users: int = 256
    events: int = 1_000
    requests: int = 512
    candidates: int = 200
    callers: int = 8


SIZES = {
    "full": Size(rounds=10, round_s=10.0),
    "quick": Size(rounds=4, round_s=3.0, peak_s=1.0, items=50_000, users=32, requests=64),
    "tiny": Size(rounds=1, round_s=0.5, peak_s=0.2, items=1_000, users=8, events=120, requests=8, candidates=20),
}


def explain(folder: Path, size: Size) -> Iterator[Line]:
    """Measure the figure."""
    import numpy as np
    from harness.workers import worker
    from ranking import load as rank_load
    from ranking import setting as rank_setting

    with contextlib.ExitStack() as stack:
        setting = stack.enter_context(
            rank_setting.redis_with_items(folder, items=size.items, candidates=size.candidates)
        )
        histories = rank_setting.fill(setting, length=size.events, users=size.users, items=size.items)
        bundle = rank_setting.reference_bundle(folder, items=size.items)
        requests = setting.requests(histories, size.requests)
        sent = rank_setting.messages(requests)
        asked = [explain_message(request.user, int(request.candidates[0])) for request in requests]
        _, address = stack.enter_context(rank_setting.pinned_server(setting, bundle))
        with pinned(cores()[-1]):
            closed = stack.enter_context(worker(rank_load.closed, address, sent, size.callers))
            explaining = stack.enter_context(worker(explains, address, asked))
        closed(size.peak_s / 2)
        rate = LOAD * len(closed(size.peak_s)) / size.peak_s
        say(f"{rate:.0f} calls/s come")
        with pinned(cores()[-1]):
            paced = stack.enter_context(worker(rank_load.paced, address, sent, size.callers, rate, True))
        paced(size.peak_s)
        explaining(0.0)
        beside = stack.enter_context(ThreadPoolExecutor(1))
        alone_ms, beside_ms, explanations_ms, refused = [], [], [], 0
        for _ in range(size.rounds):
            for p99s_ms, other in ((alone_ms, False), (beside_ms, True)):
                others = beside.submit(explaining, size.round_s + rank_load.SETTLE_S) if other else None
                took_s = paced(size.round_s).took_s
                if others is not None:
                    explanations_ms += [1e3 * took_s for took_s in others.result()]
                refused += int(np.isnan(took_s).sum())
                p99s_ms.append(1e3 * float(np.nanpercentile(took_s, 99)))
    ratios = [with_it / without for with_it, without in zip(beside_ms, alone_ms, strict=True)]
    yield line(
        "explain.p99_of_others", median(ratios), "ratio", higher_is_better=False, target=TARGET,
        compared_with="p99 of the same calls without the caller of Explain, in turns", spread=spread(ratios),
        calls_per_s=rounded(rate), refused=refused, p99_ms=rounded(median(beside_ms)),
        p99_ms_without=rounded(median(alone_ms)), explanations=len(explanations_ms),
        explanation_p50_ms=rounded(median(explanations_ms)), on=machine(LIBRARIES, **asdict(size)),
    )  # fmt: skip


def explain_message(user: int, item: int) -> bytes:
    """A call of Explain as it is sent."""
    from recsys.proto import ranker_pb2

    return ranker_pb2.ExplainRequest(
        user=ranker_pb2.Id(integer=user), item=ranker_pb2.Id(integer=item)
    ).SerializeToString()


def explains(address: str, messages: Sequence[bytes]) -> Measure:
    """Seconds of each call of Explain by one caller, one after another; at least one."""
    import grpc

    channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
    call = channel.unary_unary(EXPLAIN)

    def measure(seconds: float) -> list[float]:
        taken: list[float] = []
        end_s = time.perf_counter() + seconds
        while (started_s := time.perf_counter()) < end_s or not taken:
            call(messages[len(taken) % len(messages)], timeout=60.0)
            taken.append(time.perf_counter() - started_s)
        return taken

    return measure
