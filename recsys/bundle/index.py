"""The fingerprint of an index: of the items' keys and vectors, which users' vectors must be made for.

Vectors of two trainings do not mix: their axes have nothing in common, and users of the one beside items of the other
find what chance finds. So a bundle states the index that its users' vectors, or the graph that computes them from a
history, were trained against, and is refused where the items' tables are those of another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from recsys.arrays import Float32Array, Int64Array
from recsys.bundle.manifest import Manifest
from recsys.errors import BundleError
from recsys.features.hashing import MISSING

KEYS, ROWS = "tables/item_id.keys.bin", "tables/item_id.rows.bin"
"""Files of a retrieval bundle that are its index."""

CODES = "tables/item_id.codes.bin"
"""File of the codes that a search reads before ``ROWS``, where there are any."""


def index_fingerprint(item_keys: Int64Array, items_MD: Float32Array) -> str:
    """The fingerprint of items in ascending order of keys and their vectors: 16 hex digits.

    It is that of the files that a bundle has of them: row 0 stands for items that are not there.
    """
    keys = np.concatenate([np.full(1, MISSING), item_keys]).astype("<i8")
    rows = hashlib.sha256(bytes(4 * items_MD.shape[1]))
    rows.update(np.ascontiguousarray(items_MD, dtype="<f4").data)
    return _digest(hashlib.sha256(keys.tobytes()).hexdigest(), rows.hexdigest())


def fingerprint_of_files(files: Mapping[str, tuple[int, str]]) -> str:
    """The fingerprint of the index among a bundle's files, by their SHA-256; empty where there is none."""
    if KEYS not in files or ROWS not in files:
        return ""
    return _digest(files[KEYS][1], files[ROWS][1])


def check_index(path: Path, manifest: Manifest) -> None:
    """Refuse a bundle whose users' vectors were trained against another index than the one it has.

    Args:
        path: of the bundle, for the message.
        manifest: with the list of all files.

    Raises:
        BundleError: it is such a bundle.
    """
    found = fingerprint_of_files(manifest.files)
    if manifest.index_fingerprint and found != manifest.index_fingerprint:
        raise BundleError(
            f"{path}: its users' vectors were trained against index {manifest.index_fingerprint}, its items are index "
            f"{found or 'none'}: vectors of two trainings do not mix. Export the run again, or train users against "
            "these items (`recsys train --freeze-items`)"
        )


def _digest(keys_sha256: str, rows_sha256: str) -> str:
    return hashlib.sha256(f"{keys_sha256} {rows_sha256}".encode()).hexdigest()[:16]
