"""A stream is its sender's for as long as that one may send: it is looked up again while messages come."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.access import bearer, token_of, write_access
from support.secured_server import Secured, status
from support.tiny_workers import until

from recsys.client import Client, PermissionDenied, Unauthenticated, UserEvents
from recsys.errors import AuthenticationError
from recsys.proto.feature_store_pb2 import AppendEventsRequest
from recsys.serving.rpc.access import check
from recsys.serving.rpc.access.check import AccessCheck
from recsys.serving.rpc.access.policy import read_policy

STREAM, APPEND = "/recsys.v1.FeatureStore/AppendEventStream", "/recsys.v1.FeatureStore/AppendEvents"
OK, UNAUTHENTICATED = grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED


def event(user: int, item: int) -> UserEvents:
    return UserEvents(user=user, items=[item], timestamps_ms=[1_700_000_000_000 + item])


@pytest.mark.parametrize(
    ("user", "kept", "error", "words"),
    [
        (501, (), Unauthenticated, "the token is not known.*; the first .* messages of the stream are applied"),
        (502, ("read",), PermissionDenied, "token:leaver needs the role 'write' .*; it has: read; the first"),
    ],
)
def test_a_stream_ends_when_its_sender_may_send_no_more(
    server: Secured, channel: grpc.Channel, user: int, kept: tuple[str, ...], error: Any, words: str
) -> None:
    token = server.add("leaver", "write")
    server.write()

    def probe() -> grpc.StatusCode:
        return status(channel, APPEND, token)[0]

    until(lambda: probe() not in (UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED))

    def messages() -> Iterator[UserEvents]:
        yield event(user, 1)
        until(lambda: history(server, user) == [1])
        server.entries["leaver"] = server.entries["leaver"].replace('"write"', '"read"')
        if not kept:
            del server.entries["leaver"]
        server.write()
        until(lambda: probe() in (UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED))
        yield event(user, 2)
        yield event(user, 3)

    with Client(server.address, timeout_s=60, token=token) as client, pytest.raises(error, match=words):
        client.append_stream(messages())
    assert history(server, user) == [1], "what came after that is not applied"


def history(server: Secured, user: int) -> list[int]:
    with Client(server.address, timeout_s=20, token=server.tokens["read"]) as client:
        return [int(item) for item in client.get_history(user=user).items]


def test_a_token_that_expires_in_the_middle_ends_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy stays the same object, as it does when time passes."""
    monkeypatch.setattr(check, "_RECHECK_S", 0.0)
    token, entry = token_of("write")
    policy = read_policy(write_access(tmp_path / "access.toml", entry))
    seen, problems = list[Any](), list[Exception]()

    def serve(messages: Iterator[Any], context: grpc.ServicerContext) -> bytes:
        try:
            for message in messages:
                seen.append(message)
                policy.tokens.clear()  # type: ignore[attr-defined]
        except Exception as error:
            problems.append(error)
            context.abort(UNAUTHENTICATED, str(error))
        return b""

    server = grpc.server(ThreadPoolExecutor(2), interceptors=[AccessCheck(lambda: policy)])
    method = grpc.stream_unary_rpc_method_handler(serve, AppendEventsRequest.FromString)
    handler = grpc.method_handlers_generic_handler("recsys.v1.FeatureStore", {"AppendEventStream": method})
    server.add_generic_rpc_handlers([handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError):
        channel.stream_unary(STREAM)(iter([b"", b""]), metadata=bearer(token), timeout=20)
    server.stop(None).wait()
    assert len(seen) == 1 and [type(problem) for problem in problems] == [AuthenticationError]
