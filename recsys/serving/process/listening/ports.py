"""Ports: probe the one that a server is to listen on, and reserve it for several processes."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from recsys.errors import ConfigError


def probe_port(host: str, port: int) -> None:
    """Check that somebody could listen there: gRPC does not say why it cannot; the system does.

    Raises:
        ConfigError: the port is taken, or the host is not this machine.
    """
    with _bound(host, port):
        pass


@contextlib.contextmanager
def reserved_port(host: str, port: int) -> Iterator[int]:
    """Reserve a port that several processes may listen on, for as long as the block lasts, even while none does.

    The socket that keeps it does not listen, so it gets no connections. Port 0: any free one.

    Raises:
        ConfigError: the port is taken, the host is not this machine, or the system does not let processes share a port.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigError("several workers need SO_REUSEPORT, which this system does not have; set RECSYS_WORKERS=1")
    # Those who share a port would also share it with a server that we know nothing of.
    probe_port(host, port)
    with _bound(host, port, socket.SO_REUSEPORT) as keeper:
        yield int(keeper.getsockname()[1])


def cannot_listen(host: str, port: int, reason: str) -> ConfigError:
    """Make the error of a port that cannot be had."""
    return ConfigError(
        f"cannot listen on {host}:{port}: {reason}; choose another host or port, or port 0 for any free one"
    )


def _bound(host: str, port: int, *options: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind)
        try:
            for option in (socket.SO_REUSEADDR, *options):
                bound.setsockopt(socket.SOL_SOCKET, option, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise cannot_listen(host, port, str(error.strerror)) from None
    return bound
