"""Logged requests, compared with what an event table says they should have seen."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recsys.data.log.event_table import EventTable, user_events
from recsys.errors import DataFileError
from recsys.features.columns import Column
from recsys.features.feature_set import FeatureSet
from recsys.features.history.records import encode_history, require_history
from recsys.features.history.rules import visible
from recsys.parity.report import ParityReport, Progress
from recsys.rows.request_log import open_request_log

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH = 1_000


def request_parity(
    table: EventTable,
    requests: Sequence[Path],
    *,
    since_ms: int = 0,
    until_ms: int | None = None,
    progress: Progress | None = None,
) -> ParityReport:
    """Compare logged requests (``serve --log-requests``) with what an event table says they should have seen.

    Features that a request sent itself are not compared. Requests for users that the table lacks, and
    those that the store was degraded for, are skipped.

    Args:
        table: made of a log that reaches past the newest request.
        requests: Parquet files of the request log.
        since_ms, until_ms: requests before, or from then on, are left; None: all later ones are compared.
        progress: called now and then.

    Raises:
        DataFileError: a file is no request log, or of another FeatureSet's features.
    """
    started_s = time.monotonic()
    report = ParityReport(declared=table.features, names=table.names)
    places = {int(key): index for index, key in enumerate(table.user_keys)}
    item_places = {int(key): index for index, key in enumerate(table.item_keys)}
    for path in requests:
        features, rows = _logged(path, table.features, since_ms, until_ms)
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


def _logged(
    path: Path, features: FeatureSet, since_ms: int, until_ms: int | None
) -> tuple[FeatureSet, Iterator[dict[str, Any]]]:
    """The requests of one file, and the FeatureSet of the model that answered them."""
    file, logged = open_request_log(path)
    same = (logged.user, logged.item) == (features.user, features.item)
    if not same or require_history(logged).attributes != require_history(features).attributes:
        raise DataFileError(
            f"{path}: logged with FeatureSet {logged.name!r} ({logged.fingerprint()}), but the table was made with "
            f"{features.name!r} ({features.fingerprint()}); `recsys features diff` says how they differ"
        )
    return logged, (
        row for batch in file.iter_batches(_BATCH) for row in _between(batch, since_ms, until_ms).to_pylist()
    )


def _between(batch: pa.RecordBatch, since_ms: int, until_ms: int | None) -> pa.RecordBatch:
    times_ms = np.asarray(batch["time_ms"].to_numpy(zero_copy_only=False), dtype=np.int64)
    chosen = times_ms >= since_ms
    if until_ms is not None:
        chosen &= times_ms < until_ms
    return batch if chosen.all() else batch.take(np.flatnonzero(chosen))


def _offline(
    table: EventTable, features: FeatureSet, user: int, row: Mapping[str, Any], items: Sequence[int]
) -> dict[str, Column]:
    """Values that a request should have seen; ``items`` are row numbers of the candidates that the table has."""
    events = visible(features, user_events(table, user), row["time_ms"])[-require_history(features).recent :]
    # Of a long history, a server with a state reads the newest events one by one.
    newest = events[max(0, len(events) - len(row[f"history.{features.item_id.name}"])) :]
    named = {name: column[: len(newest)] for name, column in encode_history(features, newest).items()}
    named["history_events"] = np.array([len(events)])
    for feature in features.user:
        if feature.name not in row["sent"]:
            named[f"user.{feature.name}"] = table.users[feature.name][user].reshape(-1)
    for feature in features.item:
        named[f"item.{feature.name}"] = table.items[feature.name][items].reshape(-1)
    return named


def _online(row: Mapping[str, Any], offline: Mapping[str, Column], known: Sequence[int]) -> dict[str, Column]:
    """Values that it saw, of the same features and of the candidates in ``known``."""
    named = {name: np.atleast_1d(np.asarray(row[name], dtype=column.dtype)) for name, column in offline.items()}
    candidates = len(row["score"])
    for name in named:
        if name.startswith("item."):
            named[name] = named[name].reshape(candidates, -1)[known].reshape(-1)
    return named
