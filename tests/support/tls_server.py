"""Servers that speak TLS, their callers, and one call after another while certificates change."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509

from recsys.client import Client, RpcError, Tls
from support.certificates import Authority, Secret, mtls
from support.tiny_bundle import write_tiny_bundle
from support.tiny_server import ServerProcess, server_process


def variables_of(secret: Secret) -> dict[str, str]:
    """Settings of a server with the files of a secret."""
    found = {"RECSYS_TLS_CERTIFICATE": str(secret / "cert"), "RECSYS_TLS_KEY": str(secret / "key")}
    return {**found, "RECSYS_TLS_CLIENT_CA": str(secret / "ca")}


def tls_of(secret: Secret, *, own: bool = True, **more: str) -> Tls:
    """TLS of a client with the files of a secret."""
    return (
        Tls(ca=secret / "ca", certificate=secret / "cert", key=secret / "key", **more)
        if own
        else Tls(ca=secret / "ca", **more)
    )


@contextmanager
def secured_server(folder: Path, authority: Authority, **more: str) -> Iterator[tuple[ServerProcess, Secret]]:
    """A server of the tiny bundle with mTLS, unless ``more`` has other ideas, and a private Redis; and its secret."""
    secret = mtls(authority, folder / "secret")
    write_tiny_bundle(folder / "tiny")
    own = {"RECSYS_BUNDLE": str(folder / "tiny"), "RECSYS_REDIS_DIR": str(folder / "redis")}
    with server_process(folder, **{**own, **variables_of(secret), **more}) as server:
        try:
            yield server, secret
        except TimeoutError:  # a connection was not answered: the stacks say what its process did
            for pid in server.facts["workers"]:
                os.kill(pid, signal.SIGUSR1)
            time.sleep(1.0)
            server.process.kill()
            assert server.process.stderr is not None
            print(server.process.stderr.read())
            raise


def shown_serial(address: str, secret: Secret) -> int:
    """The number of the certificate that a server shows a new connection, which comes with a secret's own."""
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(secret / "cert", secret / "key")
    context.set_alpn_protocols(["h2"])
    plain = socket.create_connection((host.strip("[]"), int(port)), timeout=10)
    with plain, context.wrap_socket(plain) as secured:
        der = secured.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


class SteadyCalls:
    """Threads that call without a pause, each with a client of its own; counts of answers, and the errors."""

    def __init__(self, address: str, tls: Tls | None, count: int = 2) -> None:
        self.answered = 0
        self.errors: list[RpcError] = []
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._work, args=(address, tls)) for _ in range(count)]

    def __enter__(self) -> SteadyCalls:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int, *, limit_s: float = 60.0) -> None:
        """Return when so many more calls are answered."""
        goal, deadline_s = self.answered + count, time.monotonic() + limit_s
        while self.answered < goal:
            assert time.monotonic() < deadline_s, (self.answered, goal, self.errors[:3])
            time.sleep(0.01)

    def _work(self, address: str, tls: Tls | None) -> None:
        with Client(address, timeout_s=30.0, tls=tls) as client:
            while not self._stop.is_set():
                try:
                    client.rank(user=1, candidates=[1, 2, 3])
                except RpcError as error:
                    with self._lock:
                        self.errors.append(error)
                else:
                    with self._lock:
                        self.answered += 1
                self._stop.wait(0.001)
