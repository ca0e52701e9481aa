"""Event tables into the feature store: users, items, histories. Running it again changes nothing."""

from __future__ import annotations

import numpy as np

from recsys.data.events import EventTable, user_events
from recsys.feature_store.ingest import IngestResult, Progress, ingest_histories, put_in_chunks
from recsys.feature_store.redis_store import RedisFeatureStore


async def ingest_table(url: str, table: EventTable, *, progress: Progress | None = None) -> IngestResult:
    """Put every user, item and history of an event table into the store at ``url``.

    Args:
        url: of a Redis.
        table: what to load.
        progress: called with the number of events done.

    Raises:
        ConfigError: the URL is malformed.
        StoreError: the store cannot be reached, is full, or holds foreign bytes; run it again.
    """
    features = table.features
    store = RedisFeatureStore.connect(url, features)
    try:
        users = {f.name: table.users[f.name] for f in features.user}
        items = {f.name: table.items[f.name] for f in features.item}
        await put_in_chunks(store.put_users, np.asarray(table.user_keys), users)
        await put_in_chunks(store.put_items, np.asarray(table.item_keys), items)
        histories = ((int(key), user_events(table, index)) for index, key in enumerate(table.user_keys))
        return await ingest_histories(store, histories, progress=progress)
    finally:
        await store.close()
