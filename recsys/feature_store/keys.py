"""Key names and the record of which layout a store was filled with (``docs/specs/redis_format.md``)."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from recsys.errors import StoreFormatError
from recsys.features.entities import entity_dtype, row_header
from recsys.features.feature_set import FeatureSet
from recsys.features.history import event_dtype, layout_fingerprint

PREFIX = "recsys:v1"
"""A store with another key layout would use another prefix, so the two can live side by side."""


def history_key(name: str, user: int) -> bytes:
    """A user's history. The braces are a Redis Cluster hash tag: all keys of a user share a slot.

    >>> history_key("movielens_1m", 1193)
    b'recsys:v1:{movielens_1m:u:1193}:h'
    """
    return f"{PREFIX}:{{{name}:u:{user}}}:h".encode()


def user_row_key(name: str, user: int) -> bytes:
    """A user's features.

    >>> user_row_key("movielens_1m", 1193)
    b'recsys:v1:{movielens_1m:u:1193}:f'
    """
    return f"{PREFIX}:{{{name}:u:{user}}}:f".encode()


def item_row_key(name: str, item: int) -> bytes:
    """An item's features.

    >>> item_row_key("movielens_1m", 2858)
    b'recsys:v1:movielens_1m:i:2858'
    """
    return f"{PREFIX}:{name}:i:{item}".encode()


def meta_key(name: str) -> bytes:
    """The Redis hash that records which layouts a store was filled with.

    >>> meta_key("movielens_1m")
    b'recsys:v1:movielens_1m:meta'
    """
    return f"{PREFIX}:{name}:meta".encode()


def layouts(features: FeatureSet) -> dict[str, str]:
    """Part of the store (history, user, item) -> canonical JSON of how its bytes are laid out.

    Two programs can share a part exactly when the texts are equal. Parts are separate because
    adding a user feature must not orphan the histories already stored.
    """
    parts: dict[str, str] = {}
    if features.history is not None:
        parts["history"] = _layout(layout_fingerprint(features), event_dtype(features))
    for part, declared in (("user", features.user), ("item", features.item)):
        if declared:
            parts[part] = _layout(row_header(declared)[4:], entity_dtype(declared))
    return parts


def check_layout(name: str, part: str, stored: str, declared: str) -> None:
    """Raise StoreFormatError, with both layouts, if a part of FeatureSet ``name`` was filled with another one."""
    if stored != declared:
        raise StoreFormatError(
            f"{meta_key(name).decode()}: the {part} part of this store was filled with layout {stored}, but "
            f"FeatureSet {name!r} of this program declares {declared}. Give the FeatureSet another name, or "
            f"delete the keys that start with {PREFIX}:{name}: and {PREFIX}:{{{name}: and load the data again"
        )


def _layout(fingerprint: bytes, dtype: np.dtype[np.void]) -> str:
    fields: list[Any] = [list(field) for field in dtype.descr if field[0] != "_header"]
    return json.dumps({"fingerprint": fingerprint.hex(), "fields": fields}, separators=(",", ":"))
