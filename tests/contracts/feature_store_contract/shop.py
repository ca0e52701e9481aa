"""The FeatureSet of the contract, and histories of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from recsys.features.feature_set import Categorical, Entity, FeatureSet, History, Numeric
from recsys.features.history.records import Events, make_events

MAX_EVENTS = 6
SHOP = FeatureSet(
    name="shop",
    user_id=Categorical(name="user_id"),
    item_id=Categorical(name="item_id"),
    user=(Categorical(name="city", id_type="string"), Numeric(name="age", default=-1.0)),
    item=(Categorical(name="tag", max_values=2), Numeric(name="price", default=0.0)),
    history=History(attributes=(Categorical(name="rating", storage="u8"),), max_events=MAX_EVENTS, recent=4),
    entities=(Entity(name="shop", id=Categorical(name="shop_id"), features=(Numeric(name="rating", default=0.0),)),),
)
USER, OTHER = 7, 8
T0_MS = 1_700_000_000_000
VERSION = "0123456789abcdef"
"""Of a bundle."""

Row = tuple[int, int, int, int]
"""(timestamp, item, rating, arrival), the timestamp relative to T0_MS."""
user_keys = itertools.count(1 << 40)


def events_of(rows: Sequence[Row]) -> Events:
    timestamp, item, rating, arrival = (list(c) for c in zip(*rows, strict=True)) if rows else ([],) * 4
    times = np.array(timestamp, dtype=np.int64) + T0_MS
    arrivals = np.array(arrival, dtype=np.int64) + T0_MS
    return make_events(SHOP, item=item, timestamp_ms=times, arrival_ms=arrivals, attributes={"rating": rating})


def rows_of(events: Events) -> list[Row]:
    return [(int(e["timestamp"]) - T0_MS, int(e["item"]), int(e["rating"]), int(e["arrival"]) - T0_MS) for e in events]


def history_of(sent: Iterable[Row]) -> list[Row]:
    """A history of these events by definition: each event once, as it arrived first, in order."""
    first: dict[tuple[int, int, int], int] = {}
    for timestamp, item, rating, arrival in sent:
        event = (timestamp, item, rating)
        first[event] = min(arrival, first.get(event, arrival))
    rows = [(*event, arrival) for event, arrival in first.items()]
    return sorted(rows, key=lambda r: (r[0], r[3], r[1].to_bytes(8, "little"), r[2]))
