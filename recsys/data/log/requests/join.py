"""Labels of shown items: 1 where the user took the item soon after.

An impression of user u, item i and time t is positive if the log has a positive event of u and i from t on and before
``t + window``, unless i was shown to u again before that event: an event is of the newest impression before it. An
impression whose window ends after the log does is not known yet, and is left out.

``B`` impressions of whole users, ``N`` events.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.arrays import BoolArray, Int64Array
from recsys.data.log.written_events import WrittenEvents, changes

_CHUNK = 1 << 20


@dataclass(kw_only=True)
class JoinedRequests:
    """Counts of a join.

    Attributes:
        window_ms: time that users have to take what they were shown.
        requests: logged requests.
        unranked: of these, without ``top_k``: nothing says what was shown.
        shown: shown items.
        repeated: of these, the same user, item and time once more; left out.
        open: of these, with a window that ends after the log; left out.
        before: of these, with a window that ends before the first event of the log.
        impressions, positives: samples, and those taken.
    """

    window_ms: int
    requests: int = 0
    unranked: int = 0
    shown: int = 0
    repeated: int = 0
    open: int = 0
    before: int = 0
    impressions: int = 0
    positives: int = 0

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    def warnings(self) -> list[str]:
        """A sentence for all that was left out, or is in doubt."""
        found = []
        if self.unranked:
            found.append(
                f"{self.unranked:,} of {self.requests:,} logged requests had no top_k: what was ranked is not what was "
                "shown, so they are left out"
            )
        if self.open:
            found.append(
                f"{self.open:,} of {self.shown:,} shown items are left out, because the log ends before their window "
                "does; prepare again with a newer log"
            )
        if self.before:
            found.append(
                f"{self.before:,} shown items are older than the log's first event by the whole window, and count as "
                "not taken; give the log that far back"
            )
        return found


def log_span(events: WrittenEvents) -> tuple[int, int]:
    """Times of the first event and the last."""
    first, last = np.iinfo(np.int64).max, np.iinfo(np.int64).min
    for begin in range(0, len(events), _CHUNK):
        times = events.time_ms[begin : begin + _CHUNK]
        first, last = min(first, int(times.min())), max(last, int(times.max()))
    return int(first), int(last)


def label_shown(
    events: WrittenEvents,
    positives: Int64Array | None,
    *,
    user: Int64Array,
    item: Int64Array,
    time_ms: Int64Array,
    window_ms: int,
) -> npt.NDArray[np.uint8]:
    """Labels of the impressions of whole users; [B].

    Args:
        events: the log.
        positives: positions of the events that count, rising; None: all.
        user, item, time_ms: of the impressions, rising by user; row numbers of the table; [B].
        window_ms: 1 or more.
    """
    label = np.zeros(len(user), dtype=np.uint8)
    if len(user) == 0:
        return label
    position = _events_of(events, positives, int(user[0]), int(user[-1]))
    by = np.searchsorted(events.offsets, position, side="right") - 1
    pair = np.concatenate([user, by]) * len(events.item_keys) + np.concatenate([item, events.item[position]])
    times = np.concatenate([time_ms, events.time_ms[position]])
    is_event = np.arange(len(pair)) >= len(user)
    order = np.lexsort((is_event, times, pair))  # at one time, first shown and then taken
    this, following = order[:-1], order[1:]
    taken = ~is_event[this] & is_event[following] & (pair[this] == pair[following])
    taken &= times[following] - times[this] < window_ms
    label[this[taken]] = 1
    return label


def repeats(user: Int64Array, item: npt.NDArray[Any], time_ms: Int64Array) -> BoolArray:
    """True where an impression is there already, as its neighbour; sorted by (user, time, item); [B]."""
    return ~(changes(user) | changes(item) | changes(time_ms))


def _events_of(events: WrittenEvents, positives: Int64Array | None, first: int, last: int) -> Int64Array:
    """Positions of the events that count, of the users first to last."""
    begin, end = int(events.offsets[first]), int(events.offsets[last + 1])
    if positives is None:
        return np.arange(begin, end)
    return np.asarray(positives[slice(*np.searchsorted(positives, (begin, end)))])
