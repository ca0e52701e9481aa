"""The users of each item, and how many items each user has: what a search for an audience reads.

Legend: ``E`` pairs, ``P`` items with a user, ``U`` users with an item.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recsys.arrays import Int64Array


def audience_tables(
    user_E: Int64Array, item_E: Int64Array, *, user_keys_N: Int64Array, item_keys_M: Int64Array
) -> dict[str, npt.NDArray[np.generic]]:
    """Make the tables ``audience.*`` of distinct pairs: 4 bytes a pair, 12 a user, 16 an item.

    Args:
        user_E, item_E: indices into the keys.
        user_keys_N, item_keys_M: distinct, in any order.

    Returns:
        ``keys``: of items with a user, ascending, int64, [P]. ``begins``: where each one's users begin, and where the
        last one's end, int64, [P + 1]. ``users``: places in ``user_keys``, of each item ascending, int32, [E].
        ``user_keys``: of users with an item, ascending, int64, [U]. ``user_items``: how many items each has, int32,
        [U].

    >>> tables = audience_tables(np.array([0, 0, 1]), np.array([0, 1, 1]), user_keys_N=np.array([9, 4]),
    ...                          item_keys_M=np.array([7, 5]))
    >>> {name.removeprefix("audience."): table.tolist() for name, table in tables.items()}
    {'keys': [5, 7], 'begins': [0, 2, 3], 'users': [0, 1, 1], 'user_keys': [4, 9], 'user_items': [1, 2]}
    """
    user_keys, user_place_E = np.unique(user_keys_N[user_E], return_inverse=True)
    keys, item_place_E = np.unique(item_keys_M[item_E], return_inverse=True)
    order = np.lexsort((user_place_E, item_place_E))
    begins = np.concatenate([[0], np.cumsum(np.bincount(item_place_E, minlength=len(keys)))])
    return {
        "audience.keys": keys,
        "audience.begins": begins.astype(np.int64),
        "audience.users": user_place_E[order].astype(np.int32),
        "audience.user_keys": user_keys,
        "audience.user_items": np.bincount(user_place_E, minlength=len(user_keys)).astype(np.int32),
    }
