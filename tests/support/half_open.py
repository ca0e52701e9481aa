"""Half-open calls: HTTP/2 by hand, for calls that are opened and never send their message."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Sequence

RANK, CHECK = "/recsys.v1.Ranker/Rank", "/grpc.health.v1.Health/Check"
STREAM = "/recsys.v1.FeatureStore/AppendEventStream"

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK, _INITIAL_WINDOW = 1, 4, 1, 4


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    """One frame of HTTP/2."""
    return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body


def message(body: bytes, *, length: int | None = None) -> bytes:
    """A message as gRPC sends it, or the beginning of a longer one."""
    return b"\0" + struct.pack(">I", len(body) if length is None else length) + body


def _text(value: str) -> bytes:
    # Lengths up to 126 take one byte in HPACK.
    assert len(value) < 127
    return bytes([len(value)]) + value.encode()


def _fields(path: str) -> bytes:
    method_and_scheme = b"\x83\x86"  # in HPACK's table: POST, http
    fields = b"\x04" + _text(path) + b"\x01" + _text("test")
    return (
        method_and_scheme + fields + b"\x0f\x10" + _text("application/grpc") + b"\0" + _text("te") + _text("trailers")
    )


class RawConnection:
    """One connection to a server, on which calls are opened by hand. A thread reads what the server says.

    Args:
        address: host:port.
        window: how many bytes of an answer the server may send.
    """

    def __init__(self, address: str, *, window: int = 65_535) -> None:
        host, _, port = address.rpartition(":")
        self.ended: Counter[int] = Counter()
        """Streams that the server ended, by their number."""
        self.trailers: dict[int, bytes] = {}
        """Last headers of each stream, as they came."""
        self.farewell = b""
        """The server's words when it told the connection to go away."""
        self._numbers = itertools.count(1, 2)
        self._socket = socket.create_connection((host.strip("[]"), int(port)))
        self._send_lock = threading.Lock()
        settings = struct.pack(">HI", _INITIAL_WINDOW, window)
        self.send(_PREFACE + frame(_SETTINGS, 0, 0, settings))
        threading.Thread(target=self._read, daemon=True).start()

    def open(self, path: str, count: int = 1, *, body: bytes = b"") -> list[int]:
        """Open calls, each with so much of a message; returns the numbers of their streams."""
        numbers = [next(self._numbers) for _ in range(count)]
        fields = _fields(path)
        frames = [frame(_HEADERS, _END_HEADERS, number, fields) for number in numbers]
        if body:
            frames = [first + frame(DATA, 0, number, body) for first, number in zip(frames, numbers, strict=True)]
        self.send(b"".join(frames))
        return numbers

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        with self._send_lock:
            self._socket.sendall(data)

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _read(self) -> None:
        with contextlib.suppress(OSError, struct.error), self._socket.makefile("rb") as stream:
            while len(head := stream.read(9)) == 9:
                length = int.from_bytes(head[:3], "big")
                kind, flags, number = head[3], head[4], int.from_bytes(head[5:], "big")
                body = stream.read(length)
                if kind == _SETTINGS and not flags & _ACK:
                    self.send(frame(_SETTINGS, _ACK, 0))
                elif kind == _PING and not flags & _ACK:
                    self.send(frame(_PING, _ACK, 0, body))
                elif kind == _GOAWAY:
                    self.farewell = body[8:]
                elif kind == _HEADERS:
                    self.trailers[number] = body
                if kind == _RST_STREAM or (kind in (_HEADERS, DATA) and flags & _END_STREAM):
                    self.ended[number] += 1


@contextlib.contextmanager
def half_open(
    address: str, count: int, *, paths: Sequence[str] = (RANK,), connections: int = 1
) -> Iterator[list[RawConnection]]:
    """Open so many calls that send nothing, spread over connections, for the duration of a ``with`` block."""
    made = [RawConnection(address) for _ in range(connections)]
    try:
        for place in range(connections):
            mine = count // connections + (place < count % connections)
            for number, path in enumerate(paths):
                made[place].open(path, mine // len(paths) + (number < mine % len(paths)))
        yield made
    finally:
        for connection in made:
            connection.close()
