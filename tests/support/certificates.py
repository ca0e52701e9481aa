"""Certificates for tests: authorities, what they issue, and files that change as those of a mounted secret do."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes, CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)
LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes

    @property
    def serial(self) -> int:
        """Number of the certificate."""
        return x509.load_pem_x509_certificate(self.certificate).serial_number


class Authority:
    """A CA that signs certificates; ``pem`` is its own."""

    def __init__(
        self, name: str = "tests", *, begins: datetime.timedelta = -DAY, ends: datetime.timedelta = DAY
    ) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(self._name, self._name, self._key.public_key(), begins, ends)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.pem = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        *,
        names: Sequence[str] = LOCAL,
        begins: datetime.timedelta = -DAY,
        ends: datetime.timedelta = DAY,
        uri: str | None = None,
        key: CertificateIssuerPrivateKeyTypes | None = None,
    ) -> Pair:
        """Sign a certificate with these names, for a server or a client, valid between two times from now."""
        key = ec.generate_private_key(ec.SECP256R1()) if key is None else key
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        others = [] if uri is None else [x509.UniformResourceIdentifier(uri)]
        made = (
            _builder(subject, self._name, key.public_key(), begins, ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(x509.SubjectAlternativeName([*map(_general_name, names), *others]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Pair(made.public_bytes(serialization.Encoding.PEM), private_pem(key))


def private_pem(key: CertificateIssuerPrivateKeyTypes, password: bytes | None = None) -> bytes:
    """A key as PEM, encrypted if there is a password."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


class Secret:
    """A folder of files as kubelet mounts a secret: links into ``..data``, which is a link that is swapped."""

    def __init__(self, folder: Path, **files: bytes) -> None:
        self._folder = folder
        self._number = 0
        folder.mkdir(parents=True, exist_ok=True)
        self.swap(**files)
        for name in files:
            (folder / name).symlink_to(Path("..data") / name)

    def __truediv__(self, name: str) -> Path:
        return self._folder / name

    def swap(self, **files: bytes) -> None:
        """Replace all files in one rename; those before are gone afterwards, as are those that are not named."""
        data, before = self._folder / "..data", self._folder / f"..{self._number}"
        self._number += 1
        new = self._folder / f"..{self._number}"
        new.mkdir()
        for name, content in files.items():
            (new / name).write_bytes(content)
        temporary = self._folder / "..data_tmp"
        temporary.symlink_to(new.name)
        temporary.rename(data)
        if before.exists():
            shutil.rmtree(before)


def mtls(authority: Authority, folder: Path, **issued: datetime.timedelta) -> Secret:
    """A secret with a pair and the authority's own certificate: ``cert``, ``key`` and ``ca``."""
    return Secret(folder, **files_of(authority, authority.issue(**issued)))


def files_of(authority: Authority, pair: Pair) -> dict[str, bytes]:
    """Contents of such a secret."""
    return {"cert": pair.certificate, "key": pair.key, "ca": authority.pem}


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: CertificatePublicKeyTypes,
    begins: datetime.timedelta,
    ends: datetime.timedelta,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
    )
