"""Events as each training pair's moment saw them (``features/history/rules.py``: earlier, and arrived by then).

Most moments see a beginning of their user's events. One that comes while an event is on its way, behind which others
have arrived, does not: it reads a copy of the events that it saw. Moments that miss the same events share one.

Legend: ``T`` pairs, ``E`` events, ``N`` users, then with a number for each copy, ``L`` late events, ``H`` pairs of a
moment and an event that it misses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from recsys.arrays import Int64Array
from recsys.data.interactions.histories import UserEvents
from recsys.data.samples.histories import first_at_or_after, ranges


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """Events that the moments of pairs see.

    Attributes:
        events: those that were given, then the copies.
        first_N, end_N: events of each user that count, then of each copy.
        user_T: user of each pair, or the number of its copy.
        end_T: it sees the events of its user, or of its copy, before this place.
        alone: pairs that read a copy.
    """

    events: UserEvents
    first_N: Int64Array
    end_N: Int64Array
    user_T: Int64Array
    end_T: Int64Array
    alone: int


def seen_at(
    user_T: Int64Array,
    moment_T: Int64Array,
    events: UserEvents,
    bounds: tuple[Int64Array, Int64Array],
    *,
    newest: int,
    reach: int,
) -> Seen:
    """Find the events that each pair's moment sees.

    Args:
        user_T, moment_T: of each pair; milliseconds.
        events: of all users, with times.
        bounds: begin and end of each user's, both [N].
        newest: of each user's events that count; a pair that sees none of these gets no copy.
        reach: most events that are read for a pair; a copy begins with so many before its first pair.
    """
    begin_N, end_N = bounds
    assert events.time_ms_E is not None
    end_T = first_at_or_after(events.time_ms_E, moment_T, begin=begin_N[user_T], end=end_N[user_T])
    first_N = np.maximum(begin_N, end_N - newest)
    seen = Seen(events=events, first_N=first_N, end_N=end_N, user_T=user_T, end_T=end_T, alone=0)
    if events.arrival_ms_E is None:
        return seen
    pair_H, event_H = _missed(user_T, moment_T, events, len(begin_N))
    order = np.lexsort((-event_H, pair_H))
    pair_H, event_H = pair_H[order], event_H[order]
    missed_T = np.bincount(pair_H, minlength=len(user_T))
    from_newest_H = np.arange(len(pair_H)) - (np.cumsum(missed_T) - missed_T)[pair_H]
    is_newest_H = event_H == end_T[pair_H] - 1 - from_newest_H  # all between it and the moment are missed, too
    end_T = end_T - np.bincount(pair_H[is_newest_H], minlength=len(user_T))
    seen = replace(seen, end_T=end_T)
    between_H = ~is_newest_H & (end_T > first_N[user_T])[pair_H]
    return _with_copies(seen, pair_H[between_H], event_H[between_H], reach=reach)


def _missed(
    user_T: Int64Array, moment_T: Int64Array, events: UserEvents, num_users: int
) -> tuple[Int64Array, Int64Array]:
    """Pairs of a moment and an event before it that arrived after it, both [H]."""
    assert events.time_ms_E is not None and events.arrival_ms_E is not None
    late_L = np.flatnonzero(events.arrival_ms_E > events.time_ms_E + 1)
    user_L, order = events.user_E[late_L], np.lexsort((moment_T, user_T))
    begin_L, end_L = (
        np.searchsorted(user_T[order], user_L, side="left"),
        np.searchsorted(user_T[order], user_L, side="right"),
    )
    first_L, last_L = (
        first_at_or_after(moment_T[order], time_ms_L, begin=begin_L, end=end_L)
        for time_ms_L in (events.time_ms_E[late_L] + 1, events.arrival_ms_E[late_L])
    )
    places, _ = ranges(first_L, last_L - first_L)
    return order[places], np.repeat(late_L, last_L - first_L)


def _with_copies(seen: Seen, pair_H: Int64Array, event_H: Int64Array, *, reach: int) -> Seen:
    """The same with a copy for the pairs that miss events in between; these and the events, by pair."""
    if not len(pair_H):
        return seen
    pairs, first = np.unique(pair_H, return_index=True)
    alike: dict[bytes, list[int]] = {}
    missed: dict[bytes, Int64Array] = {}
    for pair, missed_events in zip(pairs.tolist(), np.split(event_H, first[1:]), strict=True):
        key = missed_events.tobytes()
        alike.setdefault(key, []).append(pair)
        missed[key] = missed_events
    user_T, end_T = seen.user_T.copy(), seen.end_T.copy()
    first_N, end_N, copied, length = list(seen.first_N), list(seen.end_N), [], len(seen.events.user_E)
    for key, together in alike.items():
        oldest = int(end_T[together].min()) - reach - len(missed[key])
        oldest = max(oldest, int(seen.first_N[seen.user_T[together[0]]]))
        places = np.setdiff1d(np.arange(oldest, int(end_T[together].max())), missed[key])
        end_T[together] = length + np.searchsorted(places, end_T[together])
        user_T[together] = len(first_N)
        first_N.append(length)
        length += len(places)
        end_N.append(length)
        copied.append(places)
    return Seen(
        events=seen.events.where(np.concatenate([np.arange(len(seen.events.user_E)), *copied])),
        first_N=np.array(first_N),
        end_N=np.array(end_N),
        user_T=user_T,
        end_T=end_T,
        alone=len(pairs),
    )
