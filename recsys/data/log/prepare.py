"""Raw logs of any size to a folder to train on: an event table and its samples.

An engine (``engines.py``) sorts a log by user and time; the rows come out as record batches, are encoded by the
encoder that logs in memory go through (``encoder.py``), settled where users and timestamps end, and
appended to the columns on disk. Memory holds a batch, and 16 bytes for every user and every item.

The result depends on the *set* of rows alone, not on files, their order, or the engine: both engines
write the same bytes.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.column_folder import FolderWriter, folder_writer, new_folder
from recsys.data.log import event_table
from recsys.data.log.arrow_values import INTEGER, keyed, raw_labels, raw_times, raw_values
from recsys.data.log.columns import checked_entity, checked_log
from recsys.data.log.encoder import (
    NO_LABEL,
    EntityIndex,
    EventBlock,
    encode_block,
    encode_entities,
    joined,
    settled_order,
    tie_order,
)
from recsys.data.log.engines import open_engine
from recsys.data.log.labels import LabelRule
from recsys.data.log.raw_files import RawFiles, find_files
from recsys.data.log.rejects import Report, RowGuard
from recsys.data.log.splits.rule import SPLITS, SplitReport, SplitRule
from recsys.data.log.splits.write import split_impressions, write_splits
from recsys.data.samples import stored as sample_folder
from recsys.errors import DataFileError, InvalidInputError
from recsys.features.columns import Column
from recsys.features.feature_set import ITEM, USER, Categorical, Entity, FeatureSet
from recsys.features.hashing import MISSING
from recsys.features.history.records import require_history
from recsys.features.history.rules import inherited_attributes
from recsys.files import atomic_file

BATCH_ROWS = 1 << 18
EVENTS, SAMPLES = "events", "samples"
"""Folders of a prepared log."""

_LABEL = "__label"


@dataclass(frozen=True, kw_only=True)
class RawInputs:
    """Files, folders or globs of raw data (``raw_files.py``).

    Attributes:
        log: events: user id, item id, ``timestamp_ms``, optionally ``arrival_ms``, history attributes, context
            features and ``label``.
        entities: entity name (``user``, ``item`` or another declared one) -> files with its id and features. Without
            users or items, they are the distinct ids of the logs.
        labels: labelled impressions: user id, item id, ``timestamp_ms``, ``label`` and context features. With them,
            the samples are these and no events.
        ignore: columns to leave out.
    """

    log: tuple[str, ...]
    entities: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PrepareSummary:
    """Counts of what was written: rows of each kind, samples by split; and the time it took.

    ``split`` says how the samples were cut and what is odd about the parts; None without samples.
    """

    users: int
    items: int
    events: int
    repeated: int
    rejected: int
    samples: dict[str, int]
    split: SplitReport | None
    elapsed_s: float


def prepare_log(
    features: FeatureSet,
    inputs: RawInputs,
    out: Path,
    *,
    engine: str = "duckdb",
    memory_limit_bytes: int = 4 << 30,
    threads: int | None = None,
    work_dir: Path | None = None,
    label: LabelRule | None = None,
    split: SplitRule | None = None,
    rejects: Path | None = None,
    report: Report | None = None,
) -> PrepareSummary:
    """Write ``out/events`` and, where rows have labels, ``out/samples``; ``out`` appears only when complete.

    Args:
        features: declares every column.
        inputs: where the raw data is.
        out: folder to make.
        engine, memory_limit_bytes, threads: see ``open_engine``.
        work_dir: where the engine spills; default: the folder around ``out``.
        label: what makes a row a sample, and its label; default: the column ``label``, if there is one.
        split: which samples train, validate and test.
        rejects: JSON lines of rows that do not fit, with the reason; without it the first such row is an error.
        report: progress.

    Raises:
        DataFileError: a file is malformed, has unknown columns, or a row that does not fit.
        ConfigError: a setting is out of range, or a folder cannot be written.
        FileExistsError: ``out`` exists.
    """
    started_s = time.perf_counter()
    require_history(features)
    names = features.entity_names()
    for name in inputs.entities:
        if name not in names:
            features.entity(name)  # says which there are
    with ExitStack() as stack:
        folder = stack.enter_context(new_folder(out))
        sink = None if rejects is None else stack.enter_context(atomic_file(rejects))
        rows = RowGuard(sink, report or (lambda what, done: None))
        work = work_dir or folder / "work"
        with open_engine(engine, work_dir=work, memory_limit_bytes=memory_limit_bytes, threads=threads) as opened:
            summary = _Preparation(features, opened, rows).prepare(inputs, folder, label, split or SplitRule())
        shutil.rmtree(folder / "work", ignore_errors=True)
    return PrepareSummary(**summary, elapsed_s=time.perf_counter() - started_s)


class _Preparation:
    def __init__(self, features: FeatureSet, engine: Any, rows: RowGuard) -> None:
        self._features = features
        self._keyed = keyed(features)
        self._engine = engine
        self._rows = rows
        self._index: dict[str, EntityIndex] = {}
        self._inherited: dict[str, Column] = {}

    def prepare(self, inputs: RawInputs, folder: Path, label: LabelRule | None, split: SplitRule) -> dict[str, Any]:
        log = checked_log(
            self._features, find_files(inputs.log, ignored=inputs.ignore), None if inputs.labels else label
        )
        labels = None
        if inputs.labels:
            labels = checked_log(self._features, find_files(inputs.labels, ignored=inputs.ignore), label, labelled=True)
        entities = {
            name: checked_entity(self._features.entity(name), find_files([given], ignored=inputs.ignore))
            for name, given in inputs.entities.items()
        }
        with ExitStack() as stack:
            table = stack.enter_context(folder_writer(folder / EVENTS))
            counts = {
                name: self._write_entity(table, name, entities.get(name), [f for f in (log, labels) if f])
                for name in self._features.entity_names()
                if name in (USER, ITEM) or name in entities
            }
            self._inherited = {
                name: table.column(f"item.{name}") for name in inherited_attributes(self._features, sent=log.names)
            }
            samples = None
            if labels is not None or label is not None or "label" in log.names:
                samples = stack.enter_context(folder_writer(folder / SAMPLES))
            events, repeated, positions = self._write_events(
                table, log, None if labels else label, samples if labels is None else None, counts[USER]
            )
            report: SplitReport | None = None
            if samples is not None:
                if labels is None:
                    report = self._split_events(table, samples, positions, split)
                else:
                    report = self._write_impressions(samples, labels, label, split)
                info = {"splits": list(SPLITS), "split": report.to_json(), "warnings": list(report.warnings)}
                samples.finish(kind=sample_folder.KIND, version=sample_folder.FORMAT_VERSION, info=info)
            info = event_table.table_info(self._features, repeated=repeated)
            table.finish(kind=event_table.KIND, version=event_table.FORMAT_VERSION, info=info)
        return {
            "users": counts[USER], "items": counts[ITEM], "events": events, "repeated": repeated,
            "rejected": self._rows.rejected, "split": report,
            "samples": {} if report is None else {name: part.samples for name, part in report.parts.items()},
        }  # fmt: skip

    def _write_entity(self, table: FolderWriter, name: str, files: RawFiles | None, logs: list[RawFiles]) -> int:
        entity, encoder = self._features.entity(name), self._keyed.entity(name)
        prefix = name if name in (USER, ITEM) else f"entity.{name}"
        last, count = MISSING, 0

        def encode(batch: pa.RecordBatch) -> tuple[dict[str, Column], pa.RecordBatch]:
            values = {f.name: raw_values(f, batch[f.name]) for f in _present(entity, batch)}
            return encode_entities((encoder.id, *encoder.features), values), batch

        empty = encode_entities((encoder.id, *encoder.features), {entity.id.name: np.zeros(0, dtype=np.int64)})
        for column, values in empty.items():
            table.append(f"{prefix}.{column}", values)
        found = self._ids(entity.id, logs) if files is None else self._sorted_entities(entity, files)
        for batch in self._engine.batches(found, rows=BATCH_ROWS):
            for columns, rows in self._rows.encoded(batch, files or logs[0], encode, f"{name}s"):
                keys = columns[entity.id.name]
                repeats = np.flatnonzero(keys == np.concatenate([[last], keys[:-1]]))
                if len(repeats):  # sorted by id, so they are next to each other
                    raw = rows[entity.id.name][int(repeats[0])].as_py()
                    raise DataFileError(f"{(files or logs[0]).paths[0]}: {entity.id.name!r} {raw!r} is there twice")
                last = int(keys[-1])
                count += len(keys)
                for column, values in columns.items():
                    table.append(f"{prefix}.{column}", values)
            self._rows.report(f"{name}s", count)
        self._index[name] = EntityIndex(table.column(f"{prefix}.{entity.id.name}"))
        return count

    def _sorted_entities(self, entity: Entity, files: RawFiles) -> ir.Table:
        table = self._engine.read(files)
        names = [f.name for f in (entity.id, *entity.features) if f.name in files.names]
        return table.select(names).order_by(_sort_key(table[entity.id.name], entity.id))

    def _ids(self, entity_id: Categorical, logs: list[RawFiles]) -> ir.Table:
        parts = []
        for files in logs:
            column = _sort_key(self._engine.read(files)[entity_id.name], entity_id)
            part = column.name(entity_id.name).as_table()
            parts.append(part.filter(part[entity_id.name] != (MISSING if entity_id.id_type == "int" else "")))
        ids = parts[0] if len(parts) == 1 else ibis.union(*parts)
        return ids.distinct().order_by(entity_id.name)

    def _blocks(
        self, files: RawFiles, label: LabelRule | None, *, order: Callable[[EventBlock], Any], labelled: bool
    ) -> Iterator[tuple[EventBlock, int]]:
        """Settled rows in order, and how many were given for them. A block ends where a user's timestamp does."""
        features = self._features
        history = () if labelled else require_history(features).attributes
        declared = {f.name: f for f in (features.user_id, features.item_id, *history, *features.context)}
        names = [n for n in (*declared, "timestamp_ms", *(() if labelled else ("arrival_ms",))) if n in files.names]
        table = self._engine.read(files)
        selected: dict[str, Any] = {name: table[name] for name in names}
        if label is not None:
            selected[_LABEL] = label.apply(table)
        elif "label" in files.names:
            selected["label"] = table["label"]
        found = table.select(**selected)
        user = _sort_key(found[features.user_id.name], features.user_id)
        found = found.order_by([user, _integer(found["timestamp_ms"])])
        label_name = _LABEL if label is not None else "label" if "label" in files.names else None
        encoder = _without_attributes(self._keyed) if labelled else self._keyed

        def encode(batch: pa.RecordBatch) -> EventBlock:
            values = {name: raw_values(f, batch[name]) for name, f in declared.items() if name in names}
            self._check_known(batch, values)
            times = raw_times("timestamp_ms", batch["timestamp_ms"])
            if times.null_count:
                raise InvalidInputError("'timestamp_ms' is missing")
            values["timestamp_ms"] = times.to_numpy(zero_copy_only=False)
            if "arrival_ms" in names:
                arrivals = raw_times("arrival_ms", batch["arrival_ms"])
                values["arrival_ms"] = pc.coalesce(arrivals, times).to_numpy(zero_copy_only=False)
            labels = None if label_name is None else raw_labels(batch[label_name])
            if labelled and (labels is None or (labels == NO_LABEL).any()):
                raise InvalidInputError("the label is missing")
            return encode_block(encoder, self._index[USER], self._index[ITEM], self._inherited, values, label=labels)

        carried: EventBlock | None = None
        what = "labels" if labelled else "events"
        for batch in self._engine.batches(found, rows=BATCH_ROWS):
            blocks = self._rows.encoded(batch, files, encode, what)
            if not blocks:
                continue
            block = joined([carried, *blocks] if carried is not None else blocks)
            same = (block.user == block.user[-1]) & (block.packed["timestamp"] == block.packed["timestamp"][-1])
            end = int(np.argmax(same))
            assert (np.diff(block.user) >= 0).all(), "the engine did not sort"
            if end:
                yield block.take(order(block.take(slice(0, end)))), end
            carried = block.take(slice(end, None))
        if carried is not None:
            yield carried.take(order(carried)), len(carried)

    def _check_known(self, batch: pa.RecordBatch, values: Mapping[str, Any]) -> None:
        """Name an unknown id as it was given, not its key."""
        for name, entity_id in ((USER, self._keyed.user_id), (ITEM, self._keyed.item_id)):
            if batch.num_rows == 1:
                try:
                    self._index[name].find(entity_id, values[entity_id.name])
                except InvalidInputError as error:
                    raw = batch[entity_id.name][0].as_py()
                    raise InvalidInputError(
                        f"{entity_id.name!r} is missing" if raw in (None, "", MISSING, str(MISSING))
                        else f"unknown {entity_id.name} {raw!r}"
                    ) from error  # fmt: skip

    def _write_events(
        self, table: FolderWriter, log: RawFiles, label: LabelRule | None, samples: FolderWriter | None, users: int
    ) -> tuple[int, int, int]:
        """Returns how many events there are, how many rows repeated others, and how many events are samples."""
        features = self._features
        counts = np.zeros(users, dtype=np.int64)
        given = written = labelled = 0
        ids = np.zeros(0, dtype=np.int64)
        nothing = {features.user_id.name: ids, features.item_id.name: ids, "timestamp_ms": ids}
        empty = encode_block(self._keyed, self._index[USER], self._index[ITEM], self._inherited, nothing)
        blocks = self._blocks(log, label, order=lambda block: settled_order(self._keyed, block), labelled=False)
        for block, rows in itertools.chain([(empty, 0)], blocks):  # a log without events has its columns too
            for name, column in event_table.event_columns(self._keyed, block).items():
                table.append(name, column)
            if samples is not None:
                labelled += _append_samples(samples, block, written)
            found, number = np.unique(block.user, return_counts=True)
            counts[found] += number
            given, written = given + rows, written + len(block)
            self._rows.report("events", given)
        table.append("offsets", event_table.offsets_of(counts))
        return written, given - written, labelled

    def _split_events(self, table: FolderWriter, samples: FolderWriter, count: int, split: SplitRule) -> SplitReport:
        position = samples.column("position")
        offsets, times, label = (table.column("offsets"), table.column("event.timestamp"), samples.column("label"))
        return write_splits(
            samples,
            split,
            count=count,
            users=lambda rows: np.searchsorted(offsets, position[rows], side="right") - 1,
            times=lambda rows: times[position[rows]],
            labels=lambda rows: label[rows],
        )

    def _write_impressions(
        self, samples: FolderWriter, labels: RawFiles, label: LabelRule | None, split: SplitRule
    ) -> SplitReport:
        count = 0
        for block, _ in self._blocks(labels, label, order=tie_order, labelled=True):
            shown = sample_folder.Impressions(
                user=block.user.astype(np.int32),
                item=block.item,
                time_ms=np.ascontiguousarray(block.packed["timestamp"]),
                context=block.context,
            )
            columns = sample_folder.sample_columns(block.label, position=block.user, impressions=shown)
            for name, column in columns.items():
                samples.append(name, column)
            count += len(block)
            self._rows.report("labels", count)
        if count == 0:
            raise DataFileError(f"{labels.paths[0]}: no labelled row")
        return split_impressions(samples, split, count=count)


def _append_samples(samples: FolderWriter, block: EventBlock, before: int) -> int:
    chosen = np.flatnonzero(block.label != NO_LABEL)
    samples.append("position", chosen.astype(np.int64) + before)
    samples.append("label", block.label[chosen])
    return len(chosen)


def _without_attributes(features: FeatureSet) -> FeatureSet:
    """An impression is no event: it has no history attributes."""
    history = replace(require_history(features), attributes=(), identity=None)
    return replace(features, history=history)


def _present(entity: Entity, batch: pa.RecordBatch) -> list[Any]:
    return [f for f in (entity.id, *entity.features) if f.name in batch.schema.names]


def _sort_key(column: Any, feature: Categorical) -> Any:
    return _integer(column) if feature.id_type == "int" else column


def _integer(column: Any) -> Any:
    """An integer to sort by; null where text is none, which the encoder will refuse."""
    if column.type().is_string():
        return ibis.cases((column.re_search(INTEGER), column.cast("int64")))
    return column.cast("int64")
