"""Calls that cannot succeed: their errors say so, and what is allowed, rather than to try again."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from support.tiny_bundle import write_tiny_bundle
from support.tiny_server import ServerProcess, server_process

from recsys.client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    InvalidArgument,
    Overloaded,
    RpcError,
    Unavailable,
    UserEvents,
)
from recsys.client.address import target_of
from recsys.client.channel import LONGEST_S, error_of
from recsys.errors import InvalidInputError
from recsys.proto.limits import MESSAGE_BYTES
from recsys.serving.rpc.registration import MESSAGE_OPTIONS
from recsys.serving.settings import Settings

LARGE = "x" * (MESSAGE_BYTES + 1)
RANK = "/recsys.v1.Ranker/Rank"
HOST = "::1" if Path("/proc/net/if_inet6").exists() else "127.0.0.1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("served")
    write_tiny_bundle(folder / "tiny")
    variables = {"RECSYS_BUNDLE": str(folder / "tiny"), "RECSYS_REDIS_DIR": str(folder / "data"), "RECSYS_HOST": HOST}
    with server_process(folder, **variables) as server:
        yield server


@contextmanager
def answering(answer: Callable[[bytes, Any], bytes], *options: tuple[str, int]) -> Iterator[str]:
    """A server of gRPC that answers Rank so; its address."""
    server = grpc.server(futures.ThreadPoolExecutor(2), options=options)
    handlers = {"Rank": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("recsys.v1.Ranker", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def both(address: str, call: Callable[[Any], Any], *, timeout_s: float = 10.0) -> Iterator[Exception]:
    """The errors of a call by the blocking client and by the other."""

    async def awaited() -> None:
        async with AsyncClient(address, timeout_s=timeout_s) as client:
            await call(client)

    with pytest.raises(Exception) as caught, Client(address, timeout_s=timeout_s) as client:
        call(client)
    yield caught.value
    with pytest.raises(Exception) as caught:
        asyncio.run(awaited())
    yield caught.value


def ranked(client: Any) -> Any:
    return client.rank(user=1, candidates=[1])


def test_a_request_over_the_limit_is_an_invalid_argument_that_names_it(server: ServerProcess) -> None:
    limit = rf"request has {MESSAGE_BYTES:,d}"[:-3]  # a few bytes more than the id
    for error in both(server.address, lambda c: c.put_entities(entity="shop", ids=[LARGE], features={"city": [1]})):
        assert isinstance(error, InvalidArgument) and not isinstance(error, Overloaded | Unavailable)
        assert limit in str(error) and f"allowed: {MESSAGE_BYTES:,}; send less at a time" in str(error)
    batch = UserEvents(user=1, items=[LARGE], timestamps_ms=[1])
    for error in both(server.address, lambda c: c.append_stream([batch])):
        assert isinstance(error, InvalidArgument) and limit in str(error)


def test_a_server_that_takes_less_is_understood_too(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(RANK)(LARGE.encode())
    error = error_of(caught.value)
    assert isinstance(error, InvalidArgument) and error.code == "RESOURCE_EXHAUSTED"
    assert f"request has {MESSAGE_BYTES + 1:,} bytes; allowed: {MESSAGE_BYTES:,}" in str(error)


@pytest.mark.parametrize("options", [(), MESSAGE_OPTIONS], ids=["client", "server"])
def test_an_answer_over_the_limit_is_an_invalid_argument_that_names_it(options: tuple[tuple[str, int], ...]) -> None:
    with answering(lambda request, context: LARGE.encode(), *options) as address:
        for error in both(address, ranked):
            assert isinstance(error, InvalidArgument) and not isinstance(error, Overloaded)
            assert f"answer has {MESSAGE_BYTES + 1:,} bytes; allowed: {MESSAGE_BYTES:,}; ask for less" in str(error)


def test_a_message_of_another_kind_is_the_callers_fault(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.address) as channel:
        for method in ("Ranker/Rank", "Ranker/Recommend", "FeatureStore/AppendEvents", "FeatureStore/GetHistory"):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(f"/recsys.v1.{method}")(b"\xff\xff")
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert "none of this method's" in caught.value.details()


def test_a_call_that_the_server_does_not_have_is_no_reason_to_try_again(server: ServerProcess) -> None:
    with answering(lambda request, context: b"") as address:
        for error in both(address, lambda c: c.retrieve(user=1)):
            assert type(error) is RpcError and error.code == "UNIMPLEMENTED"
            assert "an older recsys, or another program" in str(error)


def test_an_address_of_another_protocol_is_no_reason_to_try_again() -> None:
    def answer() -> None:
        with contextlib.suppress(OSError):  # the socket is closed at the end
            while True:
                connection, _ = web.accept()
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    web = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=answer, daemon=True).start()
    address = f"127.0.0.1:{web.getsockname()[1]}"
    for error in both(address, ranked):
        assert type(error) is RpcError and "does not speak gRPC" in str(error)
    with Client(address) as client, pytest.raises(DeadlineExceeded, match="not ready: .*does not speak gRPC"):
        client.wait_ready(timeout_s=0.2)
    web.shutdown(socket.SHUT_RDWR)
    web.close()


@pytest.mark.parametrize("timeout_s", [math.inf, math.nan, 1e300, LONGEST_S + 1, "5", True, [1.0]])
def test_a_timeout_that_is_none_is_refused_by_name(server: ServerProcess, timeout_s: Any) -> None:
    calls: list[Callable[[Any], Any]] = [
        lambda c: c.wait_ready(timeout_s=timeout_s),
        lambda c: c.rank(user=1, candidates=[1], timeout_s=timeout_s),
        lambda c: c.append_stream([], timeout_s=timeout_s),
        lambda c: c.is_ready(timeout_s=timeout_s),
    ]
    for call in calls:
        for error in both(server.address, call):
            assert isinstance(error, InvalidInputError)
            assert "timeout_s is " in str(error) and "allowed: a number of seconds up to 1,000,000" in str(error)
    for kind in (Client, AsyncClient):
        with pytest.raises(InvalidInputError, match="timeout_s is .*; allowed: a number of seconds up to 1,000,000"):
            kind(server.address, timeout_s=timeout_s)


@pytest.mark.parametrize("timeout_s", [0, 0.0, -1, -math.inf, np.float32(0)])
def test_a_timeout_of_0_or_less_is_over_and_no_call_is_made(timeout_s: float) -> None:
    calls = []

    def answer(request: bytes, context: Any) -> bytes:
        calls.append(request)
        return b""

    with answering(answer) as address:
        for error in both(address, lambda c: c.rank(user=1, candidates=[1], timeout_s=timeout_s)):
            assert isinstance(error, DeadlineExceeded) and "no time was left" in str(error)
        with Client(address) as client:
            assert not client.is_ready(timeout_s=timeout_s)
    assert not calls


def test_the_longest_timeout_and_numpys_numbers_are_taken(server: ServerProcess) -> None:
    with Client(server.address, timeout_s=LONGEST_S) as client:
        for timeout_s in (LONGEST_S, np.float32(10), np.int64(10), 10):
            assert client.rank(user=1, candidates=[1], timeout_s=timeout_s).items == [1]


def test_a_closed_client_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        client = Client(address, timeout_s=20.0)
        threading.Timer(0.2, client.close).start()
        for _ in range(2):  # in the middle of a call, and before one
            with pytest.raises(RpcError, match="this client was closed") as caught:
                ranked(client)
            assert not isinstance(caught.value, Unavailable)
        assert not client.is_ready()

        async def closed() -> None:
            other = AsyncClient(address)
            await other.close()
            await ranked(other)

        with pytest.raises(RpcError, match="this client was closed"):
            asyncio.run(closed())


@pytest.mark.parametrize(
    "address",
    [
        "",
        " ",
        "http://127.0.0.1:50051",
        "grpc://h",
        "h:",
        "h:port",
        "h:0",
        "h:65536",
        "::1:50051x",
        "[::1",
        "[h]:1",
        "a b",
        5,
    ],
)
def test_an_address_that_is_none_is_refused_by_name(address: Any) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(InvalidInputError, match="address is .*; allowed: host:port, or a host alone"):
            kind(address)


def test_a_host_alone_means_the_servers_own_port() -> None:
    assert target_of("cache") == f"cache:{Settings().port}"


@pytest.mark.skipif(HOST != "::1", reason="this machine has no IPv6")
def test_a_server_may_listen_on_an_ipv6_address_as_it_is_written(server: ServerProcess) -> None:
    assert server.address.startswith("[::1]:")
    with Client(server.address, timeout_s=10.0) as client:
        assert client.rank(user=1, candidates=[1]).items == [1]
    assert (Settings(host="::").host, Settings(host="[::1]").host, Settings(host="h").host) == ("[::]", "[::1]", "h")
