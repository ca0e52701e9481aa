"""Deliveries: events as they reach a store, from an event table or from raw files."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recsys.arrays import BoolArray, Int64Array
from recsys.data.log.event_table import EventTable, packed_events
from recsys.data.samples.histories import ranges
from recsys.features.history.records import Events, missing_events
from recsys.ingest.files import file_source, find_event_files
from recsys.ingest.records import ARRIVAL, Fields, decode, unsent_attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliveries:
    """N events as they reach a store; in any order, repetitions included.

    Attributes:
        user_key: whose each event is; [N], int64.
        events: [N].
    """

    user_key: Int64Array
    events: Events


def table_deliveries(table: EventTable, users: Int64Array) -> Deliveries:
    """The events of some users (row numbers) of a table."""
    lengths = np.diff(table.offsets)[users]
    rows, _ = ranges(table.offsets[users], lengths)
    return Deliveries(user_key=np.repeat(table.user_keys[users], lengths), events=packed_events(table, rows))


def log_deliveries(table: EventTable, users: Int64Array, files: Sequence[str]) -> Deliveries:
    """The events of some users (row numbers) of a table, as raw files hold them; read as `recsys ingest` does.

    Like `recsys prepare`, and unlike `recsys ingest`, an event without an arrival arrived at its timestamp.

    Raises:
        DataFileError: a file cannot be read, or lacks a column.
    """
    return asyncio.run(_log_deliveries(table, users, files))


async def _log_deliveries(table: EventTable, users: Int64Array, files: Sequence[str]) -> Deliveries:
    features = table.features
    wanted, item_order = np.sort(table.user_keys[users]), np.argsort(table.item_keys)
    fields = Fields(features=features, ignore_unknown=True)
    keys, events = [np.empty(0, dtype=np.int64)], [missing_events(features, 0)]
    for file in find_event_files(files):
        source = file_source(file, fields)
        await source.start({})
        try:
            while (batch := await source.read()) is not None:
                decoded = decode(features, batch, future_tolerance_s=0)
                found = decoded.events
                if ARRIVAL not in batch.columns:
                    found["arrival"] = found["timestamp"]
                _fill_from_items(table, item_order, unsent_attributes(features, batch, decoded.kept), found)
                ours = (
                    wanted[np.minimum(np.searchsorted(wanted, decoded.user_keys), len(wanted) - 1)] == decoded.user_keys
                )
                keys.append(decoded.user_keys[ours])
                events.append(found[ours])
        finally:
            await source.close()
    return Deliveries(user_key=np.concatenate(keys), events=np.concatenate(events))


def _fill_from_items(
    table: EventTable, item_order: Int64Array, unsent: Mapping[str, BoolArray], events: Events
) -> None:
    """Give events the attributes that they did not send and their items have, as ingest does from the store."""
    place = np.searchsorted(table.item_keys, events["item"], sorter=item_order)
    place = item_order[np.minimum(place, len(item_order) - 1)]
    known = table.item_keys[place] == events["item"]
    for name, mask in unsent.items():
        fill = mask & known
        events[name][fill] = table.items[name][place[fill]]
