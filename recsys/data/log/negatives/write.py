"""Samples of a log of positives: its lists with drawn negatives, written block by block."""

from __future__ import annotations

from collections.abc import Callable

from recsys.arrays import Int64Array
from recsys.data.column_folder import FolderWriter
from recsys.data.log.negatives.draw import lists_with_negatives
from recsys.data.log.negatives.rule import DrawnNegatives
from recsys.data.log.written_events import WrittenEvents
from recsys.data.samples.stored import sample_columns
from recsys.errors import InvalidInputError


def write_lists(
    samples: FolderWriter,
    events: WrittenEvents,
    positives: Int64Array | None,
    drawn: DrawnNegatives,
    *,
    scratch: FolderWriter,
    report: Callable[[str, int], None],
) -> None:
    """Add the columns of the samples but their splits.

    Args:
        samples: where to.
        events: all of the log.
        positives: positions of the positive events, rising; None: all of them.
        drawn: has the rule; counts are added to it.
        scratch: a folder for what is needed meanwhile.
        report: progress.

    Raises:
        InvalidInputError: there is no positive, or no negative.
    """
    if (len(events) if positives is None else len(positives)) == 0:
        raise InvalidInputError("no event is positive, so there is nothing to draw negatives for")
    for shown, label in lists_with_negatives(events, positives, scratch=scratch, drawn=drawn):
        for name, column in sample_columns(label, position=shown.time_ms, impressions=shown).items():
            samples.append(name, column)
        report("negatives", drawn.negatives)
    if drawn.negatives == 0:
        raise InvalidInputError(
            "no negative could be drawn: every user took all items that existed then; --labels or --requests take what "
            "users were shown and left"
        )
