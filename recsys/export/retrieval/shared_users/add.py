"""Tables of which users have which items: those that an export wants, added to a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recsys.arrays import Int64Array
from recsys.bundle import TableInfo
from recsys.data.interactions.pairs import Interactions, Pairs, ids_of, joined
from recsys.errors import InvalidInputError
from recsys.export.retrieval.shared_users.audience import audience_tables
from recsys.export.retrieval.shared_users.neighbours import (
    MOST_ITEMS,
    certify_neighbours,
    left_out_users,
    neighbour_lists,
)
from recsys.files import write_array

MOST_NEIGHBOURS = 1_000
"""Longest list of an item."""


@dataclass(frozen=True, kw_only=True)
class SharedUsers:
    """Tables that a bundle is to have.

    Attributes:
        neighbours: entries of each item's list of those that share most users; 0: no lists.
        audience: the users of each item.

    Raises:
        InvalidInputError: ``neighbours`` is out of range.
    """

    neighbours: int = 0
    audience: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.neighbours <= MOST_NEIGHBOURS:
            raise InvalidInputError(f"neighbours is {self.neighbours:,}; allowed: 0 to {MOST_NEIGHBOURS:,}")


def add_shared_users(
    folder: Path, tables: Mapping[str, TableInfo], interactions: Interactions, wanted: SharedUsers
) -> tuple[dict[str, TableInfo], dict[str, str]]:
    """Write the tables that are wanted, of the training and validation pairs.

    Args:
        folder: of the bundle.
        tables: of the bundle, with ``item_id.keys``: lists have no other items. Any item with a pair has a list.
        interactions: the data.
        wanted: which.

    Returns:
        The same with the new ones, and a sentence on each by its name.

    Raises:
        BundleError: a list is not what all pairs say.
    """
    ids, pairs = ids_of(interactions), joined(interactions.train, interactions.validation)
    made: dict[str, npt.NDArray[np.generic]] = {}
    notes = {}
    if wanted.neighbours:
        keys_R: Int64Array = tables["item_id.keys"].read(folder)
        made |= _neighbour_tables(pairs, interactions.num_users, ids.item_keys_M, keys_R, wanted.neighbours)
        ignored = int(np.count_nonzero(left_out_users(pairs.user_E, interactions.num_users)))
        notes["neighbours"] = (
            f"by shared users: up to {wanted.neighbours:,} items for each of {len(made['neighbours.keys']):,}"
            + (f"; {ignored:,} users with more than {MOST_ITEMS:,} items do not count" if ignored else "")
        )
    if wanted.audience:
        made |= audience_tables(pairs.user_E, pairs.item_E, user_keys_N=ids.user_keys_N, item_keys_M=ids.item_keys_M)
        notes["audience"] = f"users of items: {len(pairs):,} pairs of {len(made['audience.user_keys']):,} users"
    added = dict(tables)
    for name, array in made.items():
        added[name] = TableInfo(file=f"tables/{name}.bin", dtype=str(array.dtype), shape=tuple(array.shape))
        write_array(folder / added[name].file, array)
    for name, note in notes.items():
        size = sum(info.size_bytes for table, info in added.items() if table.startswith(f"{name}."))
        notes[name] = f"{note}; {size / 1e6:,.1f} MB"
    return added, notes


def _neighbour_tables(
    pairs: Pairs, users: int, item_keys_M: Int64Array, keys_R: Int64Array, most: int
) -> dict[str, npt.NDArray[np.generic]]:
    """``keys``: of items with a user, ascending, int64, [P]; ``begins``, int64, [P + 1]; ``rows``: of ``item_id``,
    int32, [Z]; ``scores``: float32, [Z]."""
    keys, item_E = np.unique(item_keys_M[pairs.item_E], return_inverse=True)
    row_P = np.minimum(np.searchsorted(keys_R, keys), len(keys_R) - 1)
    listed_P = np.asarray(keys_R[row_P] == keys)
    lists = neighbour_lists(pairs.user_E, item_E, users=users, items=len(keys), listed_M=listed_P, most=most)
    certify_neighbours(lists, pairs.user_E, item_E, users=users, listed_M=listed_P, most=most)
    return {
        "neighbours.keys": keys,
        "neighbours.begins": lists.begins,
        "neighbours.rows": row_P[lists.items].astype(np.int32),
        "neighbours.scores": lists.scores,
    }
