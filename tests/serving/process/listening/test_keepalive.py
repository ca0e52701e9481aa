"""A caller whose machine is gone without a word is noticed; one that only says nothing keeps its connection."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.dead_cable import cable
from support.half_open import RANK, RawConnection, frame, message
from support.tiny_workers import until

from recsys.client import AsyncClient, Client, UserEvents
from recsys.client import channel as client_channel
from recsys.proto.ranker_pb2 import Id, Ids, RankRequest
from recsys.serving.process.listening import grpc_server
from recsys.serving.process.server import running_server
from recsys.serving.rpc.streams.open_streams import OpenStreams
from recsys.serving.settings import Settings

REQUEST = RankRequest(user=Id(integer=1), candidates=Ids(integers=[1, 2])).SerializeToString()
_DATA, _PING, _END_STREAM = 0, 6, 1


def settings(tiny_bundle: Path, redis_url: str, **more: Any) -> Settings:
    return Settings(bundle=tiny_bundle, port=0, redis_url=redis_url, **more)


def one(user: int) -> UserEvents:
    return UserEvents(user=user, items=[5], timestamps_ms=[time.time_ns() // 1_000_000 - 60_000])


async def test_a_caller_whose_cable_is_pulled_loses_its_connection_and_its_stream(
    tiny_bundle: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[OpenStreams] = []
    made = OpenStreams.__init__

    def noted(self: OpenStreams, *arguments: Any, **named: Any) -> None:
        opened.append(self)
        made(self, *arguments, **named)

    monkeypatch.setattr(OpenStreams, "__init__", noted)
    end = asyncio.Event()

    async def batches() -> AsyncIterator[UserEvents]:
        yield one(1)
        await end.wait()

    given = settings(tiny_bundle, redis_url, keepalive_s=0.5, keepalive_timeout_s=0.5)
    with running_server(given) as server, cable(server.address) as pulled:
        async with AsyncClient(pulled.address, timeout_s=20.0) as client:
            streaming = asyncio.create_task(client.append_stream(batches(), timeout_s=60))
            async with asyncio.timeout(30):
                while not opened[0]._open:
                    await asyncio.sleep(0.01)
                # A cable that is whole: the server asks, the client answers, however long it says nothing.
                await asyncio.sleep(2.5)
                assert opened[0]._open and not pulled.ended and not streaming.done()
                pulled.pulled.set()
                while opened[0]._open or not pulled.ended:
                    await asyncio.sleep(0.01)
            streaming.cancel()
            await asyncio.wait([streaming])


def test_a_connection_without_a_call_is_noticed_too_and_without_keepalive_none_is(
    tiny_bundle: Path, redis_url: str
) -> None:
    for keepalive_s in (0.5, 0.0):
        given = settings(tiny_bundle, redis_url, keepalive_s=keepalive_s, keepalive_timeout_s=0.5)
        with running_server(given) as server, cable(server.address) as pulled:
            with Client(pulled.address, timeout_s=20.0) as client:
                client.rank(user=1, candidates=[1])
                pulled.pulled.set()
                if keepalive_s:
                    until(lambda: pulled.ended)
                else:
                    time.sleep(2.0)
                    assert not pulled.ended


@pytest.mark.parametrize("open_call", [True, False])
@pytest.mark.parametrize("least_ms, kept", [(1, True), (60_000, False)])
def test_clients_may_ask_as_often_as_is_said_with_a_call_and_without(
    tiny_bundle: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch, open_call: bool, least_ms: int, kept: bool
) -> None:
    monkeypatch.setattr(grpc_server, "MIN_CLIENT_PING_MS", least_ms)
    with running_server(settings(tiny_bundle, redis_url, receive_timeout_s=60.0)) as server:
        connection = RawConnection(server.address)
        with contextlib.closing(connection):
            if open_call:
                connection.open(RANK)
            with contextlib.suppress(OSError):  # it is closed
                for number in range(6):
                    time.sleep(0.1)
                    connection.send(frame(_PING, 0, 0, struct.pack(">Q", number)))
            if kept:
                (number,) = connection.open(RANK, body=message(REQUEST))
                connection.send(frame(_DATA, _END_STREAM, number))
                until(lambda: connection.ended[number])
                assert connection.farewell == b""
            else:
                until(lambda: connection.farewell == b"too_many_pings")


def test_clients_of_recsys_ask_no_more_often_than_a_server_takes() -> None:
    options = dict(client_channel._OPTIONS)
    assert options["grpc.keepalive_time_ms"] >= grpc_server.MIN_CLIENT_PING_MS
