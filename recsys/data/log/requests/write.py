"""Samples of a request log: its shown items with their labels, user by user."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from recsys.arrays import Int64Array
from recsys.data.column_folder import FolderWriter
from recsys.data.log.encoder import EventBlock, joined
from recsys.data.log.requests.join import JoinedRequests, label_shown, log_span, repeats
from recsys.data.log.written_events import WrittenEvents
from recsys.data.samples.stored import Impressions, sample_columns
from recsys.errors import InvalidInputError


def write_shown(
    samples: FolderWriter,
    blocks: Iterator[EventBlock],
    events: WrittenEvents,
    positives: Int64Array | None,
    joining: JoinedRequests,
    *,
    report: Callable[[str, int], None],
) -> None:
    """Add the columns of the samples but their splits; memory holds a block, and the impressions of one user.

    Args:
        samples: where to.
        blocks: shown items, sorted by (user, time, item).
        events: all of the log.
        positives: positions of the events that count, rising; None: all.
        joining: has the window; counts are added to it.
        report: progress.

    Raises:
        InvalidInputError: the log has no event, or nothing is left.
    """
    if len(events) == 0:
        raise InvalidInputError("the log has no event to join the requests with")
    first_ms, last_ms = log_span(events)
    for block in _whole_users(blocks):
        joining.shown += len(block)
        time_ms = np.ascontiguousarray(block.packed["timestamp"])
        again = repeats(block.user, block.item, time_ms)
        unended = ~again & (time_ms + joining.window_ms > last_ms)
        label = label_shown(
            events,
            positives,
            user=block.user[~again],
            item=block.item[~again].astype(np.int64),
            time_ms=time_ms[~again],
            window_ms=joining.window_ms,
        )[~unended[~again]]
        kept = ~again & ~unended
        joining.repeated += int(again.sum())
        joining.open += int(unended.sum())
        joining.before += int((time_ms[kept] + joining.window_ms <= first_ms).sum())
        joining.impressions += len(label)
        joining.positives += int(label.sum())
        shown = Impressions(
            user=block.user[kept].astype(np.int32),
            item=block.item[kept],
            time_ms=time_ms[kept],
            context={name: column[kept] for name, column in block.context.items()},
        )
        for name, column in sample_columns(label, position=shown.time_ms, impressions=shown).items():
            samples.append(name, column)
        report("impressions", joining.impressions)
    if joining.impressions == 0:
        raise InvalidInputError("no shown item is left to label. " + ". ".join(joining.warnings()))


def _whole_users(blocks: Iterator[EventBlock]) -> Iterator[EventBlock]:
    """The same rows, cut between users."""
    carried: list[EventBlock] = []
    for block in blocks:
        begin = int(np.searchsorted(block.user, block.user[-1]))
        if carried and begin == 0 and block.user[0] == carried[0].user[0]:
            carried.append(block)
            continue
        done = [*carried, block.take(slice(0, begin))] if begin else carried
        if done:
            yield joined(done)
        carried = [block.take(slice(begin, None))]
    if carried:
        yield joined(carried)
