"""PageServer: HTTP for the metrics page, each request in a thread of its own; over TLS if it has certificates."""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from recsys.certificates import CertificateWatch
from recsys.rate_limited_log import RateLimitedLog

_log = RateLimitedLog(logging.getLogger("recsys.serving"))

_TIMEOUT_S = 10.0
"""Longest wait for a caller that sends nothing, during the handshake, too."""


_MOST = 32
"""Requests at a time, each with a thread; the oldest is cut off for one more, as it is slow or sends nothing."""


class _Handler(WSGIRequestHandler):
    timeout = _TIMEOUT_S

    def log_message(self, format: str, *arguments: object) -> None:
        """Log nothing: Prometheus asks every few seconds."""


class _PageServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128  # the library's 5 has callers wait a second or more when a few come at once

    def __init__(self, host: str, port: int, certificates: CertificateWatch | None) -> None:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, _, _, _, address = found[0]
        self._certificates = certificates
        self._open: dict[Any, socket.socket] = {}
        """By the connection, the oldest first: what is to be shut to cut it off."""
        self._open_lock = threading.Lock()
        super().__init__((str(address[0]), port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection a thread."""
        with self._open_lock:
            oldest = self._open.pop(next(iter(self._open))) if len(self._open) >= _MOST else None
            self._open[request] = request
        if oldest is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(oldest, socket.SHUT_RDWR)  # not TLS's own, which its thread is in
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._open_lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection, in its thread; each has the certificates that are in force when it comes."""
        if self._certificates is None:
            super().finish_request(request, client_address)
            return
        context = self._certificates.current.context
        if context is None:
            raise ConnectionError("there is no certificate yet that this process has read itself")
        request.settimeout(_TIMEOUT_S)
        with context.wrap_socket(request, server_side=True, do_handshake_on_connect=False) as secured:
            with self._open_lock:
                if request not in self._open:
                    raise ConnectionError("it was cut off for a newer one")
                self._open[request] = secured
            secured.do_handshake()
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log, seldom, that a caller got no page: it speaks no TLS, has no certificate, or has left."""
        error = sys.exc_info()[1]
        _log.warning("page", "a request for the metrics page from %s failed: %s", client_address[0], error)


@contextmanager
def page_server(
    app: Callable[..., Any], *, host: str, port: int, certificates: CertificateWatch | None
) -> Iterator[int]:
    """Answer with a WSGI application in threads, for the duration of a ``with`` block; yields the port.

    Args:
        app: the page.
        host: an address, or a name of one.
        port: 0 picks a free one.
        certificates: of the server; None: plain HTTP.

    Raises:
        OSError: the address cannot be listened on.
    """
    server = _PageServer(host, port, certificates)
    server.set_app(app)
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
