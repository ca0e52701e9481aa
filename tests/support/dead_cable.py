"""A cable that can be pulled: a TCP proxy that passes bytes on until it swallows them, and says nothing of it."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator


class Cable:
    """One proxy. Made by :func:`cable`.

    Attributes:
        address: for clients.
        pulled: bytes are swallowed, in both directions.
        ended: connections that the server has closed.
    """

    def __init__(self, server: str) -> None:
        host, _, port = server.rpartition(":")
        self._server = (host.strip("[]"), int(port))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.pulled = threading.Event()
        self.ended = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close all connections."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with contextlib.ExitStack() as stack, selectors.DefaultSelector() as ready:
            ready.register(stack.enter_context(self._listening), selectors.EVENT_READ)
            other: dict[socket.socket, socket.socket] = {}
            servers: set[socket.socket] = set()
            while not self._stop.is_set():
                for key, _ in ready.select(0.01):
                    one = key.fileobj
                    assert isinstance(one, socket.socket)
                    if one is self._listening:
                        client = stack.enter_context(one.accept()[0])
                        server = stack.enter_context(socket.create_connection(self._server))
                        servers.add(server)
                        for end, far in ((client, server), (server, client)):
                            other[end] = far
                            ready.register(end, selectors.EVENT_READ)
                        continue
                    try:
                        data = one.recv(65_536)
                    except OSError:
                        data = b""
                    if not data:
                        ready.unregister(one)
                        self.ended += one in servers
                    if self.pulled.is_set():
                        continue
                    with contextlib.suppress(OSError):
                        if data:
                            other[one].sendall(data)
                        else:
                            other[one].shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def cable(server: str) -> Iterator[Cable]:
    """A proxy before a server, for the duration of a ``with`` block."""
    made = Cable(server)
    try:
        yield made
    finally:
        made.close()
