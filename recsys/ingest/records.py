"""Raw events to packed ones, by the contract for a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from recsys.arrays import BoolArray, Int64Array
from recsys.errors import InvalidInputError
from recsys.features.feature_set import FeatureSet
from recsys.features.hashing import MISSING
from recsys.features.history.records import Events
from recsys.features.history.rules import inherited_attributes
from recsys.features.values import MAX_TIME_MS
from recsys.ingest.source import RawBatch
from recsys.rows.contract import RowContract
from recsys.rows.events import packed_events


class Decoded(NamedTuple):
    """Of N raw events the M that may be stored.

    Attributes:
        kept: their indices; [M], rising.
        user_keys: their users; [M].
        events: packed; [M]. Those that do not say when they arrived did when the batch was read.
        refused: (index, reason) of the others, in order.
        texts: of the string ids of items and attributes, by key.
    """

    kept: Int64Array
    user_keys: Int64Array
    events: Events
    refused: list[tuple[int, InvalidInputError]]
    texts: dict[int, str]

    def without(self, places: Int64Array, reasons: Sequence[InvalidInputError]) -> Decoded:
        """Refuse some of the M events, too, for these reasons."""
        more = list(zip(self.kept[places].tolist(), reasons, strict=True))
        return self._replace(
            kept=np.delete(self.kept, places),
            user_keys=np.delete(self.user_keys, places),
            events=np.delete(self.events, places),
            refused=sorted([*self.refused, *more], key=lambda found: found[0]),
        )


def decode(
    features: FeatureSet,
    contract: RowContract,
    batch: RawBatch,
    *,
    future_tolerance_s: int,
    arrives_when_read: bool = True,
) -> Decoded:
    """Check and pack a batch.

    Args:
        features: declares the history.
        contract: what an event is.
        batch: N events.
        future_tolerance_s: how far after ``batch.read_ms`` an event's times may be.
        arrives_when_read: whether an event that does not say arrived when it was read, or else when it happened.
    """
    latest_ms = min(batch.read_ms + 1000 * future_tolerance_s, MAX_TIME_MS)
    encoded = replace(contract, latest_ms=latest_ms).encode(batch.columns, batch.length)
    events = packed_events(features, encoded.columns, read_ms=batch.read_ms if arrives_when_read else None)
    refused = sorted(encoded.refused.items(), key=lambda found: found[0])
    texts: dict[int, str] = {}
    for feature in features.event_features():
        keys, values = encoded.texts.get(feature.name, (events["item"][:0], ()))
        texts.update(zip(keys.tolist(), values, strict=True))
    return Decoded(encoded.kept, encoded.columns[features.user_id.name], events, list(refused), texts)


def lacking(features: FeatureSet, events: Events) -> dict[str, BoolArray]:
    """Attributes to be taken from the items -> which events lack them; only those that some event lacks; [M]."""
    found = {name: events[name] == MISSING for name in inherited_attributes(features)}
    return {name: mask for name, mask in found.items() if mask.any()}
