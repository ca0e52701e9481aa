"""Exposure: what of a server runs unsecured, said at its start; and what is refused unless it is asked for."""

from __future__ import annotations

from urllib.parse import urlsplit

from recsys.errors import ConfigError
from recsys.masking import mask_url
from recsys.serving.settings import Settings
from recsys.serving.settings.tls import is_loopback


def check_exposure(settings: Settings) -> None:
    """Refuse to listen where others can reach a server that lets anybody do anything, or says all in clear.

    Raises:
        ConfigError: the host is not loopback, and TLS, or tokens and client certificates, are missing; the message
            names what would help.
    """
    missing = _missing(settings)
    if settings.insecure or not missing or is_loopback(settings.host):
        return
    raise ConfigError(
        f"host is {settings.host!r}, which others can reach, and there is {' and '.join(missing)}; allowed: set "
        "tls_certificate and tls_key, and access_file or tls_client_ca (docs/operate/security.md); a loopback address; "
        "or say that it is meant: --insecure, RECSYS_INSECURE=1"
    )


def unsecured(settings: Settings) -> list[str]:
    """List what runs unsecured, a line each."""
    here = is_loopback(settings.host)
    who = "every program on this machine" if here else "whoever reaches the port"
    lines = []
    if settings.tls_certificate is None:
        lines.append(f"no TLS on {settings.host}: who can read the wire reads users, items, scores and tokens")
    if settings.access_file is None:
        if settings.tls_client_ca is not None:
            who = "whoever has a client certificate of the CA"
        lines.append(f"no access_file: {who} may rank, read and write everything")
    page = settings.metrics_host or settings.host
    if settings.metrics_port is not None and (settings.tls_certificate is None or is_loopback(page)):
        others = "every program on this machine" if is_loopback(page) else "whoever reaches its port"
        lines.append(f"the metrics page asks for no token: {others} reads figures of load, models and releases")
    if settings.redis_url is not None:
        lines.extend(_of_redis(settings.redis_url))
    return lines


def _missing(settings: Settings) -> list[str]:
    missing = [] if settings.tls_certificate is not None else ["no TLS"]
    if settings.access_file is None and settings.tls_client_ca is None:
        missing.append("no access_file")
    return missing


def _of_redis(url: str) -> list[str]:
    shown = mask_url(url)
    if url.startswith("unix:"):
        return []
    lines = []
    if not url.startswith("rediss"):
        hosts = url.partition("://")[2].rpartition("@")[2].partition("/")[0].partition("?")[0].split(",")
        names = [urlsplit(f"//{host}").hostname or "" for host in hosts]
        if not all(map(is_loopback, names)):
            lines.append(f"no TLS to {shown}: who can read the wire reads what is stored, and the password")
    if "@" not in url and "password=" not in url:
        lines.append(f"no password to {shown}: whoever reaches that Redis reads and changes what is stored")
    return lines
