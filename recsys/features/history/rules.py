"""Rules of a history: what it holds and what a model may see of it, for the online store and for training alike.

**Holds**: the distinct events that were sent, whatever their order and however often
(:func:`canonical_order`). **Sees**, at time T: those with a timestamp before T that had arrived by T and
are not older than ``max_age_s``, the newest ``recent`` of them (:func:`visible`; for training samples,
``data/samples/dataset.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.arrays import BoolArray, Int64Array
from recsys.features.feature_set import FeatureSet
from recsys.features.history.records import Events, require_history


def inherited_attributes(features: FeatureSet) -> tuple[str, ...]:
    """Attributes that take the item's stored value where an event has none: named like an item feature, ``i64``.

    The one rule for event logs and appended events, so that a live event has the bytes that
    training saw. ``FeatureSet`` makes sure that such an attribute is of the item feature's kind.
    """
    items = {f.name for f in features.item}
    attributes = require_history(features).attributes
    return tuple(a.name for a in attributes if a.storage == "i64" and a.name in items)


def identity_fields(features: FeatureSet) -> tuple[str, ...]:
    """The fields of a record that, with its timestamp, tell events apart, in the record's order.

    By default not those that may be taken from the item: an event that is sent again after its item
    changed is still the same event.
    """
    history = require_history(features)
    if history.identity is not None:
        return tuple(n for n in ("item", *(a.name for a in history.attributes)) if n in history.identity)
    derived = inherited_attributes(features)
    return ("item", *(a.name for a in history.attributes if a.name not in derived))


def canonical_order(features: FeatureSet, events: Events, user: Int64Array | None = None) -> Int64Array:
    """Indices of the events that are kept, in the history's order; shape [<= L].

    Sorted by timestamp, then arrival, then bytes; of events equal in timestamp and
    :func:`identity_fields` only the first is kept. So a history is a function of the *set* of events
    that were sent, whatever their order and however often: online and offline cannot disagree.

    Args:
        features: declares the history.
        events: of any order, shape [L].
        user: index of each event's user, shape [L]: histories are sorted one after another.
    """
    if len(events) == 0 or _in_order(events["timestamp"], user):
        return np.arange(len(events))
    groups: list[npt.NDArray[Any]] = [] if user is None else [user]
    times: list[npt.NDArray[Any]] = [*groups, events["timestamp"], events["arrival"]]
    order = np.lexsort(times[::-1])
    tied = _same_as_before(times, order)
    if tied.any():
        # Bytes are slow to sort, so only where the times leave the order open.
        tied[:-1] |= tied[1:]
        places = np.flatnonzero(tied)
        raw = np.ascontiguousarray(events[order[places]]).view(f"S{events.dtype.itemsize}").ravel()
        among = [*(column[order[places]] for column in times), raw]
        order[places] = order[places][np.lexsort(among[::-1])]
    moment: list[npt.NDArray[Any]] = [*groups, events["timestamp"]]
    if not _same_as_before(moment, order).any():
        return order.astype(np.int64)
    identity = [*moment, *(events[name] for name in identity_fields(features))]
    by_identity = order[np.lexsort([column[order] for column in identity[::-1]])]  # stable: the first stays first
    repeated = by_identity[_same_as_before(identity, by_identity)]
    keep = np.ones(len(events), dtype=np.bool_)
    keep[repeated] = False
    return order[keep[order]].astype(np.int64)


def canonical(features: FeatureSet, events: Events) -> Events:
    """One user's events as a history holds them: :func:`canonical_order`."""
    return events[canonical_order(features, events)]


def visible(features: FeatureSet, events: Events, time_ms: int) -> Events:
    """Of stored events those that count at ``time_ms``: earlier, arrived by then, not too old (``max_age_s``).

    ``data/samples/dataset.py`` applies the same rule to training samples.
    """
    times = events["timestamp"]
    end = int(np.searchsorted(times, time_ms))
    max_age_s = require_history(features).max_age_s
    begin = int(np.searchsorted(times, time_ms - 1000 * max_age_s)) if max_age_s else 0
    events = events if begin == 0 and end == len(events) else events[begin:end]
    arrived = events["arrival"] <= time_ms
    return events if arrived.all() else events[arrived]


def _in_order(times: Int64Array, user: Int64Array | None) -> bool:
    """True if each user's times grow from event to event, as they do as a rule."""
    later = times[1:] > times[:-1]
    if user is None:
        return bool(later.all())
    return bool(((user[1:] > user[:-1]) | ((user[1:] == user[:-1]) & later)).all())


def _same_as_before(columns: Sequence[npt.NDArray[Any]], order: npt.NDArray[Any]) -> BoolArray:
    """Mark the rows that, in that order, equal the row before in all columns; [len(order)]."""
    same = np.ones(len(order), dtype=np.bool_)
    same[:1] = False
    for column in columns:
        ordered = column[order]
        same[1:] &= ordered[1:] == ordered[:-1]
    return same
