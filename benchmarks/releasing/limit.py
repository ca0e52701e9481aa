"""``release.failed_calls_under_limit``: switches under load in a control group with little more memory than a table.

The server runs in a memory control group of 1.3 x the table of one release. The pages of both tables count against it
once it reads them, so they have to make room for each other. Redis and the callers are outside.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from harness.common import Line, line, rounded, say

from releasing.stage import LOAD, server
from releasing.switches import NOT_KEPT, paced_rate

if TYPE_CHECKING:
    from releasing.stage import Server, Stage

OVER_TABLE = 1.3
_MOST_S = 3_600.0
_ROOT = Path("/sys/fs/cgroup")


def under_limit(stage: Stage, on: dict[str, Any]) -> Iterator[Line]:
    """Measure the figure; no line where no control group can be made, which is said."""
    from harness.workers import worker

    from releasing import load

    size = stage.size
    limit = int(OVER_TABLE * stage.table_bytes + 1e6 * size.beyond_mb)
    problem, switch_s, refused = "", [], []
    stop = multiprocessing.get_context("spawn").Event()
    with contextlib.ExitStack() as stack:
        try:
            group = stack.enter_context(memory_group(limit))
        except OSError as error:
            say(f"release.failed_calls_under_limit is left out: no memory control group can be made: {error}")
            return
        forget_pages(stage.store)
        running = stack.enter_context(server(stage, "limited", group=group, **NOT_KEPT))
        say(f"a server in {group}, limit {limit / 1e6:,.0f} MB")
        rate = paced_rate(stage, running)
        arguments = (running.address, stage.messages, running.workers, size.callers, rate, stop)
        paced = stack.enter_context(worker(load.paced, *arguments))
        with load.in_background(paced, stop, at_most_s=_MOST_S) as found:
            time.sleep(size.warm_s)
            try:
                for number in range(size.limited_switches):
                    took_s, reason = _switch(stage, running)
                    switch_s.append(took_s)
                    refused += [reason] if reason else []
                    say(f"limited switch {number + 1} of {size.limited_switches}: {took_s:.1f} s {reason}")
            except RuntimeError as error:  # the server is gone: that is a result
                problem = str(error)[-2_000:]
                say(problem)
        replaced, killed, most = running.replaced(), _oom_kills(group), _most_bytes(group)
    calls = found[0]
    answered = calls.took_s[~np.isnan(calls.took_s)]
    yield line(
        "release.failed_calls_under_limit", calls.failed, "calls", higher_is_better=False, target=0,
        compared_with="nothing: calls that failed, without any retry, in a control group of limit_mb",
        limit_mb=rounded(limit / 1e6), table_mb=rounded(stage.table_bytes / 1e6), most_used_mb=rounded(most / 1e6),
        limit_over_table=rounded(limit / stage.table_bytes), oom_kills=killed, workers_replaced=replaced,
        server_ended=problem, calls=len(calls.took_s), errors=calls.errors, lacking=calls.lacking,
        switches=len(switch_s), refused_switches=refused, switch_s=rounded(median(switch_s)) if switch_s else None,
        p99_ms=rounded(1e3 * float(np.percentile(answered, 99))) if len(answered) else None,
        load=LOAD, calls_per_s=rounded(rate), on=on,
    )  # fmt: skip


def _switch(stage: Stage, running: Server) -> tuple[float, str]:
    before, began_s = stage.live(), time.perf_counter()
    refused = running.switch(stage.other())
    took_s = time.perf_counter() - began_s
    if refused:
        stage.promote(before)
    running.watch_status(time.perf_counter() + stage.size.after_s)
    return took_s, refused


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Iterator[Path]:
    """A memory control group (Linux, version 1 or 2) for the block; its processes must have ended at the end.

    Raises:
        OSError: there are none, or this user may not make one.
    """
    old = (_ROOT / "memory" / "memory.limit_in_bytes").exists()
    top = _ROOT / "memory" if old else _ROOT
    if not old and "memory" not in (top / "cgroup.subtree_control").read_text().split():
        raise OSError(f"{top}/cgroup.subtree_control does not name memory")
    group = top / f"recsys-bench-{os.getpid()}"
    group.mkdir()
    try:
        (group / ("memory.limit_in_bytes" if old else "memory.max")).write_text(str(limit_bytes))
        yield group
    finally:
        for attempt in range(100):  # processes that have just ended are in it for a moment
            try:
                group.rmdir()
                break
            except OSError as error:
                if attempt == 99:
                    say(f"{group} is left: {error}")
                time.sleep(0.1)


def forget_pages(folder: Path) -> None:
    """Take files out of the page cache: their pages count against the group that reads them first."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _oom_kills(group: Path) -> int:
    for name in ("memory.oom_control", "memory.events"):
        with contextlib.suppress(OSError):
            rows = (row.split() for row in (group / name).read_text().splitlines())
            return next((int(value) for key, value in rows if key == "oom_kill"), 0)
    return 0


def _most_bytes(group: Path) -> int:
    """The most memory that the group had; 0 where the system does not say."""
    for name in ("memory.max_usage_in_bytes", "memory.peak"):
        with contextlib.suppress(OSError):
            return int((group / name).read_text())
    return 0
