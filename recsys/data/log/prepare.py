"""Raw logs of any size to a folder to train on: an event table and its samples.

Rows are encoded by the contract (``recsys/rows``), sorted by user and time by an engine (``engines.py``), settled where
users and timestamps end, and appended to the columns on disk. Memory holds a batch, and 16 bytes for every user
and every item.

The result depends on the *set* of rows alone, not on files, their order, or the engine: both engines
write the same bytes.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recsys.arrays import Int64Array
from recsys.data.column_folder import FolderWriter, folder_writer, new_folder
from recsys.data.log import event_table
from recsys.data.log.encoder import (
    EntityIndex,
    EventBlock,
    event_block,
    joined,
    settled_order,
    tie_order,
)
from recsys.data.log.engines import Engine, open_engine
from recsys.data.log.entity_table import KeySet, entity_batches
from recsys.data.log.names import NAMES, NamesWriter
from recsys.data.log.row_batches import from_batch, row_schema
from recsys.data.log.splits.rule import SPLITS, SplitReport, SplitRule
from recsys.data.log.splits.write import split_impressions, write_splits
from recsys.data.samples import stored as sample_folder
from recsys.errors import ConfigError, DataFileError, nearest
from recsys.features.columns import NO_LABEL, Column
from recsys.features.feature_set import ITEM, USER, Categorical, FeatureSet
from recsys.features.history.records import require_history
from recsys.features.history.rules import inherited_attributes
from recsys.rows.contract import TIMESTAMP, ReadOptions, RowContract, entity_rows, event_rows, impression_rows
from recsys.rows.encode import RowReader, Told
from recsys.rows.files import RawFile, find_files
from recsys.rows.label_rule import LabelRule
from recsys.rows.rejects import RejectFile

EVENTS, SAMPLES = "events", "samples"
"""Folders of a prepared log."""

UNKNOWN = ("keep", "reject")

Report = Callable[[str, int], None]
"""Called with what is being done and how many rows of it are done."""


@dataclass(frozen=True, kw_only=True)
class RawInputs:
    """Raw data, and how to read it (``rows/files.py``, ``rows/contract.py``).

    Attributes:
        log: files of events: user id, item id, time, optionally ``arrival_ms``, history attributes, context
            features and ``label``.
        entities: entity name (``user``, ``item`` or another declared one) -> files with its id and features. Without
            users or items, they are the distinct ids of the logs.
        labels: labelled impressions: user id, item id, time, ``label`` and context features. With them,
            the samples are these and no events.
        options: how rows are read.
        unknown: ``keep`` users and items of the logs that the files of users and items lack, without features, or
            ``reject`` their rows.
    """

    log: tuple[str, ...]
    entities: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    options: ReadOptions = field(default_factory=ReadOptions)
    unknown: Literal["keep", "reject"] = "keep"

    def __post_init__(self) -> None:
        if self.unknown not in UNKNOWN:
            raise ConfigError(f"--unknown {self.unknown!r}: {nearest(self.unknown, UNKNOWN)}")


@dataclass(frozen=True, kw_only=True)
class PrepareSummary:
    """Counts of what was written: rows of each kind, samples by split; what was left out; and the time it took.

    Attributes:
        users, items, events: rows of each kind.
        new_users, new_items: of these, in the logs but in no file of users or items: without features.
        repeated: events that repeat others.
        rejected: rows that do not fit.
        rejects: the file that has them.
        reasons: the commonest reasons, in words.
        unended: files whose last line has no end yet, and was left.
        matched: files that patterns stood for, in words.
        samples: samples by split.
        split: how they were cut, and what is odd about the parts; None without samples.
        elapsed_s: seconds.
    """

    users: int
    items: int
    new_users: int
    new_items: int
    events: int
    repeated: int
    rejected: int
    rejects: str
    reasons: list[str]
    unended: list[str]
    matched: list[str]
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
    strict: bool = False,
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
        rejects: takes rows that do not fit, as JSON lines; default: beside ``out``.
        strict: whether the first such row is an error.
        report: progress.

    Raises:
        DataFileError: a file cannot be read or has unknown columns, or no row of it fits.
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
        sink = stack.enter_context(
            closing(RejectFile(rejects or out.with_name(f"{out.name}.rejected.jsonl"), strict=strict))
        )
        work = work_dir or folder / "work"
        opened = stack.enter_context(
            open_engine(engine, work_dir=work, memory_limit_bytes=memory_limit_bytes, threads=threads)
        )
        preparation = _Preparation(features, opened, sink, report or (lambda what, done: None))
        summary = preparation.prepare(inputs, folder, label, split or SplitRule())
        shutil.rmtree(folder / "work", ignore_errors=True)
    return PrepareSummary(**summary, elapsed_s=time.perf_counter() - started_s)


class _Preparation:
    def __init__(self, features: FeatureSet, engine: Engine, rejects: RejectFile, report: Report) -> None:
        self._features = features
        self._engine = engine
        self._rejects = rejects
        self._report = report
        self._index: dict[str, EntityIndex] = {}
        self._new: dict[str, int] = {}
        self._seen = {USER: KeySet(), ITEM: KeySet()}
        self._inherited: dict[str, Column] = {}
        self._unended: list[str] = []
        self._matched: list[str] = []
        self._names: NamesWriter

    def prepare(self, inputs: RawInputs, folder: Path, label: LabelRule | None, split: SplitRule) -> dict[str, Any]:
        features, options = self._features, inputs.options
        rule = None if inputs.labels else label
        log_files, label_files = self._files(inputs.log), self._files(inputs.labels)
        entity_files = {name: self._files([given]) for name, given in inputs.entities.items()}
        with ExitStack() as stack:
            table = stack.enter_context(folder_writer(folder / EVENTS))
            samples = stack.enter_context(folder_writer(folder / SAMPLES))
            self._names = NamesWriter(table.folder / NAMES)
            known: dict[str, tuple[Int64Array, str]] = {}
            if inputs.unknown == "reject":
                for name in (n for n in (USER, ITEM) if n in entity_files):
                    self._write_entity(table, name, entity_files, inputs)
                    entity_id = features.entity(name).id.name
                    allowed = f"ids of the --{name}s file; --unknown keep takes others, without features"
                    known[entity_id] = (self._index[name].keys, allowed)
            log = self._read(log_files, event_rows(features, options, rule=rule), inputs, known)
            labels = None
            if label_files:
                labels = self._read(label_files, impression_rows(features, options, rule=label), inputs, known)
            for name in features.entity_names():
                if name not in self._index and (name in (USER, ITEM) or name in entity_files):
                    self._write_entity(table, name, entity_files, inputs)
            self._inherited = {name: table.column(f"item.{name}") for name in inherited_attributes(features)}
            events, repeated, positions = self._write_events(table, log, samples if labels is None else None)
            parts: SplitReport | None = None
            if labels is not None:
                parts = self._write_impressions(samples, labels, split)
            elif positions or label is not None:
                parts = self._split_events(table, samples, positions, split)
            if parts is not None:
                info = {"splits": list(SPLITS), "split": parts.to_json(), "warnings": list(parts.warnings)}
                samples.finish(kind=sample_folder.KIND, version=sample_folder.FORMAT_VERSION, info=info)
            collisions = self._names.finish()
            if collisions:
                raise DataFileError(str(collisions[0]))
            info = event_table.table_info(features, repeated=repeated)
            info["read"] = {**asdict(options), "unknown": inputs.unknown, "label": None if rule is None else str(rule)}
            table.finish(kind=event_table.KIND, version=event_table.FORMAT_VERSION, info=info)
        if parts is None:
            shutil.rmtree(folder / SAMPLES)
        return {
            "users": len(self._index[USER].keys), "items": len(self._index[ITEM].keys),
            "new_users": self._new[USER], "new_items": self._new[ITEM], "events": events, "repeated": repeated,
            "rejected": self._rejects.counts.total,
            "rejects": str(self._rejects.path), "reasons": self._rejects.counts.lines(),
            "unended": self._unended, "matched": self._matched, "split": parts,
            "samples": {} if parts is None else {name: part.samples for name, part in parts.parts.items()},
        }  # fmt: skip

    def _files(self, given: Sequence[str]) -> list[RawFile]:
        files, matched = find_files(given)
        self._matched += matched
        return files

    def _read(
        self,
        files: Sequence[RawFile],
        contract: RowContract,
        inputs: RawInputs,
        known: Mapping[str, tuple[Int64Array, str]],
    ) -> tuple[RowContract, Iterator[pa.RecordBatch]]:
        """Rows of logs by user and time. When this returns all of them were read, and their ids seen."""
        user, item = self._features.user_id.name, self._features.item_id.name
        reader = RowReader(contract=contract, complete=inputs.options.complete, known=known)

        def seen(columns: Mapping[str, npt.NDArray[Any]]) -> None:
            self._seen[USER].add(columns[user])
            self._seen[ITEM].add(columns[item])

        sorted_rows = self._engine.sorted_rows(files, reader, self._told(contract, seen), by=(user, TIMESTAMP))
        first = next(sorted_rows, None)
        if first is None and self._rejects.counts.total:
            reasons = "; ".join(self._rejects.counts.lines())
            raise DataFileError(f"{files[0].path}: no row fits. {reasons}. All of them: {self._rejects.path}")
        return contract, itertools.chain([] if first is None else [first], sorted_rows)

    def _told(self, contract: RowContract, seen: Callable[[Mapping[str, npt.NDArray[Any]]], None]) -> Told:
        tables = {one.name: one.feature.table for one in contract.fields if isinstance(one.feature, Categorical)}
        read = 0

        def texts(found: Mapping[str, tuple[Int64Array, Sequence[str]]]) -> None:
            for name, (keys, values) in found.items():
                self._names.add(tables[name], keys, values)

        def rows(columns: Mapping[str, npt.NDArray[Any]], length: int) -> None:
            nonlocal read
            read += length
            seen(columns)
            self._report(f"reading {contract.what}", read)

        return Told(rejected=self._rejects.add, unended=self._unended.append, texts=texts, rows=rows)

    def _write_entity(
        self, table: FolderWriter, name: str, given: Mapping[str, Sequence[RawFile]], inputs: RawInputs
    ) -> None:
        contract = entity_rows(self._features, name, inputs.options)
        prefix = name if name in (USER, ITEM) else f"entity.{name}"
        files = given.get(name, ())
        batches: Iterator[pa.RecordBatch] = iter(())
        if files:
            by = (*row_schema(contract, numbered=True).names,)
            reader = RowReader(contract=contract, complete=inputs.options.complete)
            batches = self._engine.sorted_rows(files, reader, self._told(contract, lambda columns: None), by=by)
        more = self._seen[name].keys() if name in self._seen else np.zeros(0, dtype=np.int64)
        count = new = 0
        for columns, unknown in entity_batches(batches, contract, files, more, self._rejects):
            for column, values in columns.items():
                table.append(f"{prefix}.{column}", values)
            count, new = count + len(columns[contract.fields[0].name]), new + unknown
            self._report(contract.what, count)
        self._index[name] = EntityIndex(table.column(f"{prefix}.{contract.fields[0].name}"))
        self._new[name] = new if files else 0

    def _blocks(
        self,
        rows: tuple[RowContract, Iterator[pa.RecordBatch]],
        inherited: Mapping[str, Column],
        order: Callable[[EventBlock], Any],
    ) -> Iterator[tuple[EventBlock, int]]:
        """Settled rows in order, and how many were given for them. A block ends where a user's timestamp does."""
        contract, batches = rows
        carried: EventBlock | None = None
        for batch in batches:
            if not batch.num_rows:
                continue
            columns = from_batch(batch, contract)
            block = event_block(self._features, self._index[USER], self._index[ITEM], inherited, columns)
            block = joined([carried, block] if carried is not None else [block])
            same = (block.user == block.user[-1]) & (block.packed["timestamp"] == block.packed["timestamp"][-1])
            end = int(np.argmax(same))
            assert (np.diff(block.user) >= 0).all(), "the engine did not sort"
            if end:
                yield block.take(order(block.take(slice(0, end)))), end
            carried = block.take(slice(end, None))
        if carried is not None:
            yield carried.take(order(carried)), len(carried)

    def _write_events(
        self, table: FolderWriter, log: tuple[RowContract, Iterator[pa.RecordBatch]], samples: FolderWriter | None
    ) -> tuple[int, int, int]:
        """Returns how many events there are, how many rows repeated others, and how many events are samples."""
        features, contract = self._features, log[0]
        counts = np.zeros(len(self._index[USER].keys), dtype=np.int64)
        given = written = labelled = 0
        nothing = contract.encode({}, 0).columns
        empty = event_block(features, self._index[USER], self._index[ITEM], self._inherited, nothing)
        blocks = self._blocks(log, self._inherited, lambda block: settled_order(features, block))
        for block, rows in itertools.chain([(empty, 0)], blocks):  # a log without events has its columns too
            for name, column in event_table.event_columns(features, block).items():
                table.append(name, column)
            if samples is not None:
                labelled += _append_samples(samples, block, written)
            found, number = np.unique(block.user, return_counts=True)
            counts[found] += number
            given, written = given + rows, written + len(block)
            self._report("events", given)
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
        self, samples: FolderWriter, labels: tuple[RowContract, Iterator[pa.RecordBatch]], split: SplitRule
    ) -> SplitReport:
        count = 0
        for block, _ in self._blocks(labels, {}, tie_order):
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
            self._report("labels", count)
        if count == 0:
            raise DataFileError("the files of --labels have no labelled row")
        return split_impressions(samples, split, count=count)


def _append_samples(samples: FolderWriter, block: EventBlock, before: int) -> int:
    chosen = np.flatnonzero(block.label != NO_LABEL)
    samples.append("position", chosen.astype(np.int64) + before)
    samples.append("label", block.label[chosen])
    return len(chosen)
