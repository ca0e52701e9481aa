"""The URLs of a Redis: one server, a service of Sentinel, a cluster."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.connection import parse_url as parse_server_url

from recsys.errors import ConfigError
from recsys.feature_store.redis.link.schemes import SCHEMES
from recsys.masking import mask_url

Address = tuple[str, int]
"""Host and port."""

_ALLOWED = (
    "allowed: redis://[user:password@]host[:port][/db], rediss://... (TLS), unix:///path/to/socket[?db=N], "
    "redis+sentinel://[user:password@]host[:port],.../service[?db=N], redis+cluster://[user:password@]host[:port],... "
    "(with TLS rediss+sentinel:// and rediss+cluster://)"
)
_OPTIONS = ("connection_class", "db", "host", "password", "path", "port", "username")
_SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")


@dataclass(frozen=True, kw_only=True)
class RedisUrl:
    """The parts of a URL; :meth:`server` and :meth:`sentinel` make the URLs of single servers from it."""

    kind: Literal["server", "sentinel", "cluster"]
    scheme: str
    """redis, rediss or unix."""
    login: str = field(repr=False)
    """``user:password@`` as in the URL, or empty."""
    hosts: tuple[Address, ...]
    """Addresses to begin with: the sentinels, or nodes of the cluster."""
    service: str
    """Sentinel's name of the primary."""
    query: tuple[tuple[str, str], ...] = field(repr=False)

    def server(self, address: Address) -> str:
        """The URL of a Redis of this service or cluster."""
        return self._url(self.login, address, [o for o in self.query if o[0] not in _SENTINEL_OPTIONS])

    def sentinel(self, address: Address) -> str:
        """The URL of a sentinel: TLS as for Redis, but a login of its own."""
        options = dict(self.query)
        user, password = (quote(options.get(name, ""), safe="") for name in _SENTINEL_OPTIONS)
        login = f"{user}:{password}@" if user or password else ""
        return self._url(login, address, [o for o in self.query if o[0].startswith(("ssl_", "socket_"))])

    def _url(self, login: str, address: Address, query: list[tuple[str, str]]) -> str:
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        return f"{self.scheme}://{login}{host}:{address[1]}" + (f"?{urlencode(query)}" if query else "")


def parse_redis_url(url: str) -> RedisUrl:
    """Take a URL apart.

    Raises:
        ConfigError: it is malformed; the message shows no secrets.

    >>> parse_redis_url("redis+sentinel://app:pw@a,b:26380/cache").hosts
    (('a', 26379), ('b', 26380))
    """
    try:
        parsed = _parse(url)
    except ValueError as error:  # its text may quote the password, unless it is ours
        reason = str(error) if isinstance(error, _BadUrlError) else "not understood"
        raise ConfigError(f"Redis URL {mask_url(url)!r}: {reason}; {_ALLOWED}") from None
    for part in (parsed.server, parsed.sentinel):
        for address in parsed.hosts if parsed.kind != "server" else ():
            server_options(part(address))
    return parsed


def server_options(url: str) -> dict[str, Any]:
    """Arguments of redis-py's connection to one server, with its class as ``connection_class``.

    Raises:
        ConfigError: the URL is malformed; the message shows no secrets.
    """
    # RESP2 and no driver info: a new connection then needs no round trip before its first command.
    options: dict[str, Any] = {"protocol": 2, "driver_info": None, "socket_timeout": None}
    fits = False
    try:
        given = parse_server_url(url)
        options.update({"connection_class": Connection, **given})
        path = urlsplit(url).path.strip("/")
        arguments = dict(options)
        arguments.pop("connection_class")(**arguments)
        fits = bool(options.get("path")) if url.startswith("unix:") else not path or path.isdecimal()
        fits &= all(name in _OPTIONS or name.startswith("ssl_") for name in given)
    except Exception:  # redis-py's own message may quote the password
        fits = False
    if not fits:
        raise ConfigError(f"Redis URL {mask_url(url)!r}: not understood; {_ALLOWED}")
    return options


def tls_context(options: Mapping[str, Any]) -> ssl.SSLContext | None:
    """The TLS context of a connection with these options; None for one without.

    Raises:
        OSError: a certificate's file cannot be read.
    """
    arguments = dict(options)
    connection = arguments.pop("connection_class")(**arguments)
    if not isinstance(connection, SSLConnection):
        return None
    context: ssl.SSLContext = connection.ssl_context.get()
    return context


class _BadUrlError(ValueError):
    pass


def _parse(url: str) -> RedisUrl:
    if not url.startswith(SCHEMES):
        raise _BadUrlError("not the URL of a Redis")
    scheme, _, rest = url.partition("://")
    scheme, _, kind = scheme.partition("+")
    if kind not in ("sentinel", "cluster"):
        return RedisUrl(kind="server", scheme=scheme, login="", hosts=(), service="", query=())
    rest, _, query = rest.partition("?")
    place, _, service = rest.partition("/")
    login, at, hosts = place.rpartition("@")
    if kind == "sentinel" and not service:
        raise _BadUrlError("after the sentinels comes /SERVICE, the name under which they know the primary")
    options = tuple(parse_qsl(query, strict_parsing=bool(query)))
    if kind == "cluster" and (service or "db" in dict(options)):
        raise _BadUrlError("a cluster has no databases: leave the path and db out")
    default = 26379 if kind == "sentinel" else 6379
    addresses = []
    for host in hosts.split(","):
        address = urlsplit(f"redis://{host}")
        if not address.hostname:
            raise _BadUrlError("a host is missing")
        addresses.append((address.hostname, address.port or default))
    return RedisUrl(
        kind="sentinel" if kind == "sentinel" else "cluster",
        scheme=scheme,
        login=login + at,
        hosts=tuple(addresses),
        service=service,
        query=options,
    )
