"""A server's Redis that drops keys or is emptied: said while it serves, and counted."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from support.redis_servers import free_port
from support.tiny_bundle import FEATURES

from recsys.client import Client
from recsys.feature_store.redis.keys import meta_key
from recsys.serving.process import stores
from recsys.serving.process.server import running_server
from recsys.serving.settings import Settings


def until(true: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.05)


def test_a_policy_set_and_a_redis_emptied_under_a_server_are_logged_and_counted(
    tiny_bundle: Path,
    redis_url: str,
    redis_admin: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(stores, "_CHECK_EVERY_S", 0.1)
    settings = Settings(bundle=tiny_bundle, port=0, metrics_port=free_port(), redis_url=redis_url)

    def counted(reason: str) -> float:
        page = urllib.request.urlopen(f"http://127.0.0.1:{settings.metrics_port}/metrics").read().decode()
        found = re.search(rf'^recsys_store_warnings_total{{reason="{reason}"}} (\S+)$', page, re.MULTILINE)
        assert found is not None
        return float(found[1])

    with running_server(settings) as server, Client(server.address, timeout_s=10.0) as client:
        client.append_events(user=1, items=[1], timestamps_ms=[1_700_000_000_000])
        assert (counted("evicts"), counted("lost")) == (0, 0) and "maxmemory-policy" not in caplog.text
        try:
            redis_admin.config_set("maxmemory-policy", "allkeys-lru")
            until(lambda: "maxmemory-policy is allkeys-lru" in caplog.text)
        finally:
            redis_admin.config_set("maxmemory-policy", "noeviction")
        until(lambda: counted("evicts") >= 1)
        redis_admin.flushall()
        client.append_events(user=1, items=[1], timestamps_ms=[1_700_000_000_000])
        assert redis_admin.hkeys(meta_key(FEATURES.name)) == [b"history"]
        until(lambda: "lost the record of the history part" in caplog.text and counted("lost") >= 1)
