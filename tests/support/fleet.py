"""Several servers behind one DNS name, each at an address of its own: of this machine's, or in a network namespace."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from recsys.client import Client, RpcError
from support.metrics_page import page_series, total
from support.name_server import NameServer, name_server
from support.network import Host, Network
from support.tiny_server import ServerProcess, server_process


class Fleet:
    """Servers that are started and stopped by number, from 1, and the name that all of them that are listed have."""

    def __init__(
        self, folder: Path, names: NameServer, target: str, port: int, hosts: Mapping[int, Host], **settings: str
    ) -> None:
        self.names, self.target, self._port = names, target, port
        self._folder, self._hosts, self._settings = folder, hosts, settings
        self._running = contextlib.ExitStack()
        self.servers: dict[int, ServerProcess] = {}

    def address(self, number: int) -> str:
        """IP address of a server."""
        return self._hosts[number].address if self._hosts else f"127.0.0.{number}"

    def start(self, *numbers: int) -> None:
        """Start servers, wait until they are ready, and list them under the name."""
        for number in numbers:
            folder = self._folder / f"server-{number}"
            folder.mkdir()
            under = self._hosts[number].under if self._hosts else ()
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
def running_fleet(folder: Path, *, hosts: Network | None = None, **settings: str) -> Iterator[Fleet]:
    """A fleet without servers yet, for the duration of a ``with`` block; ``hosts``: those of its servers, by number."""
    with contextlib.ExitStack() as stack:
        hosts = hosts or Network("127.0.0.1", {})
        names, server = stack.enter_context(name_server((), host=hosts.address))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        fleet = Fleet(folder, names, f"dns://{server}/recsys-ranker.test:{port}", port, hosts.hosts, **settings)
        stack.callback(fleet.close)
        yield fleet


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
