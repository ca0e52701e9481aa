"""Histories are point-in-time correct, batches are what a naive loop would build, ids are mapped once."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.arrays import Int64Array
from recsys.data.log.event_table import EventTable, open_event_table, write_event_table
from recsys.data.samples.dataset import Dataset, make_batch, make_dataset
from recsys.data.samples.ids import id_counts, map_ids, rows_of_codes
from recsys.data.samples.stored import Impressions, Samples, open_samples, write_samples
from recsys.errors import DataFileError, InvalidInputError
from recsys.features.feature_set import Categorical, FeatureSet, History
from recsys.features.hashing import MISSING

PLAIN = FeatureSet(
    name="plain",
    user_id=Categorical(name="user"),
    item_id=Categorical(name="item_id"),
    history=History(attributes=(Categorical(name="action", storage="u8"),), recent=4),
)


def every_event(table: EventTable, **splits: list[int]) -> Samples:
    label = (np.arange(len(table)) % 2).astype(np.uint8)
    chosen = {name: np.array(indices, dtype=np.int64) for name, indices in splits.items()}
    return Samples(position=np.arange(len(table)), label=label, splits=chosen)


@pytest.fixture
def dataset(shop_table: EventTable) -> Dataset:
    return make_dataset(shop_table, every_event(shop_table, train=[0, 1, 2], test=[4]))


@st.composite
def logs(draw: st.DrawFn) -> list[tuple[int, int, int, int]]:
    """(user, item, time, delay) with many ties in time; delays all 0 in about half of the logs."""
    delay = draw(st.sampled_from([st.just(0), st.integers(0, 6)]))
    event = st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 8), delay)
    return draw(st.lists(event, min_size=1, max_size=40))


def dataset_of(log: list[tuple[int, int, int, int]], *, max_age_s: int = 0) -> Dataset:
    """Every event is a sample; times and delays are in seconds."""
    assert PLAIN.history is not None
    features = replace(PLAIN, history=replace(PLAIN.history, max_age_s=max_age_s))
    user, item, time, delay = (list(column) for column in zip(*log, strict=True))
    events = {
        "user": user,
        "item_id": item,
        "timestamp_ms": [1000 * t for t in time],
        "arrival_ms": [1000 * (t + d) for t, d in zip(time, delay, strict=True)],
        "action": list(range(len(log))),  # tells events apart
    }
    with tempfile.TemporaryDirectory() as folder:
        write_event_table(features, {"user": [0, 1, 2, 3]}, {"item_id": list(range(10))}, events, Path(folder) / "t")
        table = open_event_table(Path(folder) / "t")
        return make_dataset(table, every_event(table))


def naive_history(log: list[tuple[int, int, int, int]], user: int, now: int, *, max_age_s: int = 0) -> list[int]:
    """Numbers of the events that a model sees of a user at a moment, by the definition."""
    seen = [
        n
        for n, (u, _, time, delay) in enumerate(log)
        if u == user and time < now and time + delay <= now and (not max_age_s or time >= now - max_age_s)
    ]
    seen.sort(key=lambda n: (log[n][2], log[n][2] + log[n][3], log[n][1], n))  # timestamp, arrival, then the bytes
    return seen[-4:]


@settings(max_examples=150, deadline=None)
@given(logs(), st.sampled_from([0, 1, 3]), st.randoms(use_true_random=False))
def test_batch_histories_equal_a_naive_reference(
    log: list[tuple[int, int, int, int]], max_age_s: int, random: Any
) -> None:
    dataset = dataset_of(log, max_age_s=max_age_s)
    chosen = np.array(random.choices(range(len(log)), k=random.randrange(12)), dtype=np.int64)
    batch = make_batch(dataset, chosen)
    assert batch.size == len(chosen)
    assert len(batch.history_offsets) == len(chosen) + 1
    for b, sample in enumerate(chosen):
        event = int(dataset.history["history.action"][sample])
        events = slice(batch.history_offsets[b], batch.history_offsets[b + 1])
        expected = naive_history(log, log[event][0], log[event][2], max_age_s=max_age_s)
        assert batch.history["history.action"][events].tolist() == expected
        assert batch.history["history.item_id"][events].tolist() == [log[n][1] for n in expected]
        assert (batch.user["user"][b], batch.item["item_id"][b]) == log[event][:2]
        assert event not in expected


@settings(max_examples=50, deadline=None)
@given(logs(), st.sampled_from([0, 3]), st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 20)), max_size=8))
def test_an_impression_sees_what_a_server_would_have_seen(
    log: list[tuple[int, int, int, int]], max_age_s: int, moments: list[tuple[int, int]]
) -> None:
    table = dataset_of(log, max_age_s=max_age_s).table
    count = len(moments)
    shown = Impressions(
        user=np.array([u for u, _ in moments], dtype=np.int32),
        item=np.zeros(count, dtype=np.int32),
        time_ms=np.array([1000 * t for _, t in moments], dtype=np.int64),
        context={},
    )
    samples = Samples(position=np.full(count, -1), label=np.ones(count, dtype=np.uint8), splits={}, impressions=shown)
    batch = make_batch(make_dataset(table, samples), np.arange(count))
    for m, (user, now) in enumerate(moments):
        got = batch.history["history.action"][batch.history_offsets[m] : batch.history_offsets[m + 1]]
        assert got.tolist() == naive_history(log, user, now, max_age_s=max_age_s)


def test_impressions_bring_their_own_context_and_survive_the_disk(shop_table: EventTable, tmp_path: Path) -> None:
    shown = Impressions(
        user=np.array([0, 2], dtype=np.int32),
        item=np.array([1, 1], dtype=np.int32),
        time_ms=np.array([3000, 4001]),
        context={"hour": np.array([22, 23])},
    )
    samples = Samples(
        position=np.full(2, -1),
        label=np.array([0, 1], dtype=np.uint8),
        splits={"test": np.arange(2)},
        impressions=shown,
    )
    write_samples(samples, tmp_path / "samples")
    dataset = make_dataset(shop_table, open_samples(tmp_path / "samples"))
    batch = make_batch(dataset, np.array([1, 0]))
    assert batch.user["hour"].tolist() == [23, 22] and batch.user["user"].tolist() == [30, 10]
    assert batch.item["item_id"].tolist() == [6, 6] and batch.labels.tolist() == [1.0, 0.0]
    assert np.diff(batch.history_offsets).tolist() == [2, 2]
    ids, counts = id_counts(dataset, np.array([1]))["hour"]
    assert (ids.tolist(), counts.tolist()) == ([23], [1])
    with pytest.raises(InvalidInputError, match="users: 0 to 3; allowed: 0 to 2"):
        make_dataset(shop_table, replace(samples, impressions=replace(shown, user=np.array([0, 3], dtype=np.int32))))
    with pytest.raises(InvalidInputError, match="impressions: 1 values of 'time_ms' for 2 labels"):
        make_dataset(shop_table, replace(samples, impressions=replace(shown, time_ms=np.array([1]))))


def test_no_sample_sees_itself_its_ties_or_the_future() -> None:
    dataset = dataset_of([(0, 1, 5, 0), (0, 2, 5, 0), (0, 3, 6, 0), (0, 4, 7, 0)])
    batch = make_batch(dataset, np.arange(4))
    assert batch.history_offsets.tolist() == [0, 0, 0, 2, 5]
    assert batch.history["history.item_id"].tolist() == [1, 2, 1, 2, 3]


def test_an_event_that_arrived_too_late_is_not_seen_until_it_arrived() -> None:
    dataset = dataset_of([(0, 1, 1, 4), (0, 2, 4, 0), (0, 3, 5, 0)])
    batch = make_batch(dataset, np.array([1, 2]))
    assert batch.history_offsets.tolist() == [0, 0, 2]
    assert batch.history["history.item_id"].tolist() == [1, 2]


def test_late_events_do_not_use_up_the_room_of_recent_ones() -> None:
    log = [(0, item, item, 100 if item % 2 else 0) for item in range(10)]
    batch = make_batch(dataset_of(log), np.array([9]))
    assert batch.history["history.item_id"].tolist() == [2, 4, 6, 8]


def test_batches_hold_every_declared_column(dataset: Dataset) -> None:
    batch = make_batch(dataset, np.array([4, 0, 2]))
    assert {name: column.tolist() for name, column in batch.item.items()} == {
        "item_id": [7, 7, 6],
        "brand": [3, 3, MISSING],
        "tags": [[2, -1], [2, -1], [-1, -1]],
    }
    assert set(batch.user) == {"user", "city", "age", "hour"}
    assert batch.user["user"].tolist() == [30, 10, 10]
    assert batch.user["hour"].tolist() == [11, 10, 9]
    assert batch.user["age"].dtype == np.float32
    assert batch.labels.tolist() == [0.0, 0.0, 0.0]
    assert batch.labels.dtype == np.float32
    assert set(batch.history) == {"history.item_id", "history.brand", "history.action"}
    assert batch.history_offsets.tolist() == [0, 0, 0, 2]
    assert batch.history["history.brand"].tolist() == [3, 1]


def test_a_missing_attribute_is_missing_in_the_history(shop: Any, tmp_path: Path) -> None:
    events = {**shop.events, "action": [None] * 5}
    write_event_table(shop.features, shop.users, shop.items, events, tmp_path / "t")
    table = open_event_table(tmp_path / "t")
    assert make_dataset(table, every_event(table)).history["history.action"].tolist() == [MISSING] * 5


def test_an_empty_batch_has_empty_columns(dataset: Dataset) -> None:
    batch = make_batch(dataset, np.zeros(0, dtype=np.int64))
    assert batch.size == 0
    assert batch.history_offsets.tolist() == [0]


SHOP_TABLES = ("user", "city", "item_id", "brand", "tag", "hour", "action")


def counting_lookups(dataset: Dataset, calls: dict[str, int]) -> dict[str, Any]:
    """Rows = (key % 100, key % 7), for every table."""

    def lookup_of(table: str) -> Any:
        def lookup(keys: Int64Array) -> Int64Array:
            assert MISSING not in keys
            calls[table] = calls.get(table, 0) + 1
            return np.stack([keys % 100, keys % 7], axis=1)

        return lookup

    return {table: lookup_of(table) for table in dataset.table.features.tables()}


def test_a_mapped_batch_is_the_looked_up_batch_and_looks_nothing_up(dataset: Dataset) -> None:
    calls: dict[str, int] = {}
    mapped = map_ids(dataset, counting_lookups(dataset, calls))
    assert calls == dict.fromkeys(SHOP_TABLES, 1)
    keys, codes = make_batch(dataset, np.arange(5)), make_batch(mapped, np.arange(5))
    assert calls == dict.fromkeys(SHOP_TABLES, 1)
    tables = {f.name: f.table for f in dataset.table.features.categoricals()}
    for side in ("user", "item", "history"):
        for name, column in getattr(keys, side).items():
            got = getattr(codes, side)[name]
            if name == "age":
                np.testing.assert_array_equal(got, column)
                continue
            assert got.dtype == np.int32
            np.testing.assert_array_equal(got == MISSING, column == MISSING)
            rows = rows_of_codes(mapped)[tables[name.removeprefix("history.")]][got[got != MISSING]]
            np.testing.assert_array_equal(rows[..., 0], column[column != MISSING] % 100)
            np.testing.assert_array_equal(rows[..., 1], column[column != MISSING] % 7)
    np.testing.assert_array_equal(keys.history_offsets, codes.history_offsets)


@pytest.mark.parametrize(
    ("lookup", "message"),
    [
        (lambda keys: keys, r"lookup of table 'item_id': .* shape \[3, lookups\], got shape \[3\] of int64"),
        (lambda keys: keys[:1, None], r"lookup of table 'item_id': .* shape \[3, lookups\], got shape \[1, 1\] of int"),
        (lambda keys: keys[:, None] * 0.5, r"lookup of table 'item_id': expected integers of .* of float64"),
        (lambda keys: keys[:, None] * 0 - 2, r"lookup of table 'item_id': row -2; allowed: 0 or more"),
    ],
)
def test_a_lookup_that_returns_no_rows_is_refused(dataset: Dataset, lookup: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        map_ids(dataset, {**counting_lookups(dataset, {}), "item_id": lookup})


def test_a_table_without_lookup_is_named(dataset: Dataset) -> None:
    lookups = counting_lookups(dataset, {})
    del lookups["tag"]
    with pytest.raises(InvalidInputError, match="no lookup for embedding table 'tag'; given: action, brand"):
        map_ids(dataset, lookups)


def test_codes_are_not_mapped_again(dataset: Dataset) -> None:
    mapped = map_ids(dataset, counting_lookups(dataset, {}))
    with pytest.raises(InvalidInputError, match="the dataset holds codes already; map the one that holds keys"):
        map_ids(mapped, {})


def test_only_a_mapped_dataset_has_rows_of_codes(dataset: Dataset) -> None:
    with pytest.raises(InvalidInputError, match="the dataset holds keys; map_ids makes them codes"):
        rows_of_codes(dataset)


def test_splits_are_named(dataset: Dataset) -> None:
    assert dataset.split("train").tolist() == [0, 1, 2]
    with pytest.raises(InvalidInputError, match=r"unknown split 'tset': did you mean 'test'\? valid: test, train"):
        dataset.split("tset")


def test_samples_survive_the_disk(shop_table: EventTable, tmp_path: Path) -> None:
    samples = every_event(shop_table, train=[0, 2], validation=[])
    write_samples(samples, tmp_path / "samples")
    read = open_samples(tmp_path / "samples")
    np.testing.assert_array_equal(read.position, samples.position)
    np.testing.assert_array_equal(read.label, samples.label)
    assert {name: split.tolist() for name, split in read.splits.items()} == {"train": [0, 2], "validation": []}


def test_samples_with_a_missing_column_are_refused(shop_table: EventTable, tmp_path: Path) -> None:
    write_samples(every_event(shop_table, train=[0]), tmp_path / "samples")
    (tmp_path / "samples" / "split.train.npy").unlink()
    with pytest.raises(DataFileError, match=r"split\.train\.npy: column is missing"):
        open_samples(tmp_path / "samples")
    meta = tmp_path / "samples" / "meta.json"
    meta.write_text(meta.read_text().replace('"split.train":', '"other":'))
    (tmp_path / "samples" / "other.npy").write_bytes((tmp_path / "samples" / "position.npy").read_bytes())
    np.save(tmp_path / "samples" / "other.npy", np.zeros(1, dtype=np.int64))
    with pytest.raises(DataFileError, match=r"column 'split\.train' is missing from meta\.json"):
        open_samples(tmp_path / "samples")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position": np.array([0, 9])}, r"positions: 0 to 9; allowed: 0 to 4"),
        ({"position": np.array([-1, 0])}, r"positions: -1 to 0; allowed: 0 to 4"),
        ({"label": np.array([0, 2], dtype=np.uint8)}, r"labels: found 2; allowed: 0 and 1"),
        ({"label": np.array([0.5, 1.0])}, r"labels: found 0.5; allowed: 0 and 1"),
        ({"label": np.array([np.nan, 1.0])}, r"labels: found nan; allowed: 0 and 1"),
        ({"label": np.zeros(1, dtype=np.uint8)}, r"2 positions for 1 labels"),
        ({"splits": {"train": np.array([2])}}, r"split 'train': 2 to 2; allowed: 0 to 1"),
    ],
)
def test_samples_that_do_not_fit_the_table_are_refused(
    shop_table: EventTable, change: dict[str, Any], message: str
) -> None:
    good = Samples(position=np.array([0, 1]), label=np.zeros(2, dtype=np.uint8), splits={})
    with pytest.raises(InvalidInputError, match=message):
        make_dataset(shop_table, replace(good, **change))
