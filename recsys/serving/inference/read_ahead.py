"""The page cache before the first request: the pages of hot ids read ahead, and no others read along.

A bundle's tables are memory-mapped, so the first request for an id waits for the disk: once for each page of its
rows and id-map buckets. Which pages those are is the row map's business, and every kind of row map lies in the
graphs. So hot ids are simply scored: that touches what a request touches, whatever the bundle is made of.
Several threads do it, for it is waiting, not work.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np

from recsys.arrays import Int64Array
from recsys.bundle import Bundle
from recsys.features.encode import encode_request
from recsys.features.hot_ids import HotIds
from recsys.serving.deadline import Deadline
from recsys.serving.inference.mapped_pages import madvise_call, mappings_of
from recsys.serving.inference.ranking_session import RankingSession

_CHUNK = 250
_SAMPLED_PAGES = 500
_MADV_RANDOM = 1


@dataclass(frozen=True, kw_only=True)
class PageReadAhead:
    """Ids looked up ahead of the first request; not ``complete`` when the time was over before the ids."""

    users: int
    items: int
    seconds: float
    complete: bool


def read_pages_ahead(
    session: RankingSession, hot: HotIds, *, threads: int = 8, timeout_s: float = 30.0
) -> PageReadAhead:
    """Read every page that lookups of the hot ids touch into memory, hottest ids first.

    Args:
        session: of the bundle that will serve; pages read for one process are in memory for all on the machine.
        hot: the ids.
        threads: how many wait for the disk at a time.
        timeout_s: after it the rest is left on the disk.
    """
    started_s = time.monotonic()
    deadline = Deadline.after(timeout_s)
    jobs, lock, stop = _jobs(hot), threading.Lock(), threading.Event()
    users = items = 0
    complete = True

    def work() -> None:
        nonlocal users, items, complete
        while True:
            with lock:
                job = None if stop.is_set() else next(jobs, None)
            if job is None:
                return
            user, item_keys = job
            request = encode_request(
                session.features,
                user_key=user,
                user_columns={},
                request_values={},
                events=None,
                item_keys=item_keys,
                item_columns={},
            )
            try:
                session.score(request, deadline=deadline)
            except TimeoutError:
                complete = False
                return
            with lock:
                users, items = users + 1, items + len(item_keys)

    with ThreadPoolExecutor(threads) as pool:
        try:
            for done in wait([pool.submit(work) for _ in range(threads)], return_when=FIRST_EXCEPTION).done:
                done.result()
        finally:
            stop.set()  # a signal, or one thread's error, ends the others too: the pool waits for them
    return PageReadAhead(
        users=min(users, len(hot.users)),
        items=min(items, len(hot.items)),
        seconds=time.monotonic() - started_s,
        complete=complete,
    )


def advise_random(bundle: Bundle) -> int:
    """Tell the system that the mapped tables are read at random; bytes of mappings advised, 0 where it cannot be.

    Otherwise every page that is missing brings 31 neighbours along, of which a table larger than memory needs
    none: they take the disk's time and the memory of pages that are needed. For tables that fit in memory it
    is the other way round: neighbours that come along need not be fetched.
    """
    if not sys.platform.startswith("linux"):
        return 0
    madvise, advised_bytes = madvise_call(), 0
    tables = [bundle.path / name for name in bundle.manifest.files if name.startswith("tables/")]
    for start, end in mappings_of((), tables):
        advised_bytes += end - start if madvise(start, end - start, _MADV_RANDOM) == 0 else 0
    return advised_bytes


def in_memory(bundle: Bundle) -> bool:
    """Test if the tables are in memory already: pages spread evenly over each file all are.

    So they are after a check by hash, or when another process on the machine serves them. Asked by reads that do not
    wait; False where the system has none. mincore would not do: of files that one may not write it says nothing.
    """
    if not hasattr(os, "RWF_NOWAIT"):
        return False
    for name, (size_bytes, _) in bundle.manifest.files.items():
        if not name.startswith("tables/"):
            continue
        with (bundle.path / name).open("rb", buffering=0) as file:
            for offset in range(0, size_bytes, max(1, size_bytes // _SAMPLED_PAGES)):
                try:
                    os.preadv(file.fileno(), [bytearray(1)], offset, os.RWF_NOWAIT)
                except OSError:  # it would wait for the disk, or the file system cannot tell
                    return False
    return True


def _jobs(hot: HotIds) -> Iterator[tuple[int, Int64Array]]:
    """A user and some items at a time, until both lists are through; who has none left repeats one."""
    chunks = -(-len(hot.items) // _CHUNK)
    one_user = hot.users[:1] if len(hot.users) else np.zeros(1, dtype=np.int64)
    one_item = hot.items[:1] if len(hot.items) else np.zeros(1, dtype=np.int64)
    for number in range(max(len(hot.users), chunks)):
        user = hot.users[number] if number < len(hot.users) else one_user[0]
        items = hot.items[number * _CHUNK : (number + 1) * _CHUNK] if number < chunks else one_item
        yield int(user), items
