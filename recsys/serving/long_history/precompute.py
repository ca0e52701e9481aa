"""Precompute the states of users' long histories, before the servers of a new bundle need them.

Users who were active last come first. Running it again writes only what is missing or lags behind. Needs no torch: the
bundle's ``encode`` graph runs in ONNX Runtime.
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

from recsys.arrays import Float32Array, Int64Array
from recsys.bundle import Bundle, open_bundle
from recsys.errors import BundleError, InvalidInputError, RecsysError, StoreError, StoreFormatError
from recsys.feature_store.base import RankInputs
from recsys.feature_store.blocking import BlockingFeatureStore
from recsys.feature_store.item_cache import ItemCache
from recsys.feature_store.loop_thread import loop_in_thread
from recsys.features.columns import Column
from recsys.features.feature_set import FeatureSet
from recsys.serving.deadline import Deadline
from recsys.serving.inference.graphs import load_graph
from recsys.serving.inference.table_guard import TableGuard
from recsys.serving.long_history.pace import Pace
from recsys.serving.long_history.states import LongStates
from recsys.serving.long_history.users import long_users
from recsys.serving.long_history.window import BLOCK
from recsys.serving.scheduling import use_idle_scheduling

_USERS_PER_BATCH = 64
_HEADERS_PER_USER = 20
"""Headers of histories read for each user whose state may be computed, where the rate is bounded: a header is two reads
of 48 bytes."""

_TIMEOUT_S = 30.0
_USER_TIMEOUT_S = 600.0
_NO_PACE = Pace(0)
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
        inactive: left out, as their newest event is too old.
        refused: whose keys hold bytes that are not ours; they are left as they are.
        elapsed_s: seconds it took.
    """

    users: int = 0
    written: int = 0
    kept: int = 0
    short: int = 0
    inactive: int = 0
    refused: int = 0
    elapsed_s: float = 0.0

    def __add__(self, other: PrecomputedStates) -> PrecomputedStates:
        return PrecomputedStates(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @property
    def users_per_s(self) -> float:
        """Users per second."""
        return self.users / max(self.elapsed_s, 1e-9)

    @property
    def states_per_s(self) -> float:
        """States written or found good per second."""
        return (self.written + self.kept) / max(self.elapsed_s, 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecomputeLimits:
    """Bounds of what precomputing takes from those who are served meanwhile.

    Attributes:
        max_users_per_s: users with a long history per second, by all processes together; one whose history is read
            counts once more for every 1,024 events of it, so that reads are bounded too. 0: no bound.
        active_within_s: leave out users whose newest event is older; 0: leave out nobody.
        low_priority: compute in processes that give way to all others on the machine.

    Raises:
        InvalidInputError: a number is negative.
    """

    max_users_per_s: float = 0.0
    active_within_s: int = 0
    low_priority: bool = False

    def __post_init__(self) -> None:
        for name in ("max_users_per_s", "active_within_s"):
            if not getattr(self, name) >= 0:
                raise InvalidInputError(f"{name} is {getattr(self, name)}; allowed: 0 for no bound, or more")


_NO_LIMITS = PrecomputeLimits()


def precompute_states(
    bundle: Bundle,
    url: str,
    *,
    ttl_s: int,
    processes: int = 1,
    limits: PrecomputeLimits = _NO_LIMITS,
    progress: Callable[[PrecomputedStates, int], None] | None = None,
    looking: Callable[[int, int], None] | None = None,
) -> PrecomputedStates:
    """Compute and write the states of users with a long history, those active last first.

    Args:
        bundle: its model has a state.
        url: of the Redis.
        ttl_s: how long a state is kept after it was written.
        processes: how many compute at a time, each on one core.
        limits: what it may take.
        progress: called now and then with what was done, and with the number of users there are.
        looking: called before, with how many of how many users' histories were looked at.

    Raises:
        InvalidInputError: the bundle has no state, or ``processes`` is out of range.
        StoreError: the store cannot be reached, is full or holds another layout; run it again to go on.
        ModelError: a table of the bundle was changed meanwhile; no state that was computed from it is written.
        RecsysError: a process was killed, or could not open the bundle; run it again to go on.
    """
    if bundle.manifest.state is None:
        raise InvalidInputError(
            f"{bundle.path}: model {bundle.manifest.model!r} keeps no state of users: none to compute"
        )
    if processes < 1:
        raise InvalidInputError(f"processes is {processes}; allowed: 1 or more")
    started_s = time.monotonic()
    with open_store(url, bundle.features) as store:
        store.ping(timeout_s=_TIMEOUT_S)
        pace = Pace(_HEADERS_PER_USER * limits.max_users_per_s)
        found = long_users(store, bundle, active_within_s=limits.active_within_s, pace=pace, looking=looking)
    done = PrecomputedStates(
        users=found.short + found.inactive + found.refused,
        short=found.short,
        inactive=found.inactive,
        refused=found.refused,
    )

    def tell() -> None:
        if progress is not None:
            progress(done + PrecomputedStates(elapsed_s=time.monotonic() - started_s), found.total)

    tell()
    at_once = _users_at_once(limits.max_users_per_s / processes)
    batches = [found.keys[start : start + at_once] for start in range(0, len(found.keys), at_once)]
    for part in _each(bundle, url, ttl_s, processes, limits, batches):
        done += part
        tell()
    return done + PrecomputedStates(elapsed_s=time.monotonic() - started_s)


def _users_at_once(max_users_per_s: float) -> int:
    """Users of a batch: those of a second at most, so that what was read is not old when the state is written."""
    return max(1, min(_USERS_PER_BATCH, int(max_users_per_s) if max_users_per_s else _USERS_PER_BATCH))


@contextmanager
def open_store(url: str, features: FeatureSet) -> Iterator[BlockingFeatureStore]:
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
    guard = TableGuard(bundle)
    with guard.loading():
        graph = load_graph(bundle, "encode", 1)

    def encode(columns: dict[str, Column]) -> Float32Array:
        with guard.reading():
            sums: Float32Array = graph.run(None, columns)[0]
        return sums

    with ExitStack() as stack:
        store = stack.enter_context(open_store(url, bundle.features))
        states = LongStates(
            bundle.features,
            bundle.manifest.state,
            encode,
            store,
            bundle.manifest.state_version,
            ttl_s,
        )
        yield store, stack.enter_context(closing(states))


def precompute_users(
    store: BlockingFeatureStore, states: LongStates, users: Sequence[int], *, ttl_s: int, pace: Pace = _NO_PACE
) -> PrecomputedStates:
    """Write the states of some users that lack one, at the given pace; raises StoreError."""
    version = states.read.version
    values = store.states(users, version=version, timeout_s=_TIMEOUT_S)
    try:
        read = store.histories(users, limit=states.read.tail, timeout_s=_TIMEOUT_S)
    except StoreFormatError:
        if len(users) == 1:
            return PrecomputedStates(users=1, refused=1)
        parts = [precompute_users(store, states, [user], ttl_s=ttl_s, pace=pace) for user in users]
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
        pace.spend(1 + (found.base.changed if found.base.stored else found.covered) // BLOCK)
    store.put_states(made, version=version, ttl_s=ttl_s, timeout_s=_TIMEOUT_S)
    return PrecomputedStates(users=len(users), written=len(made), short=short, kept=len(users) - len(made) - short)


def _each(
    bundle: Bundle,
    url: str,
    ttl_s: int,
    processes: int,
    limits: PrecomputeLimits,
    batches: Sequence[Int64Array],
) -> Iterator[PrecomputedStates]:
    """Counts of each batch, as batches are done."""
    per_s = limits.max_users_per_s / processes
    if processes == 1 and not limits.low_priority:
        with open_states(bundle, url, ttl_s=ttl_s) as (store, states):
            pace = Pace(per_s)
            for batch in batches:
                yield precompute_users(store, states, batch.tolist(), ttl_s=ttl_s, pace=pace)
        return
    context = multiprocessing.get_context("spawn")
    given = (bundle, url, ttl_s, per_s, limits.low_priority)
    pool = ProcessPoolExecutor(processes, context, initializer=_begin_here, initargs=given)
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
_open: Callable[[], Callable[[list[int]], PrecomputedStates]] | None = None
_here: Callable[[list[int]], PrecomputedStates] | None = None
"""In a process of the pool: does one batch; opened with the first, whose error reaches the caller."""


def _begin_here(given: Bundle, url: str, ttl_s: int, max_users_per_s: float, low_priority: bool) -> None:
    global _open
    if low_priority:
        use_idle_scheduling()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends this one
    _open = partial(_open_here, given, url, ttl_s, max_users_per_s)


def _open_here(given: Bundle, url: str, ttl_s: int, max_users_per_s: float) -> Callable[[list[int]], PrecomputedStates]:
    bundle = open_bundle(given.path, verify="sizes", verified=given.states)
    if bundle.manifest.version != given.manifest.version:
        raise BundleError(f"{given.path}: another bundle came into its place meanwhile; run it again")
    store, states = _of_this_process.enter_context(open_states(bundle, url, ttl_s=ttl_s))
    return partial(precompute_users, store, states, ttl_s=ttl_s, pace=Pace(max_users_per_s))


def _precompute_here(users: list[int]) -> PrecomputedStates:
    global _here
    assert _open is not None
    _here = _here or _open()
    return _here(users)
