"""Serving sees what training saw: for random logs through a real Redis, and for requests that a server logged."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.data.log.event_table import open_event_table, user_events, write_event_table
from recsys.data.samples.dataset import Dataset, make_dataset
from recsys.data.samples.stored import Samples
from recsys.errors import DataFileError
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.features.encode import encode_request
from recsys.features.entities import make_columns
from recsys.features.feature_set import Categorical, FeatureSet, History, Numeric
from recsys.features.history.records import Events, make_events
from recsys.features.history.rules import visible
from recsys.parity.deliveries import Deliveries, table_deliveries
from recsys.parity.replay import replay_parity
from recsys.parity.requests import request_parity
from recsys.serving.handlers.request_log import RequestLog

GENRE = Categorical(name="genre")
SHOP = FeatureSet(
    name="shop",
    user_id=Categorical(name="user_id"),
    item_id=Categorical(name="item_id"),
    user=(Categorical(name="city", id_type="string"),),
    item=(GENRE, Numeric(name="price")),
    history=History(
        attributes=(GENRE, Categorical(name="action", storage="u8")), max_events=20, recent=5, max_age_s=40
    ),
)
T0_MS = 1_700_000_000_000
USERS = {"user_id": [1, 2], "city": ["Oslo", None]}
ITEMS = {"item_id": [10, 11, 12], "genre": [1, None, 3], "price": [1.0, 2.0, None]}
_names = itertools.count()

Row = tuple[int, int, int, int, int]
"""(user, second, item, action, seconds until it arrived)"""


def dataset_of(features: FeatureSet, rows: Sequence[Row], path: Path) -> Dataset:
    """Every event is a sample."""
    write_event_table(features, USERS, ITEMS, raw(rows), path)
    table = open_event_table(path)
    every = np.arange(len(table))
    samples = Samples(position=every, label=np.zeros(len(table), dtype=np.uint8), splits={"train": every})
    return make_dataset(table, samples)


def raw(rows: Sequence[Row]) -> dict[str, Any]:
    user, second, item, action, late = (list(c) for c in zip(*rows, strict=True)) if rows else ([],) * 5
    times = T0_MS + 1000 * np.array(second, dtype=np.int64)
    arrivals = times + 1000 * np.array(late, dtype=np.int64)
    return {"user_id": user, "item_id": item, "timestamp_ms": times, "arrival_ms": arrivals, "action": action}


def deliveries_of(features: FeatureSet, rows: Sequence[Row]) -> Deliveries:
    """As a backend sends them: with the genre that the store has of the item."""
    columns = raw(rows)
    genres = dict(zip(ITEMS["item_id"], ITEMS["genre"], strict=True))
    events = make_events(
        features,
        item=columns["item_id"],
        timestamp_ms=columns["timestamp_ms"],
        arrival_ms=columns["arrival_ms"],
        attributes={"genre": [genres[i] for i in columns["item_id"]], "action": columns["action"]},
    )
    return Deliveries(user_key=np.array(columns["user_id"], dtype=np.int64), events=events)


@pytest.fixture
async def shop_store(redis_url: str) -> AsyncIterator[RedisFeatureStore]:
    store = RedisFeatureStore.connect(redis_url, SHOP)
    yield store
    await store.close()


_rows = st.lists(
    st.tuples(
        st.sampled_from([1, 2]),
        st.integers(0, 120) | st.integers(0, 12).map(lambda tens: 10 * tens),  # often max_age_s apart
        st.sampled_from([10, 11, 12]),
        st.sampled_from([1, 2]),
        st.sampled_from([0, 0, 0, 1, 5, 30, 200]),
    ),
    min_size=1,
    max_size=90,
)


_ANY_LOG = given(
    rows=_rows, repeated=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 100)), max_size=20), seed=st.integers()
)


@_ANY_LOG
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
async def test_any_log_gives_serving_what_training_saw(
    redis_url: str, tmp_path: Path, rows: list[Row], repeated: list[tuple[int, int]], seed: int
) -> None:
    """Late, repeated, out-of-order and expired events, more of them than a history keeps."""
    await assert_served_as_trained(redis_url, tmp_path, rows, repeated, seed)


@pytest.mark.prove
@_ANY_LOG
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
async def test_any_of_many_logs_gives_serving_what_training_saw(
    redis_url: str, tmp_path: Path, rows: list[Row], repeated: list[tuple[int, int]], seed: int
) -> None:
    await assert_served_as_trained(redis_url, tmp_path, rows, repeated, seed)


async def assert_served_as_trained(
    redis_url: str, tmp_path: Path, rows: list[Row], repeated: list[tuple[int, int]], seed: int
) -> None:
    features = replace(SHOP, name=f"shop{next(_names)}")
    again = [(*rows[i % len(rows)][:4], rows[i % len(rows)][4] + later) for i, later in repeated if rows]
    log = [*rows, *again]
    np.random.default_rng(abs(seed)).shuffle(log)
    path = tmp_path / features.name
    dataset = dataset_of(features, log, path)
    store = RedisFeatureStore.connect(redis_url, features)
    report = await replay_parity(store, dataset, deliveries_of(features, log), np.arange(len(dataset)))
    await store.close()
    shutil.rmtree(path)
    assert not report.different, "\n".join(map(str, report.differences))
    assert report.samples == len(dataset)


LOG: list[Row] = [(1, s, 10 + s % 3, 1, 0) for s in range(30)] + [(2, 50, 11, 2, 0)]


async def test_a_difference_names_the_user_the_moment_the_feature_and_both_values(
    shop_store: RedisFeatureStore, tmp_path: Path
) -> None:
    dataset = dataset_of(SHOP, LOG, tmp_path / "shop")
    wrong = [(u, s, 10 if (u, s) == (1, 20) else i, a, late) for u, s, i, a, late in LOG]
    report = await replay_parity(shop_store, dataset, deliveries_of(SHOP, wrong), np.arange(len(dataset)))
    assert not report.equal and report.different == 5 and report.features == {"history.item_id": 5}
    assert str(report.differences[0]) == (
        f"user 1 at {T0_MS + 21_000}: history.item_id is [11, 12, 10, 11, 10] online, [11, 12, 10, 11, 12] offline"
    )


async def test_only_the_asked_for_samples_are_compared(shop_store: RedisFeatureStore, tmp_path: Path) -> None:
    dataset = dataset_of(SHOP, LOG, tmp_path / "shop")
    done: list[int] = []
    report = await replay_parity(
        shop_store,
        dataset,
        table_deliveries(dataset.table, np.array([0, 1])),
        np.array([3, 29, 30]),
        progress=done.append,
    )
    assert report.equal and report.samples == 3 and done[-1] == 3


def log_requests(folder: Path, dataset: Dataset, features: FeatureSet, times_s: Sequence[int], spoil: bool) -> None:
    """As a server does, which read the table's events."""
    log = RequestLog(folder, share=1.0)
    for second in times_s:
        time_ms = T0_MS + 1000 * second
        events: Events = visible(features, user_events(dataset.table, 0), time_ms)
        items = np.array([10, 12, 99])
        columns = make_columns(features.item, {"genre": [1, 3, None], "price": [1.0, None, None]}, length=3)
        encoded = encode_request(
            features,
            user_key=1,
            user_columns=make_columns(features.user, {"city": ["Oslo"]}, length=1),
            request_values={"city": ["Rome"]} if second % 2 else {},
            events=events[:-1] if spoil else events,
            item_keys=items,
            item_columns=columns,
        )
        assert log.wanted()
        log.offer(
            encoded,
            features=features,
            history_events=encoded.history_events,
            time_ms=time_ms,
            sent=["city"] if second % 2 else [],
            degraded=second == 0,
            model="m",
            model_version="1",
            scores=np.zeros(3, dtype=np.float32),
        )
    log.close()
    assert log.dropped == 0


def test_logged_requests_are_compared_with_the_table(tmp_path: Path) -> None:
    dataset = dataset_of(SHOP, LOG, tmp_path / "shop")
    log_requests(tmp_path / "good", dataset, SHOP, range(0, 60, 3), spoil=False)
    report = request_parity(dataset.table, list((tmp_path / "good").glob("*.parquet")))
    assert report.equal and (report.samples, report.skipped) == (19, 1)
    log_requests(tmp_path / "bad", dataset, SHOP, [3], spoil=True)
    report = request_parity(dataset.table, list((tmp_path / "bad").glob("*.parquet")))
    assert report.features == {"history.item_id": 1}


def test_what_is_no_request_log_of_these_features_is_refused_by_name(tmp_path: Path) -> None:
    dataset = dataset_of(SHOP, LOG, tmp_path / "shop")
    (tmp_path / "x.parquet").write_text("hello")
    with pytest.raises(DataFileError, match="x.parquet: not a Parquet file"):
        request_parity(dataset.table, [tmp_path / "x.parquet"])
    other = replace(SHOP, item=(*SHOP.item, Numeric(name="width")))
    log_requests(tmp_path / "other", dataset, other, [3], spoil=False)
    with pytest.raises(DataFileError, match="the table was made with"):
        request_parity(dataset.table, list((tmp_path / "other").glob("*.parquet")))
