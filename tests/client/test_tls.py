"""A client over TLS: its channel follows the files, and calls that run go on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.certificates import Authority, Secret, files_of, mtls
from support.tls_server import tls_of

from recsys.client import AsyncClient, Client, Tls
from recsys.client import connection as client_connection
from recsys.client.address import target_of
from recsys.client.connection import Connection
from recsys.errors import ConfigError, InvalidInputError
from recsys.proto import ranker_pb2

AUTHORITY = Authority()


@pytest.fixture
def secret(tmp_path: Path) -> Secret:
    """Files of a client, which looks at them at each call."""
    return mtls(AUTHORITY, tmp_path / "secret")


@pytest.fixture(autouse=True)
def looks_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_connection, "CHECK_S", 0.0)


@contextmanager
def answering(answer: Callable[[Any], None], *, ca: bytes | None = None) -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers Rank after ``answer``; its address, and the certificates that callers showed."""
    shown: list[bytes] = []

    def rank(request: bytes, context: Any) -> bytes:
        shown.extend(context.auth_context().get("x509_pem_cert", []))
        answer(context)
        return ranker_pb2.RankResponse(scores=[0.5]).SerializeToString()

    pair = AUTHORITY.issue()
    credentials = grpc.ssl_server_credentials([(pair.key, pair.certificate)], ca or AUTHORITY.pem, True)
    server = grpc.server(futures.ThreadPoolExecutor(8))
    handlers = {"Rank": grpc.unary_unary_rpc_method_handler(rank)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("recsys.v1.Ranker", handlers),))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}", shown
    finally:
        server.stop(None).wait()


def test_the_next_call_shows_the_certificate_that_is_there_now(secret: Secret) -> None:
    with answering(lambda context: None) as (address, shown):
        with Client(address, timeout_s=10.0, tls=tls_of(secret)) as client:
            client.rank(user=1, candidates=[1])
            for _ in range(3):
                pair = AUTHORITY.issue()
                secret.swap(**files_of(AUTHORITY, pair))
                client.rank(user=1, candidates=[1])
                assert shown[-1] == pair.certificate
        assert len(set(shown)) == 4


def test_a_call_that_runs_goes_on_when_the_channel_is_made_anew(secret: Secret) -> None:
    go_on, begun = threading.Event(), threading.Semaphore(0)

    def slowly(context: Any) -> None:
        if not go_on.is_set():
            begun.release()
            go_on.wait(20)

    with answering(slowly) as (address, shown), Client(address, timeout_s=30.0, tls=tls_of(secret)) as client:
        with futures.ThreadPoolExecutor(4) as pool:
            running = [pool.submit(client.rank, user=1, candidates=[1]) for _ in range(3)]
            for _ in running:
                assert begun.acquire(timeout=20)
            secret.swap(**files_of(AUTHORITY, AUTHORITY.issue()))
            later = pool.submit(client.rank, user=1, candidates=[1])
            assert begun.acquire(timeout=20)
            assert len(client._connection._retired) == 1
            go_on.set()
            assert [future.result().items for future in (*running, later)] == [[1]] * 4
        assert client._connection._retired == set(), "the channel before is closed"
        assert len(set(shown)) == 2


async def test_a_call_that_is_awaited_goes_on_too(secret: Secret) -> None:
    go_on, begun = threading.Event(), threading.Event()

    def slowly(context: Any) -> None:
        begun.set()
        go_on.wait(20)

    with answering(slowly) as (address, shown):
        async with AsyncClient(address, timeout_s=30.0, tls=tls_of(secret)) as client:
            running = asyncio.create_task(client.rank(user=1, candidates=[1]))
            await asyncio.to_thread(begun.wait, 20)
            secret.swap(**files_of(AUTHORITY, AUTHORITY.issue()))
            begun.clear()
            later = asyncio.create_task(client.rank(user=1, candidates=[1]))
            await asyncio.to_thread(begun.wait, 20)
            go_on.set()
            assert [(await call).items for call in (running, later)] == [[1], [1]]
            assert client._connection._retired == set()
        assert len(set(shown)) == 2


def test_a_failed_handshake_makes_a_client_look_at_its_files_at_once(
    secret: Secret, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_connection, "CHECK_S", 3_600.0)
    new = Authority("new")
    with answering(lambda context: None, ca=new.pem) as (address, shown):
        with Client(address, timeout_s=10.0, tls=tls_of(secret)) as client:
            pair = new.issue()
            secret.swap(**{**files_of(new, pair), "ca": AUTHORITY.pem})
            assert client.rank(user=1, candidates=[1]).items == [1]
        assert shown == [pair.certificate]


def test_threads_that_look_at_new_files_at_the_same_time_all_find_the_new_channel(secret: Secret) -> None:
    def open_channel(*arguments: Any) -> grpc.Channel:
        time.sleep(0.2)  # as long as others need to look, too
        return grpc.insecure_channel(address)

    address = "127.0.0.1:1"
    made = Connection(address, tls_of(secret), open_channel=open_channel, close_channel=lambda channel: channel.close())
    with made.calls() as calls, futures.ThreadPoolExecutor(4) as pool:
        secret.swap(**files_of(AUTHORITY, AUTHORITY.issue()))
        assert list(pool.map(lambda _: made.replaced(calls), range(4))) == [True] * 4
    made.close()


def test_new_files_that_are_no_good_leave_the_channel_as_it_is(secret: Secret) -> None:
    with answering(lambda context: None) as (address, shown):
        with Client(address, timeout_s=10.0, tls=tls_of(secret)) as client:
            client.rank(user=1, candidates=[1])
            secret.swap(**{**files_of(AUTHORITY, AUTHORITY.issue()), "key": b""})
            client.rank(user=1, candidates=[1])
        assert len(set(shown)) == 1


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_files_that_are_no_good_at_the_start_are_named(kind: Any, secret: Secret, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere: cannot be read: No such file"):
        kind("127.0.0.1:1", tls=Tls(ca=tmp_path / "nowhere"))
    with pytest.raises(
        InvalidInputError, match="tls has a certificate alone; allowed: certificate and key, or neither"
    ):
        kind("127.0.0.1:1", tls=Tls(certificate=secret / "cert"))
    with pytest.raises(InvalidInputError, match="tls has a key alone"):
        kind("127.0.0.1:1", tls=Tls(key=str(secret / "key")))


def test_an_address_with_a_scheme_of_tls_is_refused_with_what_to_give_instead() -> None:
    for scheme in ("https", "grpcs"):
        with pytest.raises(InvalidInputError, match=rf"leave {scheme}:// out, and give tls=Tls\(\.\.\.\)"):
            target_of(f"{scheme}://ranker:50051")
