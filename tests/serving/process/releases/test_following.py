"""Servers that follow ``served.json``, for real: two workers, under load, with the faults that happen to them."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.release_store import AGE, CANDIDATES, Load, TinyStore, facts, live, release_server
from support.tiny_bundle import FEATURES
from support.tiny_server import ServerProcess, start_server_process
from support.tiny_workers import pids, until

from recsys.client import Client, NotFound
from recsys.feature_store.embedded.server import EmbeddedRedis
from recsys.proto import admin_pb2, admin_pb2_grpc
from recsys.releases.changes import promoted
from recsys.releases.following import wait_until_served
from recsys.releases.release import RELEASES
from recsys.releases.served import SERVED, Served, ServedModel, read_served, write_served
from recsys.releases.store import change_served


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TinyStore:
    found = TinyStore(tmp_path_factory.mktemp("releases"))
    for factor in (1.0, 2.0, 3.0):
        found.push(factor)
    found.promote(next(iter(found.expected)))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(store: TinyStore, folder: Path, redis_server: EmbeddedRedis) -> Iterator[ServerProcess]:
    with release_server(folder, store, redis_server.url, RECSYS_ADMIN_PORT="0") as found:
        yield found


@pytest.fixture
def names(store: TinyStore, server: ServerProcess) -> list[str]:
    """The releases' names; the first one is live."""
    names = list(store.expected)[:3]
    store.promote(names[0])
    until(lambda: live(server) == names[0])
    return names


def health(server: ServerProcess, name: str) -> int:
    with grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return int(stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status)


def test_switches_and_rollbacks_under_load_lose_no_call_and_mix_no_releases(
    store: TinyStore, server: ServerProcess, names: list[str]
) -> None:
    with Load(server.address, store) as load:
        load.until_answered(names[0])
        for name in (names[1], names[0], names[2], names[1]):
            store.promote(name)
            load.until_answered(name)
    assert load.failed == [] and load.wrong == []
    for seen in load.order:
        assert seen == [names[0], names[1], names[0], names[2], names[1]], "no caller goes back and forth"


def test_a_rollback_to_a_release_that_is_kept_takes_less_than_a_second(
    store: TinyStore, server: ServerProcess, names: list[str]
) -> None:
    store.promote(names[1])
    until(lambda: live(server) == names[1])
    started_s = time.monotonic()
    store.promote(names[0])
    until(lambda: live(server) == names[0])
    assert time.monotonic() - started_s < 5.0  # benchmarks/releases.py has the figure
    until(lambda: names[1] in store.status().loaded)


def test_what_is_served_is_in_the_ready_file_the_status_and_the_admin_service(
    store: TinyStore, server: ServerProcess, folder: Path, names: list[str]
) -> None:
    store.promote(names[1])
    until(lambda: facts(folder)["release"] == names[1])
    until(lambda: store.status().models["tiny"].live == names[1])
    assert facts(folder)["releases"] == {"tiny": names[1]}
    with grpc.insecure_channel(facts(folder)["admin"]) as channel:
        status = admin_pb2_grpc.AdminStub(channel).GetStatus(admin_pb2.GetStatusRequest(), timeout=10)
    served = read_served(store.path)
    assert served is not None
    assert (status.revision, status.refused) == (served.revision, "") and status.phase in ("serving", "watching")
    assert status.models["tiny"].live == names[1] and set(status.loaded) >= set(names[:2])
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as error:
        admin_pb2_grpc.AdminStub(channel).GetStatus(admin_pb2.GetStatusRequest(), timeout=10)
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED, "the admin service has a port of its own"


def test_a_reload_returns_when_the_switch_is_done_or_refused(
    store: TinyStore, server: ServerProcess, folder: Path, names: list[str]
) -> None:
    with grpc.insecure_channel(facts(folder)["admin"]) as channel:
        stub = admin_pb2_grpc.AdminStub(channel)
        store.promote(names[2])
        assert stub.Reload(admin_pb2.ReloadRequest(), timeout=60).models["tiny"].live == names[2]
        assert live(server) == names[2]
        served = read_served(store.path)
        assert served is not None
        write_served(store.path, Served(models={"tiny": ServedModel(live="tiny-nothing")}, default="tiny"))
        with pytest.raises(grpc.RpcError) as error:
            stub.Reload(admin_pb2.ReloadRequest(), timeout=60)
        assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "no release 'tiny-nothing'" in str(error.value.details()) and live(server) == names[2]
        write_served(store.path, served)
        assert stub.Reload(admin_pb2.ReloadRequest(), timeout=60).refused == ""


def test_a_reload_returns_also_when_a_kept_release_has_to_go_meanwhile(tmp_path: Path, redis_url: str) -> None:
    store = TinyStore(tmp_path)
    first, second, third = (store.push(factor) for factor in (1.0, 1.1, 1.2))
    store.promote(first)
    more = {
        "RECSYS_ADMIN_PORT": "0",
        "RECSYS_RELEASE_WATCH_S": "0",
        "RECSYS_RELEASE_KEEP_S": "2",
        "RECSYS_WORKERS": "1",
    }
    with (
        release_server(tmp_path / "server", store, redis_url, **more, RECSYS_RELEASE_POLL_S="0") as server,
        grpc.insecure_channel(facts(tmp_path / "server")["admin"]) as channel,
    ):
        stub = admin_pb2_grpc.AdminStub(channel)
        store.promote(second)
        stub.Reload(admin_pb2.ReloadRequest(), timeout=60)
        worker = pids(tmp_path / "server")[0]
        os.kill(worker, signal.SIGSTOP)  # its load takes until the first one is kept for long enough
        try:
            store.promote(third)
            server.process.send_signal(signal.SIGHUP)
            time.sleep(2.2)
            before_s = processor_s(server)
            time.sleep(1.0)
            assert processor_s(server) - before_s < 0.15, "the supervisor waits, and does not spin"
        finally:
            os.kill(worker, signal.SIGCONT)
        assert stub.Reload(admin_pb2.ReloadRequest(), timeout=20).models["tiny"].live == third


def processor_s(server: ServerProcess) -> float:
    """Time that the supervisor has worked."""
    user, system = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def test_sighup_reads_served_json_and_ends_nothing(store: TinyStore, server: ServerProcess, names: list[str]) -> None:
    with Load(server.address, store) as load:
        load.until_answered(names[0])
        server.process.send_signal(signal.SIGHUP)
        load.until_answered(names[0])
    assert server.process.poll() is None and load.failed == []


@pytest.mark.parametrize(
    "text, reason",
    [
        ("", "not JSON"),
        ('{"format_version": 1, "models": {}}', "models: there are none"),
        ('{"format_version": 99}', "format 99, but this program reads up to 1"),
        ('{"format_version": 1, "models": {"tiny": {"live": "../x"}}}', "no name of a release"),
        (
            '{"format_version": 1, "models": {"tiny": {"live": "a", "spilt": {}}}}',
            "unknown field: did you mean 'split'",
        ),
    ],
)
def test_a_malformed_served_json_is_refused_and_the_server_serves_on(
    store: TinyStore, server: ServerProcess, names: list[str], text: str, reason: str
) -> None:
    before = (store.path / SERVED).read_bytes()
    try:
        (store.path / SERVED).write_text(text)
        assert reason in store.refused()
        assert live(server) == names[0]
    finally:
        (store.path / SERVED).write_bytes(before)
    until(lambda: not store.status().refused)


def test_a_store_that_is_away_changes_nothing_and_is_followed_again_when_it_is_back(
    store: TinyStore, server: ServerProcess, names: list[str]
) -> None:
    away = store.path.with_name("away")
    with Load(server.address, store) as load:
        load.until_answered(names[0])
        store.path.rename(away)
        time.sleep(0.5)
        load.until_answered(names[0])
        away.rename(store.path)
        store.promote(names[1])
        load.until_answered(names[1])
    assert load.failed == [] and load.wrong == []
    until(lambda: not store.status().refused)


def test_a_release_altered_by_one_byte_is_refused_with_the_file_named(
    store: TinyStore, server: ServerProcess, names: list[str]
) -> None:
    bad = store.push(7.0)
    file = store.path / RELEASES / bad / "ranking" / "tables" / "items.bin"
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    os.chmod(file, 0o644)
    file.write_bytes(content)
    with Load(server.address, store) as load:
        store.promote(bad)
        assert "tables/items.bin was altered" in store.refused()
        load.until_answered(names[0])
    assert load.failed == [] and set(load.answers) == {names[0]}
    # Who waits for the next one is not told of this one's refusal.
    wait_until_served(store.path, store.promote(names[1]), timeout_s=30.0)


def test_a_release_of_another_feature_set_is_refused_and_none_of_the_workers_switches(
    store: TinyStore, server: ServerProcess, names: list[str]
) -> None:
    foreign = store.push(5.0, features=dataclasses.replace(FEATURES, name="elsewhere"))
    with Load(server.address, store) as load:
        store.promote(foreign)
        assert "elsewhere" in store.refused()
        load.until_answered(names[0])
    assert load.failed == [] and set(load.answers) == {names[0]}


def test_a_worker_killed_in_a_switch_is_replaced_and_one_release_serves(
    store: TinyStore, server: ServerProcess, folder: Path, names: list[str]
) -> None:
    draw = random.Random(1)
    for round_ in range(4):
        target = names[1 + round_ % 2]
        store.promote(target)
        time.sleep(draw.uniform(0.0, 0.5))
        victim = draw.choice(pids(folder))
        os.kill(victim, signal.SIGKILL)
        until(lambda victim=victim: victim not in pids(folder) and len(pids(folder)) == 2)
        until(lambda target=target: facts(folder)["release"] == target)
        assert {live(server) for _ in range(8)} == {target}
    assert store.status().refused == ""


def test_two_models_are_served_by_name_beside_each_other_and_have_their_own_health(
    store: TinyStore, server: ServerProcess, names: list[str]
) -> None:
    change_served(store.path, lambda served: promoted(served, "second", names[1]), why="a test")
    until(lambda: "second" in store.status().models)
    with Client(server.address) as client:
        asked = {"user": 1, "candidates": CANDIDATES, "features": {"age": AGE}, "timeout_s": 20.0}
        assert client.rank(model="second", **asked).release == names[1]
        assert client.rank(model="tiny", **asked).release == client.rank(**asked).release == names[0]
        assert [health(server, name) for name in ("second", "tiny", "", "recsys.v1.Ranker")] == [1, 1, 1, 1]
        served = read_served(store.path)
        assert served is not None
        alone = Served(models={"tiny": served.models["tiny"]}, default="tiny", revision=served.revision + 1)
        write_served(store.path, alone)
        until(lambda: set(store.status().models) == {"tiny"})
        with pytest.raises(NotFound, match="'second' is not served here"):
            client.rank(model="second", **asked)
    assert health(server, "second") == 3


def test_nothing_that_a_server_runs_is_lost_when_its_release_is_removed_from_the_store(
    store: TinyStore, server: ServerProcess, names: list[str]
) -> None:
    gone = store.push(1.5)
    store.promote(gone)
    until(lambda: live(server) == gone)
    path = store.path / RELEASES / gone
    for each in [path, *path.rglob("*")]:
        if each.is_dir():
            os.chmod(each, 0o755)
    shutil.rmtree(path)
    with Load(server.address, store) as load:
        load.until_answered(gone)
        store.promote(names[0])
        load.until_answered(names[0])
    assert load.failed == [] and load.wrong == []


def test_a_server_whose_release_is_damaged_starts_with_the_one_before_and_says_so(
    tmp_path: Path, redis_url: str
) -> None:
    store = TinyStore(tmp_path)
    first, second = store.push(1.0), store.push(2.0)
    store.promote(first)
    store.promote(second)
    file = store.path / RELEASES / second / "ranking" / "tables" / "items.bin"
    os.chmod(file, 0o644)
    file.write_bytes(file.read_bytes()[:-1])
    with release_server(tmp_path / "server", store, redis_url, RECSYS_WORKERS="1") as server:
        assert live(server) == first
        until(lambda: "items.bin" in store.status().refused)
        assert store.status().models["tiny"].live == first


def test_without_a_release_before_it_a_damaged_one_ends_the_start(tmp_path: Path) -> None:
    store = TinyStore(tmp_path)
    only = store.push(1.0)
    store.promote(only)
    file = store.path / RELEASES / only / "ranking" / "user.onnx"
    os.chmod(file.parent, 0o755)
    file.unlink()
    process = start_server_process(tmp_path, RECSYS_RELEASES=str(store.path), RECSYS_REDIS_DIR=str(tmp_path / "redis"))
    errors = process.communicate(timeout=60)[1]
    assert process.returncode != 0 and "user.onnx is missing" in errors and "no release before it" in errors


def test_a_store_of_which_nothing_is_served_says_what_to_do(tmp_path: Path) -> None:
    store = TinyStore(tmp_path)
    store.push(1.0)
    process = start_server_process(tmp_path, RECSYS_RELEASES=str(store.path), RECSYS_REDIS_DIR=str(tmp_path / "redis"))
    assert "nothing is served yet; `recsys release promote RELEASE` says what" in process.communicate(timeout=60)[1]


def test_the_supervisor_killed_in_a_switch_leaves_one_release_to_the_next_server(
    tmp_path: Path, redis_url: str
) -> None:
    store = TinyStore(tmp_path)
    first, second = store.push(1.0), store.push(2.0)
    store.promote(first)
    draw = random.Random(2)
    for round_ in range(2):
        with release_server(tmp_path / f"server-{round_}", store, redis_url) as server:
            store.promote(second if round_ % 2 == 0 else first)
            time.sleep(draw.uniform(0.0, 0.4))
            workers = pids(tmp_path / f"server-{round_}")
            server.process.kill()
            until(lambda workers=workers: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    with release_server(tmp_path / "last", store, redis_url) as server:
        assert {live(server) for _ in range(6)} == {first}
        json.loads((store.path / SERVED).read_text())
