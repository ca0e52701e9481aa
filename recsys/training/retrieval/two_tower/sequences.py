"""Histories as windows of events, and the targets that are predicted after each of them.

A target is a training pair; it is predicted from the events that its user's history showed at its moment
(``point_in_time.py``), by what attention leaves at the last of them. Its moment is that of the user's first
event of the item: lists leave out what is in the history, so a target is never among the events that it is predicted
from. A window of events answers for all its targets in one pass. Windows of a long history overlap by half, so that a
target of all but the oldest reads at least half a window, and at least the events of half of ``history.max_age_s``.
Sequences without times tell their order. Pairs of text files do not: each epoch puts a user's items into another random
order.

Legend: ``N`` users, ``E`` events of all users, ``T`` targets, ``K`` windows, ``B`` windows of a batch, ``L`` events of
the longest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from recsys.arrays import BoolArray, Float32Array, Int64Array
from recsys.data.interactions.histories import UserEvents
from recsys.data.interactions.pairs import Interactions, Pairs, ids_of
from recsys.data.samples.histories import first_at_or_after, ranges
from recsys.errors import InvalidInputError
from recsys.features.history.records import require_history
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.retrieval.linear.fit import fitted_pairs
from recsys.training.retrieval.linear.histories import user_events
from recsys.training.retrieval.two_tower.point_in_time import seen_at

_POOL = 16
"""Steps whose windows are sorted by length, so that those of one batch are about as long as each other."""


_LEAST_STEPS, _FEWEST_TARGETS = 16, 8
"""Steps that an epoch has at least, if each then has so many targets."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sequences:
    """Windows of events, and their targets.

    Attributes:
        events: of all users, in the order in which they are read; behind them copies (``point_in_time.py``).
        own: events that are no copies.
        begin_K, end_K: window k is events[begin_K:end_K].
        older_K: events[older_K:begin_K] of its user are read by their hashes.
        offsets: window k's targets are offsets[k]:offsets[k + 1]; [K + 1].
        last_T: place of the last event that is read for each target; ascending within a window.
        item_T: the target; of events in a random order it is the item of the next.
        weight_T: in the loss, float32; None: all weigh the same.
        ordered: events have an order of their own.
    """

    events: UserEvents
    own: int
    older_K: Int64Array
    begin_K: Int64Array
    end_K: Int64Array
    offsets: Int64Array
    last_T: Int64Array
    item_T: Int64Array
    weight_T: Float32Array | None
    ordered: bool

    def __len__(self) -> int:
        return len(self.last_T)

    def shuffled(self, generator: torch.Generator) -> Sequences:
        """The same with the events of each user in a random order, if they have none of their own."""
        if self.ordered:
            return self
        events = self.events
        random_E = torch.rand(len(events.item_E), generator=generator, dtype=torch.float64).numpy()
        item_E = events.item_E[np.lexsort((random_E, events.user_E))]
        return replace(self, events=replace(events, item_E=item_E), item_T=item_E[self.last_T + 1])

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Int64Array]:
        """Windows with about ``size`` targets each: all, in a random order. As many batches in each epoch."""
        counts_K, steps = np.diff(self.offsets), self.steps(size)
        order = torch.randperm(len(counts_K), generator=generator).numpy()
        pool = (np.cumsum(counts_K[order]) - 1) * -(-steps // _POOL) // len(self)
        order = order[np.lexsort(((self.end_K - self.begin_K)[order], pool))]
        middle = np.cumsum(counts_K[order]) - counts_K[order] / 2
        step = np.minimum((middle * steps / len(self)).astype(np.int64), steps - 1)
        edges = np.searchsorted(step, np.arange(steps + 1))
        for number in torch.randperm(steps, generator=generator).tolist():
            if edges[number] < edges[number + 1]:
                yield order[edges[number] : edges[number + 1]]

    def steps(self, size: int) -> int:
        """Batches of an epoch, at most: of a small log more than ``size`` asks for, or an epoch would be one step."""
        return max(1, -(-len(self) // size), min(_LEAST_STEPS, len(self) // _FEWEST_TARGETS))

    def targets_of(self, windows_B: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Places of the targets of some windows, and the window, of these, that each is of."""
        counts_B = self.offsets[windows_B + 1] - self.offsets[windows_B]
        places, _ = ranges(self.offsets[windows_B], counts_B)
        return places, np.repeat(np.arange(len(windows_B)), counts_B)


def training_sequences(
    config: RetrievalRunConfig, interactions: Interactions, *, window: int, long_history: int = 0
) -> tuple[Sequences, tuple[str, ...]]:
    """Windows and targets of the training pairs; a sentence each on pairs that are left out.

    Of each user the newest events count, as many as the store keeps (``history.max_events``).

    Args:
        config, interactions: of the run.
        window: most events that attention reads.
        long_history: most events before them that are read by their hashes.

    Raises:
        InvalidInputError: no pair comes after an event of its user, or all that do are of one item.
    """
    history = require_history(ids_of(interactions).features)
    most, max_age_ms = history.max_events, 1000 * history.max_age_s
    events = interactions.histories.get("train") or user_events(
        config, interactions, test=not len(interactions.validation)
    )
    pairs = fitted_pairs(interactions)
    begin_N, end_N = _bounds(events, interactions.num_users)
    notes, oldest_T, moment_T, own = list(interactions.notes), None, None, len(events.user_E)
    if events.time_ms_E is None:
        first_N = np.maximum(begin_N, end_N - most)
        last_T = np.flatnonzero(np.arange(len(events.user_E)) + 1 < end_N[events.user_E])
        last_T = last_T[last_T >= first_N[events.user_E[last_T]]]
        new_T = _is_first(events)[last_T + 1]
        last_T = last_T[new_T]
        user_T, item_T, weight_T = events.user_E[last_T], events.item_E[last_T + 1], None
        without, aged, older = 0, 0, int((first_N - begin_N).sum())
        if again := int((~new_T).sum()):
            notes.append(f"{again:,} events of an item that their user had before are read, but are no targets")
    else:
        moment_E = _moments(pairs, events, interactions.num_items)
        seen = seen_at(pairs.user_E, moment_E, events, (begin_N, end_N), newest=most, reach=window + long_history)
        events, first_N, end_N, seen_E = seen.events, seen.first_N, seen.end_N, seen.end_T
        if seen.alone:
            notes.append(
                f"{seen.alone:,} of {len(pairs):,} training pairs come while an event of their user is on its way "
                f"behind which others have arrived: {len(events.user_E) - own:,} events are read once more for them"
            )
        chosen = seen_E > first_N[seen.user_T]
        without = int((seen_E == begin_N[pairs.user_E]).sum())
        older = len(pairs) - int(chosen.sum()) - without
        aged = 0
        if max_age_ms:
            assert events.time_ms_E is not None
            oldest_E = first_at_or_after(
                events.time_ms_E, moment_E - max_age_ms, begin=first_N[seen.user_T], end=seen_E
            )
            aged = int((chosen & (oldest_E == seen_E)).sum())
            chosen &= oldest_E < seen_E
            oldest_T, moment_T = oldest_E[chosen], moment_E[chosen]
        user_T, item_T, last_T = seen.user_T[chosen], pairs.item_E[chosen], seen_E[chosen] - 1
        weight_T = None if pairs.weight_E is None else pairs.weight_E[chosen]
    if not len(last_T):
        raise InvalidInputError(
            f"{interactions.source}: none of the {len(pairs):,} training pairs comes after an event of its user: a "
            "model that knows users by their history learns from such pairs alone; expected users with several events"
        )
    if len(np.unique(item_T)) == 1:
        raise InvalidInputError(
            f"{interactions.source}: all {len(item_T):,} targets of training are one item: there is nothing to tell "
            "apart; expected pairs of several items"
        )
    if without:
        notes.append(
            f"{without:,} of {len(pairs):,} training pairs come before any other event of their user: nothing predicts "
            "them"
        )
    if aged:
        notes.append(
            f"{aged:,} of {len(pairs):,} training pairs come when all events of their user are older than "
            f"history.max_age_s, {history.max_age_s:,} seconds: nothing predicts them"
        )
    if older > 0:
        notes.append(f"{older:,} training pairs lie before the newest {most:,} events of their user and are left out")
    ordered = bool(interactions.histories)
    part_T = np.zeros(len(user_T), dtype=np.int64) if moment_T is None else _parts(user_T, moment_T, max_age_ms)
    made = _windows(
        events,
        (user_T, item_T, last_T, weight_T),
        (first_N, end_N),
        own=own,
        part_T=part_T,
        oldest_T=oldest_T,
        sizes=(window, long_history),
        ordered=ordered,
    )
    return made, tuple(notes)


def newest_windows(
    events: UserEvents, users_G: Int64Array, num_users: int, *, window: int, long_history: int = 0
) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Begin of each user's older events, at most ``long_history``, begin and end of the newest, at most ``window``;
    each [G].
    """
    begin_N, end_N = _bounds(events, num_users)
    of_window_N = np.maximum(begin_N, end_N - window)
    return np.maximum(begin_N, of_window_N - long_history)[users_G], of_window_N[users_G], end_N[users_G]


def _bounds(events: UserEvents, num_users: int) -> tuple[Int64Array, Int64Array]:
    users = np.arange(num_users)
    return np.searchsorted(events.user_E, users, side="left"), np.searchsorted(events.user_E, users, side="right")


def _is_first(events: UserEvents) -> BoolArray:
    """True for the first event of its user of its item, [E]."""
    order = np.lexsort((events.item_E, events.user_E))
    user_E, item_E = events.user_E[order], events.item_E[order]
    found = np.ones(len(order), dtype=np.bool_)
    found[order[1:]] = (user_E[1:] != user_E[:-1]) | (item_E[1:] != item_E[:-1])
    return found


def _moments(pairs: Pairs, events: UserEvents, num_items: int) -> Int64Array:
    """Time of the user's first event of each pair's item; of a pair without one, its own time."""
    assert events.time_ms_E is not None and pairs.time_ms_E is not None
    first_E = _is_first(events)
    keys, times = events.user_E[first_E] * num_items + events.item_E[first_E], events.time_ms_E[first_E]
    order = np.argsort(keys)
    keys, times = keys[order], times[order]
    own = pairs.user_E * num_items + pairs.item_E
    place_E = np.minimum(np.searchsorted(keys, own), len(keys) - 1)
    if not len(keys):
        return pairs.time_ms_E
    return np.where(keys[place_E] == own, np.minimum(times[place_E], pairs.time_ms_E), pairs.time_ms_E)


def _parts(user_T: Int64Array, moment_T: Int64Array, max_age_ms: int) -> Int64Array:
    """Number of the half ``max_age_ms`` that each target lies in, from its user's newest target backwards."""
    newest_N = np.full(int(user_T.max()) + 1, np.iinfo(np.int64).min)
    np.maximum.at(newest_N, user_T, moment_T)
    return (newest_N[user_T] - moment_T) // max(max_age_ms // 2, 1)


def _windows(
    events: UserEvents,
    targets: tuple[Int64Array, Int64Array, Int64Array, Float32Array | None],
    bounds: tuple[Int64Array, Int64Array],
    *,
    own: int,
    part_T: Int64Array,
    oldest_T: Int64Array | None,
    sizes: tuple[int, int],
    ordered: bool,
) -> Sequences:
    """Windows from each user's newest events backwards, half of each new; those with a target.

    Args:
        events: of all users.
        targets: user, item, place of the last event and weight of each.
        bounds: of each user's events, then of each copy's.
        own: events that are no copies.
        part_T: targets of two parts share no window.
        oldest_T: place of the oldest event that is not too old for a target; None: there is no age.
        sizes: most events of a window, and before it.
        ordered: events have an order.
    """
    window, long_history = sizes
    (user_T, item_T, last_T, weight_T), (first_N, end_N) = targets, bounds
    stride = max(window // 2, 1)
    windows_N = 1 + np.maximum(-(-(end_N - first_N - window) // stride), 0)
    number_T = np.minimum((end_N[user_T] - 1 - last_T) // stride, windows_N[user_T] - 1)
    alone_T = np.full(len(user_T), -1)
    while True:
        order = np.lexsort((last_T, alone_T, -part_T, -number_T, user_T))
        new = np.ones(len(order), dtype=np.bool_)
        new[1:] = np.any([of_T[order][1:] != of_T[order][:-1] for of_T in (user_T, number_T, part_T, alone_T)], axis=0)
        first = np.flatnonzero(new)
        offsets = np.append(first, len(order))
        user_K, number_K = user_T[order][first], number_T[order][first]
        first_K = first_N[user_K]
        begin_K = np.maximum(end_N[user_K] - number_K * stride - window, first_K)
        if oldest_T is None:
            break
        first_K = np.maximum(first_K, np.maximum.reduceat(oldest_T[order], first))
        begin_K = np.maximum(begin_K, first_K)
        lost = last_T[order] < np.repeat(begin_K, np.diff(offsets))  # too old for a later target of the window
        if not lost.any():
            break
        alone_T[order[lost]] = last_T[order[lost]]
    return Sequences(
        events=events,
        own=own,
        older_K=np.maximum(begin_K - long_history, first_K),
        begin_K=begin_K,
        end_K=last_T[order][offsets[1:] - 1] + 1,
        offsets=offsets,
        last_T=last_T[order],
        item_T=item_T[order],
        weight_T=None if weight_T is None else weight_T[order],
        ordered=ordered,
    )
