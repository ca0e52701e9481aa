"""Samples of a log: its labelled events; or impressions, which are given, drawn, or joined with a request log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.data.column_folder import FolderWriter
from recsys.data.log.encoder import EventBlock
from recsys.data.log.negatives.rule import DrawnNegatives
from recsys.data.log.negatives.write import write_lists
from recsys.data.log.requests.join import JoinedRequests
from recsys.data.log.requests.write import write_shown
from recsys.data.log.sample_rules import SampleRules
from recsys.data.log.splits.rule import SPLITS, SplitReport, SplitRule
from recsys.data.log.splits.write import split_impressions, write_splits
from recsys.data.log.written_events import positive_events, written_events
from recsys.data.samples.stored import Impressions, sample_columns
from recsys.errors import DataFileError
from recsys.features.feature_set import FeatureSet

Report = Callable[[str, int], None]
"""Called with what is being done and how many rows of it are done."""


@dataclass(frozen=True, kw_only=True)
class MadeSamples:
    """Samples that were written.

    Attributes:
        split: how they were cut, and what is odd about the parts; None without samples.
        negatives, requests: what was drawn or joined, if anything.
        warnings: a sentence for all that is odd about them.
    """

    split: SplitReport | None = None
    negatives: DrawnNegatives | None = None
    requests: JoinedRequests | None = None
    warnings: tuple[str, ...] = ()

    def sizes(self) -> dict[str, int]:
        """Samples by part."""
        return {} if self.split is None else {name: part.samples for name, part in self.split.parts.items()}

    def to_json(self) -> dict[str, Any]:
        """Contents of ``meta.json`` about the samples."""
        found = {"split": self.split, "negatives": self.negatives, "requests": self.requests}
        facts = {name: part.to_json() for name, part in found.items() if part is not None}
        return {"splits": list(SPLITS), **facts, "warnings": list(self.warnings)}


def make_samples(
    features: FeatureSet,
    rules: SampleRules,
    *,
    table: FolderWriter,
    samples: FolderWriter,
    marked: FolderWriter | None,
    shown: Iterator[EventBlock] | None,
    joining: JoinedRequests | None,
    scratch: FolderWriter,
    report: Report,
) -> MadeSamples:
    """Write the columns of samples and of their splits.

    Args:
        features: of the log.
        rules: what samples there are.
        table: the events, all written.
        samples: where to. Of samples that are events, ``position`` and ``label`` are there already.
        marked: has ``position`` and ``label`` of the events with a label, if any has.
        shown: impressions: labelled, or of the request log of ``joining``; sorted by (user, time, item).
        joining: has the window; counts are added to it.
        scratch: a folder for what is needed meanwhile.
        report: progress.

    Raises:
        InvalidInputError: there is no sample, nothing to train on, or one label alone.
        DataFileError: there is no labelled impression.
    """
    if shown is None and rules.negatives is None:
        split = split_events(table, samples, rules.split)
        return MadeSamples(split=split, warnings=split.warnings)
    drawn: DrawnNegatives | None = None
    said: list[str] = []
    if shown is not None and joining is None:
        write_labelled(samples, shown, report)
    else:
        events = written_events(features, table)
        positives, others = (None, 0) if marked is None else positive_events(marked, scratch)
        if shown is not None and joining is not None:
            write_shown(samples, shown, events, positives, joining, report=report)
            said = joining.warnings()
        elif rules.negatives is not None:
            drawn = DrawnNegatives(rule=rules.negatives, left_out=others)
            write_lists(samples, events, positives, drawn, scratch=scratch, report=report)
            said = drawn.warnings()
    split = split_impressions(samples, rules.split, count=len(samples.column("label")))
    return MadeSamples(split=split, negatives=drawn, requests=joining, warnings=(*said, *split.warnings))


def split_events(table: FolderWriter, samples: FolderWriter, split: SplitRule) -> SplitReport:
    """Split samples that are events."""
    position, label = samples.column("position"), samples.column("label")
    offsets, times = table.column("offsets"), table.column("event.timestamp")
    return write_splits(
        samples,
        split,
        count=len(position),
        users=lambda rows: np.searchsorted(offsets, position[rows], side="right") - 1,
        times=lambda rows: times[position[rows]],
        labels=lambda rows: label[rows],
    )


def write_labelled(samples: FolderWriter, blocks: Iterator[EventBlock], report: Report) -> None:
    """Add the columns of labelled impressions, but their splits."""
    count = 0
    for block in blocks:
        shown = Impressions(
            user=block.user.astype(np.int32),
            item=block.item,
            time_ms=np.ascontiguousarray(block.packed["timestamp"]),
            context=block.context,
        )
        for name, column in sample_columns(block.label, position=block.user, impressions=shown).items():
            samples.append(name, column)
        count += len(block)
        report("labels", count)
    if count == 0:
        raise DataFileError("the files of --labels have no labelled row")
