"""Raw logs of any size to a folder to train on: an event table and its samples.

Rows are encoded by the contract (``recsys/rows``), sorted by user and time by an engine (``engines/``), settled where
users and timestamps end, and appended to the columns on disk. Memory holds a batch, and 16 bytes for every user
and every item.

The result depends on the *set* of rows alone, not on files, their order, or the engine: both engines
write the same bytes.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
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
    with_best_labels,
)
from recsys.data.log.engines.engine import Engine
from recsys.data.log.engines.open import open_engine
from recsys.data.log.entity_table import KeySet, entity_batches
from recsys.data.log.make_samples import MadeSamples, Report, make_samples
from recsys.data.log.names import NAMES, NamesWriter
from recsys.data.log.negatives.rule import DrawnNegatives, NegativeRule
from recsys.data.log.requests.join import JoinedRequests
from recsys.data.log.requests.read import RequestReader, count_requests
from recsys.data.log.row_batches import Reader, from_batch, row_schema
from recsys.data.log.sample_rules import WINDOW_MS, SampleRules
from recsys.data.log.splits.rule import SplitReport, SplitRule
from recsys.data.log.written_events import scratch_folder
from recsys.data.samples import stored as sample_folder
from recsys.errors import ConfigError, DataFileError, InvalidInputError, nearest
from recsys.features.columns import NO_LABEL, Column
from recsys.features.feature_set import ITEM, USER, Categorical, FeatureSet
from recsys.features.history.records import require_history
from recsys.features.history.rules import inherited_attributes
from recsys.rows.contract import (
    CONTEXT,
    LABEL,
    TIMESTAMP,
    ReadOptions,
    RowContract,
    entity_rows,
    event_rows,
    has_value,
    impression_rows,
)
from recsys.rows.encode import RowReader, Told
from recsys.rows.files import RawFile, find_files
from recsys.rows.label_rule import LabelRule
from recsys.rows.rejects import RejectFile, Rejection

EVENTS, SAMPLES = "events", "samples"
"""Folders of a prepared log."""

UNKNOWN = ("keep", "reject")

MANY_REJECTED = 0.1
"""Share of rejected rows from which it is warned of them."""


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
        requests: logs of a server (``serve --log-requests``). With them, the samples are what it showed, and the events
            that followed are its labels.
        options: how rows are read.
        unknown: ``keep`` users and items of the logs that the files of users and items lack, without features, or
            ``reject`` their rows.
        until_ms: leave events, impressions and logged requests from then on, as if they had not happened yet; None:
            read all.
    """

    log: tuple[str, ...]
    entities: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    requests: tuple[str, ...] = ()
    options: ReadOptions = field(default_factory=ReadOptions)
    unknown: Literal["keep", "reject"] = "keep"
    until_ms: int | None = None

    def __post_init__(self) -> None:
        if self.unknown not in UNKNOWN:
            raise ConfigError(f"--unknown {self.unknown!r}: {nearest(self.unknown, UNKNOWN)}")
        if self.unknown == "reject" and not {USER, ITEM} & set(self.entities):
            raise ConfigError("--unknown reject holds ids against --users and --items; give one of them, or both")


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
        odd: a sentence for all that is odd about the rows: many do not fit, a feature without any value.
        samples: samples by split.
        split: how they were cut, and what is odd about the parts; None without samples.
        negatives, requests: what was drawn or joined, if anything.
        warnings: a sentence for all that is odd about the samples; kept with them.
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
    odd: list[str]
    samples: dict[str, int]
    split: SplitReport | None
    negatives: DrawnNegatives | None
    requests: JoinedRequests | None
    warnings: tuple[str, ...]
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
    negatives: NegativeRule | None = None,
    window_ms: int = WINDOW_MS,
    with_samples: bool | None = None,
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
        label, split, negatives, window_ms, with_samples: see ``SampleRules``.
        rejects: takes rows that do not fit, as JSON lines; default: beside ``out``.
        strict: whether the first such row is an error.
        report: progress.

    Raises:
        DataFileError: a file cannot be read or has unknown columns, or no row of it fits.
        ConfigError: a setting is out of range, nothing makes samples where there must be some, or a folder cannot be
            written.
        InvalidInputError: the samples have nothing to train on, or one label alone.
        FileExistsError: ``out`` exists.
    """
    started_s = time.perf_counter()
    require_history(features)
    rules = SampleRules(
        label=label, split=split or SplitRule(), negatives=negatives, window_ms=window_ms, wanted=with_samples
    )
    rules.check(labels=bool(inputs.labels), requests=bool(inputs.requests))
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
        with scratch_folder(work) as scratch:
            try:
                summary = preparation.prepare(inputs, folder, rules, scratch)
            except InvalidInputError as error:
                if str(sink.path) not in str(error):
                    error.args = (str(error) + _set_aside(sink),)
                raise
        shutil.rmtree(folder / "work", ignore_errors=True)
    return PrepareSummary(**summary, elapsed_s=time.perf_counter() - started_s)


def _set_aside(rejects: RejectFile) -> str:
    """Words for rows that were rejected before something else ended it: they may be why."""
    total = rejects.counts.total
    return f". {total:,} rows were set aside before, in {rejects.path}" if total else ""


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
        self._fitting: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        self._present: dict[str, set[str]] = {}
        self._unended: list[str] = []
        self._matched: list[str] = []
        self._labelled = False
        self._names: NamesWriter

    def prepare(self, inputs: RawInputs, folder: Path, rules: SampleRules, scratch: FolderWriter) -> dict[str, Any]:
        features, options, label = self._features, inputs.options, rules.label
        rule = None if inputs.labels else label
        log_files, label_files, request_files = map(self._files, (inputs.log, inputs.labels, inputs.requests))
        joining = JoinedRequests(window_ms=rules.window_ms) if request_files else None
        if joining is not None:
            joining.requests, joining.unranked = count_requests(request_files, features, until_ms=inputs.until_ms)
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
            contract = event_rows(features, options, rule=rule)
            whole = RowReader(contract=contract, complete=options.complete, known=known, until_ms=inputs.until_ms)
            reader: Reader = whole
            log = self._read(log_files, reader)
            shown = None
            if label_files:
                contract = impression_rows(features, options, rule=label)
                shown = self._read(label_files, replace(whole, contract=contract))
            elif request_files:
                contract = replace(impression_rows(features), what="requests")
                requests = RequestReader(features=features, contract=contract, known=known, until_ms=inputs.until_ms)
                shown = self._read(request_files, requests)
            elif rules.wanted and not (self._labelled or label or rules.negatives):
                raise rules.no_samples(log_files[0].path, rows=self._fitting["events"])
            for name in features.entity_names():
                if name not in self._index and (name in (USER, ITEM) or name in entity_files):
                    self._write_entity(table, name, entity_files, inputs)
            self._seen.clear()  # its keys are in the tables now
            self._inherited = {name: table.column(f"item.{name}") for name in inherited_attributes(features)}
            # Labelled events are samples, or what negatives are drawn for, or what was taken of what was shown.
            apart = rules.negatives is not None or joining is not None
            marked = None if label_files or rules.wanted is False else scratch if apart else samples
            events, repeated, labelled = self._write_events(table, log, marked)
            made = MadeSamples()
            wanted = shown is not None or apart or (rules.wanted is not False and (labelled or label is not None))
            if wanted and not (rules.wanted is None and not events):  # without any event there is nothing to ask for
                made = make_samples(
                    features, rules, table=table, samples=samples, marked=marked if labelled or label else None,
                    shown=None if shown is None else (block for block, _ in self._blocks(shown, {}, _in_order)),
                    joining=joining, scratch=scratch, report=self._report,
                )  # fmt: skip
                samples.finish(kind=sample_folder.KIND, version=sample_folder.FORMAT_VERSION, info=made.to_json())
            collisions = self._names.finish()
            if collisions:
                raise DataFileError(str(collisions[0]))
            about = event_table.table_info(features, repeated=repeated)
            about["read"] = {**asdict(options), "unknown": inputs.unknown, "label": None if rule is None else str(rule)}
            table.finish(kind=event_table.KIND, version=event_table.FORMAT_VERSION, info=about)
        if made.split is None:
            shutil.rmtree(folder / SAMPLES)
        return {
            "users": len(self._index[USER].keys), "items": len(self._index[ITEM].keys),
            "new_users": self._new[USER], "new_items": self._new[ITEM], "events": events, "repeated": repeated,
            "rejected": self._rejects.counts.total,
            "rejects": str(self._rejects.path), "reasons": self._rejects.counts.lines(),
            "unended": self._unended, "matched": self._matched, "odd": self._odd(inputs, entity_files),
            "samples": made.sizes(), **vars(made),
        }  # fmt: skip

    def _odd(self, inputs: RawInputs, entity_files: Mapping[str, Sequence[RawFile]]) -> list[str]:
        """Say what is odd about the rows that were read."""
        found = []
        for what, rejected in self._rejected.items():
            share = rejected / (rejected + self._fitting[what])
            if share >= MANY_REJECTED:
                found.append(f"{rejected:,} of {rejected + self._fitting[what]:,} {what} do not fit ({share:.1%})")
        inherited = inherited_attributes(self._features) if ITEM in entity_files else ()
        read = self._present.get("events", set()) | self._present.get("labels", set())
        present = {name.removeprefix(CONTEXT) for name in read}
        of_events = (*require_history(self._features).attributes, *self._features.context)
        names = [f.name for f in of_events if f.name not in (*inherited, *present)]
        found += [self._no_value("events", name, inputs) for name in names]
        for name in self._features.entity_names():
            declared = [f.name for f in self._features.entity(name).features]
            if declared and name not in entity_files and name in (USER, ITEM):
                found.append(f"no --{name}s file: {', '.join(declared)} of every {name} are missing")
            elif name in entity_files:
                present = self._present.get(f"{name}s", set())
                found += [self._no_value(f"{name}s", one, inputs) for one in declared if one not in present]
        return found

    def _no_value(self, what: str, name: str, inputs: RawInputs) -> str:
        if name in inputs.options.ignored and what == "events":
            return f"{name!r} is declared and left out by --ignore: it is missing in all {what}"
        return f"{name!r} is declared, and no row of the {what} has a value: is its column there, under that name?"

    def _files(self, given: Sequence[str]) -> list[RawFile]:
        files, matched = find_files(given)
        self._matched += matched
        return files

    def _read(
        self,
        files: Sequence[RawFile],
        reader: Reader,
    ) -> tuple[RowContract, Iterator[pa.RecordBatch]]:
        """Rows of logs by user and time. When this returns all of them were read, and their ids seen."""
        user, item = self._features.user_id.name, self._features.item_id.name
        contract = reader.contract

        def seen(columns: Mapping[str, npt.NDArray[Any]]) -> None:
            self._seen[USER].add(columns[user])
            self._seen[ITEM].add(columns[item])
            self._labelled = self._labelled or bool((columns[LABEL] != NO_LABEL).any())

        sorted_rows = self._engine.sorted_rows(files, reader, self._told(contract, seen), by=(user, TIMESTAMP))
        first = next(sorted_rows, None)
        if first is None:
            self._require_a_row(files, contract.what)
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
            self._fitting[contract.what] += len(next(iter(columns.values())))
            for one in contract.fields:
                if one.name not in present and has_value(one, columns[one.name]):
                    present.add(one.name)
            seen(columns)
            self._report(f"reading {contract.what}", read)

        def rejected(rejection: Rejection) -> None:
            self._rejected[contract.what] += 1
            self._rejects.add(rejection)

        present = self._present.setdefault(contract.what, set())
        return Told(rejected=rejected, unended=self._unended.append, texts=texts, rows=rows)

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
        count = in_files = 0
        for columns, given_rows in entity_batches(batches, contract, files, more, self._rejects):
            for column, values in columns.items():
                table.append(f"{prefix}.{column}", values)
            table.append(f"{event_table.GIVEN}.{name}", given_rows)
            count, in_files = count + len(given_rows), in_files + int(given_rows.sum())
            self._report(contract.what, count)
        if files and not in_files:
            self._require_a_row(files, contract.what)
        self._index[name] = EntityIndex(table.column(f"{prefix}.{contract.fields[0].name}"))
        self._new[name] = count - in_files if files else 0

    def _require_a_row(self, files: Sequence[RawFile], what: str) -> None:
        """Raise DataFileError if no row of the files fitted, though they have some."""
        if self._rejected[what]:
            reasons = "; ".join(self._rejects.counts.lines())
            raise DataFileError(f"{files[0].path}: no row fits. {reasons}. All of them: {self._rejects.path}")

    def _blocks(
        self,
        rows: tuple[RowContract, Iterator[pa.RecordBatch]],
        inherited: Mapping[str, Column],
        settle: Callable[[EventBlock], EventBlock],
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
                yield settle(block.take(slice(0, end))), end
            carried = block.take(slice(end, None))
        if carried is not None:
            yield settle(carried), len(carried)

    def _write_events(
        self, table: FolderWriter, log: tuple[RowContract, Iterator[pa.RecordBatch]], samples: FolderWriter | None
    ) -> tuple[int, int, int]:
        """Returns how many events there are, how many rows repeated others, and how many events are samples."""
        features, contract = self._features, log[0]
        counts = np.zeros(len(self._index[USER].keys), dtype=np.int64)
        given = written = labelled = 0
        nothing = contract.encode({}, 0).columns
        empty = event_block(features, self._index[USER], self._index[ITEM], self._inherited, nothing)
        blocks = self._blocks(log, self._inherited, lambda block: _settled(features, block))
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


def _settled(features: FeatureSet, block: EventBlock) -> EventBlock:
    block = with_best_labels(features, block)
    return block.take(settled_order(features, block))


def _in_order(block: EventBlock) -> EventBlock:
    return block.take(tie_order(block))


def _append_samples(samples: FolderWriter, block: EventBlock, before: int) -> int:
    chosen = np.flatnonzero(block.label != NO_LABEL)
    samples.append("position", chosen.astype(np.int64) + before)
    samples.append("label", block.label[chosen])
    return len(chosen)
