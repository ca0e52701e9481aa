"""Tables of keys: every key has one place, in the order of its coming."""

from __future__ import annotations

import numpy as np

from recsys.serving.item_columns.key_table import KeyTable, index_size


def table(capacity: int) -> KeyTable:
    return KeyTable(
        np.zeros(capacity, np.int64), np.zeros(index_size(capacity), np.int32), np.zeros(1, dtype=np.uint64)
    )


def test_a_key_keeps_its_place_however_many_come() -> None:
    keys = np.random.default_rng(0).choice(1 << 62, 5_000, replace=False).astype(np.int64)
    made, places = table(5_000), {}
    for start in range(0, 5_000, 700):
        part = keys[start : start + 700]
        places.update(zip(part.tolist(), made.add(part).tolist(), strict=True))
    assert sorted(places.values()) == list(range(5_000)) and len(made) == 5_000
    assert made.find(keys).tolist() == [places[key] for key in keys.tolist()]
    assert made.add(keys).tolist() == [places[key] for key in keys.tolist()]
    assert (made.keys_C[made.find(keys)] == keys).all()
    assert (made.find(np.arange(100)) == -1).all()


def test_keys_that_find_no_room_have_no_place() -> None:
    made = table(8)
    assert made.add(np.arange(10, 22)).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, -1, -1, -1, -1]
    assert made.find(np.array([17, 18])).tolist() == [7, -1]


def test_a_table_that_is_loaded_has_the_order_it_was_given() -> None:
    made = table(8)
    made.load(np.array([9, 3, 7]))
    assert made.find(np.array([3, 7, 9, 1])).tolist() == [1, 2, 0, -1]
