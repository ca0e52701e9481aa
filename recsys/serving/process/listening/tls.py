"""TLS of gRPC's server: credentials that are others once the certificates are."""

from __future__ import annotations

from typing import Any

import grpc

from recsys.certificates import Certificates, CertificateWatch


def server_credentials(watch: CertificateWatch) -> grpc.ServerCredentials:
    """Credentials of a port. gRPC asks for them at each new connection; those that stand keep what they began with.

    With a CA every caller must present a certificate: gRPC's Python has no way to ask for one and go on without.

    Args:
        watch: gives the certificates in force. A file for the CA must not come or go.
    """
    given = watch.current

    def others() -> Any:
        # Called in a thread of gRPC's, before a handshake, one at a time: reads no file. None: the same as before.
        nonlocal given
        if (now := watch.current) is given:
            return None
        given = now
        return _configuration(now)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(given), others, require_client_authentication=given.ca is not None
    )


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    assert certificates.key is not None and certificates.chain is not None
    return grpc.ssl_server_certificate_configuration(
        [(certificates.key, certificates.chain)], root_certificates=certificates.ca
    )
