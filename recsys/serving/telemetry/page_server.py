"""PageServer: HTTP for the metrics page, each request in a thread of its own; over TLS if it has certificates."""

from __future__ import annotations

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


class _Handler(WSGIRequestHandler):
    timeout = _TIMEOUT_S

    def log_message(self, format: str, *arguments: object) -> None:
        """Log nothing: Prometheus asks every few seconds."""


class _PageServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, host: str, port: int, certificates: CertificateWatch | None) -> None:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, _, _, _, address = found[0]
        self._certificates = certificates
        super().__init__((str(address[0]), port), _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection, in its thread; each has the certificates that are in force when it comes."""
        if self._certificates is None:
            super().finish_request(request, client_address)
            return
        context = self._certificates.current.context
        if context is None:
            raise ConnectionError("there is no certificate yet that this process has read itself")
        request.settimeout(_TIMEOUT_S)
        with context.wrap_socket(request, server_side=True) as secured:
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
