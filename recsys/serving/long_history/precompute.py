"""Precompute the states of all users' long histories, before the servers of a new bundle need them.

Running it again writes only what is missing or lags behind. Needs no torch: the bundle's ``encode`` graph runs in
ONNX Runtime.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np

from recsys.arrays import Int64Array
from recsys.bundle import Bundle, open_bundle
from recsys.errors import InvalidInputError, RecsysError, StoreError, StoreFormatError
from recsys.feature_store.base import RankInputs
from recsys.feature_store.blocking import BlockingFeatureStore
from recsys.feature_store.item_cache import ItemCache
from recsys.feature_store.loop_thread import loop_in_thread
from recsys.features.feature_set import FeatureSet
from recsys.serving.deadline import Deadline
from recsys.serving.inference.graphs import load_graph
from recsys.serving.long_history.states import LongStates

_USERS_PER_BATCH = 64
_TIMEOUT_S = 30.0
_USER_TIMEOUT_S = 600.0
_AHEAD = 4
"""Batches handed to each process at a time, so that Ctrl-C ends it soon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecomputedStates:
    """Counts of what was done, by users.

    Attributes:
        users: with a history.
        written: whose state was computed and written.
        kept: whose stored state is good.
        short: whose history is read whole with each request and needs no state.
        refused: whose keys hold bytes that are not ours; they are left as they are.
        elapsed_s: seconds it took.
    """

    users: int = 0
    written: int = 0
    kept: int = 0
    short: int = 0
    refused: int = 0
    elapsed_s: float = 0.0

    def __add__(self, other: PrecomputedStates) -> PrecomputedStates:
        return PrecomputedStates(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @property
    def users_per_s(self) -> float:
        """Users per second."""
        return self.users / max(self.elapsed_s, 1e-9)


def precompute_states(
    bundle: Bundle,
    url: str,
    *,
    ttl_s: int,
    processes: int = 1,
    progress: Callable[[PrecomputedStates, int], None] | None = None,
) -> PrecomputedStates:
    """Compute and write the states of all users with a long history.

    Args:
        bundle: its model has a state.
        url: of the Redis.
        ttl_s: how long a state is kept after it was written.
        processes: how many compute at a time, each on one core.
        progress: called now and then with what was done, and with the number of users there are.

    Raises:
        InvalidInputError: the bundle has no state, or ``processes`` is out of range.
        StoreError: the store cannot be reached, is full or holds another layout; run it again to go on.
        RecsysError: a process was killed; run it again to go on.
    """
    if bundle.manifest.state is None:
        raise InvalidInputError(
            f"{bundle.path}: model {bundle.manifest.model!r} keeps no state of users: none to compute"
        )
    if processes < 1:
        raise InvalidInputError(f"processes is {processes}; allowed: 1 or more")
    started_s = time.monotonic()
    users = all_users(url, bundle.features)
    done = PrecomputedStates()
    batches = [users[start : start + _USERS_PER_BATCH] for start in range(0, len(users), _USERS_PER_BATCH)]
    for part in _each(bundle, url, ttl_s, processes, batches):
        done += part
        if progress is not None:
            progress(done + PrecomputedStates(elapsed_s=time.monotonic() - started_s), len(users))
    return done + PrecomputedStates(elapsed_s=time.monotonic() - started_s)


def all_users(url: str, features: FeatureSet) -> Int64Array:
    """Read the keys of all users with a history, ascending; raises StoreError."""
    with _open_store(url, features) as store:
        store.ping(timeout_s=_TIMEOUT_S)
        found = [np.array(some, dtype=np.int64) for some in store.users()]
    return np.unique(np.concatenate([np.empty(0, dtype=np.int64), *found]))


@contextmanager
def _open_store(url: str, features: FeatureSet) -> Iterator[BlockingFeatureStore]:
    cache = ItemCache(features.item, capacity=0)
    with (
        loop_in_thread("redis") as loop,
        closing(BlockingFeatureStore.connect(url, features, loop=loop, cache=cache)) as store,
    ):
        yield store


@contextmanager
def open_states(bundle: Bundle, url: str, *, ttl_s: int) -> Iterator[tuple[BlockingFeatureStore, LongStates]]:
    """A bundle's states in the Redis at a URL, for one thread."""
    assert bundle.manifest.state is not None
    graph = load_graph(bundle, "encode", 1)
    with ExitStack() as stack:
        store = stack.enter_context(_open_store(url, bundle.features))
        states = LongStates(
            bundle.features,
            bundle.manifest.state,
            lambda columns: graph.run(None, columns)[0],
            store,
            bundle.manifest.state_version,
            ttl_s,
        )
        yield store, stack.enter_context(closing(states))


def precompute_users(
    store: BlockingFeatureStore, states: LongStates, users: Sequence[int], *, ttl_s: int
) -> PrecomputedStates:
    """Write the states of some users that lack one; raises StoreError."""
    version = states.read.version
    values = store.states(users, version=version, timeout_s=_TIMEOUT_S)
    try:
        read = store.histories(users, limit=states.read.tail, timeout_s=_TIMEOUT_S)
    except StoreFormatError:
        if len(users) == 1:
            return PrecomputedStates(users=1, refused=1)
        parts = [precompute_users(store, states, [user], ttl_s=ttl_s) for user in users]
        return sum(parts, PrecomputedStates())
    time_ms = time.time_ns() // 1_000_000 + 1
    made: list[tuple[int, bytes]] = []
    short = 0
    for user, value, (header, tail) in zip(users, values, read, strict=True):
        inputs = RankInputs(tail[:0], {}, {}, False, False, header, tail, value)
        deadline = Deadline.after(_USER_TIMEOUT_S)
        found = states.for_request(user, inputs, time_ms=time_ms, deadline=deadline)
        if found.partial:
            raise StoreError(f"the history of user {user} could not be read to its end; the log says why")
        if states.due(found):
            made.append((user, states.packed(found, states.next_sums(found))))
        elif not found.covered:
            short += 1
    store.put_states(made, version=version, ttl_s=ttl_s, timeout_s=_TIMEOUT_S)
    return PrecomputedStates(users=len(users), written=len(made), short=short, kept=len(users) - len(made) - short)


def _each(
    bundle: Bundle, url: str, ttl_s: int, processes: int, batches: Sequence[Int64Array]
) -> Iterator[PrecomputedStates]:
    """Counts of each batch, as batches are done."""
    if processes == 1:
        with open_states(bundle, url, ttl_s=ttl_s) as (store, states):
            for batch in batches:
                yield precompute_users(store, states, batch.tolist(), ttl_s=ttl_s)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_open_here, initargs=(bundle.path, url, ttl_s))
    try:
        waiting: set[Future[PrecomputedStates]] = set()
        for batch in batches:
            if len(waiting) >= _AHEAD * processes:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
            waiting.add(pool.submit(_precompute_here, batch.tolist()))
        yield from (future.result() for future in waiting)
    except BrokenProcessPool:
        raise RecsysError("a process was killed, as Linux does where memory is short; run it again to go on") from None
    finally:
        pool.shutdown(cancel_futures=True)


_of_this_process = ExitStack()
"""In a process of the pool: what stays open until it ends."""
_here: Callable[[list[int]], PrecomputedStates] | None = None
"""In a process of the pool: does one batch."""


def _open_here(path: Path, url: str, ttl_s: int) -> None:
    global _here
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends this one
    bundle = open_bundle(path, verify="sizes")
    store, states = _of_this_process.enter_context(open_states(bundle, url, ttl_s=ttl_s))
    _here = partial(precompute_users, store, states, ttl_s=ttl_s)


def _precompute_here(users: list[int]) -> PrecomputedStates:
    assert _here is not None
    return _here(users)
