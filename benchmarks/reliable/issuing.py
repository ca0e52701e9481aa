"""Certificates of a CA that lasts as long as a measurement, in files that are swapped as kubelet swaps a secret's."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
from pathlib import Path
from typing import Any

DAY = datetime.timedelta(days=1)


class Issuer:
    """A CA whose certificates are for this machine, for servers and callers."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec

        self._key = ec.generate_private_key(ec.SECP256R1())
        self.pem = self._signed("benchmark CA", self._key.public_key(), ca=True)

    def issue(self) -> dict[str, bytes]:
        """Contents of ``cert``, ``key`` and ``ca``: a new certificate, its key, and the CA's own."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return {"cert": self._signed("localhost", key.public_key(), ca=False), "key": pem, "ca": self.pem}

    def _signed(self, name: str, key: Any, *, ca: bool) -> bytes:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.x509.oid import NameOID

        now = datetime.datetime.now(datetime.UTC)
        issuer, subject = (
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in ("benchmark CA", name)
        )
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def put(folder: Path, files: dict[str, bytes], number: int) -> None:
    """Put files there by one rename of the link ``..data``, in place of those before; ``number`` grows by one."""
    new, before, temporary = folder / f"..{number}", folder / f"..{number - 1}", folder / "..data_tmp"
    new.mkdir(parents=True)
    for name, content in files.items():
        (new / name).write_bytes(content)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data") / name)
    temporary.symlink_to(new.name)
    temporary.rename(folder / "..data")
    if before.exists():
        shutil.rmtree(before)


def server_options(folder: Path) -> list[str]:
    """Options of `recsys serve` for mTLS with the files there."""
    return [
        *("--tls-certificate", str(folder / "cert"), "--tls-key", str(folder / "key")),
        *("--tls-client-ca", str(folder / "ca")),
    ]
