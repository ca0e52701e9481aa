"""Filters end to end: what one costs a recommendation, and how soon another worker sees a write.

Legend: items 0, 1, 2 and so on have an offer each, of one of ``CATEGORIES`` categories, a price of 0 to 99 and a flag.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from harness.common import Line, cores, line, pinned, say, spread
from harness.reference import OFFER
from ranking import setting as rank_setting

from recsys.client import Client, below, where

CATEGORIES = 100
_PUT = 10_000
_WORKERS = 2
_CONNECTIONS = 8


def put_offers(client: Client, items: int) -> None:
    """Store the offers of all items; a hundredth of them passes :func:`filter_of` any number."""
    for start in range(0, items, _PUT):
        ids = np.arange(start, min(start + _PUT, items))
        mixed = (ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
        client.put_entities(
            entity=OFFER,
            ids=ids,
            features={
                "kind": (mixed % np.uint64(CATEGORIES)).astype(np.int64),
                "price": (mixed // np.uint64(CATEGORIES) % np.uint64(100)).astype(np.float32),
                "in_stock": (mixed // np.uint64(100 * CATEGORIES) % np.uint64(2)).astype(np.int64),
            },
            timeout_s=60.0,
        )


def filter_of(number: int) -> Any:
    """A filter of three conditions; another one for each number below ``CATEGORIES``: none is answered from before."""
    kinds = [(number + step) % CATEGORIES for step in range(4)]
    return where(kind=kinds, price=below(50), in_stock=True)


def filtered_lines(client: Client, users: list[int], *, items: int, calls: int, on: dict[str, Any]) -> Iterator[Line]:
    """Recommendations with a filter over those without, in turns, by a server that has the items' offers."""
    say("recommending with filters")
    put_offers(client, items)
    _until(lambda: _passed(client, users[0], where(kind=list(range(CATEGORIES)))) == items)
    took: dict[bool, list[float]] = {False: [], True: []}
    share = 0.0
    for number in range(2 * calls):
        filtered = bool(number % 2)
        began_s = time.perf_counter()
        wanted = filter_of(number // 2) if filtered else None
        answer = client.recommend(user=users[number // 2 % len(users)], top_k=20, filter=wanted)
        took[filtered].append((time.perf_counter() - began_s) * 1e3)
        assert not answer.degraded, answer
        if answer.filter is not None:
            share = answer.filter.passed / items
    plain, of_filter = (sorted(took[filtered])[len(took[filtered]) // 2] for filtered in (False, True))
    yield line(
        "recommend.filtered_p50_over_plain",
        of_filter / plain,
        "times the p50 without a filter",
        higher_is_better=False,
        compared_with=f"the same calls without one ({plain:.1f} ms, in turns); three conditions, {share:.1%} pass",
        on=on,
    )


def visible_lines(
    folder: Path, setting: Any, bundle: Path, retrieval: Path, *, writes: int, on: dict[str, Any]
) -> Iterator[Line]:
    """Milliseconds from before a PutEntities until both workers' filters have it."""
    say("writes seen by filters")
    with contextlib.ExitStack() as stack:
        _, address = stack.enter_context(
            rank_setting.pinned_server(setting, bundle, "--retrieval", str(retrieval), "--workers", str(_WORKERS))
        )
        stack.enter_context(pinned(cores()[-1]))
        clients = [stack.enter_context(Client(address, timeout_s=30.0)) for _ in range(_CONNECTIONS)]
        took_ms = []
        for write in range(writes):
            in_stock = write % 2
            began_s = time.perf_counter()
            clients[0].put_entities(
                entity=OFFER, ids=[1], features={"kind": [CATEGORIES], "price": [1.0], "in_stock": [in_stock]}
            )
            wanted = where(kind=CATEGORIES, in_stock=True)
            _until(lambda: all(_passed(client, 0, wanted) == in_stock for client in clients))  # noqa: B023
            took_ms.append((time.perf_counter() - began_s) * 1e3)
            time.sleep(0.037 * (write % 7))  # at any time between two looks of the server
    yield line(
        "index.attribute_visible_ms",
        max(took_ms),
        "ms",
        higher_is_better=False,
        compared_with=f"the longest of {writes} writes, until {_CONNECTIONS} connections to {_WORKERS} workers see it; "
        f"median {median(took_ms):.0f} ms",
        on=on,
        spread=spread(took_ms),
    )


def _passed(client: Client, user: int, wanted: Any) -> int:
    report = client.retrieve(user=user, top_k=1, filter=wanted).filter
    assert report is not None
    return report.passed


def _until(is_so: Any, *, limit_s: float = 120.0) -> None:
    until_s = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < until_s, "waited in vain"
