"""Volumes of releases and of the request log, read-only or full: servers serve on and say it, commands refuse."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.release_store import TinyStore, facts, live, release_server
from support.tiny_bundle import ITEMS, write_tiny_bundle
from support.tiny_workers import until

from recsys.errors import ConfigError, NoSpaceError
from recsys.proto import admin_pb2, admin_pb2_grpc
from recsys.releases.lock import LOCK

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mount") is None, reason="mounting takes root's rights"
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB and 300 files, of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=300", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a container may not mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


def fill(disk: Path) -> None:
    """Take all the room that is left."""
    with (disk / "filling").open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(4096))


def test_a_store_that_a_server_may_only_read_is_followed_and_that_its_status_is_not_there_is_said(
    disk: Path, tmp_path: Path, redis_url: str
) -> None:
    store = TinyStore(disk)
    first, second = store.push(1.0), store.push(1.2)
    store.promote(first)
    remount(disk, "ro")
    with pytest.raises(ConfigError, match="store cannot be written: its disk is mounted read-only; choose another"):
        store.push_bundle(disk / "bundle-1")
    with release_server(tmp_path / "server", store, redis_url, RECSYS_ADMIN_PORT="0") as server:
        assert live(server) == first
        remount(disk, "rw")
        store.promote(second)
        remount(disk, "ro")
        until(lambda: live(server) == second)
        with grpc.insecure_channel(facts(tmp_path / "server")["admin"]) as channel:
            stub = admin_pb2_grpc.AdminStub(channel)
            until(lambda: stub.GetStatus(admin_pb2.GetStatusRequest(), timeout=10).models["tiny"].live == second)
        server.process.terminate()
        assert server.process.stderr is not None
        assert "the status of this server is not written" in server.process.stderr.read()


def test_on_a_full_disk_servers_answer_and_say_what_is_not_written_and_a_push_and_a_promotion_change_nothing(
    disk: Path, tmp_path: Path, redis_url: str
) -> None:
    store, log = TinyStore(disk), disk / "log"
    first, second = store.push(1.0), store.push(1.2)
    store.promote(first)
    write_tiny_bundle(tmp_path / "third", items=3 * ITEMS)
    fill(disk)
    logged = {"RECSYS_LOG_REQUESTS": "1", "RECSYS_REQUEST_LOG_DIR": str(log), "RECSYS_WORKERS": "1"}
    with release_server(tmp_path / "server", store, redis_url, **logged) as server:
        for change in (lambda: store.push_bundle(tmp_path / "third"), lambda: store.promote(second)):
            with pytest.raises(NoSpaceError, match=rf"{store.path}.*No space left .*\(0.0 MB are free in {disk}"):
                change()
        assert live(server) == first
        with grpc.insecure_channel(server.address) as channel:
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        server.process.terminate()
        _, said = server.process.communicate(timeout=60)
    assert server.process.returncode == 0
    assert "the status of this server is not written" in said
    assert f"request log: 1 requests were not written: {log}: No space left on device (0.0 MB are free in" in said
    assert "Traceback" not in said and sorted(path.name for path in log.iterdir()) == []
    (disk / "filling").unlink()
    assert len(list((store.path / "releases").iterdir())) == 2  # no half of a third
    store.promote(second)


def test_a_lock_that_finds_no_room_is_no_lack_of_permission(disk: Path, tmp_path: Path) -> None:
    store = TinyStore(disk)
    first = store.push()
    (store.path / LOCK).unlink()
    names = 0
    with contextlib.suppress(OSError):  # until there is no room for one more file
        while True:
            (disk / f"{names}").touch()
            names += 1
    with pytest.raises(NoSpaceError, match=rf"{LOCK}: No space left on device"):
        store.promote(first)
