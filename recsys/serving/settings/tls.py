"""TlsSettings: the wires of a server: certificates, how long a connection lasts, a port of health alone."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recsys.certificates import CertificateFiles
from recsys.errors import ConfigError
from recsys.serving.settings.field import setting

Protection = Literal["plaintext", "TLS", "mTLS"]
"""Protection of a server's port; mTLS: callers must present a certificate, too."""


@dataclass(frozen=True, kw_only=True)
class TlsSettings:
    """Settings of a server's wires."""

    tls_certificate: Path | None = setting(
        None,
        "file of the server's certificate and those that lead to its CA (PEM); with tls_key: the port speaks TLS, "
        "docs/operate/tls.md. Read again within a second when it changes",
        kind=Path,
    )
    tls_key: Path | None = setting(
        None, "file of the private key of tls_certificate (PEM), without a passphrase", kind=Path
    )
    tls_client_ca: Path | None = setting(
        None,
        "file of the CAs that callers' certificates come from (PEM); set: every caller must present one (mTLS)",
        kind=Path,
    )
    tls_warn_days: float = setting(
        14.0,
        "days before its end from which a certificate is warned of, once a fifth of its time is left; 0: never",
        kind=float,
        low=0.0,
        high=3_650.0,
    )
    max_connection_age_s: float = setting(
        3_600.0,
        "time after which a connection is to be made anew, up to 10 % more or less for each; calls go on; 0: never",
        kind=float,
        low=0.0,
        high=2_000_000.0,
    )
    max_connection_grace_s: float = setting(
        600.0,
        "time that calls may go on, on a connection that has reached its age, before it is cut",
        kind=float,
        low=0.1,
        high=2_000_000.0,
    )
    health_port: int | None = setting(
        None,
        "port of host that answers health checks alone, without TLS, for probes that speak none; unset: none",
        kind=int,
        low=0,
        high=65535,
    )


def check_wires(settings: TlsSettings, port: int) -> None:
    """Check settings that depend on each other.

    Args:
        settings: the server's.
        port: its port.

    Raises:
        ConfigError: the message names the settings, and what is allowed.
    """
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        given, lacking = (
            ("tls_key", "tls_certificate") if settings.tls_certificate is None else ("tls_certificate", "tls_key")
        )
        raise ConfigError(f"{given} is set, and {lacking} is not; allowed: both or neither")
    if settings.tls_client_ca is not None and settings.tls_certificate is None:
        raise ConfigError("tls_client_ca is set, and tls_certificate is not; allowed: with a certificate and a key")
    if settings.health_port is not None and settings.health_port == port != 0:
        raise ConfigError(f"health_port is {port}, and so is port; allowed: another one")


def certificate_files(settings: TlsSettings) -> CertificateFiles | None:
    """The files of a server's certificates; None if it has none."""
    if settings.tls_certificate is None:
        return None
    return CertificateFiles(certificate=settings.tls_certificate, key=settings.tls_key, ca=settings.tls_client_ca)


def protection(settings: TlsSettings) -> Protection:
    """The protection of a server's port."""
    if settings.tls_certificate is None:
        return "plaintext"
    return "TLS" if settings.tls_client_ca is None else "mTLS"


def is_loopback(host: str) -> bool:
    """True if only this machine can reach a host that a server listens on.

    >>> [is_loopback(host) for host in ("127.0.0.2", "[::1]", "localhost", "0.0.0.0", "::", "10.0.0.1", "cache")]
    [True, True, True, False, False, False, False]
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
