"""Rows that grow at their end: what a snapshot has stays, and what a change costs is one row."""

from __future__ import annotations

import numpy as np

from recsys.serving.added_items.item_buffer import ItemBuffer
from recsys.serving.inference.candidate_index import AddedItems


def row_of(value: float) -> np.ndarray:
    return np.array([value, -value], dtype=np.float32)


def put(items: ItemBuffer, key: int, value: float, *, time_ms: int = 0, name: str = "") -> str:
    return items.put(key, row_of(value), time_ms=time_ms, name=name)


def content(items: AddedItems | None) -> dict[int, tuple[float, str]]:
    if items is None:
        return {}
    assert items.names is not None
    return {
        key: (float(items.rows[place, 0]), items.names[place])
        for key, place in zip(items.keys.tolist(), items.row_places.tolist(), strict=True)
    }


def test_every_snapshot_stays_as_it_was_whatever_is_put_and_taken_later() -> None:
    items, random, now = ItemBuffer(), np.random.default_rng(0), dict[int, tuple[float, str]]()
    taken = []
    for _ in range(3000):
        key, value = int(random.integers(200)), float(random.integers(5))
        if random.random() < 0.4:
            assert items.pop(key) == (now.pop(key, None) is not None)
        else:
            before, now[key] = now.get(key), (value, f"{key}: {value}")
            outcome = "added" if before is None else "same" if before == now[key] else "changed"
            assert put(items, key, value, name=now[key][1]) == outcome
        taken.append((items.snapshot(named=True), dict(now)))
    for snapshot, then in taken:
        assert content(snapshot) == then
        assert snapshot is None or (np.diff(snapshot.keys) > 0).all()


def test_a_new_item_moves_no_row() -> None:
    items = ItemBuffer()
    for key in range(100):
        put(items, key, key)
    before = items.snapshot(named=False)
    put(items, 1000, 7.0)
    put(items, 5, 8.0)
    after = items.snapshot(named=False)
    assert before is not None and after is not None and np.shares_memory(before.rows, after.rows)
    assert before.names is None and len(after.rows) == len(before.rows) + 2


def test_rows_of_no_item_are_few_however_often_items_change() -> None:
    items = ItemBuffer()
    for turn in range(50):
        for key in range(200):
            put(items, key, turn)
        snapshot = items.snapshot(named=False)
        assert snapshot is not None and len(snapshot.rows) <= 200 + 200 // 4 + 64
    for key in range(199):
        items.pop(key)
    snapshot = items.snapshot(named=False)
    assert snapshot is not None and len(snapshot) == 1 and len(snapshot.rows) <= 1 + 64


def test_rows_of_a_snapshot_cannot_be_written() -> None:
    items = ItemBuffer()
    put(items, 1, 1.0)
    snapshot = items.snapshot(named=False)
    assert snapshot is not None and not snapshot.rows.flags.writeable
    assert put(items, 2, 2.0) == "added"


def test_the_first_to_go_were_written_first_and_of_one_moment_have_the_largest_keys() -> None:
    items = ItemBuffer()
    for key, time_ms in ((1, 5), (2, 3), (3, 9), (4, 3)):
        put(items, key, 1.0, time_ms=time_ms)
    assert items.goes_first() == (3, 4)
    assert items.beyond(2).tolist() == [2, 4] and items.beyond(4).tolist() == []
    put(items, 4, 1.0, time_ms=10)  # the same row, written anew
    assert items.beyond(2).tolist() == [1, 2]
    assert ItemBuffer().goes_first() is None
