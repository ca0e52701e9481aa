"""Events up to a day's end to samples, and a look at them before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from recsys.arrays import Int64Array
from recsys.data.datasets import load_dataset
from recsys.data.log.event_table import EventTable, open_event_table
from recsys.data.log.negatives.rule import NegativeRule
from recsys.data.log.prepare import RawInputs, prepare_log
from recsys.data.log.requests.join import JoinedRequests
from recsys.data.log.splits.rule import SplitRule
from recsys.data.samples.dataset import Dataset
from recsys.data.samples.fingerprint import data_fingerprint
from recsys.features.feature_set import FeatureSet
from recsys.pipeline.days import Day, duration_ms, iso
from recsys.pipeline.settings import DataSettings, PipelineSettings
from recsys.pipeline.steps import FileDigests
from recsys.rows.files import find_files
from recsys.rows.label_rule import parse_label

LOG = "log"
"""Folder of the prepared log in the step's output."""

_BINS = 10
_LEAST_SHARE = 1e-4
"""Of a bin, so that an empty one does not make the population stability index infinite."""


def samples_inputs(settings: PipelineSettings, features: FeatureSet, day: Day, digests: FileDigests) -> dict[str, Any]:
    """Everything that the samples depend on.

    Raises:
        DataFileError: a file is not there.
    """
    data = settings.data
    given = {"log": data.log, "labels": data.labels, "requests": data.requests}
    given |= {"users": _one(data.users), "items": _one(data.items)}
    given |= {f"entity {name}": _one(file) for name, file in data.entities.items()}
    files = {name: digests.of(file.path for file in find_files(list(of))[0]) for name, of in given.items() if of}
    rules = asdict(data)
    for name in (
        "features",
        "users",
        "items",
        "entities",
        "log",
        "labels",
        "requests",
        "memory_limit_gb",
        "threads",
        "engine",
    ):
        del rules[name]  # files are known by their content, and engines write the same bytes
    return {"until": iso(day.until_ms), "features": features.to_json(), "rules": rules, **files}


def make_samples(
    settings: PipelineSettings, features: FeatureSet, day: Day, folder: Path, *, rejects: Path
) -> dict[str, Any]:
    """Prepare the log up to the day's end in a folder; facts on it.

    Args:
        settings: of the pipeline.
        features: declares the columns.
        day: events from its end on are left.
        folder: is there; ``log`` in it is made.
        rejects: takes rows that do not fit.

    Raises:
        DataFileError, InvalidInputError, NoSpaceError: as :func:`recsys.data.log.prepare.prepare_log`.
    """
    data = settings.data
    entities = {"user": data.users, "item": data.items, **data.entities}
    rejects.unlink(missing_ok=True)
    summary = prepare_log(
        features,
        RawInputs(
            log=data.log,
            entities={name: file for name, file in entities.items() if file},
            labels=data.labels,
            requests=data.requests,
            options=data.read_options(),
            unknown=data.unknown,
            until_ms=day.until_ms,
        ),
        folder / LOG,
        engine=data.engine,
        memory_limit_bytes=int(data.memory_limit_gb * 1e9),
        threads=data.threads or None,
        label=parse_label(data.label) if data.label else None,
        split=SplitRule(test_from_ms=day.until_ms - duration_ms("data.holdout", data.holdout)),
        negatives=_negatives(data),
        window_ms=duration_ms("data.window", data.window),
        rejects=rejects,
    )
    table = open_event_table(folder / LOG / "events")
    newest_ms = int(table.timestamp_ms.max()) if len(table) else 0
    fingerprint = ""
    if summary.events:
        fingerprint = data_fingerprint(open_samples(folder, recent=None))
    return {
        "events": summary.events,
        "users": summary.users,
        "items": summary.items,
        "repeated": summary.repeated,
        "rejected": summary.rejected,
        "rejects": str(rejects) if summary.rejected else "",
        "samples": sum(summary.samples.values()),
        "newest_ms": newest_ms,
        "data": fingerprint,
        "notes": [
            *(f"{summary.rejected:,} rows did not fit: {reason}" for reason in summary.reasons[:1]),
            *(f"{path}: the last line has no end, and was left" for path in summary.unended),
            *summary.odd,
            *_request_notes(summary.requests),
        ],
    }


def _request_notes(joined: JoinedRequests | None) -> list[str]:
    if joined is None:
        return []
    waiting = f"{joined.open:,} of {joined.shown:,} shown items wait for the next day: what was taken is not known yet"
    return [*([waiting] if joined.open else []), *replace(joined, open=0).warnings()]


def open_samples(folder: Path, *, recent: int | None) -> Dataset:
    """The dataset in a step's output; raises DataFileError."""
    return load_dataset(str(folder.absolute() / LOG), recent=recent, work_dir=folder).dataset


def new_events(table: EventTable, since_ms: int) -> int:
    """Number of events from a moment on."""
    return int((table.timestamp_ms >= since_ms).sum())


def look_at(dataset: Dataset, *, since_ms: int | None, new_from_ms: int, test_from_ms: int) -> dict[str, Any]:
    """Counts of what would be trained and tested on, and how the new events differ from those before.

    Args:
        dataset: with keys.
        since_ms: first moment that is trained on; None: all.
        new_from_ms: events from then on are new.
        test_from_ms: samples from then on are held out.

    Returns:
        ``train`` and ``test``: number of samples, and share of positives, None without any. ``new_events``. Shares of
        them by users, and of items, without an event before: ``new_users``, ``new_items``; ``drift``: the population
        stability index of how popular the items are that they are of: in ten classes of items with as many events
        before, and one of new items. None without events before or since.
    """
    times_ms, labels = dataset.sample_time_ms, dataset.samples.label
    trained = dataset.split("train")
    trained = trained if since_ms is None else trained[times_ms[trained] >= since_ms]
    tested = dataset.split("test")
    assert not len(tested) or int(times_ms[tested].min()) >= test_from_ms, "the split was made at that moment"
    return {
        "train": _counts(labels[trained]),
        "test": _counts(labels[tested]),
        "new_events": new_events(dataset.table, new_from_ms),
        **_drift(dataset.table, new_from_ms),
    }


def _drift(table: EventTable, new_from_ms: int) -> dict[str, float | None]:
    new = table.timestamp_ms >= new_from_ms
    if new.all() or not new.any():
        return {"new_users": None, "new_items": None, "drift": None}
    users = np.repeat(np.arange(len(table.user_keys)), np.diff(table.offsets))
    before_I = np.bincount(table.item_index[~new], minlength=len(table.item_keys))
    known_U = np.bincount(users[~new], minlength=len(table.user_keys)) > 0
    classes_I = _classes(before_I)
    shares = [np.bincount(classes_I[table.item_index[of]], minlength=_BINS + 1) for of in (~new, new)]
    was, is_now = (np.maximum(counts / counts.sum(), _LEAST_SHARE) for counts in shares)
    return {
        "new_users": float(1 - known_U[users[new]].mean()),
        "new_items": float((before_I[table.item_index[new]] == 0).mean()),
        "drift": float(((is_now - was) * np.log(is_now / was)).sum()),
    }


def _classes(counts_I: Int64Array) -> Int64Array:
    """Class of each item by popularity, [I]: 0 to 9 have as many events each; 10: it has none."""
    order = np.argsort(-counts_I, kind="stable")
    through = np.cumsum(counts_I[order])
    classes = np.empty(len(counts_I), dtype=np.int64)
    classes[order] = np.minimum((through - counts_I[order]) * _BINS // max(1, int(through[-1])), _BINS - 1)
    classes[counts_I == 0] = _BINS
    return classes


def _counts(labels: np.ndarray) -> dict[str, Any]:
    return {"samples": len(labels), "positives": float(labels.mean()) if len(labels) else None}


def _negatives(data: DataSettings) -> NegativeRule | None:
    if not data.negatives:
        return None
    return NegativeRule(per_positive=data.negatives, by=data.negatives_by, seed=data.negatives_seed)


def _one(file: str) -> tuple[str, ...]:
    return (file,) if file else ()


def label_problem(what: str, counts: Mapping[str, Any], *, least: int, newest_ms: int) -> str:
    """Reason for which samples are not enough to train or to measure on; empty: there is none.

    Args:
        what: the samples are for.
        counts: of them.
        least: fewest that are enough.
        newest_ms: time of the log's newest event, which is told where there are none.
    """
    samples, positives = counts["samples"], counts["positives"]
    if not samples:
        return f"{what}: there are none; the newest event of the log is of {iso(newest_ms)}"
    if samples < least:
        return f"{what}: {samples:,} samples; allowed: at least {least:,} (gate.least_samples)"
    if positives in (0.0, 1.0):
        return f"{what}: all {samples:,} labels are {int(positives)}: AUC is not defined, and nothing could be compared"
    return ""
