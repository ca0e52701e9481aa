"""Proof that serving sees what training saw: the model's inputs, from the online store and from the offline samples.

:func:`replay_parity` delivers events to a store in the order in which they arrived, asks at every sample's moment for
what a Rank request would read, encodes it as the server does, and compares with the offline sample, value by value.
:func:`request_parity` does the same for requests that a server logged.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recsys.data.events import EventTable, user_events
from recsys.data.samples import Dataset, make_batch
from recsys.errors import DataFileError, InvalidInputError
from recsys.feature_store.base import FeatureStore
from recsys.features.columns import Column
from recsys.features.encode import EncodedBatch, encode_request
from recsys.features.feature_set import ITEM, USER, FeatureSet
from recsys.features.hashing import Int64Array
from recsys.features.history import Events, encode_history, event_dtype, missing_events, require_history
from recsys.features.history_rules import inherited_attributes, visible
from recsys.ingest.files import file_source, find_event_files
from recsys.ingest.records import ARRIVAL, Fields, decode
from recsys.ingest.source import RawBatch

Progress = Callable[[int], None]
"""Called with the number of samples compared so far."""

SHOWN = 10
"""Differences that a report shows."""

_TIMEOUT_S = 30.0
_CONCURRENT_READS = 16
_BATCH = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliveries:
    """N events as they reach a store; in any order, repetitions included.

    Attributes:
        user_key: whose each event is; [N], int64.
        events: [N].
    """

    user_key: Int64Array
    events: Events


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first feature in which one sample differs.

    Attributes:
        user_key: key of the user.
        time_ms: the sample's moment.
        feature: ``history.<name>``, ``user.<name>`` or ``item.<name>``.
        online, offline: both values, as keys or numbers.
    """

    user_key: int
    time_ms: int
    feature: str
    online: Any
    offline: Any

    def __str__(self) -> str:
        """One line."""
        return (
            f"user {self.user_key} at {self.time_ms}: {self.feature} is {_short(self.online)} online, "
            f"{_short(self.offline)} offline"
        )


@dataclass(slots=True)
class ParityReport:
    """What was compared, and how it came out.

    Attributes:
        samples: samples or requests compared.
        values: values compared.
        skipped: requests that were not compared: the store was degraded, or the user is not in the table.
        unknown_items: candidates of requests that were not compared: they are not in the table.
        different: samples that differ.
        features: first differing feature -> samples.
        differences: the first ``SHOWN`` of them.
        elapsed_s: seconds it took.
    """

    samples: int = 0
    values: int = 0
    skipped: int = 0
    unknown_items: int = 0
    different: int = 0
    features: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)
    elapsed_s: float = 0.0

    @property
    def equal(self) -> bool:
        """Whether something was compared, and all of it was the same."""
        return self.samples > 0 and self.different == 0

    def add(self, user_key: int, time_ms: int, online: Mapping[str, Column], offline: Mapping[str, Column]) -> None:
        """Compare one sample; both sides have the same features."""
        self.samples += 1
        for feature, theirs in offline.items():
            ours = online[feature]
            self.values += theirs.size
            if ours.shape != theirs.shape or not np.array_equal(ours, theirs):
                self.different += 1
                self.features[feature] += 1
                if len(self.differences) < SHOWN:
                    self.differences.append(
                        Difference(
                            user_key=user_key,
                            time_ms=time_ms,
                            feature=feature,
                            online=ours.tolist(),
                            offline=theirs.tolist(),
                        )
                    )
                return


def table_deliveries(table: EventTable, users: Int64Array) -> Deliveries:
    """The events of some users (row numbers) of a table."""
    histories = [user_events(table, int(user)) for user in users]
    keys = np.repeat(table.user_keys[users], [len(h) for h in histories])
    events = np.concatenate(histories) if histories else np.empty(0, dtype=event_dtype(table.features))
    return Deliveries(user_key=keys, events=events)


def log_deliveries(table: EventTable, users: Int64Array, files: Sequence[str]) -> Deliveries:
    """The events of some users (row numbers) of a table, as raw files hold them; read as `recsys ingest` does.

    Like `recsys prepare`, and unlike `recsys ingest`, an event without an arrival arrived at its timestamp.

    Raises:
        DataFileError: a file cannot be read, or lacks a column.
    """
    return asyncio.run(_log_deliveries(table, users, files))


async def _log_deliveries(table: EventTable, users: Int64Array, files: Sequence[str]) -> Deliveries:
    features = table.features
    wanted = np.sort(table.user_keys[users])
    fields = Fields(features=features, ignore_unknown=True)
    keys, events = [np.empty(0, dtype=np.int64)], [missing_events(features, 0)]
    for file in find_event_files(files):
        source = file_source(file, fields)
        await source.start({})
        try:
            while (batch := await source.read()) is not None:
                decoded = decode(features, batch, future_tolerance_s=0)
                found = decoded.events
                if ARRIVAL not in batch.columns:
                    found["arrival"] = found["timestamp"]
                _fill_from_items(table, batch, decoded.kept, found)
                ours = (
                    wanted[np.minimum(np.searchsorted(wanted, decoded.user_keys), len(wanted) - 1)] == decoded.user_keys
                )
                keys.append(decoded.user_keys[ours])
                events.append(found[ours])
        finally:
            await source.close()
    return Deliveries(user_key=np.concatenate(keys), events=np.concatenate(events))


def _fill_from_items(table: EventTable, batch: RawBatch, kept: Int64Array, events: Events) -> None:
    """Give events the attributes that they did not send and their items have, as ingest does from the store."""
    order = np.argsort(table.item_keys)
    place = order[np.minimum(np.searchsorted(table.item_keys, events["item"], sorter=order), len(order) - 1)]
    known = table.item_keys[place] == events["item"]
    for name in inherited_attributes(table.features, sent=()):
        unsent = np.ones(len(events), dtype=np.bool_)
        if name in batch.columns:
            unsent = batch.unsent[name][kept] if name in batch.unsent else ~unsent
        fill = unsent & known
        events[name][fill] = table.items[name][place[fill]]


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
    report = ParityReport()
    await _put_entities(store, dataset.table)
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


def request_parity(table: EventTable, requests: Sequence[Path], *, progress: Progress | None = None) -> ParityReport:
    """Compare logged requests (``serve --log-requests``) with what an event table says they should have seen.

    Features that a request sent itself are not compared. Requests for users that the table lacks, and
    those that the store was degraded for, are skipped.

    Args:
        table: made of a log that reaches past the newest request.
        requests: Parquet files of the request log.
        progress: called now and then.

    Raises:
        DataFileError: a file is no request log, or of another FeatureSet's features.
    """
    started_s = time.monotonic()
    report = ParityReport()
    places = {int(key): index for index, key in enumerate(table.user_keys)}
    item_places = {int(key): index for index, key in enumerate(table.item_keys)}
    for path in requests:
        features, rows = _logged(path, table.features)
        for row in rows:
            user = places.get(row["user_key"])
            if row["degraded"] or user is None:
                report.skipped += 1
                continue
            known = [i for i, key in enumerate(row[f"item.{table.features.item_id.name}"]) if key in item_places]
            report.unknown_items += len(row["score"]) - len(known)
            items = [item_places[row[f"item.{table.features.item_id.name}"][i]] for i in known]
            offline = _offline(table, features, user, row, items)
            report.add(row["user_key"], row["time_ms"], _online(row, offline, known), offline)
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


async def _put_entities(store: FeatureStore, table: EventTable) -> None:
    for entity, keys, columns, declared in (
        (USER, table.user_keys, table.users, table.features.user),
        (ITEM, table.item_keys, table.items, table.features.item),
    ):
        stored = {f.name: np.asarray(columns[f.name]) for f in declared}
        for start in range(0, len(keys), 5_000):
            part = slice(start, start + 5_000)
            chunk = {name: column[part] for name, column in stored.items()}
            await store.put_entities(entity, np.asarray(keys[part]), chunk, timeout_s=_TIMEOUT_S)


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
    """An encoded request's inputs but its context, by side, in the order in which differences are told."""
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


def _logged(path: Path, features: FeatureSet) -> tuple[FeatureSet, Iterator[dict[str, Any]]]:
    """The requests of one file, and the FeatureSet of the model that answered them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataFileError(f"{path}: not a Parquet file: {error}") from error
    metadata = file.schema_arrow.metadata or {}
    if b"recsys.features" not in metadata:
        raise DataFileError(f"{path}: not a request log; `recsys serve --log-requests` writes one")
    logged = FeatureSet.from_json(metadata[b"recsys.features"].decode())
    same = (logged.user, logged.item) == (features.user, features.item)
    if not same or require_history(logged).attributes != require_history(features).attributes:
        raise DataFileError(
            f"{path}: logged with FeatureSet {logged.name!r} ({logged.fingerprint()}), but the table was made with "
            f"{features.name!r} ({features.fingerprint()}); `recsys features diff` says how they differ"
        )
    return logged, (row for batch in file.iter_batches(_BATCH) for row in batch.to_pylist())


def _offline(
    table: EventTable, features: FeatureSet, user: int, row: Mapping[str, Any], items: Sequence[int]
) -> dict[str, Column]:
    """What a request should have seen; ``items`` are row numbers of the candidates that the table has."""
    events = user_events(table, user)
    events = visible(features, events[events["arrival"] <= row["time_ms"]], row["time_ms"])
    events = events[-require_history(features).recent :]
    named = {name: column[: len(events)] for name, column in encode_history(features, events).items()}
    for feature in features.user:
        if feature.name not in row["sent"]:
            named[f"user.{feature.name}"] = table.users[feature.name][user].reshape(-1)
    for feature in features.item:
        named[f"item.{feature.name}"] = table.items[feature.name][items].reshape(-1)
    return named


def _online(row: Mapping[str, Any], offline: Mapping[str, Column], known: Sequence[int]) -> dict[str, Column]:
    """What it saw, of the same features and of the candidates in ``known``."""
    named = {name: np.asarray(row[name], dtype=column.dtype) for name, column in offline.items()}
    candidates = len(row["score"])
    for name in named:
        if name.startswith("item."):
            named[name] = named[name].reshape(candidates, -1)[known].reshape(-1)
    return named


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 160 else f"{text[:100]} ... {text[-50:]}"
