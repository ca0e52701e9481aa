"""A server that is told to end does, also when a handler of it never returns: with all stacks, and with exit code 1."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.half_open import half_open
from support.tiny_server import server_process
from support.tiny_workers import pids

from recsys.client import Client

# At SIGUSR2 each later run of a model goes on for ever, in native code.
SITE = """
import ctypes, signal

def never_ends(*arguments, **more):
    while True:
        ctypes.CDLL(None).pause()

def hang(number, frame):
    from recsys.serving.inference.ranking_session import RankingSession
    RankingSession._user_side = never_ends

signal.signal(signal.SIGUSR2, hang)
"""

DRAIN_S = 0.5


@pytest.mark.parametrize("workers", [1, 2])
def test_a_handler_that_never_returns_keeps_no_server_from_ending(
    tiny_bundle: Path, tmp_path: Path, redis_url: str, workers: int
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    variables = {"RECSYS_BUNDLE": str(tiny_bundle), "REDIS_URL": redis_url, "PYTHONPATH": str(site)}
    variables |= {"RECSYS_WORKERS": str(workers), "RECSYS_DRAIN_TIMEOUT_S": str(DRAIN_S)}
    with server_process(tmp_path, **variables) as server, Client(server.address) as client:
        for pid in pids(tmp_path):
            os.kill(pid, signal.SIGUSR2)
        time.sleep(1.2)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(client.rank, user=1, candidates=[1], timeout_s=1.0)
            time.sleep(0.5)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(20) == 1
        assert server.process.stderr is not None
        log = server.process.stderr.read()
        assert "not ended within 3.5 s: ending now; the stacks of all threads" in log
        assert "in never_ends" in log
        assert ("did not end in time; its stacks are above" in log) == (workers > 1)


def test_a_worker_that_is_killed_while_it_drains_makes_the_exit_code_1(
    tiny_bundle: Path, tmp_path: Path, redis_url: str
) -> None:
    """Its calls are cut: who waits for the server to end must not take that for a drain."""
    variables = {"RECSYS_BUNDLE": str(tiny_bundle), "REDIS_URL": redis_url, "RECSYS_WORKERS": "2"}
    with server_process(tmp_path, **variables) as server, half_open(server.address, 20, connections=20):
        killed, _ = pids(tmp_path)
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)  # calls without a message have a second
        os.kill(killed, signal.SIGKILL)
        assert server.process.wait(20) == 1
        assert server.process.stderr is not None
        assert f"(pid {killed}) was killed by SIGKILL: its requests were cut" in server.process.stderr.read()


ENDS = """
import time
from recsys.serving.process.ending import bounded_end

with bounded_end(0.2) as begin:
    begin()
    time.sleep(0.1)
time.sleep({rest})
print("all ended")
"""


def test_what_ends_in_time_is_left_alone() -> None:
    done = subprocess.run([sys.executable, "-c", ENDS.format(rest=1.0)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "all ended\n", "")
