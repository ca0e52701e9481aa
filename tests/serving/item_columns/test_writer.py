"""Columns as they are written: values, growth, room, a writer that dies, readers meanwhile."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support.filtered_shop import SHOP
from support.full_disk import files_up_to

from recsys.errors import NoSpaceError
from recsys.feature_store.base import IS_WITHDRAWN, NOT_STORED, STORED
from recsys.features.columns import Column, missing_column
from recsys.features.feature_set import Categorical, Numeric
from recsys.serving.item_columns import columns, state
from recsys.serving.item_columns import writer as columns_writer
from recsys.serving.item_columns.columns import ItemColumns
from recsys.serving.item_columns.generation import Generation
from recsys.serving.item_columns.layout import FEWEST_CHANGES
from recsys.serving.item_columns.writer import ColumnWriter

FILTERABLE = (
    ("item", Numeric(name="price", filterable=True)),
    ("offer", Categorical(name="category", filterable=True)),
    ("offer", Categorical(name="labels", max_values=2, filterable=True)),
)
LIMIT = 1 << 24


def writer(folder: Path, limit_bytes: int = LIMIT) -> ColumnWriter:
    made = ColumnWriter(folder, FILTERABLE, limit_bytes=limit_bytes)
    if not made.ready:
        made.begin(10)
        made.publish()
    return made


def put(to: ColumnWriter, keys: list[int], *, stored: int = STORED, **values: Column) -> None:
    columns = {f.name: values.get(f.name, missing_column(f, len(keys))) for _, f in FILTERABLE}
    of = np.full(len(keys), stored, dtype=np.uint8)
    to.write(np.array(keys, dtype=np.int64), columns, {"item": of, "offer": of})


def row(folder: Path, key: int) -> tuple[float, int, list[int]]:
    """Price, category and labels of an item as a reader sees them; -1 where missing."""

    def read(generation: Generation, version: int) -> tuple[float, int, list[int]]:
        (place,) = generation.items.find(np.array([key])).tolist()
        found = []
        for name in ("category", "labels"):
            table, codes = generation.columns[name].table, generation.columns[name].array[place]
            assert table is not None
            found.append(np.where(codes == 0, -1, table.keys_C[codes - 1]).tolist())
        return float(generation.columns["price"].array[place]), found[0], found[1]

    reading = ItemColumns(folder).read(read)
    assert reading.found is not None
    return reading.found


def test_values_are_read_as_they_were_written_last(tmp_path: Path) -> None:
    to = writer(tmp_path)
    price, category = np.array([1.5, 2.5], dtype=np.float32), np.array([7, -1])
    put(to, [30, 10], price=price, category=category, labels=np.array([[5, 6], [5, -1]]))
    assert row(tmp_path, 30) == (1.5, 7, [5, 6]) and row(tmp_path, 10) == (2.5, -1, [5, -1])
    put(to, [30], category=np.array([9]))
    price_now, *others = row(tmp_path, 30)
    assert np.isnan(price_now) and others == [9, [-1, -1]]


def test_an_item_of_which_nothing_is_stored_any_more_has_no_number_not_even_the_default(tmp_path: Path) -> None:
    to = writer(tmp_path)
    default = np.zeros(2, dtype=np.float32)  # as a store gives it of a feature with a default, stored or not
    put(to, [30, 10], price=default)
    assert row(tmp_path, 30)[0] == row(tmp_path, 10)[0] == 0.0
    put(to, [30], stored=NOT_STORED, price=default[:1])
    assert np.isnan(row(tmp_path, 30)[0]) and row(tmp_path, 10)[0] == 0.0


def test_columns_grow_and_keep_what_they_have_and_old_files_go(tmp_path: Path) -> None:
    to = writer(tmp_path)
    for start in range(0, 20_000, 500):
        keys = list(range(start, start + 500))
        put(to, keys, price=np.array(keys, dtype=np.float32), category=np.array(keys) * 3)
    for key in (0, 777, 19_999):
        assert row(tmp_path, key)[:2] == (float(key), 3 * key)
    assert len(list(tmp_path.glob("columns-*"))) == 1 and to.state.left_out == 0


def test_a_reader_never_sees_half_a_write(tmp_path: Path) -> None:
    to = writer(tmp_path)
    keys = list(range(2_000))
    stop, torn = threading.Event(), []

    def read() -> None:
        columns = ItemColumns(tmp_path)
        while not stop.is_set():

            def same(generation: Generation, version: int) -> bool:
                count = len(generation.items)
                price, codes = generation.columns["price"].array[:count], generation.columns["category"].array[:count]
                table = generation.columns["category"].table
                assert table is not None
                return bool((table.keys_C[np.maximum(codes, 1) - 1] == price).all())

            reading = columns.read(same)
            if reading.whole and reading.found is False:
                torn.append(reading)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    until_s = time.monotonic() + 1.0
    value = 0
    while time.monotonic() < until_s:
        value += 1
        put(to, keys, price=np.full(2_000, value, dtype=np.float32), category=np.full(2_000, value))
    stop.set()
    for reader in readers:
        reader.join()
    assert value > 2 and torn == []


def test_items_without_rows_take_no_place_and_withdrawn_ones_are_counted(tmp_path: Path) -> None:
    to = writer(tmp_path)
    put(to, [1, 2], stored=NOT_STORED)
    columns = ItemColumns(tmp_path)
    assert columns.items == 0
    put(to, [1, 2, 3], stored=IS_WITHDRAWN)
    put(to, [1], stored=IS_WITHDRAWN)
    assert columns.withdrawn == 3
    put(to, [2], price=np.ones(1, dtype=np.float32))
    put(to, [3], stored=NOT_STORED)
    assert columns.withdrawn == 1 and columns.items == 3


def test_what_has_no_room_is_counted_and_the_log_names_the_setting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    to = writer(tmp_path, limit_bytes=160_000)
    with caplog.at_level(logging.WARNING, logger="recsys.serving"):
        put(to, list(range(5_000)), price=np.arange(5_000, dtype=np.float32))
    columns = ItemColumns(tmp_path)
    assert 1_000 < columns.items < 5_000 and columns.state.left_out == 5_000 - columns.items
    assert columns.size_bytes <= 160_000 and row(tmp_path, 5)[0] == 5.0
    assert "max_item_columns_mib (RECSYS_MAX_ITEM_COLUMNS_MIB" in caplog.text
    assert columns.read(lambda generation, version: 1).degraded
    with pytest.raises(NoSpaceError, match="RECSYS_MAX_ITEM_COLUMNS_MIB"):
        ColumnWriter(tmp_path, FILTERABLE, limit_bytes=10_000).begin(10)


def test_a_full_memory_is_an_error_at_once_and_what_there_is_stays(tmp_path: Path) -> None:
    with files_up_to(4_096), pytest.raises(NoSpaceError, match="no room for item columns of"):
        ColumnWriter(tmp_path, FILTERABLE, limit_bytes=LIMIT).begin(10)
    assert ItemColumns(tmp_path).read(lambda generation, version: 1).found is None
    to = writer(tmp_path)
    put(to, [1], price=np.ones(1, dtype=np.float32))
    assert to.generation is not None
    with files_up_to(to.generation.size_bytes):
        put(to, list(range(5_000)), price=np.arange(5_000, dtype=np.float32))
    assert row(tmp_path, 1)[0] == 1.0 and to.state.left_out > 0
    put(to, list(range(5_000)), price=np.arange(5_000, dtype=np.float32))
    assert row(tmp_path, 4_999)[0] == 4999.0 and to.state.left_out == 0


def test_a_writer_that_died_in_a_change_is_followed_by_new_columns(tmp_path: Path) -> None:
    to = writer(tmp_path)
    put(to, [1], price=np.ones(1, dtype=np.float32))
    with pytest.raises(RuntimeError), to.state.changing():
        raise RuntimeError("killed")
    assert not ItemColumns(tmp_path).read(lambda generation, version: 1).whole
    after = ColumnWriter(tmp_path, FILTERABLE, limit_bytes=LIMIT)
    assert not after.ready
    after.begin(1)
    put(after, [1], price=np.full(1, 2.0, dtype=np.float32))
    after.publish()
    assert row(tmp_path, 1)[0] == 2.0 and ItemColumns(tmp_path).read(lambda generation, version: 1).whole


def test_other_features_are_other_columns(tmp_path: Path) -> None:
    writer(tmp_path)
    assert ColumnWriter(tmp_path, FILTERABLE, limit_bytes=LIMIT).ready
    assert not ColumnWriter(tmp_path, SHOP.filterable(), limit_bytes=LIMIT).ready


def test_writes_and_looks_at_the_version_keep_their_order_by_a_fence_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = writer(tmp_path)
    put(to, [1], price=np.array([1.0], dtype=np.float32))
    reader, seen = ItemColumns(tmp_path), list[tuple[bool, float]]()

    def price() -> float:
        assert to.generation is not None
        return float(to.generation.columns["price"].array[0])

    for module in (state, columns):
        monkeypatch.setattr(module, "memory_fence", lambda: seen.append((bool(to.state.version % 2), price())))
    put(to, [1], price=np.array([2.0], dtype=np.float32))
    assert seen == [(True, 1.0), (True, 2.0)], "behind the version, before it again"
    seen.clear()
    assert reader.read(lambda generation, version: seen.append((False, 0.0))).whole
    assert seen == [(False, 2.0), (False, 0.0), (False, 2.0)]


def listed(to: ColumnWriter, folder: Path, category: int) -> list[int] | None:
    """Keys of the items whose list a category has; None: there are no lists that count."""

    def read(generation: Generation, version: int) -> list[int] | None:
        if not generation.has_lists:
            return None
        assert generation.postings is not None
        table = generation.columns["category"].table
        assert table is not None
        (places,) = generation.postings.places("category", table.find(np.array([category])) + 1) or [np.empty(0, int)]
        changed = generation.changed(generation.postings.since)
        return sorted(generation.items.keys_C[np.concatenate([places, changed])].tolist())

    if to.listing is not None:
        to.listing.join()
    return ItemColumns(folder).read(read).found


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few items are listed, too."""
    monkeypatch.setattr(columns_writer, "FEWEST_LISTED", 1)


@pytest.mark.usefixtures("few")
def test_lists_are_made_when_there_are_none_and_again_when_much_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns_writer, "_PAUSES", 0)
    to = writer(tmp_path)
    put(to, [30, 10, 20], category=np.array([7, 8, 7]))
    assert listed(to, tmp_path, 7) is None
    to.list_places()
    assert listed(to, tmp_path, 7) == [20, 30]
    put(to, [10], category=np.array([7]))
    first = to.listing
    to.list_places()
    assert to.listing is first, "one change is little"
    assert listed(to, tmp_path, 7) == [10, 20, 30]
    assert listed(to, tmp_path, 8) == [10, 10], "it is as of before, and what changed is looked at as well"
    monkeypatch.setattr(columns_writer, "_MANY_CHANGES", 0)
    to.list_places()
    assert listed(to, tmp_path, 8) == []
    assert len(list(tmp_path.glob("postings-*"))) == 1


@pytest.mark.usefixtures("few")
def test_lists_are_made_as_far_apart_as_they_take_many_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns_writer, "_PAUSES", 1e6)
    monkeypatch.setattr(columns_writer, "_MANY_CHANGES", 0)
    to = writer(tmp_path)
    put(to, [30], category=np.array([7]))
    to.list_places()
    assert listed(to, tmp_path, 7) == [30]
    put(to, [10], category=np.array([7]))
    first = to.listing
    to.list_places()
    assert to.listing is first and listed(to, tmp_path, 7) == [10, 30]


@pytest.mark.usefixtures("few")
def test_lists_count_no_more_once_more_has_changed_than_is_known_or_the_columns_are_others(tmp_path: Path) -> None:
    to = writer(tmp_path)
    put(to, [30, 10], category=np.array([7, 8]))
    to.list_places()
    assert listed(to, tmp_path, 7) == [30]
    for _ in range(FEWEST_CHANGES // 2):
        to.write(
            np.array([10, 30]), {f.name: missing_column(f, 2) for _, f in FILTERABLE}, {"item": np.ones(2, np.uint8)}
        )
    assert listed(to, tmp_path, 7) == [10, 30, 30], "as many as are known"
    put(to, [10])
    assert listed(to, tmp_path, 7) is None
    to.begin(10)
    put(to, [30, 10], category=np.array([7, 8]))
    to.publish()
    assert listed(to, tmp_path, 7) is None
    to.list_places()
    assert listed(to, tmp_path, 7) == [30]


@pytest.mark.usefixtures("few")
def test_every_reading_has_the_lists_of_its_own_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns are replaced, and listed, between a reader's look at the file that counts and its look for lists."""
    to, columns = writer(tmp_path), ItemColumns(tmp_path)
    put(to, [30, 10], category=np.array([7, 8]))
    find = columns._find_postings

    def late(generation: Generation) -> None:
        monkeypatch.setattr(columns, "_find_postings", find)
        to.begin(10)
        put(to, [10, 30, 20], category=np.array([7, 8, 7]))
        to.publish()
        to.list_places()
        assert to.listing is not None
        to.listing.join()
        find(generation)
        assert generation.postings is None, "they are of other columns"

    monkeypatch.setattr(columns, "_find_postings", late)
    reading = columns.read(lambda generation, version: generation.has_lists)
    assert reading.whole and reading.found


@pytest.mark.usefixtures("few")
def test_without_room_for_lists_there_are_none_and_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    to = writer(tmp_path)
    assert to.generation is not None
    tight = ColumnWriter(tmp_path, FILTERABLE, limit_bytes=to.generation.size_bytes)
    put(tight, [30], category=np.array([7]))
    tight.list_places()
    assert listed(tight, tmp_path, 7) is None and row(tmp_path, 30)[1] == 7
    assert "no room for lists of the items by value" in caplog.text
