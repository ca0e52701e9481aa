"""Deliveries: events as they reach a store, from an event table or from raw files."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.data.events import EventTable, user_events
from recsys.features.hashing import Int64Array
from recsys.features.history import Events, event_dtype, missing_events
from recsys.features.history_rules import inherited_attributes
from recsys.ingest.files import file_source, find_event_files
from recsys.ingest.records import ARRIVAL, Fields, decode
from recsys.ingest.source import RawBatch


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
    histories = [user_events(table, int(user)) for user in users]
    keys = np.repeat(table.user_keys[users], [len(h) for h in histories])
    events = np.concatenate(histories) if histories else np.empty(0, dtype=event_dtype(table.features))
    return Deliveries(user_key=keys, events=events)


def log_deliveries(table: EventTable, users: Int64Array, files: Sequence[str]) -> Deliveries:
    """The events of some users (row numbers) of a table, as raw files hold them; read as `recsys ingest` does.

    Like `recsys prepare`, and unlike `recsys ingest`, an event without an arrival arrived at its timestamp.

    Raises:
        DataFileError: a file cannot be read, or lacks a column.
    """
    return asyncio.run(_log_deliveries(table, users, files))


async def _log_deliveries(table: EventTable, users: Int64Array, files: Sequence[str]) -> Deliveries:
    features = table.features
    wanted = np.sort(table.user_keys[users])
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
                _fill_from_items(table, batch, decoded.kept, found)
                ours = (
                    wanted[np.minimum(np.searchsorted(wanted, decoded.user_keys), len(wanted) - 1)] == decoded.user_keys
                )
                keys.append(decoded.user_keys[ours])
                events.append(found[ours])
        finally:
            await source.close()
    return Deliveries(user_key=np.concatenate(keys), events=np.concatenate(events))


def _fill_from_items(table: EventTable, batch: RawBatch, kept: Int64Array, events: Events) -> None:
    """Give events the attributes that they did not send and their items have, as ingest does from the store."""
    order = np.argsort(table.item_keys)
    place = order[np.minimum(np.searchsorted(table.item_keys, events["item"], sorter=order), len(order) - 1)]
    known = table.item_keys[place] == events["item"]
    for name in inherited_attributes(table.features, sent=()):
        unsent = np.ones(len(events), dtype=np.bool_)
        if name in batch.columns:
            unsent = batch.unsent[name][kept] if name in batch.unsent else ~unsent
        fill = unsent & known
        events[name][fill] = table.items[name][place[fill]]
