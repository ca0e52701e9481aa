"""Request logs (``serve --log-requests``) to rows of impressions: what was answered, in the contract's columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.arrays import Int64Array
from recsys.errors import DataFileError, RecsysError
from recsys.features.columns import Column, missing_column
from recsys.features.feature_set import Categorical, Feature, FeatureSet
from recsys.features.values import RefusedValueError
from recsys.rows.contract import CONTEXT, LABEL, TIMESTAMP, RowContract
from recsys.rows.encode import Told
from recsys.rows.files import RawFile
from recsys.rows.rejects import Rejection
from recsys.rows.request_log import logged_features

_BATCH_REQUESTS = 1 << 12


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestReader:
    """Reads the request logs of one FeatureSet; as ``rows.encode.RowReader`` reads files of rows.

    Attributes:
        features: of the log that the requests are joined with.
        contract: of impressions (``impression_rows``).
        known: name of an id -> the keys that rows may have, sorted, and what to say about others.
        until_ms: requests from then on are left: they are of a later day. None: all are read.
    """

    features: FeatureSet
    contract: RowContract
    known: Mapping[str, tuple[Int64Array, str]] = field(default_factory=dict)
    until_ms: int | None = None

    def read(self, file: RawFile, told: Told) -> Iterator[tuple[dict[str, npt.NDArray[Any]], Int64Array]]:
        """Encoded columns, whose label is 0, and the numbers in the file of their requests; batch by batch."""
        item_id = self.features.item_id.name
        with _reading(file), _opened(file) as log:
            check_request_log(file, log, self.features)
            stored = set(log.schema_arrow.names)
            names = [f"user.{f.name}" for f in self.features.context if f"user.{f.name}" in stored]
            first = 1
            for batch in log.iter_batches(
                _BATCH_REQUESTS, columns=["time_ms", "user_key", f"item.{item_id}", "best", *names]
            ):
                number, place = _answered(batch["best"])
                if self.until_ms is not None:
                    early = _integers(batch["time_ms"])[number] < self.until_ms
                    number, place = number[early], place[early]
                begins = batch[f"item.{item_id}"].offsets.to_numpy()
                items = batch[f"item.{item_id}"].values.to_numpy(zero_copy_only=False)
                columns: dict[str, npt.NDArray[Any]] = {
                    self.features.user_id.name: _integers(batch["user_key"])[number],
                    item_id: items[begins[number] + place].astype(np.int64),
                    TIMESTAMP: _integers(batch["time_ms"])[number],
                    LABEL: np.zeros(len(number), dtype=np.uint8),
                }
                for feature in self.features.context:
                    column = _context(feature, batch, f"user.{feature.name}", stored)
                    columns[f"{CONTEXT}{feature.name}"] = column[number]
                kept = self._known_rows(file, columns, number + first, told)
                columns = {name: column[kept] for name, column in columns.items()}
                told.rows(columns, len(number))
                yield columns, (number + first)[kept]
                first += batch.num_rows

    def _known_rows(
        self, file: RawFile, columns: Mapping[str, npt.NDArray[Any]], numbers: Int64Array, told: Told
    ) -> Int64Array:
        """Places of rows whose ids may be there; the others are told of."""
        fits = np.ones(len(numbers), dtype=np.bool_)
        for name, (keys, allowed) in self.known.items():
            unknown = ~np.isin(columns[name], keys)
            for place in np.flatnonzero(unknown & fits).tolist():
                record = {one: columns[one][place].item() for one in (*self.known, TIMESTAMP)}
                error = RefusedValueError(name, record[name], allowed)
                told.rejected(Rejection(file=str(file.path), row=int(numbers[place]), error=error, record=record))
            fits &= ~unknown
        return np.flatnonzero(fits)


def count_requests(files: Sequence[RawFile], features: FeatureSet, *, until_ms: int | None = None) -> tuple[int, int]:
    """Number of logged requests before a moment, and of those that say nothing about what was shown: without ``top_k``.

    Raises:
        DataFileError: a file is no request log, of an earlier version, or of other ids or context features.
    """
    requests = unranked = 0
    for file in files:
        with _reading(file), _opened(file) as log:
            check_request_log(file, log, features)
            for batch in log.iter_batches(columns=["time_ms", "best"]):
                early = np.full(batch.num_rows, True)
                if until_ms is not None:
                    early = _integers(batch["time_ms"]) < until_ms
                requests += int(early.sum())
                unranked += int((early & np.asarray(batch["best"].is_null())).sum())
    return requests, unranked


def check_request_log(file: RawFile, log: pq.ParquetFile, features: FeatureSet) -> None:
    """Refuse what is no request log of these ids and context features.

    Raises:
        DataFileError: names the file and what differs.
    """
    logged = logged_features(file.path, log)
    if "best" not in log.schema_arrow.names:
        raise DataFileError(
            f"{file.path}: a request log of an earlier version, which does not say what was answered; only "
            "`recsys parity` reads it"
        )
    declared = {f.name: f for f in logged.context}
    pairs: list[tuple[Feature, Feature | None]] = [
        (features.user_id, logged.user_id),
        (features.item_id, logged.item_id),
        *((f, declared[f.name]) for f in features.context if f.name in declared),
    ]
    for ours, theirs in pairs:
        if theirs is None or _form(ours) != _form(theirs):
            raise DataFileError(
                f"{file.path}: logged with FeatureSet {logged.name!r} ({logged.fingerprint()}), which declares "
                f"{ours.name!r} otherwise than {features.name!r} ({features.fingerprint()}); `recsys features diff` "
                "says how they differ"
            )


def _form(feature: Feature) -> tuple[object, ...]:
    """Parts of a feature that its encoded values depend on."""
    if isinstance(feature, Categorical):
        return ("categorical", feature.name, feature.id_type, feature.max_values)
    return ("numeric", feature.name)


@contextmanager
def _reading(file: RawFile) -> Iterator[None]:
    """Name the file in what is wrong with its columns or pages, which shows as they are read."""
    try:
        yield
    except RecsysError:
        raise
    except (OSError, pa.ArrowException, LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataFileError(f"{file.path}: a damaged request log: {error}; leave it out") from error


def _opened(file: RawFile) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file.path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataFileError(f"{file.path}: not a Parquet file: {error}; a request log is a folder of them") from error


def _answered(best: pa.ListArray) -> tuple[Int64Array, Int64Array]:
    """Number of the request, and place among its candidates, of each that was answered."""
    lengths = best.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return np.repeat(np.arange(len(best)), lengths), _integers(best.flatten())


def _integers(column: pa.Array) -> Int64Array:
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.int64)


def _context(feature: Feature, batch: pa.RecordBatch, name: str, stored: set[str]) -> Column:
    """One row per request: the value that it sent, or none."""
    if name not in stored:
        return missing_column(feature, batch.num_rows)
    values = batch[name].flatten().to_numpy(zero_copy_only=False)
    nothing = missing_column(feature, 0)
    return np.asarray(values, dtype=nothing.dtype).reshape(batch.num_rows, *nothing.shape[1:])
