"""Samples of each part of a split, in memory of one chunk; ``leave_last`` holds 16 bytes for every user."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.arrays import Int64Array
from recsys.data.column_folder import FolderWriter
from recsys.data.log.splits.checks import checked
from recsys.data.log.splits.cuts import NEVER, NO_TIME, Cuts, Times, cuts_of
from recsys.data.log.splits.rule import SPLITS, Part, SplitReport, SplitRule
from recsys.data.log.written_events import changes
from recsys.errors import InvalidInputError

_CHUNK = 1 << 20

Users = Callable[[slice], npt.NDArray[Any]]


def write_splits(
    writer: FolderWriter,
    rule: SplitRule,
    *,
    count: int,
    users: Users,
    times: Times,
    labels: Callable[[slice], npt.NDArray[Any]],
) -> SplitReport:
    """Add ``split.<name>`` columns, ascending, in memory of one chunk.

    Args:
        writer: of the samples' folder.
        rule: see :class:`SplitRule`.
        count: M samples, sorted by (user, time).
        users, times, labels: user index, milliseconds and label (0 or 1) of a slice of the samples.

    Raises:
        InvalidInputError: there is no sample, or none to train on, or all of those have one label.
    """
    if count == 0:
        raise InvalidInputError("no row has a label, so there are no samples")
    chunks = [slice(begin, min(begin + _CHUNK, count)) for begin in range(0, count, _CHUNK)]
    cuts: Cuts | None = None
    if rule.leave_last:
        last, previous = _last_moments(chunks, users, times)
    else:
        cuts = cuts_of(rule, count, chunks, times)
    parts = dict.fromkeys(SPLITS, Part())
    for chunk in chunks:
        moments, label = np.asarray(times(chunk)), np.asarray(labels(chunk))
        if cuts is None:
            user = users(chunk)
            test, validation = moments == last[user], moments == previous[user]
        else:
            test = moments >= cuts.test
            validation = ~test & (moments >= cuts.validation)
        for name, chosen in zip(SPLITS, (~test & ~validation, validation, test), strict=True):
            writer.append(f"split.{name}", (np.flatnonzero(chosen) + chunk.start).astype(np.int64))
            parts[name] = _added(parts[name], moments[chosen], label[chosen])
    report = SplitReport(
        rule="leave_last" if cuts is None else "share" if cuts.chosen else "time",
        validation_from_ms=None if cuts is None or cuts.validation == NEVER else cuts.validation,
        test_from_ms=None if cuts is None or cuts.test == NEVER else cuts.test,
        parts=parts,
        warnings=(),
    )
    return checked(report, rule, count)


def split_impressions(samples: FolderWriter, rule: SplitRule, *, count: int) -> SplitReport:
    """:func:`write_splits` of samples that are impressions: the columns are their own."""
    users, times, label = (samples.column(name) for name in ("user", "time_ms", "label"))
    return write_splits(
        samples,
        rule,
        count=count,
        users=lambda rows: users[rows],
        times=lambda rows: times[rows],
        labels=lambda rows: label[rows],
    )


def _last_moments(chunks: Sequence[slice], users: Users, times: Times) -> tuple[Int64Array, Int64Array]:
    """Every user's last moment and the one before, ``NO_TIME`` where there is none; [U] each."""
    number = int(users(slice(chunks[-1].stop - 1, chunks[-1].stop))[-1]) + 1
    last, previous = (np.full(number, NO_TIME, dtype=np.int64) for _ in range(2))
    for chunk in chunks:
        user, moments = np.asarray(users(chunk)), np.asarray(times(chunk))
        begins = np.flatnonzero(changes(user) | changes(moments))
        user, moments = user[begins], moments[begins]
        ends = np.flatnonzero(np.append(user[1:] != user[:-1], True))
        begun = user[0]  # perhaps in the chunk before
        carried = last[begun]
        last[user[ends]] = moments[ends]
        two = ends[(ends > 0) & (user[ends - 1] == user[ends])]
        previous[user[two]] = moments[two - 1]
        if carried not in (NO_TIME, moments[0]) and last[begun] == moments[0]:
            previous[begun] = carried
    return last, previous


def _added(part: Part, moments: Int64Array, label: npt.NDArray[Any]) -> Part:
    if len(moments) == 0:
        return part
    first, last = int(moments.min()), int(moments.max())
    return Part(
        samples=part.samples + len(moments),
        positives=part.positives + int((label == 1).sum()),
        first_ms=first if part.first_ms is None else min(first, part.first_ms),
        last_ms=last if part.last_ms is None else max(last, part.last_ms),
    )
