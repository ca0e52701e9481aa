"""Deliveries: events as they reach a store, from an event table or from raw files."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from recsys.arrays import Int64Array
from recsys.data.log.event_table import EventTable, packed_events, read_options
from recsys.data.samples.histories import ranges
from recsys.errors import DataFileError
from recsys.features.history.records import Events, missing_events
from recsys.ingest.dead_letters import rejection
from recsys.ingest.files import file_source, find_event_files
from recsys.ingest.records import decode, lacking
from recsys.ingest.source import Refusal
from recsys.rows.contract import event_rows
from recsys.rows.rejects import RejectCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliveries:
    """N events as they reach a store; in any order, repetitions included.

    Attributes:
        user_key: whose each event is; [N], int64.
        events: [N].
        rejected: rows of raw files that did not fit, by reason.
    """

    user_key: Int64Array
    events: Events
    rejected: RejectCounts = field(default_factory=RejectCounts)


def table_deliveries(table: EventTable, users: Int64Array) -> Deliveries:
    """The events of some users (row numbers) of a table."""
    lengths = np.diff(table.offsets)[users]
    rows, _ = ranges(table.offsets[users], lengths)
    return Deliveries(user_key=np.repeat(table.user_keys[users], lengths), events=packed_events(table, rows))


def log_deliveries(table: EventTable, users: Int64Array, files: Sequence[str]) -> Deliveries:
    """The events of some users (row numbers) of a table, as raw files hold them; read as `recsys ingest` does.

    Like `recsys prepare`, whose options the table has, and unlike `recsys ingest`, an event without an arrival arrived
    at its timestamp.

    Raises:
        DataFileError: a file cannot be read, or lacks a column.
    """
    return asyncio.run(_log_deliveries(table, users, files))


async def _log_deliveries(table: EventTable, users: Int64Array, files: Sequence[str]) -> Deliveries:
    features = table.features
    wanted, item_order = np.sort(table.user_keys[users]), np.argsort(table.item_keys)
    options, rule, known_only = read_options(table)
    contract = event_rows(features, options, rule=rule)
    keys, events = [np.empty(0, dtype=np.int64)], [missing_events(features, 0)]
    rejected, fitting = RejectCounts(), 0
    for file in find_event_files(files)[0]:
        source = file_source(file, contract, complete=options.complete)
        await source.start({})
        try:
            while (batch := await source.read()) is not None:
                decoded = decode(
                    features, contract, batch, future_tolerance_s=options.future_tolerance_s, arrives_when_read=False
                )
                fitting += len(decoded.events)
                refused = [*batch.refused, *(Refusal(why, *batch.locate(place)) for place, why in decoded.refused)]
                for refusal in refused:
                    rejected.add(rejection(batch.source, refusal))
                _fill_from_items(table, item_order, decoded.events)
                place = np.minimum(np.searchsorted(wanted, decoded.user_keys), len(wanted) - 1)
                ours = wanted[place] == decoded.user_keys
                if known_only:
                    ours &= np.isin(decoded.events["item"], table.item_keys)
                keys.append(decoded.user_keys[ours])
                events.append(decoded.events[ours])
        finally:
            await source.close()
    if rejected.total and not fitting:
        raise DataFileError(f"{', '.join(files)}: no row fits. {'; '.join(rejected.lines())}")
    return Deliveries(user_key=np.concatenate(keys), events=np.concatenate(events), rejected=rejected)


def _fill_from_items(table: EventTable, item_order: Int64Array, events: Events) -> None:
    """Give events the attributes that they lack and their items have, as ingest does from the store."""
    place = np.searchsorted(table.item_keys, events["item"], sorter=item_order)
    place = item_order[np.minimum(place, len(item_order) - 1)]
    known = table.item_keys[place] == events["item"]
    for name, mask in lacking(table.features, events).items():
        fill = mask & known
        events[name][fill] = table.items[name][place[fill]]
