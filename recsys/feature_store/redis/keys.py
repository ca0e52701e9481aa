"""Key names and the record of which layout a store was filled with (``docs/specs/redis_format.md``)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from recsys.errors import StoreFormatError
from recsys.features.entities import entity_dtype, row_header
from recsys.features.feature_set import ITEM, USER, FeatureSet
from recsys.features.history.records import event_dtype, layout_fingerprint, older_layouts

PREFIX = "recsys:v1"
"""A store with another key layout would use another prefix, so the two can live side by side."""

BUCKETS = 64
"""Entities but users are spread over so many Redis Cluster slots: a request's items need few commands, and
every node has its share of them."""

HISTORY = "history"
"""The part of a store that holds the events; the other parts have the entities' names."""


class HistoryKeys(NamedTuple):
    """The keys of one user's history: open part, sealed chunks, offsets by source."""

    open: bytes
    sealed: bytes
    offsets: bytes


def history_keys(name: str, user: int) -> HistoryKeys:
    """A user's history. The braces are a Redis Cluster hash tag: all keys of a user share a slot.

    >>> history_keys("movielens_1m", 1193).open
    b'recsys:v1:{movielens_1m:u:1193}:h'
    """
    stem = f"{PREFIX}:{{{name}:u:{user}}}:".encode()
    return HistoryKeys(stem + b"h", stem + b"c", stem + b"o")


def history_pattern(name: str) -> bytes:
    """Pattern of the open parts of all users' histories, with ``*`` for the user; no name has a special character.

    >>> history_pattern("movielens_1m")
    b'recsys:v1:{movielens_1m:u:*}:h'
    """
    return f"{PREFIX}:{{{name}:u:*}}:h".encode()


def state_key(name: str, user: int, version: str) -> bytes:
    """A user's state of that version (``Manifest.state_version``).

    >>> state_key("movielens_1m", 1193, "0123456789abcdef")
    b'recsys:v1:{movielens_1m:u:1193}:s:0123456789abcdef'
    """
    return f"{PREFIX}:{{{name}:u:{user}}}:s:{version}".encode()


def entity_key(name: str, entity: str, key: int) -> bytes:
    """An entity's features.

    >>> entity_key("movielens_1m", "user", 1193)
    b'recsys:v1:{movielens_1m:u:1193}:f'
    >>> entity_key("movielens_1m", "item", 2858)
    b'recsys:v1:{movielens_1m:item:42}:2858'
    """
    if entity == USER:
        return f"{PREFIX}:{{{name}:u:{key}}}:f".encode()
    return f"{PREFIX}:{{{name}:{entity}:{key % BUCKETS}}}:{key}".encode()


def entity_keys(name: str, entity: str, keys: Sequence[int]) -> list[str]:
    """:func:`entity_key` of many, as text: 0.1 us each, half of what one at a time takes."""
    if entity == USER:
        return [f"{PREFIX}:{{{name}:u:{key}}}:f" for key in keys]
    stems = _stems(name, entity)
    return [stems[key % BUCKETS] + str(key) for key in keys]


@lru_cache(maxsize=64)
def _stems(name: str, entity: str) -> list[str]:
    return [f"{PREFIX}:{{{name}:{entity}:{bucket}}}:" for bucket in range(BUCKETS)]


def item_pattern(name: str, entity: str = ITEM) -> bytes:
    """Pattern of the rows of all items, or of another entity, the last ``*`` for its key.

    >>> item_pattern("movielens_1m")
    b'recsys:v1:{movielens_1m:item:*}:*'
    """
    return f"{PREFIX}:{{{name}:{entity}:*}}:*".encode()


def item_changes_key(name: str) -> bytes:
    """The Redis Stream that says which items were written.

    >>> item_changes_key("movielens_1m")
    b'recsys:v1:movielens_1m:item_changes'
    """
    return f"{PREFIX}:{name}:item_changes".encode()


def names_key(name: str, bucket: int) -> bytes:
    """The Redis hash of some string ids' texts: those whose key modulo ``BUCKETS`` is ``bucket``.

    >>> names_key("movielens_1m", 42)
    b'recsys:v1:{movielens_1m:names:42}'
    """
    return f"{PREFIX}:{{{name}:names:{bucket}}}".encode()


def trending_key(name: str, half_life_s: int, shard: int, begin_s: int) -> bytes:
    """The Redis hash of the counts of some items in one part of the time.

    >>> trending_key("movielens_1m", 86_400, 7, 1_700_006_400)
    b'recsys:v1:{movielens_1m:trending:7}:86400:1700006400'
    """
    return f"{PREFIX}:{{{name}:trending:{shard}}}:{half_life_s}:{begin_s}".encode()


def meta_key(name: str) -> bytes:
    """The Redis hash that records which layouts a store was filled with.

    >>> meta_key("movielens_1m")
    b'recsys:v1:movielens_1m:meta'
    """
    return f"{PREFIX}:{name}:meta".encode()


def positions_key(name: str) -> bytes:
    """The Redis hash that records how far each source of events was read.

    >>> positions_key("movielens_1m")
    b'recsys:v1:movielens_1m:positions'
    """
    return f"{PREFIX}:{name}:positions".encode()


def nothing_key(name: str) -> bytes:
    """A key that is never written, and deleted now and then to see who takes writes.

    >>> nothing_key("movielens_1m")
    b'recsys:v1:movielens_1m:nothing'
    """
    return f"{PREFIX}:{name}:nothing".encode()


def layouts(features: FeatureSet) -> dict[str, list[str]]:
    """Part of the store (history, or an entity) -> canonical JSON of how its bytes are laid out: now, and
    before the last attributes or features were added, the newest first.

    Two programs can share a part when they declare the same, or one declares what the other did before it
    was extended. Parts are separate because adding a user feature must not orphan the histories stored.
    """
    parts: dict[str, list[str]] = {}
    if features.history is not None:
        now = _layout(layout_fingerprint(features), event_dtype(features))
        older = [_layout(layout, dtype) for layout, dtype in older_layouts(features).items()]
        parts[HISTORY] = [now, *reversed(older)]
    for entity in map(features.entity, features.entity_names()):
        declared = entity.features
        if declared:
            parts[entity.name] = [
                _layout(row_header(declared[:count])[4:], entity_dtype(declared[:count]))
                for count in range(len(declared), 0, -1)
            ]
    return parts


def check_layout(name: str, part: str, stored: str, declared: list[str]) -> None:
    """Raise StoreFormatError, with both layouts, if a part of FeatureSet ``name`` was filled with another one."""
    if stored not in declared:
        raise StoreFormatError(
            f"{meta_key(name).decode()}: the {part} part of this store was filled with layout {stored}, but "
            f"FeatureSet {name!r} of this program declares {declared[0]}, and new ones may only be added at the end. "
            f"Give the FeatureSet another name, or delete the keys that start with {PREFIX}:{name}: and "
            f"{PREFIX}:{{{name}: and load the data again"
        )


def _layout(fingerprint: bytes, dtype: np.dtype[np.void]) -> str:
    fields: list[Any] = [list(field) for field in dtype.descr if field[0] != "_header"]
    return json.dumps({"fingerprint": fingerprint.hex(), "fields": fields}, separators=(",", ":"))
