"""Tls: what a client needs to know of certificates; and failed handshakes, in words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from recsys.certificates import CertificateFiles, Certificates
from recsys.errors import InvalidInputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """TLS to the server: whom the client trusts, and who it is. The files are PEM, and read again when they change.

    Attributes:
        ca: file of the CAs that the server's certificate may come from; None: the public ones that gRPC brings.
        certificate, key: files of the client's own certificate, with those that lead to its CA, and of its private key;
            for a server that asks for one (mTLS).
        server_name: name that the server's certificate has, if it is not the host of the address.

    Raises:
        InvalidInputError: a certificate without its key, or the other way.
    """

    ca: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            given = "key" if self.certificate is None else "certificate"
            raise InvalidInputError(f"tls has a {given} alone; allowed: certificate and key, or neither")

    def files(self) -> CertificateFiles:
        """The files, as they are watched."""
        ca, certificate, key = (None if path is None else Path(path) for path in (self.ca, self.certificate, self.key))
        return CertificateFiles(certificate=certificate, key=key, ca=ca)


def channel_credentials(certificates: Certificates) -> grpc.ChannelCredentials:
    """Credentials of a channel that trusts, and shows, these."""
    return grpc.ssl_channel_credentials(
        root_certificates=certificates.ca, private_key=certificates.key, certificate_chain=certificates.chain
    )


def name_options(tls: Tls) -> list[tuple[str, Any]]:
    """Options of a channel to a server whose certificate has another name than its address."""
    return [] if tls.server_name is None else [("grpc.ssl_target_name_override", tls.server_name)]


_PATTERNS = (
    (r"WRONG_VERSION_NUMBER|HTTP_REQUEST", "the server does not speak TLS: leave tls out, or look at the port"),
    (r"certificate has expired", "the server's certificate has ended"),
    (r"certificate is not yet valid", "the server's certificate is not valid yet, or this machine's clock is wrong"),
    (
        r"(?i)hostname verification check failed|peer name .* is not in peer certificate",
        "the server's certificate has another name than the address: tls.server_name says which one is meant",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED",
        "the server's certificate comes from no CA that the client trusts: tls.ca names its file",
    ),
)

_CLOSED = re.compile(r"failed to connect to all addresses.*(Socket closed|Connection reset)")
"""Words of gRPC for a server that ends a connection while it begins: it says no reason then."""


def handshake_problem(details: str) -> str | None:
    """Say what a client found wrong with a server, so that to try again is of no use; None: nothing.

    Args:
        details: gRPC's words.
    """
    return next((words for pattern, words in _PATTERNS if re.search(pattern, details)), None)


def closed_at_once(details: str, tls: Tls | None) -> str | None:
    """Say why a server may have ended a connection while it began; None: it did not.

    Args:
        details: gRPC's words.
        tls: the client's.
    """
    if not _CLOSED.search(details):
        return None
    if tls is None:
        return "the server closed the connection at once: if it speaks TLS, give tls (docs/operate/tls.md)"
    if tls.certificate is None:
        return (
            "the server closed the connection at once: if it asks for a certificate, give tls.certificate and tls.key"
        )
    return (
        "the server closed the connection at once: it may refuse the certificate, which has ended or is of another CA"
    )
