"""Shards of an index: each row is in one of them, whatever is allowed and whatever came after training."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import ConfigError
from recsys.serving.inference.candidate_index import AddedItems, Allowed
from recsys.serving.inference.shard_rows import ShardRows
from recsys.serving.settings.items_shard import ItemsShard, parse_items_shard


def rows_of(allowed: Allowed) -> list[int]:
    if allowed.rows_L is not None:
        return allowed.rows_L.tolist()
    assert allowed.mask is not None
    return np.flatnonzero(np.unpackbits(allowed.mask, bitorder="little")).tolist()


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_the_shards_part_what_is_allowed(data: st.DataObject) -> None:
    keys = np.array(sorted(data.draw(st.sets(st.integers(0, 60), min_size=1, max_size=30))))
    added_keys = np.array(sorted(data.draw(st.sets(st.integers(0, 70), max_size=8))), dtype=np.int64)
    added = data.draw(st.sampled_from([None, AddedItems(added_keys, np.zeros((len(added_keys), 1), np.float32))]))
    every = len(keys) + (0 if added is None else len(added))
    chosen = sorted(data.draw(st.sets(st.integers(1, every))))
    mask = np.packbits(np.isin(np.arange(every + 1), chosen), bitorder="little")
    for allowed, expected in (
        (None, list(range(1, every + 1))),
        (Allowed(rows_L=np.array(chosen, dtype=np.int64)), chosen),
        (Allowed(mask=mask), chosen),
    ):
        shards = data.draw(st.integers(1, 7))
        parts = [ShardRows(ItemsShard(number + 1, shards), keys).narrow(allowed, added) for number in range(shards)]
        found = [rows_of(part) for part in parts]
        assert sorted(row for part in found for row in part) == expected
        # Ranges of keys, so that the order of shards is that of the keys.
        all_keys = np.concatenate([[-1], keys, [] if added is None else added_keys])
        ends = [(all_keys[part].min(), all_keys[part].max()) for part in found if part]
        assert all(first[1] <= second[0] for first, second in zip(ends, ends[1:], strict=False))


def test_shards_have_as_many_of_the_bundles_items() -> None:
    keys = np.arange(0, 1000, 7)
    counts = [len(rows_of(ShardRows(ItemsShard(n, 4), keys).narrow(None, None))) for n in (1, 2, 3, 4)]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(
    "text", ["", "2", "0/2", "3/2", "a/b", "1/0", "-1/2", "1/2/3", "1/1001", "１/２", " 1/2", "1.0/2"]
)
def test_what_is_no_part_of_parts_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"items_shard \(RECSYS_ITEMS_SHARD\) is .*; allowed: a part and how many"):
        parse_items_shard(text)
