"""The TypeScript example: installed, generated, checked by its compiler and run by npm against real servers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.access import token_of, write_access
from support.certificates import Authority, mtls
from support.metrics_page import page_series, total
from support.paths import ROOT
from support.tiny_bundle import write_tiny_bundle
from support.tiny_server import ServerProcess, server_process
from support.tiny_workers import until

from recsys.client import channel
from recsys.proto import feature_store_pb2, ranker_pb2, related_pb2
from recsys.proto.limits import MESSAGE_BYTES
from recsys.proto.trailers import RETRY_TRAILER

EXAMPLE = ROOT / "examples" / "typescript"

MANY = """
import { Client } from "./client.js";

// Calls without a pause until standard input ends; prints how many were answered, and the errors.
const client = new Client(process.argv[2] ?? "", {
  timeoutMs: 20_000,
  ...(process.env.RECSYS_TOKEN_FILE && { tokenFile: process.env.RECSYS_TOKEN_FILE }),
});
const found = { answered: 0, errors: [] as string[] };
let more = true;
process.stdin.on("end", () => (more = false)).resume();
while (more) {
  try {
    await client.rank({ user: { integer: 1 }, candidates: { integers: [1, 2] } });
    found.answered += 1;
  } catch (error) {
    found.errors.push(String(error));
  }
  await new Promise((resolve) => setTimeout(resolve, 2));
}
client.close();
console.log(JSON.stringify(found));
"""


def test_every_package_has_one_version_and_none_says_where_it_comes_from() -> None:
    package = json.loads((EXAMPLE / "package.json").read_text())
    versions = {**package["dependencies"], **package["devDependencies"]}
    assert versions and all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in versions.values())
    assert "package-lock=false" in (EXAMPLE / ".npmrc").read_text().splitlines()
    assert "registry" not in (EXAMPLE / ".npmrc").read_text() + (EXAMPLE / "package.json").read_text()


def test_it_has_every_call_of_one_message_and_the_limits_of_the_python_client() -> None:
    source = (EXAMPLE / "src" / "client.ts").read_text()
    services = [file.DESCRIPTOR.services_by_name.values() for file in (ranker_pb2, related_pb2, feature_store_pb2)]
    for method in (method for found in services for service in found for method in service.methods):
        name = method.name[0].lower() + method.name[1:]
        assert (f"  {name}(request: {method.input_type.name}" in source) is not method.client_streaming, name
    assert f"MESSAGE_BYTES = {MESSAGE_BYTES // 2**20} * 1024 * 1024" in source and RETRY_TRAILER in source
    config = json.loads(re.sub(r"//.*", "", _literal(source)))
    assert config.pop("loadBalancingConfig") == [{"round_robin": {}}]
    assert config == channel._RETRIES


def _literal(source: str) -> str:
    """The service configuration of the source as JSON."""
    text = source[source.index("SERVICE_CONFIG = {") + len("SERVICE_CONFIG = ") :]
    text = text[: text.index("\n};") + 2]
    return re.sub(r",(\s*[}\]])", r"\1", re.sub(r"(?m)([{\s])(\w+): ", r'\1"\2": ', re.sub(r"//.*", "", text)))


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example, installed, generated and built as its README says."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("the TypeScript example needs node and npm")
    root = tmp_path_factory.mktemp("typescript")
    folder = root / "examples" / "typescript"
    ignore = shutil.ignore_patterns("node_modules", "generated", "dist")
    shutil.copytree(EXAMPLE, folder, ignore=ignore)
    shutil.copytree(ROOT / "protos", root / "protos")
    (folder / "src" / "many.ts").write_text(MANY)
    installed = npm(folder, "install", "--no-audit", "--no-fund")
    if re.search("ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ENETUNREACH", installed.stderr):
        pytest.skip("npm reaches no registry")
    assert installed.returncode == 0, installed.stderr
    for script in ("generate", "check", "build"):
        done = npm(folder, "run", script)
        assert done.returncode == 0, done.stdout + done.stderr
    assert not (folder / "package-lock.json").exists()
    return folder


def npm(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["npm", *arguments], cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip


def ranked(folder: Path, address: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return npm(folder, "run", "--silent", "rank", "--", address, **environment)


@pytest.mark.prove
def test_it_stores_an_event_and_ranks_and_says_what_went_wrong(example: Path, redis_url: str, tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "tiny")
    with server_process(tmp_path, RECSYS_BUNDLE=str(tmp_path / "tiny"), REDIS_URL=redis_url) as server:
        done = ranked(example, server.address)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert (found["added"], found["historyEvents"], len(found["scored"])) == (1, 1, 2)
        best, second = found["scored"]
        assert {best["item"], second["item"]} < {661, 914, 3408} and best["score"] >= second["score"]
    done = ranked(example, server.address)
    assert done.returncode == 1 and done.stderr.startswith("UNAVAILABLE: "), done.stderr


@pytest.mark.prove
def test_it_speaks_tls_and_sends_its_token(example: Path, redis_url: str, tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "tiny")
    authority = Authority()
    secret = mtls(authority, tmp_path / "secret")
    token, entry = token_of("rank", "write", name="web")
    (tmp_path / "web.token").write_text(f"{token}\n")
    settings = {
        "RECSYS_BUNDLE": str(tmp_path / "tiny"),
        "REDIS_URL": redis_url,
        "RECSYS_TLS_CERTIFICATE": str(secret / "cert"),
        "RECSYS_TLS_KEY": str(secret / "key"),
        "RECSYS_ACCESS_FILE": str(write_access(tmp_path / "access.toml", entry)),
    }
    with server_process(tmp_path, **settings) as server:
        address = server.address.replace("127.0.0.1", "localhost")  # node would warn of an IP's certificate
        done = ranked(example, address, RECSYS_CA=str(secret / "ca"))
        assert done.returncode == 1 and done.stderr.startswith("UNAUTHENTICATED: ")
        own = {"RECSYS_CA": str(secret / "ca"), "RECSYS_TOKEN_FILE": str(tmp_path / "web.token")}
        done = ranked(example, address, **own)
        assert done.returncode == 0, done.stderr
        for remote in ("recsys.example:50051", "127.example.com:50051"):
            done = ranked(example, remote, RECSYS_TOKEN_FILE=str(tmp_path / "web.token"))
            assert done.returncode == 1 and f"a token would be sent to {remote} in clear" in done.stderr


@contextmanager
def calling(example: Path, target: str, **environment: str) -> Iterator[dict[str, Any]]:
    """Calls without a pause until the block ends; then what became of them is in the dict."""
    many = subprocess.Popen(
        ["node", "dist/many.js", target], cwd=example, env={**os.environ, **environment}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    found: dict[str, Any] = {}
    try:
        yield found
    finally:
        out, _ = many.communicate("", timeout=60)
        found.update(json.loads(out))


def calls(server: ServerProcess, code: str = "OK") -> float:
    return total(page_series(server.facts["metrics"]), "recsys_requests_total", method="Rank", code=code)


@pytest.mark.prove
def test_it_comes_again_when_a_server_that_refused_says(example: Path, redis_url: str, tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "tiny")
    token, entry = token_of("rank", name="web", more="calls_per_s = 5\n")
    (tmp_path / "web.token").write_text(token)
    settings = {
        "RECSYS_BUNDLE": str(tmp_path / "tiny"),
        "REDIS_URL": redis_url,
        "RECSYS_METRICS_PORT": "0",
        "RECSYS_ACCESS_FILE": str(write_access(tmp_path / "access.toml", entry)),
    }
    with server_process(tmp_path, **settings) as server:
        with calling(example, server.address, RECSYS_TOKEN_FILE=str(tmp_path / "web.token")) as found:
            until(lambda: calls(server) >= 10)
            assert calls(server, "RESOURCE_EXHAUSTED") > 0
    assert found["errors"] == [] and found["answered"] >= 10


@pytest.mark.prove
def test_it_calls_all_servers_of_a_name_and_one_that_goes_fails_no_call(
    example: Path, redis_url: str, tmp_path: Path
) -> None:
    write_tiny_bundle(tmp_path / "tiny")
    settings = {"RECSYS_BUNDLE": str(tmp_path / "tiny"), "REDIS_URL": redis_url, "RECSYS_METRICS_PORT": "0"}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with (
        server_process(tmp_path / "one", **settings) as one,
        server_process(tmp_path / "two", **settings) as two,
    ):
        with calling(example, f"ipv4:{one.address},{two.address}") as found:
            until(lambda: min(calls(server) for server in (one, two)) >= 20)
            one.process.terminate()
            assert one.process.wait(60) == 0
            before = calls(two)
            until(lambda: calls(two) > before + 50)
    assert found["errors"] == [] and found["answered"] >= 90
