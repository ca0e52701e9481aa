"""Requests for a profile: of a store's own users, or of made ones in a Redis that is there for it alone.

Made histories are drawn at random; what a feature of an item says follows from the item, so that its events and the
item agree. Ids are those that the bundle's training saw most, where it names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import numpy as np

from recsys.arrays import Int64Array
from recsys.bundle import Bundle
from recsys.client.messages.ranker import rank_request
from recsys.client.types import RankQuery
from recsys.errors import InvalidInputError
from recsys.feature_store.blocking import BlockingFeatureStore
from recsys.feature_store.loop_thread import loop_in_thread
from recsys.features.columns import Column
from recsys.features.feature_set import ITEM, USER, Categorical, Feature, FeatureSet
from recsys.features.history.records import Events, missing_events
from recsys.features.hot_ids import HOT_IDS, read_hot_ids
from recsys.serving.process.stores import Stores, open_stores
from recsys.serving.settings import Settings

_USERS, _ITEMS = 64, 20_000
_MADE_EVENTS = 400_000
"""In all: longer histories, fewer users."""

_BATCH = 10_000
_START_MS, _STEP_MS = 1_500_000_000_000, 1_000
_TIMEOUT_S = 60.0
_VALUES = {"i64": 1_000, "i32": 1_000, "u8": 5}


@dataclass(frozen=True, kw_only=True)
class Load:
    """Whom to ask about, and what: keys of users and items, int64."""

    users: Int64Array
    items: Int64Array


@contextmanager
def opened_stores(url: str, features: FeatureSet, settings: Settings) -> Iterator[Stores]:
    """Open a store as a server has it."""
    with loop_in_thread("store") as loop, open_stores(url, features, settings, loop=loop) as stores:
        yield stores


def made_load(bundle: Bundle, store: BlockingFeatureStore, *, history: int, candidates: int) -> Load:
    """Fill an empty store with users of ``history`` events each, and items.

    Raises:
        InvalidInputError: more events than a history may have.
    """
    declared = bundle.features.history
    if declared is None and history:
        raise InvalidInputError(f"history is {history}; the model reads none: give 0")
    if declared is not None and not 0 <= history <= declared.max_events:
        raise InvalidInputError(f"history is {history:,}; allowed: 0 to {declared.max_events:,} events (max_events)")
    count = min(_USERS, max(2, _MADE_EVENTS // max(1, history)))
    load = _hot(bundle, users=count, items=max(_ITEMS, candidates))
    random = np.random.Generator(np.random.PCG64(0))
    for user in load.users.tolist() if history else ():
        events = made_events(bundle.features, random.choice(load.items, size=history))
        for start in range(0, history, _BATCH):
            store.append_many([(user, events[start : start + _BATCH])], timeout_s=_TIMEOUT_S)
    for entity, keys, features in ((ITEM, load.items, bundle.features.item), (USER, load.users, bundle.features.user)):
        columns = {feature.name: made_column(feature, keys) for feature in features}
        if columns:
            store.put_entities(entity, keys, columns, timeout_s=_TIMEOUT_S)
    return load


def stored_load(bundle: Bundle, store: BlockingFeatureStore, *, candidates: int) -> Load:
    """Users that a store has, and the items that the bundle names or these users had to do with.

    Raises:
        InvalidInputError: the store has no users of this FeatureSet.
        StoreError: it cannot be read.
    """
    users = list(islice(chain.from_iterable(store.users()), _USERS))
    if not users:
        raise InvalidInputError(
            f"the store has no histories of {bundle.features.name!r}: fill it (recsys ingest, recsys materialize), or "
            "leave out --redis-url for made ones"
        )
    load = _hot(bundle, users=_USERS, items=max(_ITEMS, candidates))
    items = load.items
    if not (bundle.path / HOT_IDS).exists():
        histories = store.histories(users, limit=candidates, timeout_s=_TIMEOUT_S)
        items = np.unique(np.concatenate([events["item"] for _, events in histories]))
    return Load(users=np.array(users, dtype=np.int64), items=items)


def _hot(bundle: Bundle, *, users: int, items: int) -> Load:
    """The ids that training saw most, and numbers from 0 where there are too few."""
    wanted = {"users": users, "items": items}
    file = bundle.path / HOT_IDS
    if not file.exists():
        return Load(**{name: np.arange(count) for name, count in wanted.items()})
    hot = read_hot_ids(file)
    found = {}
    for name, count in wanted.items():
        keys: Int64Array = getattr(hot, name)[:count]
        more = np.setdiff1d(np.arange(count), keys)[: count - len(keys)]
        found[name] = np.concatenate([keys, more])
    return Load(**found)


def made_events(features: FeatureSet, items: Int64Array) -> Events:
    """Past events of these items, a second apart, oldest first."""
    events = missing_events(features, len(items))
    events["item"] = items
    events["timestamp"] = events["arrival"] = _START_MS + _STEP_MS * np.arange(len(items))
    for attribute in features.history.attributes if features.history else ():
        events[attribute.name] = items % _VALUES[attribute.storage]
    return events


def made_column(feature: Feature, keys: Int64Array) -> Column:
    """Values of a feature that follow from the entity's key."""
    if not isinstance(feature, Categorical):
        return ((keys % 7) / 7.0).astype(np.float32)
    values = keys % _VALUES[feature.storage]
    return values if feature.max_values == 1 else values[:, None] + np.arange(feature.max_values)


def encoded_requests(load: Load, *, count: int, candidates: int) -> tuple[list[bytes], Callable[[bytes], Any]]:
    """Rank calls as a caller sends them, and what makes messages of them again.

    Users in turn, candidates drawn without repetition.

    Raises:
        InvalidInputError: fewer items than candidates.
    """
    if candidates > len(load.items):
        raise InvalidInputError(f"candidates is {candidates:,}; allowed: up to the {len(load.items):,} items there are")
    random = np.random.Generator(np.random.PCG64(1))
    drawn = (random.choice(load.items, size=candidates, replace=False) for _ in range(count))
    users = np.resize(load.users, count).tolist()
    messages = [rank_request(RankQuery(user=user, candidates=items)) for user, items in zip(users, drawn, strict=True)]
    return [message.SerializeToString() for message in messages], type(messages[0]).FromString


def with_integer_ids(features: FeatureSet) -> FeatureSet:
    """The features as a caller with integer ids sees them: a key of a string cannot be sent as that string.

    Converting strings takes longer than converting integers; the profile's ``convert`` is then too short.
    """
    ids = {name: replace(getattr(features, name), id_type="int") for name in ("user_id", "item_id")}
    return replace(features, **ids)
