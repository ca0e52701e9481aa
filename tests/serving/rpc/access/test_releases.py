"""A server that follows releases, with access on: its admin port; no secret and no id in what it writes and says."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import redis
from support.release_store import TinyStore, facts, release_server
from support.secured_server import RANK, Secured, secured, status
from support.tiny_bundle import FEATURES
from support.tiny_server import ServerProcess
from support.tiny_workers import pids, until

from recsys.client import Client, RpcError
from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.feature_store.redis.keys import history_keys
from recsys.proto import admin_pb2
from recsys.releases.store import change_served
from recsys.serving.rpc.access.roles import METHOD_ROLES, ROLES

ADMIN = "/recsys.v1.Admin/"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
OK, DENIED, UNKNOWN = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED
CANARY, USER = "c4n4ry-s3cr3t", 918_273_645


@dataclass
class Served:
    """A server of releases with access on."""

    process: ServerProcess
    access: Secured
    store: TinyStore
    folder: Path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis) -> Iterator[Served]:
    """One for a module, with JSON logs, a request log and a password of Redis."""
    store, folder = TinyStore(tmp_path_factory.mktemp("releases")), tmp_path_factory.mktemp("server")
    store.promote(store.push(1.0))
    access = secured(tmp_path_factory.mktemp("access"))
    variables = {
        "RECSYS_ACCESS_FILE": str(access.file),
        "RECSYS_ADMIN_PORT": "0",
        "RECSYS_METRICS_PORT": "0",
        "RECSYS_LOG_FORMAT": "json",
        "RECSYS_LOG_REQUESTS": "1.0",
        "RECSYS_REQUEST_LOG_DIR": str(folder / "requests"),
    }
    with redis.Redis.from_url(redis_server.url) as admin:
        admin.set(history_keys(FEATURES.name, USER).open, b"foreign")
        admin.execute_command("ACL", "SETUSER", "app", "on", f">{CANARY}", "~*", "&*", "+@all")
        url = f"{redis_server.url}?username=app&password={CANARY}"
        with release_server(folder, store, url, **variables) as process:
            yield Served(process, access, store, folder)
        admin.execute_command("ACL", "DELUSER", "app")


@pytest.fixture(scope="module")
def admin(served: Served) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(facts(served.folder)["admin"]) as channel:
        yield channel


def test_the_admin_port_takes_the_role_admin_alone(served: Served, admin: grpc.Channel) -> None:
    paths = [path for path in METHOD_ROLES if path.startswith(ADMIN)] + [REFLECTION]
    assert len(paths) == 3
    for path in paths:
        found = {role: status(admin, path, served.access.tokens[role])[0] for role in ROLES}
        assert found == {role: OK if role == "admin" else DENIED for role in ROLES}, path
        for token in (None, "recsys_" + "x" * 43, served.access.tokens["expired"]):
            assert status(admin, path, token)[0] is UNKNOWN, path


def test_the_admin_port_answers_nothing_else(served: Served, admin: grpc.Channel) -> None:
    for path in (RANK, "/recsys.v1.FeatureStore/GetHistory", "/grpc.health.v1.Health/Check", ADMIN + "Else"):
        assert status(admin, path, served.access.tokens["admin"])[0] is grpc.StatusCode.UNIMPLEMENTED


def test_who_is_let_in_by_a_changed_file_may_reload_and_who_is_out_may_not(served: Served, admin: grpc.Channel) -> None:
    token = served.access.add("operator", "admin")
    served.access.write()
    until(lambda: {status(admin, ADMIN + "GetStatus", token)[0] for _ in range(4)} == {OK})
    assert status(admin, ADMIN + "Reload", token, admin_pb2.ReloadRequest().SerializeToString())[0] is OK
    del served.access.entries["operator"]
    served.access.write()
    until(lambda: status(admin, ADMIN + "Reload", token)[0] is UNKNOWN)


def test_nothing_that_it_writes_or_says_holds_a_token_a_password_or_a_users_id(served: Served) -> None:
    """The last of the file: it ends the server. The request log alone holds ids, by its purpose."""
    tokens = [served.access.tokens["rank"], f"recsys_{CANARY}", f"{CANARY}.{CANARY}.{CANARY}"]
    tokens.append(served.access.issuer.token("first", sub="web"))
    outputs = list[str]()
    for token in tokens:
        with Client(served.process.address, timeout_s=20, token=token) as client:
            try:
                outputs.append(repr(client.rank(user=USER, candidates=[1, 5], features={"age": 1.0}).degraded))
            except RpcError as error:
                outputs.append(f"{error!r} {error}")
    assert any("user" in output for output in outputs), "the foreign history was read"
    change_served(served.store.path, lambda found: found, why="a test")
    served.store.promote(served.store.push(2.0))
    until(lambda: served.store.status().models["tiny"].live == list(served.store.expected)[1], limit_s=60)
    with urllib.request.urlopen(facts(served.folder)["metrics"], timeout=10) as page:
        outputs.append(page.read().decode())
    outputs.append((served.folder / "ready.json").read_text())
    outputs += [path.read_text() for path in served.store.path.rglob("*.json")]
    for pid in (served.process.process.pid, *pids(served.folder)):
        outputs.append(Path(f"/proc/{pid}/cmdline").read_bytes().decode())
    served.process.process.terminate()
    said = served.process.process.communicate(timeout=60)[1]
    assert all(isinstance(json.loads(line), dict) for line in said.splitlines() if line.startswith("{"))
    assert "refused a call of" in said and "damaged history" in said, said
    outputs.append(said)
    for secret in (*tokens, CANARY, str(USER)):
        assert [text for text in outputs if secret in text] == [], secret
