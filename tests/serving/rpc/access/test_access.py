"""Access on real servers: each role against each method, bad credentials, quotas."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from support.access import bearer, token_of, write_access
from support.secured_server import RANK, REQUEST, Secured, status

from recsys.client import AsyncClient, Client, PermissionDenied, Unauthenticated, UserEvents
from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.proto import feature_store_pb2, ranker_pb2
from recsys.releases.status import ServerStatus
from recsys.serving.process.listening.ports import reserved_port
from recsys.serving.process.server import running_server
from recsys.serving.rpc.access.callers import identify
from recsys.serving.rpc.access.check import AccessCheck
from recsys.serving.rpc.access.identity import RefusedError
from recsys.serving.rpc.access.opened import open_access
from recsys.serving.rpc.access.policy import read_policy
from recsys.serving.rpc.access.roles import METHOD_ROLES, ROLES
from recsys.serving.rpc.admin_service import admin_server
from recsys.serving.settings import Settings

DENIED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
ADMIN = "/recsys.v1.Admin/"


@pytest.fixture(scope="module")
def admin(server: Secured) -> Iterator[grpc.Channel]:
    """A channel to the admin service, with the same access file."""
    policy = read_policy(server.file)
    said = ServerStatus(server="a:1", at="2026-01-01T00:00:00Z", revision=1)
    with (
        ThreadPoolExecutor(4) as threads,
        reserved_port("127.0.0.1", 0) as port,
        admin_server(port, lambda reload, timeout_s: said, threads, interceptors=[AccessCheck(lambda: policy)]),
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield channel


@pytest.mark.parametrize("path", METHOD_ROLES)
def test_each_role_may_call_what_it_allows_and_nothing_else(
    server: Secured, channel: grpc.Channel, admin: grpc.Channel, path: str
) -> None:
    to = admin if path.startswith(ADMIN) else channel
    needed = METHOD_ROLES[path]
    for role in ROLES:
        code, words = status(to, path, server.tokens[role])
        assert (code in DENIED) == (needed not in (None, role)), (role, code, words)
        if code in DENIED:
            assert code is grpc.StatusCode.PERMISSION_DENIED
            assert f"token:{role} needs the role {needed!r} for {path}; it has: {role}" == words
    for token in (None, "recsys_" + "x" * 43, server.tokens["expired"]):
        code, _ = status(to, path, token)
        assert (code is grpc.StatusCode.UNAUTHENTICATED) == (needed is not None), code


def test_without_an_access_file_a_server_has_nothing_of_it() -> None:
    with open_access(None) as access:
        assert access.interceptors == () and access.sources == {}


def test_the_caller_is_told_what_is_missing_and_nothing_secret(server: Secured, channel: grpc.Channel) -> None:
    good = server.tokens["rank"]
    words = {
        None: "no token was sent; send the metadata 'authorization: Bearer TOKEN'",
        good[:-1]: "the token is not known",
        good + "x": "the token is not known",
        server.tokens["expired"]: "the token of 'token:expired' has expired",
        "a.b.c": "the token is no JWT",
        "": "not of the form 'Bearer TOKEN'",
    }
    for token, expected in words.items():
        code, found = status(channel, RANK, token, REQUEST)
        assert code is grpc.StatusCode.UNAUTHENTICATED and expected in found
        assert not token or token not in found


def test_a_token_that_is_too_long_is_not_looked_at(server: Secured) -> None:
    """Asked directly: gRPC itself refuses at random metadata of 8 to 16 KiB."""
    with pytest.raises(RefusedError, match="expected one, of at most 8,192 bytes"):
        identify(read_policy(server.file), bearer("x" * 9_000), dict)


@pytest.mark.parametrize("given", ["{}", "Basic {}", "bearer  {}", "Bearer {} {}", "Bearer"])
def test_what_is_no_bearer_token_is_refused(server: Secured, channel: grpc.Channel, given: str) -> None:
    metadata = [("authorization", given.format(server.tokens["rank"], server.tokens["rank"]))]
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(RANK)(REQUEST, metadata=metadata, timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert server.tokens["rank"] not in caught.value.details()


def test_two_tokens_are_refused_though_both_are_good(server: Secured, channel: grpc.Channel) -> None:
    both = bearer(server.tokens["rank"]) + bearer(server.tokens["read"])
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(RANK)(REQUEST, metadata=both, timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_message_is_not_decoded_before_its_sender_is_known(server: Secured, channel: grpc.Channel) -> None:
    garbage = b"\xff" * 50
    assert status(channel, RANK, None, garbage)[0] is grpc.StatusCode.UNAUTHENTICATED
    assert status(channel, RANK, server.tokens["read"], garbage)[0] is grpc.StatusCode.PERMISSION_DENIED
    code, words = status(channel, RANK, server.tokens["rank"], garbage)
    assert code is grpc.StatusCode.INVALID_ARGUMENT and "none of this method's" in words


def test_reflection_is_refused_without_a_role_and_health_is_not(server: Secured, channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ProtoReflectionDescriptorDatabase(channel).get_services()
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    health = channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=20)
    assert health_pb2.HealthCheckResponse.FromString(health).status == health_pb2.HealthCheckResponse.SERVING


def test_a_jwt_of_the_issuer_gets_in_with_the_roles_of_its_claim(server: Secured, channel: grpc.Channel) -> None:
    token = server.issuer.token("first")
    assert status(channel, RANK, token, REQUEST)[0] is grpc.StatusCode.OK
    code, words = status(channel, "/recsys.v1.FeatureStore/PutEntities", token)
    assert code is grpc.StatusCode.PERMISSION_DENIED and "jwt:web needs the role 'write'" in words
    assert status(channel, RANK, server.issuer.token("first", exp=time.time() - 1))[0] is DENIED[0]


async def test_both_clients_send_their_token(server: Secured) -> None:
    events = {"user": 9, "items": [1], "timestamps_ms": [1_700_000_000_000]}
    with Client(server.address, timeout_s=20, token=server.tokens["write"]) as client:
        assert client.is_ready()
        client.append_events(**events)
        assert client.append_stream([UserEvents(**events)]).events == 1
        with pytest.raises(PermissionDenied, match="needs the role 'rank'"):
            client.rank(user=1, candidates=[1])
    async with AsyncClient(server.address, timeout_s=20, token=server.tokens["write"]) as client:
        await client.append_events(**events)
        assert (await client.append_stream([UserEvents(**events)])).events == 1
    with Client(server.address, timeout_s=20) as client:
        assert client.is_ready(), "health asks for no token"
        with pytest.raises(Unauthenticated, match="no token was sent"):
            client.rank(user=1, candidates=[1])
        with pytest.raises(Unauthenticated):
            client.append_stream([UserEvents(**events)])


@pytest.fixture
def limited(tiny_bundle: Path, redis_server: EmbeddedRedis, tmp_path: Path) -> Iterator[Callable[[str], Client]]:
    """A server on which the token has that quota; gives a client of it."""
    started: list[Any] = []

    def start(quota: str) -> Client:
        token, entry = token_of(*ROLES, name="web", more=quota)
        file = write_access(tmp_path / "access.toml", entry)
        settings = Settings(bundle=tiny_bundle, port=0, redis_url=redis_server.url, access_file=file)
        running = running_server(settings)
        started.append(running)
        client = Client(running.__enter__().address, timeout_s=20, token=token)
        started.append(client)
        return client

    yield start
    for each in reversed(started):
        each.__exit__(None, None, None)


def refused(client: Client, path: str, message: Any) -> Any:
    """The error that a plain gRPC call gets: the clients hide its trailers."""
    address = client._connection._target
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(path)(message.SerializeToString(), metadata=client._token.metadata(), timeout=20)
    return caught.value


def test_calls_over_the_quota_are_refused_with_a_hint_when_to_retry(limited: Callable[[str], Client]) -> None:
    client = limited("calls_per_s = 0.5\n")
    assert len(client.rank(user=1, candidates=[1]).items) == 1
    message = ranker_pb2.RankRequest.FromString(REQUEST)
    error = refused(client, RANK, message)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "token:web: more than its 0.5 calls per second" in error.details()
    assert 1_000 < int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) <= 2_000
    assert client.is_ready(), "health has no quota"


def test_events_over_the_quota_are_refused_before_they_are_stored(limited: Callable[[str], Client]) -> None:
    client = limited("events_per_s = 0.5\n")
    client.append_events(user=77, items=[1, 2, 3], timestamps_ms=[1_700_000_000_000 + i for i in range(3)])
    message = feature_store_pb2.AppendEventsRequest(user=ranker_pb2.Id(integer=77))
    message.events.items.integers.append(4)
    message.events.timestamps_ms.append(1_700_000_000_009)
    error = refused(client, "/recsys.v1.FeatureStore/AppendEvents", message)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "0.5 events per second" in error.details()
    assert list(client.get_history(user=77).items) == [1, 2, 3]


def test_a_stream_over_the_quota_is_slowed_down_and_not_refused(limited: Callable[[str], Client]) -> None:
    client = limited("events_per_s = 20\n")
    batches = [UserEvents(user=u, items=[1], timestamps_ms=[1_700_000_000_000]) for u in range(100, 130)]
    begin_s = time.monotonic()
    assert client.append_stream(batches).added == 30
    assert time.monotonic() - begin_s >= 0.4, "20 at once, and 10 more in half a second"
