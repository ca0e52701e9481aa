"""One caller's streams, however busy, keep no other caller out; on real servers."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.access import token_of, write_access

from recsys.client import AsyncClient, Overloaded, UserEvents
from recsys.serving.process.server import running_server
from recsys.serving.rpc import store_service
from recsys.serving.settings import Settings

NOW_MS = time.time_ns() // 1_000_000 - 60_000
MOST = 3


def one(user: int, item: int) -> UserEvents:
    return UserEvents(user=user, items=[item], timestamps_ms=[NOW_MS + item])


class Trickle:
    """Streams of one client, of which each sends a message every now and then, until the end.

    Attributes:
        sent: messages that each stream has sent, by its number.
    """

    def __init__(self, client: AsyncClient, streams: int, *, first_user: int = 0) -> None:
        self.end = asyncio.Event()
        self.sent = [0] * streams
        self.users = range(first_user, first_user + streams)
        self.streams = [
            asyncio.create_task(client.append_stream(self._messages(number), timeout_s=60)) for number in range(streams)
        ]

    async def until_all_send(self) -> None:
        """Wait until each that is open has sent another message."""
        before = list(self.sent)
        async with asyncio.timeout(30):
            while any(
                not stream.done() and now < then + 2
                for stream, now, then in zip(self.streams, self.sent, before, strict=True)
            ):
                await asyncio.sleep(0.01)

    async def results(self) -> list[Any]:
        """End them; what became of each."""
        self.end.set()
        return await asyncio.gather(*self.streams, return_exceptions=True)

    async def _messages(self, number: int) -> AsyncIterator[UserEvents]:
        while not self.end.is_set():
            yield one(self.users[number], self.sent[number])
            self.sent[number] += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.end.wait(), 0.02)


@pytest.fixture
def server(tiny_bundle: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(store_service, "MAX_STREAMS", MOST)
    with running_server(Settings(bundle=tiny_bundle, port=0, redis_url=redis_url)) as found:
        yield found.address


async def test_streams_that_trickle_for_ever_keep_no_other_caller_out(server: str) -> None:
    async with AsyncClient(server, timeout_s=20.0) as greedy, AsyncClient(server, timeout_s=20.0) as other:
        trickle = Trickle(greedy, MOST)
        await trickle.until_all_send()
        for item in range(10):
            assert (await other.append_stream([one(100, item)])).added == 1
        results = await trickle.results()
        ended = [result for result in results if isinstance(result, Overloaded)]
        # The first newcomer ends one, and finds its place free each time after that.
        assert len(ended) == 1 and not any(isinstance(r, Exception) for r in results if r not in ended), results
        why = re.search(r"its connection has 3 of 3 streams open, the most .* open fewer; the first (\d+)", str(ended))
        assert why is not None, ended
        # What it says is applied, is.
        (number,) = [number for number, result in enumerate(results) if result is ended[0]]
        stored = sorted((await other.get_history(user=number)).items.tolist())
        # All of them, but for the oldest of a history that has become long.
        assert stored == list(range(stored[0], stored[-1] + 1)) and stored[-1] >= int(why[1]) - 1
        assert results[number - 1].batches == trickle.sent[number - 1]


async def test_a_caller_that_has_its_share_keeps_it_while_another_wants_all(server: str) -> None:
    async with AsyncClient(server, timeout_s=20.0) as greedy, AsyncClient(server, timeout_s=20.0) as modest:
        kept = Trickle(modest, 1, first_user=100)
        await kept.until_all_send()
        trickle = Trickle(greedy, 2)
        await trickle.until_all_send()
        for _ in range(5):
            with pytest.raises(Overloaded, match="3 streams are open and in use, the limit; retry with backoff"):
                await greedy.append_stream([one(50, 1)])
        await kept.until_all_send()
        assert not any(stream.done() for stream in (*kept.streams, *trickle.streams))
        assert all(not isinstance(result, Exception) for result in await kept.results() + await trickle.results())


async def test_callers_that_are_known_share_by_who_they_are_and_not_by_connections(
    tiny_bundle: Path, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_service, "MAX_STREAMS", MOST)
    (greedy, first), (other, second) = token_of("write", name="greedy"), token_of("write", name="other")
    access = write_access(tmp_path / "access.toml", first, second)
    settings = Settings(bundle=tiny_bundle, port=0, redis_url=redis_url, access_file=access)
    with running_server(settings) as server:
        async with contextlib.AsyncExitStack() as stack:
            trickles = []
            for number in range(MOST):  # each over a connection of its own
                client = await stack.enter_async_context(AsyncClient(server.address, timeout_s=20.0, token=greedy))
                trickles.append(Trickle(client, 1, first_user=number))
                await trickles[-1].until_all_send()
            newcomer = await stack.enter_async_context(AsyncClient(server.address, timeout_s=20.0, token=other))
            assert (await newcomer.append_stream([one(100, 1)])).added == 1
            results = [result for trickle in trickles for result in await trickle.results()]
            why = [str(result) for result in results if isinstance(result, Exception)]
            assert len(why) == 1 and "its caller has 3 of 3 streams open, the most of all" in why[0], why
