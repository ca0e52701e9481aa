"""Texts of the string ids in an answer: from the models' bundles, which are mapped, and else from the store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from recsys.feature_store.base import FeatureStore
from recsys.features.feature_set import Categorical
from recsys.features.hashing import MISSING
from recsys.features.names import Names
from recsys.serving.deadline import Deadline

KeyColumn = tuple[Categorical, npt.NDArray[np.int64]]
"""A feature and keys of it, of any shape, missing ones among them."""


async def find_texts(
    store: FeatureStore, names: Mapping[str, Names], columns: Sequence[KeyColumn], *, deadline: Deadline
) -> dict[int, str]:
    """Find the texts of an answer's string ids; ids of integers have none.

    Args:
        store: asked for those that ``names`` lacks, in one round trip.
        names: of the models' bundles, by embedding table.
        columns: all of the answer.
        deadline: the call's.

    Returns:
        Key to text, as far as it is known.

    Raises:
        StoreError: as ``FeatureStore.names``.
    """
    wanted: dict[str, list[npt.NDArray[np.int64]]] = {}
    for feature, keys in columns:
        if feature.id_type == "string" and keys.size:
            wanted.setdefault(feature.table, []).append(keys.reshape(-1))
    if not wanted:
        return {}
    # In a thread: a page that is not in memory would hold up all calls of the store.
    found, lacking = await asyncio.to_thread(_from_bundles, names, wanted)
    if lacking:
        found |= await store.names(lacking, timeout_s=deadline.remaining_s())
    return found


def _from_bundles(
    names: Mapping[str, Names], wanted: Mapping[str, Sequence[npt.NDArray[np.int64]]]
) -> tuple[dict[int, str], list[int]]:
    """Texts by key, and the keys that none was found of."""
    found: dict[int, str] = {}
    lacking: list[int] = []
    for table, parts in wanted.items():
        keys = np.unique(np.concatenate(parts))
        keys = keys[keys != MISSING]
        texts = names[table].find(keys) if table in names else [None] * len(keys)
        for key, text in zip(keys.tolist(), texts, strict=True):
            if text is None:
                lacking.append(key)
            else:
                found[key] = text
    return found, lacking
