"""Masking: URLs without their secrets. Whatever prints a URL, in an error, a log, a listing, prints :func:`mask_url`.

It shows what is known to be harmless and hides the rest: a key of a query that nobody thought of, a text that is no
URL and may be a password.
"""

from __future__ import annotations

import re

MASK = "***"

_HARMLESS = frozenset(
    {
        "db", "health_check_interval", "max_connections", "protocol", "retry_on_timeout", "socket_connect_timeout",
        "socket_keepalive", "socket_timeout", "ssl_ca_certs", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile",
        "ssl_check_hostname", "ssl_keyfile", "ssl_min_version", "timeout", "virtual_host",
    }
)  # fmt: skip
"""Keys of a query whose values are shown; those of all others are hidden."""

_HOST = r"(?:\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9_.\-]*)(?::\d{1,5})?"
_PLACE = re.compile(rf"(?:{_HOST})(?:,{_HOST})*(?:/[^\s@]*)?\Z")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*\Z")


def mask_url(url: str) -> str:
    """Write a URL so that it may be shown: no user, no password, no value of a query that may be secret.

    What cannot be taken apart without doubt is hidden as a whole.

    >>> mask_url("rediss://app:s3cret@cache:6380/0?db=1&ssl_password=x")
    'rediss://***@cache:6380/0?db=1&ssl_password=***'
    >>> mask_url("redis:/app:s3cret@cache"), mask_url("redis://:s3cret"), mask_url("redis://h?password=a@b")
    ('***', 'redis://***', 'redis://***')
    """
    scheme, separator, rest = url.partition("://")
    if not separator or not _SCHEME.match(scheme):
        return MASK
    login, at, tail = rest.rpartition("@")
    place, question, query = tail.partition("?")
    # An @ behind a ? or # may be a part of a password: nobody can tell where that ends.
    if not _PLACE.match(place) or (at and re.search(r"[?#]", login)):
        return f"{scheme}://{MASK}"
    shown = f"{scheme}://{MASK + '@' if at else ''}{place}"
    return shown + (f"?{_mask_query(query)}" if question else "")


def has_secret(url: str) -> bool:
    """True if a URL holds something that :func:`mask_url` hides.

    >>> has_secret("redis://:s3cret@cache"), has_secret("redis://cache/0?db=1")
    (True, False)
    """
    return mask_url(url) != url


def _mask_query(query: str) -> str:
    shown = []
    for part in query.split("&"):
        key, equals, value = part.partition("=")
        if not equals or not re.fullmatch(r"[\w.\-]+", key):
            shown.append(MASK)
        elif key.lower() in _HARMLESS and re.fullmatch(r"[\w./:\-]*", value):
            shown.append(part)
        else:
            shown.append(f"{key}={MASK}")
    return "&".join(shown)
