"""Encoded events to packed ones, as histories hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.features.columns import NO_TIME
from recsys.features.feature_set import FeatureSet
from recsys.features.history.records import Events, missing_events, require_history, stored_attribute
from recsys.rows.contract import ARRIVAL, TIMESTAMP


def packed_events(
    features: FeatureSet, columns: Mapping[str, npt.NDArray[Any]], *, read_ms: int | None = None
) -> Events:
    """Events of encoded rows; order kept; [N].

    Args:
        features: declares the history.
        columns: encoded columns by field name; attributes that are not there are missing.
        read_ms: arrival of events that do not say; default: when they happened.
    """
    times = columns[TIMESTAMP]
    events = missing_events(features, len(times))
    events["item"], events["timestamp"] = columns[features.item_id.name], times
    arrivals = columns.get(ARRIVAL, np.full(len(times), NO_TIME))
    events["arrival"] = np.where(arrivals == NO_TIME, times if read_ms is None else read_ms, arrivals)
    for attribute in require_history(features).attributes:
        if attribute.name in columns:
            events[attribute.name] = stored_attribute(attribute, columns[attribute.name])
    return events
