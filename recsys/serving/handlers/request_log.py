"""RequestLog: the encoded inputs of a sampled share of live requests, as Parquet files.

`recsys parity --requests` compares them with what training would have seen; `recsys prepare --requests` makes samples
of what was answered. The request path pays for a
random number, and for one put into a bounded queue when it is sampled; a thread writes. When the
thread falls behind, samples are dropped and counted, never waited for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recsys.arrays import Float32Array, Int64Array
from recsys.errors import ConfigError
from recsys.features.encode import EncodedRequest
from recsys.features.feature_set import FeatureSet
from recsys.files import writing

_log = logging.getLogger("recsys.serving")

FORMAT_VERSION = "1"
_QUEUE_REQUESTS = 1_000
_FILE_REQUESTS = 10_000
_FILE_BYTES = 64 << 20
_FILE_S = 10.0
_HELD_BYTES = 4 * _FILE_BYTES
"""Of requests in memory: a request of 10,000 candidates is a megabyte."""

Row = dict[str, Any]


class RequestLog:
    """Writes sampled requests to files in a folder until :meth:`close`.

    A file appears complete, named by time and process. Its columns are ``time_ms``, ``user_key``, ``model``,
    ``model_version``, ``release`` (that answered), ``filter`` (in words, empty for none; candidates that do not pass
    are not here), ``rules`` (likewise), ``sent`` (features that the request itself gave), ``degraded``,
    ``user.<name>``, ``history.<name>``, ``item.<name>`` (flat lists of keys or numbers), ``history_events``, ``score``
    (of all candidates, by the model) and ``best`` (places of the ``top_k`` candidates that were answered, best first,
    or as rules order them; null for a request without ``top_k``); its metadata holds the FeatureSet. Of a model that
    reads a long history by its state, ``history.<name>`` are the newest events, and ``history_events`` counts all.

    Args:
        folder: made if absent.
        share: of requests that are logged, 0 to 1.

    Raises:
        ConfigError: the folder cannot be written, or pyarrow is not installed.
    """

    def __init__(self, folder: Path, *, share: float) -> None:
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise ConfigError(
                "logging requests needs pyarrow, which the server does without otherwise: pip install pyarrow"
            ) from None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".{os.getpid()}.part"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(f"request log folder {str(folder)!r}: {error.strerror}; choose another") from error
        self._folder = folder
        self._share = share
        self._queue: queue.Queue[Row | None] = queue.Queue(_QUEUE_REQUESTS)
        self.dropped = 0
        """Sampled requests that were not written."""
        self._held_bytes = 0
        self._lock = threading.Lock()
        self._files = 0
        self._thread = threading.Thread(target=self._write, name="request-log", daemon=True)
        self._thread.start()

    def wanted(self) -> bool:
        """Draw a random number: True if the request at hand is sampled."""
        return random.random() < self._share

    def offer(
        self,
        encoded: EncodedRequest,
        *,
        features: FeatureSet,
        history_events: int,
        time_ms: int,
        sent: list[str],
        degraded: bool,
        model: str,
        model_version: str,
        scores: Float32Array,
        best: Int64Array | None = None,
        release: str = "",
        filter_text: str = "",
        rules_text: str = "",
    ) -> None:
        """Hand over one request of a model of ``features``; returns at once. The arrays must not change afterwards."""
        row: Row = {
            "time_ms": time_ms,
            "user_key": int(encoded.user[features.user_id.name][0]),
            "model": model,
            "model_version": model_version,
            "release": release,
            "filter": filter_text,
            "rules": rules_text,
            "sent": sent,
            "degraded": degraded,
            "history_events": history_events,
            "encoded": encoded,
            "features": features,
            "score": scores,
            "best": best,
            "size_bytes": sum(c.nbytes for side in (encoded.user, encoded.candidates) for c in side.values()),
        }
        with self._lock:
            if self._held_bytes + row["size_bytes"] > _HELD_BYTES:
                self.dropped += 1
                return
            try:
                self._queue.put_nowait(row)
            except queue.Full:
                self.dropped += 1
            else:
                self._held_bytes += row["size_bytes"]

    def close(self) -> None:
        """Write what is left, and stop."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=_FILE_S)
        self._thread.join(timeout=_FILE_S)
        self.dropped += sum(row is not None for row in list(self._queue.queue))
        if self.dropped:
            _log.warning("request log: %d sampled requests were dropped: the disk was too slow", self.dropped)

    def _write(self) -> None:
        reported = 0
        for rows in self._batches():
            for same in _by_features(rows):
                try:
                    self._write_file(same)
                except Exception as error:  # the log must never take the server down
                    with self._lock:
                        self.dropped += len(same)
                    _log.error("request log: %d requests were not written: %s", len(same), error)
            with self._lock:
                self._held_bytes -= sum(row["size_bytes"] for row in rows)
            if self.dropped > reported:
                reported = self.dropped
                _log.warning("request log: %d sampled requests were dropped so far", reported)

    def _batches(self) -> Iterator[list[Row]]:
        """Rows of one file at a time: as many as fit, or as came in a while."""
        rows: list[Row] = []
        size_bytes = 0
        until_s = time.monotonic() + _FILE_S
        while True:
            row = None
            with contextlib.suppress(queue.Empty):
                row = self._queue.get(timeout=max(0.0, until_s - time.monotonic()))
                if row is None:
                    break
                rows.append(row)
                size_bytes += row["size_bytes"]
            if len(rows) >= _FILE_REQUESTS or size_bytes >= _FILE_BYTES or (row is None and rows):
                yield rows
                rows, size_bytes = [], 0
            if row is None or not rows:
                until_s = time.monotonic() + _FILE_S
        if rows:
            yield rows

    def _write_file(self, rows: list[Row]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns: dict[str, Any] = {
            name: [row[name] for row in rows]
            for name in (
                "time_ms",
                "user_key",
                "model",
                "model_version",
                "release",
                "filter",
                "rules",
                "sent",
                "degraded",
                "history_events",
            )
        }
        columns["score"] = [row["score"] for row in rows]
        columns["best"] = pa.array([row["best"] for row in rows], pa.list_(pa.int64()))
        for side, prefix in (("user", "user."), ("candidates", "item.")):
            for name in getattr(rows[0]["encoded"], side):
                values = [getattr(row["encoded"], side)[name].reshape(-1) for row in rows]
                history = name.startswith("history.")
                if history:
                    # An empty history is encoded as one missing event.
                    values = [v[: row["encoded"].history_events] for v, row in zip(values, rows, strict=True)]
                columns[name if history else prefix + name] = values
        metadata = {"recsys.version": FORMAT_VERSION, "recsys.features": rows[0]["features"].to_json()}
        self._files += 1
        name = f"requests-{time.time_ns() // 1_000_000}-{os.getpid()}-{self._files}.parquet"
        part = self._folder / f".{name}.part"
        try:
            with writing(self._folder):
                pq.write_table(pa.table(columns).replace_schema_metadata(metadata), part)
                part.replace(self._folder / name)
        finally:
            part.unlink(missing_ok=True)


def _by_features(rows: list[Row]) -> list[list[Row]]:
    """Rows of each FeatureSet, in order: a file has one."""
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(id(row["features"]), []).append(row)
    return list(found.values())
