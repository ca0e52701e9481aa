"""A real server in the test's own process, on the tiny bundle and a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.tiny_bundle import FEATURES, write_tiny_bundle
from support.tiny_server import Start

from recsys.client import AsyncClient
from recsys.feature_store.blocking import BlockingFeatureStore
from recsys.feature_store.loop_thread import loop_in_thread
from recsys.feature_store.redis.store import RedisFeatureStore
from recsys.serving.process.server import running_server
from recsys.serving.process.stores import Stores, open_stores
from recsys.serving.settings import Settings


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle's folder."""
    path = tmp_path_factory.mktemp("bundles") / "tiny"
    write_tiny_bundle(path)
    return path


@pytest.fixture
def start(tiny_bundle: Path, redis_url: str) -> Start:
    """Starts a server with these settings; gives a client of it. Generous with time: test machines are busy."""

    @asynccontextmanager
    async def started(**overrides: Any) -> AsyncIterator[AsyncClient]:
        values = {"bundle": tiny_bundle, "port": 0, "redis_url": redis_url, "store_timeout_ms": 5_000, **overrides}
        with running_server(Settings(**values)) as server:
            async with AsyncClient(server.address, timeout_s=10.0) as client:
                yield client

    return started


@pytest.fixture
async def client(start: Start) -> AsyncIterator[AsyncClient]:
    """A client of a server with an empty store."""
    async with start() as client:
        yield client


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisFeatureStore]:
    """The server's feature store, reached without the server."""
    store = RedisFeatureStore.connect(redis_url, FEATURES)
    yield store
    await store.close()


@pytest.fixture
def stores(redis_url: str) -> Iterator[Stores]:
    """The server's clients of its feature store."""
    with loop_in_thread("store") as loop, open_stores(redis_url, FEATURES, Settings(), loop=loop) as stores:
        yield stores


@pytest.fixture
def blocking_store(stores: Stores) -> BlockingFeatureStore:
    """The server's feature store as its handler threads have it."""
    return stores.blocking_store
