"""SPIFFE ids of client certificates, over real mTLS."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.access import bearer, token_of, write_access
from support.certificates import Authority

from recsys.serving.rpc.access.check import AccessCheck
from recsys.serving.rpc.access.policy import read_policy

ID = "spiffe://example.org/ns/shop/sa/web"
ENTRY = f'[[spiffe]]\nid = "{ID}"\nroles = ["rank"]\n'
RANK, READ = "/recsys.v1.Ranker/Rank", "/recsys.v1.FeatureStore/GetFeatures"


class Server:
    """A server with mTLS that echoes."""

    def __init__(self, policy: Any) -> None:
        self.authority = Authority()
        own = self.authority.issue()
        credentials = grpc.ssl_server_credentials(
            [(own.key, own.certificate)], root_certificates=self.authority.pem, require_client_auth=True
        )
        self.server = grpc.server(ThreadPoolExecutor(2), interceptors=[AccessCheck(lambda: policy)])
        echo = grpc.unary_unary_rpc_method_handler(lambda message, context: message)
        for path in (RANK, READ):
            _, service, method = path.split("/")
            self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: echo})])
        self.port = self.server.add_secure_port("localhost:0", credentials)
        self.server.start()

    def call(self, path: str, *, token: str | None = None, **issued: Any) -> tuple[grpc.StatusCode, str]:
        """The status of a call with a certificate like that."""
        pair = self.authority.issue(**issued)
        credentials = grpc.ssl_channel_credentials(self.authority.pem, pair.key, pair.certificate)
        with grpc.secure_channel(f"localhost:{self.port}", credentials) as channel:
            try:
                channel.unary_unary(path)(b"x", timeout=20, metadata=bearer(token) if token else None)
            except grpc.RpcError as error:
                return error.code(), error.details() or ""
        return grpc.StatusCode.OK, ""


@pytest.fixture(scope="module")
def reader() -> tuple[str, str]:
    return token_of("read", name="reader")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, reader: tuple[str, str]) -> Iterator[Server]:
    file = tmp_path_factory.mktemp("spiffe") / "access.toml"
    made = Server(read_policy(write_access(file, ENTRY, reader[1])))
    yield made
    made.server.stop(None).wait()


def test_the_id_of_the_certificate_has_its_roles_and_no_others(server: Server) -> None:
    assert server.call(RANK, uri=ID)[0] is grpc.StatusCode.OK
    code, words = server.call(READ, uri=ID)
    assert code is grpc.StatusCode.PERMISSION_DENIED and f"{ID} needs the role 'read'" in words


@pytest.mark.parametrize("uri", ["spiffe://example.org/ns/shop/sa/other", "spiffe://evil.example/ns/shop/sa/web"])
def test_an_id_that_the_file_does_not_have_is_unknown(server: Server, uri: str) -> None:
    code, words = server.call(RANK, uri=uri)
    assert code is grpc.StatusCode.UNAUTHENTICATED and "is not let in" in words


@pytest.mark.parametrize("issued", [{}, {"uri": "https://example.org/web"}, {"names": ["web.example.org"]}])
def test_a_certificate_of_the_ca_without_a_spiffe_id_is_nobody(server: Server, issued: dict[str, Any]) -> None:
    code, words = server.call(RANK, **issued)
    assert code is grpc.StatusCode.UNAUTHENTICATED and "no client certificate with one SPIFFE id" in words


def test_a_spiffe_id_as_a_dns_name_is_none(server: Server) -> None:
    assert server.call(RANK, names=["localhost", ID])[0] is grpc.StatusCode.UNAUTHENTICATED


def test_a_token_says_who_calls_and_a_bad_one_is_refused_whatever_the_certificate(
    server: Server, reader: tuple[str, str]
) -> None:
    assert server.call(READ, uri=ID, token=reader[0])[0] is grpc.StatusCode.OK
    assert server.call(RANK, uri=ID, token=reader[0])[0] is grpc.StatusCode.PERMISSION_DENIED
    assert server.call(RANK, uri=ID, token="recsys_other")[0] is grpc.StatusCode.UNAUTHENTICATED


def test_without_spiffe_entries_a_certificate_gives_nothing(tmp_path: Path, reader: tuple[str, str]) -> None:
    server = Server(read_policy(write_access(tmp_path / "access.toml", reader[1])))
    assert server.call(RANK, uri=ID)[0] is grpc.StatusCode.UNAUTHENTICATED
    assert server.call(READ, uri=ID, token=reader[0])[0] is grpc.StatusCode.OK
    server.server.stop(None).wait()
