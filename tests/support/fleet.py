"""Several servers behind one DNS name, each at an address of its own: of this machine's, or in a network namespace."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from recsys.client import Client, RpcError
from support.metrics_page import page_series, total
from support.name_server import NameServer, name_server
from support.tiny_server import ServerProcess, server_process

_BRIDGE = "recsys-br"
_NETWORK = "10.213.77"


def namespaces_missing() -> str | None:
    """Reason why this machine gives us no network namespaces; None: it does."""
    if shutil.which("ip") is None:
        return "no `ip` here: apt-get install iproute2"
    if os.geteuid() != 0:
        return "network namespaces need root"
    made = subprocess.run(["ip", "netns", "add", "recsys-try"], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "del", "recsys-try"], capture_output=True, check=False)
    return None if made.returncode == 0 else f"no network namespaces: {made.stderr.strip()}"


class Fleet:
    """Servers that are started and stopped by number, from 1, and the name that all of them that are listed have."""

    def __init__(
        self, folder: Path, names: NameServer, target: str, port: int, namespaces: bool, **settings: str
    ) -> None:
        self.names, self.target, self._port = names, target, port
        self._folder, self._namespaces, self._settings = folder, namespaces, settings
        self._running = contextlib.ExitStack()
        self.servers: dict[int, ServerProcess] = {}

    def address(self, number: int) -> str:
        """IP address of a server."""
        return f"{_NETWORK}.{number + 1}" if self._namespaces else f"127.0.0.{number}"

    def start(self, *numbers: int) -> None:
        """Start servers, wait until they are ready, and list them under the name."""
        for number in numbers:
            folder = self._folder / f"server-{number}"
            folder.mkdir()
            under = ("ip", "netns", "exec", f"recsys-{number}") if self._namespaces else ()
            host = {"RECSYS_HOST": self.address(number), "RECSYS_PORT": str(self._port), "RECSYS_METRICS_PORT": "0"}
            self.servers[number] = self._running.enter_context(
                server_process(folder, under=under, **host, RECSYS_INSECURE="1", **self._settings)
            )
        self.publish(*self.servers)

    def publish(self, *numbers: int) -> None:
        """List only these servers under the name."""
        self.names.addresses = tuple(self.address(number) for number in numbers)

    def stop(self, number: int) -> None:
        """Take a server out of the name, then tell it to stop, as Kubernetes does; wait for its end."""
        server = self.servers.pop(number)
        self.publish(*self.servers)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=60) == 0

    def answered(self) -> dict[int, float]:
        """Rank calls that each server has answered."""
        return {
            number: total(page_series(server.facts["metrics"]), "recsys_requests_total", method="Rank", code="OK")
            for number, server in self.servers.items()
        }

    def close(self) -> None:
        """Stop all servers."""
        self._running.close()


@contextlib.contextmanager
def running_fleet(folder: Path, *, namespaces: bool = False, **settings: str) -> Iterator[Fleet]:
    """A fleet without servers yet, for the duration of a ``with`` block."""
    with contextlib.ExitStack() as stack:
        if namespaces:
            stack.enter_context(_network(4))
        names, server = stack.enter_context(name_server((), host=f"{_NETWORK}.1" if namespaces else "127.0.0.1"))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        fleet = Fleet(folder, names, f"dns://{server}/recsys-ranker.test:{port}", port, namespaces, **settings)
        stack.callback(fleet.close)
        yield fleet


@contextlib.contextmanager
def _network(size: int) -> Iterator[None]:
    """Namespaces recsys-1, recsys-2, ..., each with one address, joined to a bridge that has the network's first."""
    with contextlib.ExitStack() as made:
        _ip("link", "add", _BRIDGE, "type", "bridge")
        made.callback(_ip, "link", "del", _BRIDGE)
        _ip("addr", "add", f"{_NETWORK}.1/24", "dev", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")
        for number in range(1, size + 1):
            space, outer, inner = f"recsys-{number}", f"recsys-o{number}", f"recsys-i{number}"
            _ip("netns", "add", space)
            made.callback(_ip, "netns", "del", space)
            _ip("link", "add", outer, "type", "veth", "peer", "name", inner)
            _ip("link", "set", outer, "master", _BRIDGE, "up")
            _ip("link", "set", inner, "netns", space)
            _ip("-n", space, "addr", "add", f"{_NETWORK}.{number + 1}/24", "dev", inner)
            _ip("-n", space, "link", "set", inner, "up")
            _ip("-n", space, "link", "set", "lo", "up")
        yield


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Callers:
    """Threads that call Rank without a pause, each with a client of its own, until the ``with`` block ends."""

    def __init__(self, target: str, *, clients: int = 2) -> None:
        self.calls = 0
        self.failures: list[str] = []
        self._target = target
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(clients)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        with Client(self._target, timeout_s=30.0) as client:
            while not self._ended.is_set():
                try:
                    client.rank(user=1, candidates=[1, 2])
                except RpcError as error:
                    self.failures.append(str(error))
                self.calls += 1


def shares(fleet: Fleet, callers: Callers, *, calls: int = 100) -> dict[int, float]:
    """Each server's share of the next calls, at least so many."""
    before, made = fleet.answered(), callers.calls
    while callers.calls < made + calls:
        time.sleep(0.01)
    answered = {number: now - before.get(number, 0.0) for number, now in fleet.answered().items()}
    return {number: found / max(sum(answered.values()), 1.0) for number, found in answered.items()}
