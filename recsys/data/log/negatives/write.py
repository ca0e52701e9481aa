"""Samples of a log of positives: its lists with drawn negatives, written block by block."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from recsys.arrays import Int64Array
from recsys.data.column_folder import FolderWriter
from recsys.data.log.negatives.draw import lists_with_negatives
from recsys.data.log.negatives.rule import DrawnNegatives, NegativeRule
from recsys.data.log.written_events import WrittenEvents
from recsys.data.samples.stored import sample_columns
from recsys.errors import InvalidInputError

_CHUNK = 1 << 20


def write_lists(
    samples: FolderWriter,
    events: WrittenEvents,
    labelled: FolderWriter | None,
    rule: NegativeRule,
    *,
    scratch: FolderWriter,
    report: Callable[[str, int], None],
) -> DrawnNegatives:
    """Add the columns of the samples but their splits.

    Args:
        samples: where to.
        events: all of the log.
        labelled: columns ``position`` and ``label`` of the events that have a label; None: all events are positives.
        rule: of the negatives.
        scratch: a folder for what is needed meanwhile.
        report: progress.

    Raises:
        InvalidInputError: there is no positive.
    """
    drawn = DrawnNegatives(rule=rule)
    positives = None if labelled is None else _positives(labelled, scratch, drawn)
    if (len(events) if positives is None else len(positives)) == 0:
        raise InvalidInputError("no event is positive, so there is nothing to draw negatives for")
    for shown, label in lists_with_negatives(events, positives, rule, scratch=scratch, drawn=drawn):
        for name, column in sample_columns(label, position=shown.time_ms, impressions=shown).items():
            samples.append(name, column)
        report("negatives", drawn.negatives)
    return drawn


def _positives(labelled: FolderWriter, scratch: FolderWriter, drawn: DrawnNegatives) -> Int64Array:
    position, label = labelled.column("position"), labelled.column("label")
    scratch.append("positive", np.zeros(0, dtype=np.int64))
    for begin in range(0, len(label), _CHUNK):
        chosen = label[begin : begin + _CHUNK] == 1
        scratch.append("positive", position[begin : begin + _CHUNK][chosen])
        drawn.left_out += int(len(chosen) - chosen.sum())
    return scratch.column("positive")
