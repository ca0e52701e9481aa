"""A log replayed through a store, and compared with the offline samples at each one's moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping

import numpy as np

from recsys.arrays import Int64Array
from recsys.data.samples.dataset import Dataset, make_batch
from recsys.errors import InvalidInputError
from recsys.feature_store.base import FeatureStore
from recsys.features.columns import Column
from recsys.features.encode import EncodedBatch, encode_request
from recsys.features.feature_set import ITEM, USER, FeatureSet
from recsys.features.history.records import Events
from recsys.ingest.materialize import put_entities
from recsys.parity.deliveries import Deliveries
from recsys.parity.report import ParityReport, Progress

_TIMEOUT_S = 30.0
_CONCURRENT_READS = 16
_BATCH = 1_000


async def replay_parity(
    store: FeatureStore,
    dataset: Dataset,
    deliveries: Deliveries,
    sample_indices: Int64Array,
    *,
    progress: Progress | None = None,
) -> ParityReport:
    """Replay events through a store and compare at each sample's moment.

    Context features are not compared: they come with a request, and are encoded by the same function.

    Args:
        store: empty, and made for the dataset's FeatureSet. Gets the dataset's users and items first.
        dataset: the offline side, with keys (not mapped to rows).
        deliveries: events of all the samples' users; delivered by arrival, those that arrive together in the given
            order.
        sample_indices: which samples to compare; [M].
        progress: called now and then.

    Raises:
        StoreError: as the store.
    """
    started_s = time.monotonic()
    table = dataset.table
    report = ParityReport(declared=table.features, names=table.names)
    for entity, keys, columns in ((USER, table.user_keys, table.users), (ITEM, table.item_keys, table.items)):
        stored = {f.name: np.asarray(columns[f.name]) for f in table.features.entity(entity).features}
        await put_entities(store, entity, np.asarray(keys), stored)
    waves = _Waves(dataset, deliveries, np.asarray(sample_indices))
    for appends, samples in waves:
        if appends:
            await store.append_many(appends, timeout_s=_TIMEOUT_S)
        for start in range(0, len(samples), _BATCH):
            chunk = samples[start : start + _BATCH]
            await _compare(store, dataset, chunk, report)
            if progress is not None:
                progress(report.samples)
    report.elapsed_s = time.monotonic() - started_s
    return report


class _Waves:
    """Cuts a replay into waves: appends of many users, then samples to compare, at most one of each user.

    All users go through their histories side by side, so that a wave is few round trips.
    """

    def __init__(self, dataset: Dataset, deliveries: Deliveries, sample_indices: Int64Array) -> None:
        order = np.lexsort((deliveries.events["arrival"], deliveries.user_key))  # stable
        self._events = deliveries.events[order]
        users = deliveries.user_key[order]
        time_ms = dataset.sample_time_ms[sample_indices]
        keys = dataset.table.user_keys[dataset.sample_user[sample_indices]]
        in_time = np.lexsort((time_ms, keys))
        self._samples, self._keys = sample_indices[in_time], keys[in_time]
        # Of each sample's user, how many events have arrived by its moment.
        begin, end = np.searchsorted(users, self._keys), np.searchsorted(users, self._keys, side="right")
        arrival = self._events["arrival"]
        self._arrived = np.array(
            [
                b + np.searchsorted(arrival[b:e], t, side="right")
                for b, e, t in zip(begin, end, time_ms[in_time], strict=True)
            ],
            dtype=np.int64,
        )
        first = np.ones(len(self._keys), dtype=np.bool_)
        first[1:] = self._keys[1:] != self._keys[:-1]
        starts = np.flatnonzero(first)
        self._number = np.arange(len(self._keys)) - np.repeat(starts, np.diff([*starts, len(self._keys)]))
        self._before = np.where(first, begin, np.concatenate([[0], self._arrived[:-1]]))

    def __iter__(self) -> Iterator[tuple[list[tuple[int, Events]], Int64Array]]:
        for wave in np.split(np.argsort(self._number, kind="stable"), np.cumsum(np.bincount(self._number))[:-1]):
            appends = [
                (int(self._keys[i]), self._events[self._before[i] : self._arrived[i]])
                for i in wave.tolist()
                if self._before[i] < self._arrived[i]
            ]
            yield appends, self._samples[wave]


async def _compare(store: FeatureStore, dataset: Dataset, samples: Int64Array, report: ParityReport) -> None:
    """Read what Rank requests would read, and compare it with the samples."""
    features = dataset.table.features
    batch = make_batch(dataset, samples)
    user_keys = batch.user[features.user_id.name]
    item_keys = batch.item[features.item_id.name]
    times_ms = dataset.sample_time_ms[samples]
    room = asyncio.Semaphore(_CONCURRENT_READS)

    async def online(b: int) -> dict[str, Column]:
        async with room:
            inputs = await store.read_for_rank(
                int(user_keys[b]), item_keys[b : b + 1], time_ms=int(times_ms[b]), timeout_s=_TIMEOUT_S
            )
        if inputs.user_degraded or inputs.items_degraded:
            raise InvalidInputError("the store could not be read; its log says why")
        encoded = encode_request(
            features,
            user_key=int(user_keys[b]),
            user_columns=inputs.user_columns,
            request_values={},
            events=inputs.events,
            item_keys=item_keys[b : b + 1],
            item_columns=inputs.item_columns,
        )
        return _named(features, encoded.user, encoded.candidates, events=encoded.history_events)

    found = await asyncio.gather(*(online(b) for b in range(len(samples))))
    for b, ours in enumerate(found):
        report.add(int(user_keys[b]), int(times_ms[b]), ours, _sample(features, batch, b))


def _named(
    features: FeatureSet, user: Mapping[str, Column], item: Mapping[str, Column], *, events: int
) -> dict[str, Column]:
    """An encoded request's inputs but its context, by side, in the order in which differences are reported."""
    # An empty history is encoded as one missing event.
    named = {name: column[:events] for name, column in user.items() if name.startswith("history.")}
    named.update({f"user.{f.name}": user[f.name] for f in (features.user_id, *features.user)})
    named.update({f"item.{name}": column for name, column in item.items()})
    return named


def _sample(features: FeatureSet, batch: EncodedBatch, b: int) -> dict[str, Column]:
    """The same of a training sample."""
    begin, end = batch.history_offsets[b : b + 2]
    named = {name: column[begin:end] for name, column in batch.history.items()}
    named.update({f"user.{f.name}": batch.user[f.name][b : b + 1] for f in (features.user_id, *features.user)})
    named.update({f"item.{name}": column[b : b + 1] for name, column in batch.item.items()})
    return named
