"""Several workers of one server: memory with a table of 1 GB, speed of one and two. A part of ``rank.py``."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING, Any

from harness.common import Line, cores, line, rounded, say, spread

if TYPE_CHECKING:
    from pathlib import Path

    from ranking.setting import Histories, Setting
    from ranking.size import Size

WORKERS = 4
TARGET_GB = 1.25 + WORKERS * 0.150
"""A quarter more than a table of 1 GB, and 150 MB a worker."""
ROUNDS = 5
_LARGE_REQUEST = 10_000


def lines(setting: Setting, histories: Histories, size: Size, *, on: dict[str, Any]) -> Iterator[Line]:
    """``rank.pss_gb_4_workers`` and ``rank.two_workers_over_one``."""
    yield _memory(setting, size, on)
    yield _scaling(setting, histories, size, on)


def _memory(setting: Setting, size: Size, on: dict[str, Any]) -> Line:
    import numpy as np
    import psutil
    from harness import reference, serving_parts

    from recsys.bundle import read_manifest
    from recsys.client import Client

    say(f"{WORKERS} workers with a table of {size.table_rows:,} rows")
    bundle = setting.folder / "large"
    reference.export_reference(bundle, hashed_rows=size.table_rows)
    table_gb = read_manifest(bundle).tables["item_id.rows"].size_bytes / 1e9
    random = np.random.Generator(np.random.PCG64(0))
    with serving_parts.server(bundle, setting.redis_url, setting.folder, "--workers", str(WORKERS)) as (pid, address):
        rounds = max(2, 2 * WORKERS * size.table_rows // (32 * _LARGE_REQUEST))
        for _ in range(16):  # each connection goes to one worker: every worker gets some
            with Client(address, timeout_s=120.0) as client:
                for number in range(-(-rounds // 16)):
                    items = random.integers(0, 1 << 40, size=_LARGE_REQUEST)
                    client.rank(user=number, candidates=items, top_k=1)
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        workers = json.loads((setting.folder / "server.json").read_text())["workers"]
        pss = {process.pid: process.memory_full_info().pss / 1e9 for process in family}
    assert len(workers) == WORKERS, workers
    return line(
        "rank.pss_gb_4_workers", sum(pss.values()), "GB", higher_is_better=False,
        target=TARGET_GB, compared_with="1.25 x a table of 1 GB, and 150 MB a worker; the supervisor counts too",
        table_gb=rounded(table_gb), worker_gb=[rounded(pss[worker]) for worker in workers],
        supervisor_gb=rounded(pss[pid]), on=on,
    )  # fmt: skip


def _scaling(setting: Setting, histories: Histories, size: Size, on: dict[str, Any]) -> Line:
    from harness import serving_parts
    from harness.workers import worker

    from ranking import load as rank_load
    from ranking import setting as rank_setting

    bundle = rank_setting.reference_bundle(setting.folder, items=size.items)
    sent = rank_setting.messages(setting.requests(histories, size.requests))
    per_s: dict[int, list[float]] = {1: [], 2: []}
    with contextlib.ExitStack() as stack:
        loads = {}
        for workers in per_s:
            folder: Path = setting.folder / f"workers-{workers}"
            folder.mkdir()
            arguments = (bundle, setting.redis_url, folder, "--workers", str(workers))
            _, address = stack.enter_context(serving_parts.server(*arguments))
            loads[workers] = stack.enter_context(worker(rank_load.closed, address, sent, 2 * size.callers))
            loads[workers](size.round_s)
        for _ in range(min(ROUNDS, size.rounds)):
            for workers, load in loads.items():
                per_s[workers].append(len(load(size.round_s)) / size.round_s)
    ratios = [two / one for one, two in zip(per_s[1], per_s[2], strict=True)]
    return line(
        "rank.two_workers_over_one", median(ratios), "ratio", higher_is_better=True,
        compared_with=f"one worker; {len(cores())} cores, on which the callers and Redis run too",
        calls_per_s={workers: rounded(median(found)) for workers, found in per_s.items()},
        spread=spread(ratios), on=on,
    )  # fmt: skip
