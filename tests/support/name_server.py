"""A name server of one name, whose addresses a test changes: DNS over UDP (RFC 1035), without a cache's memory."""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_TYPE_A = 1
_ANSWER_FLAGS = 0x8580
"""A response, authoritative, no error."""


class NameServer:
    """Answers every question for addresses (A) with those of ``addresses``, and all others with nothing."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = tuple(addresses)
        self.questions = 0

    def answer(self, question: bytes) -> bytes:
        """The answer to a message that has one question."""
        end = question.index(b"\0", 12) + 5  # labels, then type and class
        kind = struct.unpack(">H", question[end - 4 : end - 2])[0]
        found = self.addresses if kind == _TYPE_A else ()
        self.questions += len(found) > 0
        head = question[:2] + struct.pack(">HHHHH", _ANSWER_FLAGS, 1, len(found), 0, 0)
        # The name of the question (a pointer to it), A, IN, 0 s to live, 4 bytes.
        records = [b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 0, 4) + socket.inet_aton(address) for address in found]
        return head + question[12:end] + b"".join(records)


@contextmanager
def name_server(addresses: Sequence[str], *, host: str = "127.0.0.1") -> Iterator[tuple[NameServer, str]]:
    """A running name server, and its host:port, for the duration of a ``with`` block."""
    names = NameServer(addresses)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            message, reply = self.request
            reply.sendto(names.answer(message), self.client_address)

    with socketserver.ThreadingUDPServer((host, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield names, f"{host}:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
