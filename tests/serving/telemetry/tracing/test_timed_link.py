"""Round trips to the store, counted by how they ended."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from recsys.errors import StoreUnavailableError
from recsys.feature_store.loop_thread import loop_in_thread
from recsys.feature_store.redis.link.blocking import BlockingLink
from recsys.serving.telemetry.counters import Telemetry
from recsys.serving.telemetry.layout import create_counter_file
from recsys.serving.telemetry.totals import read_totals
from recsys.serving.telemetry.tracing.timed_link import TimedLink


def test_what_was_not_tried_because_redis_is_away_has_no_time(tmp_path: Path) -> None:
    file = create_counter_file(tmp_path / "counts", workers=1, methods=[])
    with socket.socket() as taken, loop_in_thread("test") as loop:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"redis://127.0.0.1:{taken.getsockname()[1]}/0"
        link = TimedLink(BlockingLink(url, loop=loop), "rank", Telemetry(file))
        for tried in range(1, 10_000):
            with pytest.raises(StoreUnavailableError):
                asyncio.run(link.round_trip([(b"PING",)], timeout_s=5.0))
            totals = read_totals(file)
            ends = {end: totals.counters["store_round_trips", "rank", end] for end in ("ok", "failed", "skipped")}
            assert ends["ok"] == 0 and ends["failed"] + ends["skipped"] == tried
            assert totals.times["store_seconds", "rank"].count == ends["failed"] > 0
            if ends["skipped"]:
                break
        assert ends["skipped"], "the breaker never opened"
        asyncio.run(link.close())
