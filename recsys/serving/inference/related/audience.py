"""AudienceIndex: the users who have most of some items, by the users of each item that a bundle has.

Shapes use ``N`` seeds, ``K`` users found, ``U`` users, ``E`` pairs of the seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.arrays import BoolArray, Int32Array, Int64Array
from recsys.bundle import Bundle
from recsys.errors import BundleError, ModelError
from recsys.serving.inference.related.tables import check_begins, map_tables, places_of
from recsys.serving.inference.table_guard import TableGuard

_TABLES = {"keys": "int64", "begins": "int64", "users": "int32", "user_keys": "int64", "user_items": "int32"}

_SPARSE = 16
"""Users for each pair of the seeds from which the pairs are sorted, in place of counting for each user."""


@dataclass(frozen=True, slots=True)
class Audience:
    """Users of some items.

    Attributes:
        users: keys, [K].
        shared: how many of the seeds each has, [K].
        of: how many items each has, [K].
        total: users in all, those that were not asked for among them.
        known: which seeds a user has, [N].
    """

    users: Int64Array
    shared: Int64Array
    of: Int64Array
    total: int
    known: BoolArray


class AudienceIndex:
    """Counts, exactly. Safe to use from several threads.

    Args:
        guard: of the tables.
        keys: of items with a user, ascending.
        begins: where each one's users begin, and where the last one's end.
        users: places in ``user_keys``.
        user_keys: ascending, [U].
        user_items: items of each, [U].
    """

    def __init__(
        self,
        guard: TableGuard,
        *,
        keys: Int64Array,
        begins: Int64Array,
        users: Int32Array,
        user_keys: Int64Array,
        user_items: Int32Array,
    ) -> None:
        self._guard = guard
        self._keys, self._begins, self._users = keys, begins, users
        self._user_keys, self._user_items = user_keys, user_items

    def find(self, seeds: Int64Array, k: int, *, at_least: int = 1) -> Audience:
        """Find the k users with most of the seeds; of equal ones those with fewer items in all, then by key.

        Args:
            seeds: keys, distinct, [N], N >= 1.
            k: users to find, 1 or more.
            at_least: seeds that a user must have, 1 or more.

        Raises:
            ModelError: the bundle's tables were changed; names the release.
        """
        count_U = len(self._user_keys)
        with self._guard.reading():
            place_N, known_N = places_of(self._keys, seeds)
            lists = [self._users[slice(*self._begins[place : place + 2])] for place in place_N[known_N].tolist()]
            users_E = np.concatenate([np.empty(0, dtype=np.int32), *lists])
            if len(users_E) and not (users_E.min() >= 0 and users_E.max() < count_U):
                raise ModelError(f"{self._guard.label} has an audience of users whom it has not: go back to another")
            if len(users_E) * _SPARSE < count_U:
                users, shared = np.unique(users_E, return_counts=True)
                users, shared = users[shared >= at_least], shared[shared >= at_least]
            else:
                shared = np.bincount(users_E, minlength=count_U)
                users = np.flatnonzero(shared >= at_least)
                shared = shared[users]
            total = len(users)
            users, shared = _largest(users, shared, k)  # the least shared count among the best, and all above it
            of = self._user_items[users].astype(np.int64)
            best = _best((shared.astype(np.int64) << 32) - of, k)
            users = users[best]
            found = Audience(self._user_keys[users], shared[best].astype(np.int64), of[best], total, known_N)
        return found


def _largest(users: Int64Array, shared: Int64Array, k: int) -> tuple[Int64Array, Int64Array]:
    """The users who share as much as the k-th, or more."""
    if len(users) <= k:
        return users, shared
    at_least = np.cumsum(np.bincount(shared)[::-1])[::-1]  # users who share so many or more
    kept = shared >= np.flatnonzero(at_least >= k)[-1]
    return users[kept], shared[kept]


def _best(values: Int64Array, k: int) -> Int64Array:
    """Places of the k largest, largest first, equal ones in their order.

    >>> _best(np.array([3, 9, 3, 3]), 3).tolist()
    [1, 0, 2]
    """
    places = np.arange(len(values))
    if len(values) > k:
        kth = np.partition(values, len(values) - k)[len(values) - k]
        above = np.flatnonzero(values > kth)
        places = np.sort(np.concatenate([above, np.flatnonzero(values == kth)[: k - len(above)]]))
    ordered: Int64Array = places[np.argsort(-values[places], kind="stable")]
    return ordered


def open_audience(bundle: Bundle, guard: TableGuard) -> AudienceIndex | None:
    """Map the users of a bundle's items; None if it was exported without them.

    Raises:
        BundleError: they are not as ``docs/specs/bundle.md`` says.
    """
    tables = map_tables(bundle, "audience", _TABLES)
    if tables is None:
        return None
    check_begins(bundle, "audience", tables["keys"], tables["begins"], len(tables["users"]))
    if len(tables["user_keys"]) != len(tables["user_items"]):
        raise BundleError(f"{bundle.path}: tables 'audience.user_keys' and 'audience.user_items' differ in length")
    return AudienceIndex(guard, **tables)
