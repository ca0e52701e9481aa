"""Training over several hosts: one that is lost, one that never comes, clocks that differ."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.command_line import recsys
from support.network import namespaces_missing, network
from support.paths import ROOT
from support.redis_servers import free_port
from support.shifted_clock import shifted_clock
from support.tiny_workers import until
from support.training_hosts import SMALL, lose_by_cable, lose_by_kill, training_hosts, write_log

from recsys.embeddings.sharding.network import LOST_S, choose_interface, interface_to, watch_connections
from recsys.errors import ConfigError
from recsys.training.distributed.launch import launch, restarts_of

TOLERANCE = 1e-4
"""Of metrics, between one process and several on other hosts: sums in another order, over a hundred steps."""


def test_a_rendezvous_host_that_never_comes_is_named_with_its_port() -> None:
    port = free_port()
    began_s = time.monotonic()
    ended = launch(["--nnodes=2", "--node-rank=1", f"--master-port={port}", "--rdzv-conf=timeout=1", "train.py"])
    assert time.monotonic() - began_s < 30
    assert (ended.code, ended.again) == (1, False)
    assert ended.why == (
        f"node 1 waited 1 s for node 0 at 127.0.0.1 port {port}, and nothing answered (Connection refused); start "
        "node 0 there, or give its address and port to all nodes (--master-addr, --master-port)"
    )


def test_a_node_that_waits_alone_says_where_it_waited() -> None:
    port = free_port()
    ended = launch(["--nnodes=2", "--node-rank=0", f"--master-port={port}", "--rdzv-conf=timeout=1", "train.py"])
    assert (ended.code, ended.again) == (1, False)
    assert f"not all of 2 nodes met at 127.0.0.1 port {port} within " in ended.why
    assert "1/2 clients joined" in ended.why
    assert ended.why.endswith("the same --nnodes, --master-addr and --master-port")


def test_a_killed_process_begins_again_and_bad_input_does_not(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os, pathlib, signal, sys\n"
        "first = pathlib.Path('first')\n"
        "if first.exists():\n"
        "    sys.exit(2)\n"
        "first.touch()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    arguments = ["--max-restarts=5", f"--master-port={free_port()}", str(program)]
    done = recsys("torchrun", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    said = done.stderr.splitlines()
    assert said == [
        "process 0 was ended by SIGKILL: by hand, or for want of memory; beginning again, 5 restarts left",
        "error: process 0 ended with exit code 2; what it said is above",
    ]


def test_restarts_are_counted_and_all_else_is_passed_on() -> None:
    assert restarts_of(["--nnodes=2", "-m", "recsys.cli", "train"]) == (0, ["--nnodes=2", "-m", "recsys.cli", "train"])
    assert restarts_of(["--max_restarts=4", "x.py"]) == (4, ["x.py"])
    assert restarts_of(["--max-restarts=2", "x.py", "--max-restarts=7"]) == (2, ["x.py", "--max-restarts=7"])


@pytest.mark.parametrize(
    ("argument", "why"),
    [
        ("--rdzv-conf=timeout=soon", "--rdzv-conf: timeout is 'soon'; allowed: whole seconds, 1 or more"),
        ("--rdzv-conf=timeout=-5", "--rdzv-conf: timeout is '-5'; allowed: whole seconds, 1 or more"),
        ("--rdzv-endpoint=node0", "--rdzv-endpoint is 'node0'; allowed: HOST:PORT"),
        ("--rdzv-backend=c10d", "--rdzv-backend is 'c10d'; allowed: static, the default"),
    ],
)
def test_arguments_that_cannot_be_met_are_bad_input(argument: str, why: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(why)):
        launch(["--nnodes=2", "--node-rank=1", argument, "train.py"])


def test_a_process_ends_with_the_torchrun_that_started_it(tmp_path: Path) -> None:
    child = (
        "import pathlib, time; from recsys.embeddings.sharding.network import end_with_parent; end_with_parent(); "
        "pathlib.Path('ready').touch(); time.sleep(100)"
    )
    started = f"subprocess.Popen([sys.executable, '-c', {child!r}])"
    parent = f"import subprocess, sys; print({started}.pid, flush=True); input()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", parent],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        until(lambda: (tmp_path / "ready").exists())
        process.kill()
    until(lambda: not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text())


def test_the_interface_is_the_one_that_leads_to_the_other_host() -> None:
    assert interface_to("127.0.0.1") == "lo"
    assert interface_to("no-such-host.invalid") is None


def test_a_first_node_that_only_its_own_host_reaches_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.1.1")
    with pytest.raises(ConfigError, match=r"--master-addr 127\.0\.1\.1 leads this host to itself"):
        choose_interface()
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    choose_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"


def test_files_stay_as_they_are_when_connections_are_watched(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w"):
        before = len(os.listdir("/proc/self/fd"))
        watch_connections()
        assert len(os.listdir("/proc/self/fd")) == before


def test_connections_are_set_to_end_when_a_host_is_lost() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()) as one:
        before = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert (before, one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) == (0, 0)
        assert watch_connections() >= 1
        options = [socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT]
        idle_s, interval_s, count = (one.getsockopt(socket.IPPROTO_TCP, option) for option in options)
        assert idle_s + interval_s * count == LOST_S
        assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == LOST_S * 1000
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        one.sendall(b"still open")


ECHO = """
import socket
listening = socket.create_server(("0.0.0.0", 5000))
print("up", flush=True)
connection, _ = listening.accept()
while received := connection.recv(65536):
    connection.sendall(received)
"""


def test_a_slow_cable_delays_every_packet_loses_none_and_can_be_cut() -> None:
    if reason := namespaces_missing():
        pytest.skip(reason)
    with network(1, round_trip_s=0.1) as hosts:  # from here to the host and back: half of it
        host = hosts.hosts[1]
        command = [*host.under, sys.executable, "-c", ECHO]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as echo:
            assert echo.stdout is not None and echo.stdout.readline() == b"up\n"
            with socket.create_connection((host.address, 5000), timeout=10) as connection:
                sent = os.urandom(300_000)
                began_s = time.monotonic()
                connection.sendall(sent[:1])
                received = connection.recv(1)
                assert time.monotonic() - began_s >= 0.05
                connection.sendall(sent[1:])
                while len(received) < len(sent):
                    received += connection.recv(65536)
                assert received == sent
                host.cut()
                connection.settimeout(0.5)
                connection.sendall(b"lost")
                with pytest.raises(TimeoutError):
                    connection.recv(1)
            echo.kill()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if reason := namespaces_missing():
        pytest.skip(reason)
    return write_log(tmp_path_factory.mktemp("made"), users=200)


@pytest.mark.prove
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("size", [2, 4])
def test_a_run_that_loses_hosts_goes_on_by_itself_and_ends_as_one_host_does(
    size: int, log: Path, tmp_path: Path
) -> None:
    common = [f"data.dataset={log}", *SMALL, "tables.sharding=row_wise"]
    with training_hosts(tmp_path, size) as hosts:
        settings: dict[str, Any] = {"settings": [*common, f"train.batch_size={128 // size}"], "restarts": 3}
        hosts.start(*hosts.hosts, **settings)
        hosts.wait_for_checkpoint(steps=2)
        lose_by_kill(hosts, size, **settings)
        lose_by_cable(hosts, 1)
        assert hosts.wait() == [0] * size
        assert hosts.said(1).count("beginning again") == 2
        assert f"its host was cut off for {LOST_S} s" in hosts.said(size)
        assert "Traceback" not in "".join(map(hosts.said, hosts.hosts))
        hosts.start(1, settings=[*common, "train.batch_size=128"], run="alone", of=1)
        assert hosts.wait(1) == [0]
        ours, alone = hosts.metrics(), hosts.metrics("alone")
    for split in ("validation", "test"):
        assert ours[split] == pytest.approx(alone[split], abs=TOLERANCE)


@pytest.mark.prove
@pytest.mark.timeout(1200)
def test_hosts_that_are_far_apart_end_as_one_host_does(log: Path, tmp_path: Path) -> None:
    settings = [f"data.dataset={log}", *SMALL, "tables.sharding=row_wise"]
    with training_hosts(tmp_path, 2, round_trip_s=0.02) as hosts:
        hosts.start(1, 2, settings=[*settings, "train.batch_size=256"])
        assert hosts.wait() == [0, 0]
        hosts.start(1, settings=[*settings, "train.batch_size=512"], run="alone", of=1)
        assert hosts.wait(1) == [0]
        ours, alone = hosts.metrics(), hosts.metrics("alone")
    assert ours["test"] == pytest.approx(alone["test"], abs=TOLERANCE)


@pytest.mark.prove
@pytest.mark.timeout(1200)
def test_hosts_whose_clocks_differ_by_minutes_train_together(log: Path, tmp_path: Path) -> None:
    clock = shifted_clock(tmp_path, 600)
    if clock is None:
        pytest.skip("no C compiler to make a clock with")
    settings = [f"data.dataset={log}", *SMALL, "tables.sharding=row_wise", "train.batch_size=512"]
    with training_hosts(tmp_path / "hosts", 2) as hosts:
        hosts.start(1, settings=settings)
        hosts.start(2, settings=settings, **clock)
        assert hosts.wait() == [0, 0]
