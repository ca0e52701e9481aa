"""The ids seen most, as a file: what a server reads ahead before its first request."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys.arrays import Int64Array
from recsys.errors import InvalidInputError
from recsys.features.hashing import KEY_LIMIT

HOT_IDS = "hot_ids.npz"
"""Its name in a bundle."""


@dataclass(frozen=True, kw_only=True)
class HotIds:
    """Keys of users and of items, int64, the hottest first."""

    users: Int64Array
    items: Int64Array


def write_hot_ids(file: Path, hot: HotIds) -> None:
    """Save hot ids; :func:`read_hot_ids` reads them."""
    with file.open("wb") as stream:
        np.savez(stream, users=hot.users, items=hot.items)


def read_hot_ids(file: Path) -> HotIds:
    """Hot ids of a file: an ``.npz`` with int64 arrays ``users`` and ``items``, keys.

    Raises:
        InvalidInputError: the file is missing or not such a file.
    """
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            # A member that is no array comes as its bytes.
            hot = HotIds(users=np.asarray(arrays["users"]), items=np.asarray(arrays["items"]))
    except Exception as error:  # a damaged archive raises a dozen kinds, of zipfile, zlib and numpy
        raise InvalidInputError(
            f"hot ids {file}: {error}; expected: an .npz with int64 arrays 'users' and 'items'"
        ) from error
    for name, keys in (("users", hot.users), ("items", hot.items)):
        if keys.dtype != np.int64 or keys.ndim != 1 or (len(keys) and (keys.min() < 0 or keys.max() >= KEY_LIMIT)):
            raise InvalidInputError(
                f"hot ids {file}: {name!r} is {keys.dtype} of shape {list(keys.shape)}; allowed: int64, [N], "
                "keys from 0 to 2^62 - 1"
            )
    return hot
