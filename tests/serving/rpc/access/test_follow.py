"""A changed access file is in force within seconds; a bad one is not, and is told."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import pytest
from support.secured_server import RANK, REQUEST, Secured, secured, status
from support.tiny_server import server_process
from support.tiny_workers import pids, until

from recsys.feature_store.embedded.server import EmbeddedRedis


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("followed")


@pytest.fixture(scope="module")
def followed(folder: Path, tiny_bundle: Path, redis_server: EmbeddedRedis) -> Iterator[Secured]:
    """A server of two workers, whose watchdogs are quick to call a worker hung."""
    made = secured(folder)
    variables = {
        "RECSYS_BUNDLE": str(tiny_bundle),
        "REDIS_URL": redis_server.url,
        "RECSYS_WORKERS": "2",
        "RECSYS_ACCESS_FILE": str(made.file),
        "RECSYS_HANG_TIMEOUT_S": "1",
        "RECSYS_METRICS_PORT": "0",
    }
    with server_process(folder, **variables) as server:
        made.address, made.metrics = server.address, str(server.facts["metrics"])
        yield made


def code(server: Secured, token: str) -> grpc.StatusCode:
    """Of a Rank on a connection of its own, so that both workers are asked in time."""
    with grpc.insecure_channel(server.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        return status(channel, RANK, token, REQUEST)[0]


def codes(server: Secured, token: str) -> set[grpc.StatusCode]:
    return {code(server, token) for _ in range(8)}


def counted(server: Secured, line: str) -> float:
    with urllib.request.urlopen(server.metrics, timeout=10) as page:
        lines = page.read().decode().splitlines()
    return sum(float(each.rpartition(" ")[2]) for each in lines if each.startswith(line))


def test_a_worker_is_not_taken_for_hung_because_access_is_on(followed: Secured, folder: Path) -> None:
    before = pids(folder)
    time.sleep(2.5)
    assert pids(folder) == before and counted(followed, "recsys_restarts_total") == 0
    with grpc.insecure_channel(followed.address) as channel:
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=20) == b"\x08\x01"


def test_a_token_gets_in_when_the_file_has_it_and_out_when_it_has_not(followed: Secured) -> None:
    token = followed.add("late", "rank")
    assert codes(followed, token) == {grpc.StatusCode.UNAUTHENTICATED}
    followed.write()
    until(lambda: codes(followed, token) == {grpc.StatusCode.OK})
    del followed.entries["late"]
    followed.write()
    until(lambda: codes(followed, token) == {grpc.StatusCode.UNAUTHENTICATED})
    until(lambda: counted(followed, 'recsys_access_file_total{outcome="loaded"}') >= 4)
    until(lambda: counted(followed, 'recsys_access_refused_total{reason="unknown"}') >= 16)


def test_a_bad_file_leaves_the_last_good_one_in_force_and_is_counted(followed: Secured) -> None:
    good, before = followed.tokens["rank"], counted(followed, 'recsys_access_file_total{outcome="refused"}')
    followed.file.write_text("format = 1\n[[tokens]]\nname = ")
    until(lambda: counted(followed, 'recsys_access_file_total{outcome="refused"}') >= before + 2)
    assert codes(followed, good) == {grpc.StatusCode.OK}
    followed.file.unlink()
    until(lambda: counted(followed, 'recsys_access_file_total{outcome="refused"}') >= before + 4)
    assert codes(followed, good) == {grpc.StatusCode.OK}
    followed.write()
    loaded = counted(followed, 'recsys_access_file_total{outcome="loaded"}')
    until(lambda: counted(followed, 'recsys_access_file_total{outcome="loaded"}') > loaded)
    assert codes(followed, good) == {grpc.StatusCode.OK}


def test_a_worker_that_starts_while_the_file_is_bad_serves_by_the_last_good_one(
    followed: Secured, folder: Path
) -> None:
    late = followed.add("later", "rank")
    followed.write()
    until(lambda: codes(followed, late) == {grpc.StatusCode.OK})
    before, refused = pids(folder), counted(followed, 'recsys_access_file_total{outcome="refused"}')
    followed.file.write_text("format = 1\n[[tokens]]\nname = ")
    until(lambda: counted(followed, 'recsys_access_file_total{outcome="refused"}') >= refused + 2)
    for place, worker in enumerate(before):  # one serves while the other starts
        os.kill(worker, signal.SIGKILL)
        until(partial(_started, folder, before, place + 1), limit_s=60)
    assert codes(followed, late) == {grpc.StatusCode.OK}
    assert codes(followed, "recsys_unknown") == {grpc.StatusCode.UNAUTHENTICATED}
    until(lambda: counted(followed, 'recsys_access_file_total{outcome="refused"}') >= refused + 4)
    del followed.entries["later"]
    followed.write()
    until(lambda: codes(followed, late) == {grpc.StatusCode.UNAUTHENTICATED})


def _started(folder: Path, before: list[int], count: int) -> bool:
    return len(pids(folder)) == 2 and len(set(pids(folder)) - set(before)) == count


def test_a_quota_is_of_the_server_however_many_workers_a_caller_reaches(followed: Secured) -> None:
    token = followed.add("limited", "rank", more="calls_per_s = 0.02\n")
    loaded = counted(followed, 'recsys_access_file_total{outcome="loaded"}')
    followed.write()
    until(lambda: counted(followed, 'recsys_access_file_total{outcome="loaded"}') >= loaded + 2)
    begin_s, found = time.monotonic(), [code(followed, token) for _ in range(16)]
    assert set(found) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert found.count(grpc.StatusCode.OK) <= 1 + 0.02 * (time.monotonic() - begin_s)


def test_keys_of_an_issuer_are_rotated_without_a_restart(followed: Secured) -> None:
    issuer, jwks = followed.issuer, followed.folder / "jwks.json"
    old = issuer.token("first")
    until(lambda: codes(followed, old) == {grpc.StatusCode.OK})
    issuer.add_ec("second")
    new = issuer.token("second")
    assert codes(followed, new) == {grpc.StatusCode.UNAUTHENTICATED}
    issuer.write_jwks(jwks)
    until(lambda: codes(followed, new) == {grpc.StatusCode.OK})
    assert codes(followed, old) == {grpc.StatusCode.OK}, "both are taken while both are in the file"
    only = {"keys": [key for key in issuer.jwks()["keys"] if key["kid"] == "second"]}
    jwks.write_text(json.dumps(only))
    until(lambda: codes(followed, old) == {grpc.StatusCode.UNAUTHENTICATED})
    assert codes(followed, new) == {grpc.StatusCode.OK}, "a verified token of before is forgotten with its key"
    jwks.write_text("{")
    time.sleep(1.5)
    assert codes(followed, new) == {grpc.StatusCode.OK}
