"""``release.rollback_s``: from the call that rolls back to the first moment at which every worker answers by it.

Under the load of the other figures. The release before is still loaded, as it is by default for ten minutes. One
connection to each worker asks every ten milliseconds for one candidate and sees which release answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import time
from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING, Any

from harness.common import Line, line, rounded, say, spread

from releasing.stage import LOAD, MODEL, server
from releasing.switches import paced_rate

if TYPE_CHECKING:
    from releasing.stage import Server, Stage

TARGET_S = 1.0
_PAUSE_S = 0.01
_BETWEEN_S = 1.0
_MOST_S = 3_600.0


def rollbacks(stage: Stage, on: dict[str, Any]) -> Iterator[Line]:
    """Measure the figure."""
    from harness.workers import worker

    from releasing import load

    size = stage.size
    stop = multiprocessing.get_context("spawn").Event()
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(server(stage, "rollbacks", RECSYS_RELEASE_KEEP_S="600"))
        rate = paced_rate(stage, running)
        arguments = (running.address, stage.messages, running.workers, size.callers, rate, stop)
        paced = stack.enter_context(worker(load.paced, *arguments))
        with load.in_background(paced, stop, at_most_s=_MOST_S) as found:
            time.sleep(size.warm_s)
            if refused := running.switch(stage.other()):
                raise RuntimeError(f"the release to go back from was refused: {refused}")
            took_s = asyncio.run(_rollbacks(stage, running))
    yield line(
        "release.rollback_s", median(took_s), "s", higher_is_better=False, target=TARGET_S,
        compared_with="nothing: from the call of rolled_back to the first answers of all workers by the release before",
        largest_s=rounded(max(took_s)), spread=spread(took_s), rollbacks=len(took_s),
        failed_calls=found[0].failed, errors=found[0].errors, calls=len(found[0].took_s), load=LOAD,
        calls_per_s=rounded(rate), table_mb=rounded(stage.table_bytes / 1e6), on=on,
    )  # fmt: skip


async def _rollbacks(stage: Stage, running: Server) -> list[float]:
    from harness.workers import RANK

    from recsys.proto import ranker_pb2
    from recsys.releases.changes import rolled_back
    from recsys.releases.store import change_served
    from releasing import load

    async def first_answer_s(call: Any, release: str, deadline_s: float) -> float:
        while ranker_pb2.RankResponse.FromString(await call(stage.probe, timeout=10.0)).release != release:
            running.check_alive(deadline_s)
            await asyncio.sleep(_PAUSE_S)
        return time.perf_counter()

    took_s: list[float] = []
    async with load.balanced(running.address, running.workers, len(running.workers)) as channels:
        calls = [channel.unary_unary(RANK) for channel in channels]
        for number in range(stage.size.rollbacks):
            # Not in step with the server's looks at served.json
            await asyncio.sleep(_BETWEEN_S + 0.1 * (number * 7 % 10))
            began_s = time.perf_counter()
            served = change_served(stage.store, lambda served: rolled_back(served, MODEL), why="a benchmark")
            wanted, deadline_s = served.models[MODEL].live, time.monotonic() + 60.0
            answered_s = await asyncio.gather(*(first_answer_s(call, wanted, deadline_s) for call in calls))
            took_s.append(max(answered_s) - began_s)
            say(f"rollback {number + 1} of {stage.size.rollbacks}: {took_s[-1]:.3f} s")
    return took_s
