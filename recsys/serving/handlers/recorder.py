"""Recorder: a few of a worker's latest requests, in its memory, for releases that are to answer the like of them.

A request is kept as what was read for it, not as what a model was given: a release of a FeatureSet that has more can
encode it, too. Nothing is written anywhere. Shapes use ``C`` candidates, ``S`` events, ``N`` items to leave out.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from recsys.arrays import Int64Array
from recsys.features.columns import Column
from recsys.features.history.records import Events
from recsys.releases.served import ServedModel
from recsys.serving.filters.language import Filter

MOST_CANDIDATES = 1_000
"""Candidates of a request that are kept, the first ones."""

_REQUESTS = 256
_SIZE_BYTES = 16 << 20
"""Of all that is kept in a worker."""

_SOON = 64
"""So many are kept one after another; from then on, one now and then."""

_EVERY_S = 0.5
_OBJECT_BYTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRequest:
    """A ranking request as it was answered: arguments of ``encode_request``.

    Attributes:
        user_key: the user.
        user_columns: the user's stored features, N = 1.
        values: raw values that the request gave.
        events: of the user, oldest first, shape [S]; of a model with a state, those that its sums did not cover, and at
            least the newest that it reads one by one. None: none were read.
        item_keys: candidates, shape [C], C <= ``MOST_CANDIDATES``.
        item_columns: their stored features, N = C.
        degraded: something could not be read.
    """

    user_key: int
    user_columns: Mapping[str, Column]
    values: Mapping[str, Sequence[Any]]
    events: Events | None
    item_keys: Int64Array
    item_columns: Mapping[str, Column]
    degraded: bool = False

    @property
    def size_bytes(self) -> int:
        """Memory it takes, roughly."""
        columns = (*self.user_columns.values(), *self.item_columns.values())
        arrays = self.item_keys.nbytes + sum(column.nbytes for column in columns)
        arrays += 0 if self.events is None else self.events.nbytes
        values = sum(len(given) + 1 for given in self.values.values())
        return arrays + _OBJECT_BYTES * (values + 2 * len(columns) + 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedQuery:
    """A search for a user's best items.

    Attributes:
        user_key: the user.
        taken: keys of items to leave out, shape [N].
        top_k: how many items.
        events: that the user was known by, oldest first; None: the model knows users by their ids.
        user: columns of the user's features that the search depended on; None: on none.
        filter: of the search, to be asked of the items' values as they are when it is replayed; None: none.
    """

    user_key: int
    taken: Int64Array
    top_k: int
    events: Events | None = None
    user: Mapping[str, Column] | None = None
    filter: Filter | None = None

    @property
    def size_bytes(self) -> int:
        """Memory it takes, roughly."""
        of_user = sum(column.nbytes + _OBJECT_BYTES for column in (self.user or {}).values())
        of_user += 0 if self.filter is None else self.filter.size_bytes
        return self.taken.nbytes + (0 if self.events is None else self.events.nbytes) + of_user + 4 * _OBJECT_BYTES


Kept = TypeVar("Kept", RecordedRequest, RecordedQuery)


class Ring(Generic[Kept]):
    """The latest of what is put in: at most so many, of at most so many bytes. Safe to use from several threads.

    Args:
        size_bytes: most memory.
        requests: most entries.
    """

    def __init__(self, size_bytes: int, *, requests: int = _REQUESTS) -> None:
        self.limit_bytes = size_bytes
        self._requests = requests
        self._kept: deque[tuple[Kept, int]] = deque()
        self._size_bytes = 0
        self._next_s = 0.0
        self._lock = threading.Lock()

    def wanted(self) -> bool:
        """Decide if the request at hand is to be kept: a comparison of times, nearly always."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return False
        if len(self._kept) >= _SOON:
            # Not a fixed period, which could follow that of some caller.
            self._next_s = now_s + random.uniform(0.5, 1.5) * _EVERY_S
        return True

    def put(self, entry: Kept) -> None:
        """Keep one more, and drop the oldest of those that are too many."""
        size_bytes = entry.size_bytes
        with self._lock:
            self._kept.append((entry, size_bytes))
            self._size_bytes += size_bytes
            while self._kept and (len(self._kept) > self._requests or self._size_bytes > self.limit_bytes):
                self._size_bytes -= self._kept.popleft()[1]

    def latest(self, count: int | None) -> list[Kept]:
        """List at most so many, the newest first; None: all."""
        with self._lock:
            return [entry for entry, _ in itertools.islice(reversed(self._kept), count)]


@dataclass(frozen=True, slots=True)
class Recorded:
    """Some of the latest requests of one model's name, the newest first."""

    requests: Sequence[RecordedRequest] = ()
    queries: Sequence[RecordedQuery] = ()


class _RouteRings:
    def __init__(self, size_bytes: int) -> None:
        self.requests: Ring[RecordedRequest] = Ring(size_bytes)
        self.queries: Ring[RecordedQuery] = Ring(size_bytes // 4)

    def limit(self, size_bytes: int) -> None:
        self.requests.limit_bytes, self.queries.limit_bytes = size_bytes, size_bytes // 4


class Recorder:
    """Keeps requests by the model's name that they asked for, across releases. Safe to use from several threads.

    The request path pays for two look-ups and a comparison; about two requests a second are copied.
    """

    def __init__(self) -> None:
        self._of_route: dict[str, _RouteRings] = {}
        self._of_release: dict[str, _RouteRings] = {}

    def follow(self, models: Mapping[str, ServedModel]) -> None:
        """Keep the requests of these names from now on, whichever of their releases answers; others are dropped.

        Of a release that answers for several names, the first name has the requests.
        """
        limit = _SIZE_BYTES * 4 // 5 // max(1, len(models))
        rings = {name: self._of_route.get(name) or _RouteRings(limit) for name in models}
        of_release: dict[str, _RouteRings] = {}
        for name, model in models.items():
            rings[name].limit(limit)
            for release in (model.live, *model.split):
                of_release.setdefault(release, rings[name])
        self._of_route, self._of_release = rings, of_release

    def wants_request(self, release: str) -> bool:
        """Decide if the request that this release answers is to be kept."""
        rings = self._of_release.get(release)
        return rings is not None and rings.requests.wanted()

    def wants_query(self, release: str) -> bool:
        """Decide if the search that this release makes is to be kept."""
        rings = self._of_release.get(release)
        return rings is not None and rings.queries.wanted()

    def keep_request(
        self,
        release: str,
        *,
        user_key: int,
        user_columns: Mapping[str, Column],
        values: Mapping[str, Sequence[Any]],
        events: Events | None,
        item_keys: Int64Array,
        item_columns: Mapping[str, Column],
        degraded: bool,
    ) -> None:
        """Copy a request: what was read for it may be part of something larger."""
        rings = self._of_release.get(release)
        if rings is None:
            return
        rings.requests.put(
            RecordedRequest(
                user_key=user_key,
                user_columns={name: column.copy() for name, column in user_columns.items()},
                values=dict(values),
                events=None if events is None else events.copy(),
                item_keys=item_keys[:MOST_CANDIDATES].copy(),
                item_columns={name: column[:MOST_CANDIDATES].copy() for name, column in item_columns.items()},
                degraded=degraded,
            )
        )

    def keep_query(
        self,
        release: str,
        *,
        user_key: int,
        taken: Int64Array,
        top_k: int,
        events: Events | None = None,
        user: Mapping[str, Column] | None = None,
        filter: Filter | None = None,
    ) -> None:
        """Copy a search."""
        rings = self._of_release.get(release)
        if rings is not None:
            rings.queries.put(
                RecordedQuery(
                    user_key=user_key,
                    taken=taken.copy(),
                    top_k=top_k,
                    events=None if events is None else events.copy(),
                    user=None if user is None else {name: column.copy() for name, column in user.items()},
                    filter=filter,
                )
            )

    def recorded(self, route: str, count: int | None = None) -> Recorded:
        """Gather at most ``count`` of each kind that asked for a model's name; None: all."""
        rings = self._of_route.get(route)
        return Recorded() if rings is None else Recorded(rings.requests.latest(count), rings.queries.latest(count))
