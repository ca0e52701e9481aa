"""A real server with access on: tokens of each role, an issuer of JWTs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from support.secured_server import Secured, secured

from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.serving.process.server import running_server
from recsys.serving.settings import Settings


@pytest.fixture(scope="module")
def server(
    tiny_bundle: Path, redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Secured]:
    """One for a module."""
    made = secured(tmp_path_factory.mktemp("access"))
    settings = Settings(
        bundle=tiny_bundle, port=0, redis_url=redis_server.url, store_timeout_ms=5_000, access_file=made.file
    )
    with running_server(settings) as running:
        made.address = running.address
        yield made


@pytest.fixture(scope="module")
def channel(server: Secured) -> Iterator[grpc.Channel]:
    """A channel to it."""
    with grpc.insecure_channel(server.address) as channel:
        yield channel
