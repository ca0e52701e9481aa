"""Users whose histories are too long for one read: found for precomputing their states, and for how many lack one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from recsys.arrays import Int64Array
from recsys.bundle import Bundle
from recsys.errors import StoreFormatError
from recsys.feature_store.blocking import BlockingFeatureStore
from recsys.features.history.records import HistoryHeader, require_history
from recsys.serving.long_history.pace import Pace
from recsys.serving.long_history.states import tail_of

_TIMEOUT_S = 30.0
_SCAN_PAUSE_S = 0.01
"""A look at a thousand keys takes Redis half a millisecond, in which it answers nobody."""

_HEADERS_AT_ONCE = 500
_NO_PACE = Pace(0)


class LongUsers(NamedTuple):
    """Users with a long history, and how many others there are.

    Attributes:
        keys: int64 [N], the users with the newest events first.
        total: of all users with a history.
        short: whose history is read whole with each request.
        inactive: with a long history, whose newest event is too old.
        refused: whose keys hold bytes that are not ours.
    """

    keys: Int64Array
    total: int
    short: int
    inactive: int
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStates:
    """Count of users with long histories that a bundle has no state of.

    Attributes:
        looked_at: users with a long history, active lately, that were looked at.
        cold: those without a state.
    """

    looked_at: int
    cold: int

    @property
    def share(self) -> float:
        """Share of users without a state, in [0, 1]; 0 if there was nobody to look at."""
        return self.cold / self.looked_at if self.looked_at else 0.0


def all_users(store: BlockingFeatureStore, *, pause_s: float = 0.0) -> Int64Array:
    """Read the keys of all users with a history, ascending; raises StoreError.

    Args:
        store: where they are.
        pause_s: that is left to others after each thousand keys of any kind.
    """
    found = []
    for some in store.users():
        found.append(np.array(some, dtype=np.int64))
        time.sleep(pause_s)
    return np.unique(np.concatenate([np.empty(0, dtype=np.int64), *found]))


def long_users(
    store: BlockingFeatureStore,
    bundle: Bundle,
    *,
    active_within_s: int = 0,
    pace: Pace = _NO_PACE,
    looking: Callable[[int, int], None] | None = None,
) -> LongUsers:
    """Find the users with a long history by reading the headers of all users' histories.

    Args:
        store: where they are.
        bundle: its model has a state.
        active_within_s: leave out users whose newest event is older; 0: leave out nobody.
        pace: holds the reads back; a header is one unit.
        looking: called now and then with how many of how many headers were read.

    Raises:
        StoreError: the store cannot be reached or holds another layout.
    """
    oldest_ms = _oldest_ms(active_within_s)
    users = all_users(store, pause_s=0.0 if pace is _NO_PACE else _SCAN_PAUSE_S)
    kept: list[tuple[int, int]] = []
    short = inactive = refused = 0
    for start in range(0, len(users), _HEADERS_AT_ONCE):
        some = users[start : start + _HEADERS_AT_ONCE].tolist()
        for user, header in _headers(store, some, timeout_s=_TIMEOUT_S):
            if header is None:
                refused += 1
            elif not _is_long(bundle, header):
                short += 1
            elif header.newest_ms < oldest_ms:
                inactive += 1
            else:
                kept.append((-header.newest_ms, user))
        if looking is not None:
            looking(start + len(some), len(users))
        pace.spend(len(some))
    keys = np.array([user for _, user in sorted(kept)], dtype=np.int64)
    return LongUsers(keys, len(users), short, inactive, refused)


def cold_states(
    bundle: Bundle, store: BlockingFeatureStore, *, active_within_s: int, sample: int = 200, timeout_s: float = 5.0
) -> ColdStates:
    """Look at a sample of users with long histories, and count those that the bundle has no state of.

    Redis lists its keys in an order that has nothing to do with what they hold, so the first users it names are a
    sample. What is found in time counts.

    Args:
        bundle: with a state or without; without one nobody is looked at.
        store: where its users are.
        active_within_s: only users with an event since; states of the others expire.
        sample: most users that are looked at.
        timeout_s: time after which no more are looked for.

    Raises:
        StoreError: the store cannot be reached or holds something else.
    """
    if bundle.manifest.state is None:
        return ColdStates(looked_at=0, cold=0)
    until_s, oldest_ms = time.monotonic() + timeout_s, _oldest_ms(active_within_s)
    keys: list[int] = []
    for some in store.users():
        for start in range(0, len(some), _HEADERS_AT_ONCE):
            left_s = until_s - time.monotonic()
            if left_s <= 0 or len(keys) >= sample:
                break
            part = some[start : start + _HEADERS_AT_ONCE]
            for user, header in _headers(store, part, timeout_s=max(left_s, 0.1)):
                if header is not None and _is_long(bundle, header) and header.newest_ms >= oldest_ms:
                    keys.append(user)
        time.sleep(_SCAN_PAUSE_S)
        if len(keys) >= sample or time.monotonic() >= until_s:
            break
    keys = keys[:sample]
    values = store.states(keys, version=bundle.manifest.state_version, timeout_s=timeout_s)
    return ColdStates(looked_at=len(keys), cold=sum(value is None for value in values))


def _headers(
    store: BlockingFeatureStore, users: Sequence[int], *, timeout_s: float
) -> Iterator[tuple[int, HistoryHeader | None]]:
    """The header of each user's history, None where there is something else."""
    try:
        read = store.histories(users, limit=0, timeout_s=timeout_s)
    except StoreFormatError:
        if len(users) == 1:
            yield users[0], None
            return
        for half in (users[: len(users) // 2], users[len(users) // 2 :]):
            yield from _headers(store, half, timeout_s=timeout_s)
        return
    for user, (header, _) in zip(users, read, strict=True):
        yield user, header


def _is_long(bundle: Bundle, header: HistoryHeader) -> bool:
    """True if events may count that are not read with each request."""
    assert bundle.manifest.state is not None
    return min(header.stored, require_history(bundle.features).recent) > tail_of(bundle.manifest.state)


def _oldest_ms(active_within_s: int) -> int:
    return time.time_ns() // 1_000_000 - 1000 * active_within_s if active_within_s else -1
