"""MovieLens-1M, the last tenth of each user's events for test: 91,976 ratings, where ReChorus's test has 5,176."""

from __future__ import annotations

import numpy as np

from recsys.data.samples.histories import ranges
from recsys.data.sources.movielens.prepare import LogSplit
from recsys.data.sources.raw_log import RawLog

_SHARE = 10


def temporal_split(raw: RawLog) -> LogSplit:
    """Of a user's n ratings, oldest first, the last n // 10 are for test and the n // 10 before for validation.

    Ratings of one moment stay together, in the earliest part that any of them falls in: nothing is tested at a
    moment that was trained on. So both parts may be smaller, and of users with fewer than ten ratings they are empty.
    All ratings are kept; positive are those of 4 and more. Users are split one by one: what one
    user is tested on may be earlier than what another is trained on.
    """
    order = np.lexsort((raw.timestamp_ms, raw.user))
    user, time_ms = raw.user[order], raw.timestamp_ms[order]
    counts_U = np.unique(user, return_counts=True)[1]
    place = ranges(np.zeros_like(counts_U), counts_U)[0]
    count = np.repeat(counts_U, counts_U)
    new_moment = np.ones(len(order), dtype=bool)
    new_moment[1:] = (user[1:] != user[:-1]) | (time_ms[1:] != time_ms[:-1])
    moment = np.cumsum(new_moment) - 1
    earliest = place[new_moment][moment]
    held_out = count // _SHARE
    in_test = earliest >= count - held_out
    in_validation = ~in_test & (earliest >= count - 2 * held_out)
    return LogSplit(
        kept=np.arange(len(raw)),
        train=order[~in_test & ~in_validation],
        validation=order[in_validation],
        test=order[in_test],
    )
