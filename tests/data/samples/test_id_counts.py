"""Ids are counted as often as the batches of a naive loop look them up."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.tiny_run import NAMESAKES, odd_dataset, tiny_dataset

from recsys.arrays import Int64Array
from recsys.data.samples.dataset import Dataset, make_batch
from recsys.data.samples.ids import id_counts, map_ids
from recsys.embeddings.tables import input_tables
from recsys.features.hashing import MISSING


def naive_counts(dataset: Dataset, indices: Int64Array) -> dict[str, Counter[int]]:
    features = dataset.table.features
    tables = input_tables(features)
    counts: dict[str, Counter[int]] = {table: Counter() for table in features.tables()}
    for index in indices:
        batch = make_batch(dataset, np.array([index]))
        named = {**batch.user, **{f"item.{n}": c for n, c in batch.item.items()}, **batch.history}
        for name, column in named.items():
            if name in tables:
                counts[tables[name]].update(v for v in column.reshape(-1).tolist() if v != MISSING)
    return counts


def as_counters(found: dict[str, tuple[Int64Array, Int64Array]]) -> dict[str, Counter[int]]:
    return {t: Counter(dict(zip(ids.tolist(), counts.tolist(), strict=True))) for t, (ids, counts) in found.items()}


@pytest.fixture(params=["one genre table for three features", "features of the same name"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    return tiny_dataset() if "genre" in request.param else odd_dataset(NAMESAKES, tmp_path)


@pytest.mark.parametrize("indices", [range(40, 140), [7], [198, 3, 3, 150], []])
def test_counts_equal_those_of_a_naive_loop(dataset: Dataset, indices: list[int]) -> None:
    chosen = np.array(indices, dtype=np.int64)
    found = id_counts(dataset, chosen)
    assert as_counters(found) == naive_counts(dataset, chosen)
    for ids, _ in found.values():
        assert (np.diff(ids) > 0).all()


def test_codes_of_a_mapped_dataset_are_counted_too(dataset: Dataset) -> None:
    mapped = map_ids(dataset, {table: lambda keys: keys[:, None] % 3 for table in dataset.table.features.tables()})
    chosen = np.arange(30, 90)
    assert as_counters(id_counts(mapped, chosen)) == naive_counts(mapped, chosen)


def test_events_that_arrived_too_late_count(tmp_path: Path) -> None:
    dataset = odd_dataset(NAMESAKES, tmp_path)
    late = replace(
        dataset, has_late_events=True, table=replace(dataset.table, arrival_ms=dataset.table.arrival_ms + 50)
    )
    chosen = np.arange(len(dataset))
    assert as_counters(id_counts(late, chosen)) == naive_counts(dataset, chosen)
    assert naive_counts(late, chosen) != naive_counts(dataset, chosen)
