"""Every method of every service has a role; one that has none is denied to everybody."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from support.access import bearer, token_of, write_access
from support.paths import ROOT

from recsys.serving.rpc.access.check import AccessCheck
from recsys.serving.rpc.access.policy import read_policy
from recsys.serving.rpc.access.roles import METHOD_ROLES, ROLES

PROTOS = sorted(path.stem for path in (ROOT / "recsys" / "proto").glob("*_pb2.py"))


def described() -> dict[str, Any]:
    """Methods by path, of all protos of ours, health and reflection."""
    modules = [importlib.import_module(f"recsys.proto.{name}") for name in PROTOS]
    services = [
        service
        for module in (*modules, health_pb2, reflection_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
    ]
    return {f"/{service.full_name}/{method.name}": method for service in services for method in service.methods}


def test_every_method_of_every_service_has_a_role_and_no_other_has() -> None:
    assert set(METHOD_ROLES) == set(described())
    assert set(METHOD_ROLES.values()) == {*ROLES, None}


def test_nothing_but_health_is_open_to_everybody() -> None:
    assert {path for path, role in METHOD_ROLES.items() if role is None} == {
        path for path in described() if path.startswith("/grpc.health.v1.Health/")
    }


def test_what_changes_the_store_needs_write_and_what_reads_it_read() -> None:
    store = {path.rpartition("/")[2]: role for path, role in METHOD_ROLES.items() if "FeatureStore" in path}
    assert all(role == ("read" if name.startswith("Get") else "write") for name, role in store.items())


@pytest.fixture
def new_method(tmp_path: Path) -> Iterator[tuple[grpc.Channel, str]]:
    """A server with a method that has no role, and a token with all of them."""
    token, entry = token_of(*ROLES, name="all")
    policy = read_policy(write_access(tmp_path / "access.toml", entry))
    method = grpc.unary_unary_rpc_method_handler(lambda message, context: message)
    server = grpc.server(ThreadPoolExecutor(2), interceptors=[AccessCheck(lambda: policy)])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("recsys.v1.Ranker", {"New": method})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel, token
    server.stop(None).wait()


def test_a_method_without_a_role_is_denied_to_who_has_all_roles(new_method: tuple[grpc.Channel, str]) -> None:
    channel, token = new_method
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/recsys.v1.Ranker/New")(b"", metadata=bearer(token), timeout=10)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "has no role yet" in caught.value.details()
