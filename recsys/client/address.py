"""Addresses of servers, as callers give them and as gRPC takes them."""

from __future__ import annotations

import ipaddress
import re

from recsys.errors import InvalidInputError

PORT = 50051
"""The port of an address that names none."""

_ALLOWED = f"allowed: host:port, or a host alone (port {PORT}); [::1]:port for IPv6; unix:PATH"
_SCHEMES = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:", "vsock:", "xds:")


def target_of(address: str) -> str:
    """The address as gRPC takes it, which without a port would mean 443.

    Raises:
        InvalidInputError: it is none; the message says what is allowed.

    >>> [target_of(a) for a in ("cache:1", "cache", "::1", "[::1]:7", "unix:/run/s", "dns:///cache:1")]
    ['cache:1', 'cache:50051', '[::1]:50051', '[::1]:7', 'unix:/run/s', 'dns:///cache:1']
    """
    if not isinstance(address, str):
        raise InvalidInputError(f"address is {address!r}; {_ALLOWED}")
    given = address.strip()
    if scheme := re.match(r"(https?|grpcs?|rediss?|tcp)://", given):
        hint = ", and give tls=Tls(...)" if scheme[1] in ("https", "grpcs") else ""
        raise InvalidInputError(f"address is {address!r}: leave {scheme[0]} out{hint}; {_ALLOWED}")
    if given.startswith(_SCHEMES):
        return given
    if _is_ipv6(given):
        return f"[{given}]:{PORT}"
    parts = re.fullmatch(r"(\[[^\]]*\]|[^:/\s\[\]]+)(?::(.*))?", given)
    if parts is None or (parts[1].startswith("[") and not _is_ipv6(parts[1][1:-1])):
        raise InvalidInputError(f"address is {address!r}; {_ALLOWED}")
    host, port = parts[1], PORT if parts[2] is None else parts[2]
    if not (str(port).isdecimal() and 1 <= int(port) <= 65_535):
        raise InvalidInputError(f"address is {address!r}: port {port!r} is not one from 1 to 65,535; {_ALLOWED}")
    return f"{host}:{port}"


def is_local(target: str) -> bool:
    """True if an address as gRPC takes it names this machine.

    >>> [is_local(a) for a in ("localhost:1", "127.0.0.2:1", "[::1]:1", "dns:///localhost:1", "unix:/s", "cache:1")]
    [True, True, True, True, True, False]
    """
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    host = re.sub(r"^(?:dns:(?://[^/]*/)?|ipv4:|ipv6:|/+)", "", target)
    host = host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    return ip.is_loopback or ip.is_unspecified


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False
