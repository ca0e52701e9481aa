"""Searches of a profile: whose they are, and what of the user they get.

A bundle that knows users by id has their ids. One that knows them by history gets histories of a store, or made ones,
whose items are drawn as often as they are popular.

Legend: ``M`` items.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np

from recsys.arrays import Int64Array
from recsys.bundle import Bundle
from recsys.errors import BundleError, InvalidInputError
from recsys.features.hashing import MISSING
from recsys.features.history.records import Events
from recsys.profile.requests import made_events, opened_stores
from recsys.serving.settings import Settings

DEFAULT_HISTORY = 50
_TIMEOUT_S = 60.0
_NOTHING = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """One user of whom lists are made.

    Attributes:
        user_key: of the user's id.
        events: by which the user is known; None: by the id.
        seen: items that are left out; int64, [N].
    """

    user_key: int
    events: Events | None = None
    seen: Int64Array


def asked_users(
    bundle: Bundle, path: Path, *, by_history: bool, users: int, history: int | None, redis_url: str | None
) -> tuple[list[Asked], str]:
    """Choose up to ``users`` users, and say who they are.

    Args:
        bundle: of retrieval.
        path: its folder.
        by_history: it knows users by their history.
        users: how many, 1 or more.
        history: events of each made user; None: 50, or as many as a history may have.
        redis_url: a store whose users are asked for; None: there is none.

    Raises:
        InvalidInputError: a history or a store that is not read, more events than a history may have, or the store
            has no users.
        BundleError: it has no users.
        StoreError: the store cannot be read.
    """
    if by_history and redis_url is not None:
        if history is not None:
            raise InvalidInputError("history is of made users; with a Redis of your own, its users have theirs")
        return _stored(bundle, path, redis_url, users), "users of the store"
    if by_history:
        return _made(bundle, path, users, history)
    for name, given in (("history", history), ("redis_url", redis_url)):
        if given is not None:
            raise InvalidInputError(
                f"{name} is {given}; this bundle knows users by their ids, which it has: leave it out"
            )
    keys = _user_keys(bundle, path)
    if not len(keys):
        raise BundleError(f"{path}: has no users to ask about")
    chosen = np.random.Generator(np.random.PCG64(0)).permutation(keys)[:users]
    return [Asked(user_key=key, seen=_NOTHING) for key in chosen.tolist()], "users of the bundle"


def _user_keys(bundle: Bundle, path: Path) -> Int64Array:
    entries = bundle.manifest.tables["user_id.ids"].read(path)
    keys, rows = np.split(entries, 2, axis=1)
    return np.asarray(np.sort(keys[rows > 0]), dtype=np.int64)  # row 0 is of no user


def _made(bundle: Bundle, path: Path, users: int, history: int | None) -> tuple[list[Asked], str]:
    declared = bundle.features.history
    most = 0 if declared is None else declared.max_events
    length = min(DEFAULT_HISTORY, most) if history is None else history
    if not 1 <= length <= most:
        raise InvalidInputError(f"history is {length:,}; allowed: 1 to {most:,} events (max_events)")
    tables = bundle.manifest.tables
    keys_M = tables["item_id.keys"].read(path)[1:]
    popularity_M = np.maximum(tables["item_id.popularity"].read(path)[1:, 0].astype(np.float64), 0) + 1e-9
    random = np.random.Generator(np.random.PCG64(0))
    drawn = random.choice(keys_M, size=(users, length), p=popularity_M / popularity_M.sum())
    asked = [
        Asked(user_key=MISSING, events=made_events(bundle.features, items), seen=np.unique(items)) for items in drawn
    ]
    return asked, f"made users of {length:,} events each, drawn by popularity"


def _stored(bundle: Bundle, path: Path, redis_url: str, users: int) -> list[Asked]:
    settings = Settings(bundle=path, store_timeout_ms=1_000)
    with opened_stores(redis_url, bundle.features, settings) as stores:
        store = stores.blocking_store
        keys = list(islice(chain.from_iterable(store.users()), users))
        declared = bundle.features.history
        limit = 1 if declared is None else min(declared.max_events, 1_000)
        found = store.histories(keys, limit=limit, timeout_s=_TIMEOUT_S) if keys else []
    asked = [
        Asked(user_key=int(key), events=events, seen=np.unique(events["item"]))
        for key, (_, events) in zip(keys, found, strict=True)
        if len(events)
    ]
    if not asked:
        raise InvalidInputError(
            f"the store has no histories of {bundle.features.name!r}: fill it (recsys ingest, recsys materialize), or "
            "leave out --redis-url for made ones"
        )
    return asked
