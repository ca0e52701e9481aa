"""``soak``: half an hour at 70 % load with everything on that a server can have on. Server on the first core.

As ``soak.py``, which has everything off: calls for ever new users, so that states are written all the time. On are
mTLS, tokens with quotas, the metrics page and a scraper, traces of one call in a hundred to a collector, JSON logs, the
request log, and a port for health; that each of them was at work is looked at in the end.
"""

from __future__ import annotations

import contextlib
import json
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.common import Line, cores, free_port, line, machine, pinned, rounded, say
from soak import GROWTH_TARGET, LOAD, SIZES, Size

from reliable import stage

__all__ = ["SIZES", "soak"]

LIBRARIES = (*stage.LIBRARIES, "cryptography", "PyJWT", "opentelemetry-sdk")
SHARE = "0.01"
"""Of calls that are traced, and of requests that are logged."""


def soak(folder: Path, size: Size) -> Iterator[Line]:
    """Measure growth of memory, and tell p99.9."""
    import numpy as np
    import psutil
    from harness.slow_moments import slow_moments
    from harness.wire import Wire
    from harness.workers import worker
    from ranking import load as rank_load
    from ranking import setting as rank_setting

    from reliable.issuing import Issuer, put, server_options
    from reliable.tokens import access_file
    from reliable.tracing import collects

    secret = folder / "secret"
    put(secret, Issuer().issue(), 1)
    file, tokens = access_file(folder)
    ports = {name: free_port() for name in ("metrics", "health")}
    with contextlib.ExitStack() as stack:
        setting = stack.enter_context(
            rank_setting.redis_with_items(folder, items=size.items, candidates=size.candidates)
        )
        histories = rank_setting.fill(setting, length=size.events, users=size.users, items=size.items)
        bundle = rank_setting.reference_bundle(folder, items=size.items)
        sent = rank_setting.messages(setting.requests(histories, size.requests))
        with pinned(cores()[-1]):
            collector = stack.enter_context(worker(collects, str(folder / "collector")))
        everything = {
            "RECSYS_METRICS_PORT": str(ports["metrics"]),
            "RECSYS_HEALTH_PORT": str(ports["health"]),
            "RECSYS_ACCESS_FILE": str(file),
            "RECSYS_LOG_FORMAT": "json",
            "RECSYS_LOG_REQUESTS": SHARE,
            "RECSYS_REQUEST_LOG_DIR": str(folder / "requests"),
            "RECSYS_TRACE_SHARE": SHARE,
            "RECSYS_TRACE_ENDPOINT": (folder / "collector").read_text(),
        }
        arguments = ("--port", "0", "--redis-url", setting.redis_url, *server_options(secret))
        with pinned(cores()[0]):
            running = stage.server(folder, bundle, "soak", *arguments, **everything)
            process, facts, log = stack.enter_context(running)
        address, wire = facts["address"], Wire(secret=secret, token=tokens["jwt"])
        with pinned(cores()[-1]):
            closed = stack.enter_context(worker(rank_load.closed, address, sent, size.callers, wire))
            rate = LOAD * len(closed(size.minute_s / 6)) / (size.minute_s / 6)
            paced = stack.enter_context(worker(rank_load.paced, address, sent, size.callers, rate, False, wire))
        moments = stack.enter_context(slow_moments(core=cores()[0]))
        memory_mb: list[float] = []
        every: list[Any] = []
        for minute in range(size.minutes):
            every.append(paced(size.minute_s))
            memory_mb.append(psutil.Process(process.pid).memory_info().rss / 1e6)
            page_bytes = len(_page(ports["metrics"]))
            say(f"minute {minute + 1}: {memory_mb[-1]:.0f} MB, {len(every[-1].took_s)} calls")
        at_work = {
            "span_bytes": collector(0.0),
            "logged_requests": sum(1 for each in (folder / "requests").rglob("*") if each.is_file()),
            "json_lines": sum(1 for each in log.read_text().splitlines() if json.loads(each)),
            "page_bytes": page_bytes,
        }
    due_s, took_s = (np.concatenate(parts) for parts in zip(*every, strict=True))
    refused = np.isnan(took_s)
    quiet = moments.quiet(due_s) & ~refused
    if len(took_s) > 1_000 and not all(at_work.values()):
        raise RuntimeError(f"not everything was on: {at_work}")
    details = {
        "calls": len(took_s),
        "refused": int(refused.sum()),
        "load": LOAD,
        "calls_per_s": rounded(rate),
        "settings": [*sorted(everything), "RECSYS_TLS_CERTIFICATE", "RECSYS_TLS_CLIENT_CA", "RECSYS_TLS_KEY"],
        "at_work": at_work,
        "on": machine(LIBRARIES, **asdict(size)),
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


def _page(port: int) -> bytes:
    """The metrics page, as a scraper reads it; without TLS, as the server is on loopback."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        return bytes(page.read())
