"""A private Redis that is killed comes back by itself, with its data, while somebody uses it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import redis
from support.tiny_bundle import write_tiny_bundle
from support.tiny_server import ServerProcess, server_process

from recsys.client import Client, Ranking, RpcError
from recsys.errors import StoreError
from recsys.feature_store.embedded.restarts import restart_when_gone
from recsys.feature_store.embedded.server import SERVER_VARIABLE, EmbeddedRedis, _socket_path, redis_binary

NOW_MS = 1_700_000_000_000


def eventually(true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.02)


def answers(url: str) -> int | None:
    """The process id of the Redis there; None: nobody answers."""
    try:
        with redis.Redis.from_url(url) as client:
            return int(client.info("server")["process_id"])
    except redis.ConnectionError:
        return None


def written(url: str) -> None:
    """Wait until what was stored is in the file: what Redis did not write yet is lost with it, up to a second's."""
    with redis.Redis.from_url(url) as client:
        eventually(lambda: client.info("persistence")["aof_buffer_length"] == 0)


@pytest.fixture(params=["1", "2"], ids=["one process", "two workers"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server with a Redis of its own, whose program can be taken away."""
    write_tiny_bundle(tmp_path / "tiny")
    (tmp_path / "redis-server").symlink_to(redis_binary())
    variables = {
        "RECSYS_BUNDLE": str(tmp_path / "tiny"),
        "RECSYS_REDIS_DIR": str(tmp_path / "data"),
        "RECSYS_WORKERS": request.param,
        SERVER_VARIABLE: str(tmp_path / "redis-server"),
    }
    with server_process(tmp_path, **variables) as server:
        yield server


def said(server: ServerProcess, text: str) -> None:
    """The server's log has a line with this text, now or soon."""
    assert server.process.stderr is not None
    # A server that says nothing more is ended, which ends its log: nobody waits for ever
    with closing_after(server.process, 60.0):
        for line in server.process.stderr:
            if text in line:
                return
    raise AssertionError(f"the server never said {text!r}")


@contextmanager
def closing_after(process: subprocess.Popen[str], seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def test_under_a_server_calls_are_degraded_until_it_is_back_with_its_data_however_often(
    server: ServerProcess, tmp_path: Path
) -> None:
    url = f"unix://{_socket_path(tmp_path / 'data')}"
    with Client(server.address, timeout_s=10.0) as client:

        def rank() -> Ranking:
            return client.rank(user=1, candidates=[1, 2, 3])

        client.append_events(user=1, items=[5, 6], timestamps_ms=[NOW_MS, NOW_MS + 1])
        whole = rank()
        assert whole.history_events == 2 and whole.degraded == ()
        written(url)
        for _ in range(2):
            killed = answers(url)
            assert killed is not None
            os.kill(killed, signal.SIGKILL)
            assert len(rank().scores) == 3, "an answer comes in any case"
            said(server, "has ended; it is started again")
            said(server, "answers again")
            assert answers(url) not in (None, killed)
            eventually(lambda: rank().degraded == ())
            assert rank().history_events == 2
            assert rank().scores.tolist() == whole.scores.tolist()
        client.append_events(user=1, items=[7], timestamps_ms=[NOW_MS + 2])
        assert rank().history_events == 3


def test_without_its_program_the_server_goes_on_and_it_comes_back_with_the_program(
    server: ServerProcess, tmp_path: Path
) -> None:
    url = f"unix://{_socket_path(tmp_path / 'data')}"
    with Client(server.address, timeout_s=10.0) as client:
        client.append_events(user=1, items=[5], timestamps_ms=[NOW_MS])
        written(url)
        killed = answers(url)
        assert killed is not None
        (tmp_path / "redis-server").unlink()
        os.kill(killed, signal.SIGKILL)
        said(server, "could not be started again (try 1): RECSYS_REDIS_SERVER is ")
        assert client.rank(user=1, candidates=[1]).degraded == ("user", "items")
        with pytest.raises(RpcError):
            client.append_events(user=1, items=[6], timestamps_ms=[NOW_MS + 1])
        (tmp_path / "redis-server").symlink_to(redis_binary())
        said(server, "answers again")
        eventually(lambda: client.rank(user=1, candidates=[1]).degraded == ())
        assert client.rank(user=1, candidates=[1]).history_events == 1


def test_its_keeper_may_be_killed_too(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path, restart=True) as server:
        with redis.Redis.from_url(server.url) as client:
            client.set("key", "value")
        before = answers(server.url)
        assert before is not None
        os.kill(psutil.Process(before).ppid(), signal.SIGKILL)
        eventually(lambda: answers(server.url) not in (None, before))
        with redis.Redis.from_url(server.url) as client:
            assert client.get("key") == b"value"
        last = answers(server.url)
        assert last is not None
    eventually(lambda: not psutil.pid_exists(last))


def test_users_in_several_programs_start_one_again(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path, restart=True) as first, EmbeddedRedis(tmp_path, restart=True) as second:
        killed = answers(first.url)
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: answers(first.url) is not None)
        eventually(lambda: answers(second.url) is not None)
        keepers = [p.pid for p in psutil.process_iter() if _command_has(p, f"{tmp_path}/running.lock")]
        assert len(keepers) == 1 and first.started != second.started


def _command_has(process: psutil.Process, text: str) -> bool:
    try:
        return text in process.cmdline()
    except psutil.Error:
        return False


def test_who_stops_while_it_is_gone_does_not_start_it(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "data", restart=True)
    pid = answers(server.url)
    assert pid is not None
    shutil.rmtree(tmp_path / "data")
    os.kill(pid, signal.SIGKILL)
    server.stop()
    assert answers(server.url) is None and not (tmp_path / "data").exists()


def test_waits_grow_while_it_does_not_start_and_are_none_after_it_ran_for_long() -> None:
    waits: list[float] = []
    now_s = 0.0

    class Stopping(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            nonlocal now_s
            assert timeout is not None
            if timeout != 0.2:
                waits.append(timeout)
            now_s += timeout
            return len(waits) >= 12

    tries = 0

    def start() -> None:
        nonlocal tries
        tries += 1
        if tries != 10:
            raise StoreError("no")

    def gone() -> bool:
        nonlocal now_s
        if tries == 10:
            now_s += 10.0
        return True

    restart_when_gone(gone=gone, start=start, stopping=Stopping(), name="'here'", poll_s=0.2, clock=lambda: now_s)
    assert waits == [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 0.0, 0.25]
