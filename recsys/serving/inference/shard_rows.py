"""ShardRows: the rows of one shard of an index, the items of a range of keys.

Shards are cut where the bundle's items are as many in each. An item that is not in the bundle is in the shard whose
range its key falls in, so that each item is in one shard, whatever came after training.

Legend: ``M`` items of the bundle, ``A`` added items.
"""

from __future__ import annotations

import numpy as np

from recsys.arrays import Int64Array, UInt8Array
from recsys.serving.inference.candidate_index import AddedItems, Allowed
from recsys.serving.settings.items_shard import ItemsShard


class ShardRows:
    """Narrows what a search may find to one shard. Safe to use from several threads.

    Args:
        shard: which one.
        keys_M: of the bundle's items, ascending.
    """

    def __init__(self, shard: ItemsShard, keys_M: Int64Array) -> None:
        self.shard = shard
        self._items = len(keys_M)
        self._begin, self._end = (self._items * part // shard.of for part in (shard.number - 1, shard.number))
        # Ends of the range of keys; none before the first shard's, or behind the last one's.
        self._from = int(keys_M[self._begin]) if shard.number > 1 and self._begin < self._items else 0
        self._below = int(keys_M[self._end]) if shard.number < shard.of and self._end < self._items else None
        self._last: tuple[AddedItems | None, UInt8Array | None] = (None, None)

    def narrow(self, allowed: Allowed | None, added: AddedItems | None) -> Allowed:
        """The rows of the shard among those that are allowed.

        Args:
            allowed: rows of M + A items; None: all.
            added: the added items.
        """
        if allowed is not None and allowed.rows_L is not None:
            rows_L = allowed.rows_L
            parts = [rows_L[slice(*np.searchsorted(rows_L, ends))] for ends in self._ranges(added)]
            return Allowed(rows_L=np.concatenate(parts))
        mask = self._mask(added)
        return Allowed(mask=mask if allowed is None or allowed.mask is None else mask & allowed.mask)

    def _ranges(self, added: AddedItems | None) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows of the bundle's items of the shard, and of the added ones: the first, and that behind the last."""
        first = self._items + 1
        keys = np.empty(0, dtype=np.int64) if added is None else added.keys
        begin = int(np.searchsorted(keys, self._from))
        end = len(keys) if self._below is None else int(np.searchsorted(keys, self._below))
        return (self._begin + 1, self._end + 1), (first + begin, first + max(begin, end))

    def _mask(self, added: AddedItems | None) -> UInt8Array:
        last, mask = self._last
        if mask is None or last is not added:
            rows = np.zeros(self._items + (0 if added is None else len(added)) + 1, dtype=np.bool_)
            for begin, end in self._ranges(added):
                rows[begin:end] = True
            # At least as many bytes as ``Allowed`` says.
            mask = np.packbits(rows, bitorder="little")
            self._last = added, mask  # one assignment: safe among threads
        return mask
