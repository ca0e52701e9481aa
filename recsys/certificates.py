"""Certificates: the PEM files of one side of a connection, read, checked, and read again when they change.

Files change by swaps of symbolic links (kubelet's ``..data``, cert-manager) or one after another. So they are read
until two readings agree, and compared by content: neither times nor inodes tell that nothing has changed. What is new
and no good leaves the last good ones in force.

Only the standard library reads them: ``ssl`` says whether a key fits a certificate, and the time at which a certificate
ends, and the kind of its key, are found by their places (RFC 5280, section 4.1). ``ssl`` takes more kinds of keys than
gRPC, which would go on with the old certificate and not say so, or fail each handshake.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import logging
import re
import ssl
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from recsys.errors import ConfigError
from recsys.rate_limited_log import RateLimitedLog

_MOST_BYTES = 4_000_000
_READINGS = 5
_BEGIN = b"-----BEGIN CERTIFICATE-----"
_BLOCK = re.compile(_BEGIN + rb"([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")

_EC = bytes.fromhex("06072a8648ce3d0201")
_TAKEN_KEYS = (
    bytes.fromhex("06092a864886f70d010101"),  # RSA
    _EC + bytes.fromhex("06082a8648ce3d030107"),  # P-256
    _EC + bytes.fromhex("06052b81040022"),  # P-384
)
"""Begins of a certificate's key that gRPC (BoringSSL) takes and signs with: the algorithm, and the curve (RFC 5480)."""

Contents = tuple[bytes | None, bytes | None, bytes | None]
"""Of certificate, key and CA."""

Change = Literal["same", "taken", "refused"]
"""Outcome of a look at the files: nothing new, others in force, or others that are no good (told once for each)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFiles:
    """Places of the files (PEM); None where there is none.

    Attributes:
        certificate: the own certificate, and those that lead from it to the CA.
        key: its private key, without a passphrase.
        ca: certificates of the CAs that the other side's certificate may come from.
    """

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """Contents of files that were good when they were read.

    Attributes:
        chain, key, ca: as the files have them.
        begins_s, ends_s: when the first of ``chain`` that ends does so, and the last that begins; seconds since 1970.
        context: of ``ssl``, for a server with this chain and key; None without them.
    """

    chain: bytes | None
    key: bytes | None = field(repr=False)
    ca: bytes | None
    begins_s: float
    ends_s: float
    context: ssl.SSLContext | None = field(default=None, repr=False, compare=False)

    def without_context(self) -> Certificates:
        """The same for another process, which makes its own context."""
        return dataclasses.replace(self, context=None)


class CertificateWatch:
    """The last good certificates of files that may change. Safe to use from several threads.

    Args:
        files: are read here, and at each :meth:`poll`.
        log: gets what is taken and, at most once a minute, what is not.
        fallback: is in force if the files are no good at the start; None: that is an error.

    Raises:
        ConfigError: the files are no good; the message names the file and what is wrong with it.
    """

    def __init__(self, files: CertificateFiles, *, log: logging.Logger, fallback: Certificates | None = None) -> None:
        self._files = files
        self._log = log
        self._seldom = RateLimitedLog(log, every_s=60.0)
        self._lock = threading.Lock()
        self._counts = {"taken": 0, "refused": 0}
        self._refused: object = None  # contents, or why there are none
        self.refused = ""
        """The reason that the files as they are now are not in force; empty: they are."""
        try:
            self.current = read_certificates(files)
            """Those in force."""
        except ConfigError as error:
            if fallback is None:
                raise
            self.current = fallback
            self._refuse(error)

    def poll(self) -> Change:
        """Look at the files, and take them if they are others, and good."""
        with self._lock:
            try:
                if _found(self._files) == _contents(self.current):
                    self.refused, self._refused = "", None
                    return "same"
                found = read_certificates(self._files)
            except ConfigError as error:
                return self._refuse(error)
            self.current, self.refused, self._refused = found, "", None
            self._counts["taken"] += 1
            self._log.info("new certificates are in force; the first to end does so on %s", moment(found.ends_s))
            return "taken"

    def counts(self) -> dict[str, int]:
        """The number of contents so far that were ``taken`` in place of others, or ``refused``."""
        return dict(self._counts)

    def _refuse(self, error: ConfigError) -> Change:
        self.refused = str(error)
        self._seldom.warning("refused", "the last good certificates stay in force: %s", error)
        what = _found(self._files) or str(error)
        if what == self._refused:
            return "same"
        self._refused = what
        self._counts["refused"] += 1
        return "refused"


def read_certificates(files: CertificateFiles, *, now_s: float | None = None) -> Certificates:
    """Read the files and check that they can be used.

    Args:
        files: a certificate and a key, or neither; a CA or none.
        now_s: seconds since 1970; None: now.

    Raises:
        ConfigError: a file cannot be read, is damaged, or of another kind; the key does not fit the certificate; a
            certificate has ended or has not begun. The message names the file.
    """
    now_s = time.time() if now_s is None else now_s
    before, context = _read_settled(files)
    chain, key, ca = before
    begins_s, ends_s = 0.0, float("inf")
    if files.certificate is not None and chain is not None:
        spans = _spans(files.certificate, chain)
        begins_s, ends_s = max(span[0] for span in spans), min(span[1] for span in spans)
        if now_s >= ends_s:
            raise ConfigError(f"{files.certificate}: the certificate ended on {moment(ends_s)}; put a new one there")
        if now_s < begins_s:
            raise ConfigError(
                f"{files.certificate}: the certificate begins on {moment(begins_s)} only; look at this machine's clock"
            )
    if files.ca is not None and ca is not None:
        spans = _spans(files.ca, ca)
        if not any(first <= now_s < last for first, last in spans):
            last_s = max(span[1] for span in spans)
            raise ConfigError(f"{files.ca}: no certificate of a CA in it is valid now; the last ends {moment(last_s)}")
        checked = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if context is None else context
        try:
            checked.load_verify_locations(cadata=ca.decode("ascii", "ignore"))
        except ssl.SSLError as error:
            raise ConfigError(f"{files.ca}: a certificate in it is damaged: {error}") from None
        checked.verify_mode = ssl.CERT_REQUIRED
    return Certificates(chain=chain, key=key, ca=ca, begins_s=begins_s, ends_s=ends_s, context=context)


def moment(time_s: float) -> str:
    """Write a time, seconds since 1970, for people.

    >>> moment(0.0)
    '1970-01-01 00:00 UTC'
    """
    return "never" if time_s == float("inf") else datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M UTC")


def validity_s(der: bytes) -> tuple[float, float]:
    """The times between which a certificate is valid, seconds since 1970.

    Args:
        der: the certificate, as DER (RFC 5280, section 4.1: the validity follows version, number, algorithm, issuer).

    Raises:
        ValueError: it is none.
    """
    try:
        _, at, _ = _element(der, _validity_at(der))
        first_tag, first, first_end = _element(der, at)
        last_tag, last, last_end = _element(der, first_end)
        return _time_s(first_tag, der[first:first_end]), _time_s(last_tag, der[last:last_end])
    except IndexError:
        raise ValueError("it is cut short") from None


def grpc_takes_key(der: bytes) -> bool:
    """True if gRPC can use a certificate's key, which follows validity and subject: RSA, or EC P-256 or P-384.

    Args:
        der: the certificate.

    Raises:
        ValueError: it is none.
    """
    try:
        at = _validity_at(der)
        for _ in range(2):
            _, _, at = _element(der, at)
        _, at, _ = _element(der, at)
        _, begin, end = _element(der, at)
        return der[begin:end].startswith(_TAKEN_KEYS)
    except IndexError:
        raise ValueError("it is cut short") from None


def _validity_at(der: bytes) -> int:
    _, at, _ = _element(der, 0)
    _, at, _ = _element(der, at)
    tag, _, end = _element(der, at)
    at = end if tag == 0xA0 else at  # the version, which may be left out
    for _ in range(3):
        _, _, at = _element(der, at)
    return at


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Tag, begin and end of the content of the element at a place (X.690, section 8.1)."""
    tag, length, begin = der[at], der[at + 1], at + 2
    if length & 0x80:
        begin += length & 0x7F
        length = int.from_bytes(der[at + 2 : begin], "big")
    if begin + length > len(der):
        raise IndexError
    return tag, begin, begin + length


def _time_s(tag: int, content: bytes) -> float:
    text = content.decode("ascii")
    if tag == 0x17:  # UTCTime, of two digits for the year: RFC 5280, section 4.1.2.5.1
        text = ("19" if text >= "50" else "20") + text
    elif tag != 0x18:
        raise ValueError("it has no validity")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _ders(path: Path, pem: bytes) -> list[bytes]:
    """The certificates in a file, as DER."""
    blocks = _BLOCK.findall(pem)
    if len(blocks) < pem.count(_BEGIN):
        raise ConfigError(f"{path}: a certificate in it is damaged or cut short")
    if not blocks:
        raise ConfigError(f"{path}: there is no certificate in it; allowed: PEM (-----BEGIN CERTIFICATE-----)")
    try:
        return [base64.b64decode(b"".join(block.split()), validate=True) for block in blocks]
    except binascii.Error as error:
        raise ConfigError(f"{path}: a certificate in it is damaged: {error}") from None


def _spans(path: Path, pem: bytes) -> list[tuple[float, float]]:
    """The validity of each certificate in a file."""
    try:
        return [validity_s(der) for der in _ders(path, pem)]
    except ValueError as error:
        raise ConfigError(f"{path}: a certificate in it is damaged: {error}") from None


def _takes_key(path: Path, pem: bytes) -> bool:
    """:func:`grpc_takes_key` of the first certificate in a file."""
    try:
        return grpc_takes_key(_ders(path, pem)[0])
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{path}: a certificate in it is damaged: {error}") from None


def _read_settled(
    files: CertificateFiles,
) -> tuple[Contents, ssl.SSLContext | None]:
    """The contents, once two readings agree, and a context that ``ssl`` has made of the same."""
    last = ConfigError(f"{files.certificate or files.ca}: it changes faster than it can be read")
    for _ in range(_READINGS):
        try:
            before = _read_all(files)
            context, problem = _own_context(files, before)
            if _read_all(files) != before:
                continue
        except ConfigError as error:  # in the moment of a swap a file may be gone
            last = error
            continue
        if problem is not None:
            raise problem
        return before, context
    raise last


def _own_context(files: CertificateFiles, contents: Contents) -> tuple[ssl.SSLContext | None, ConfigError | None]:
    """A context with certificate and key, which ``ssl`` reads from the files itself; or what is wrong with them."""
    certificate, key = files.certificate, files.key
    if certificate is None or key is None:
        return None, None
    assert contents[0] is not None and contents[1] is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        _spans(certificate, contents[0])  # it says better what is wrong
        if not _takes_key(certificate, contents[0]):
            raise ConfigError(
                f"{certificate}: gRPC takes no certificate with a key of this kind; allowed: RSA, EC P-256, EC P-384"
            )
        if b"PRIVATE KEY-----" not in contents[1]:
            raise ConfigError(f"{key}: there is no private key in it; allowed: PEM (-----BEGIN PRIVATE KEY-----)")
        if b"ENCRYPTED" in contents[1]:
            raise ConfigError(f"{key}: the key has a passphrase; allowed: one without")
        context.load_cert_chain(certificate, key, password=str)
    except ConfigError as error:
        return None, error
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return None, ConfigError(f"{key}: the key does not fit the certificate in {certificate}")
        return None, ConfigError(f"{certificate} with {key}: damaged, or of a kind that is not supported: {error}")
    except OSError as error:
        return None, ConfigError(f"{certificate} with {key}: cannot be read: {error.strerror}")
    return context, None


def _read_all(files: CertificateFiles) -> Contents:
    return _read(files.certificate), _read(files.key), _read(files.ca)


def _found(files: CertificateFiles) -> Contents | None:
    """The contents as they are now; None if they cannot be read."""
    try:
        return _read_all(files)
    except ConfigError:
        return None


def _contents(certificates: Certificates) -> Contents:
    return certificates.chain, certificates.key, certificates.ca


def _read(path: Path | None) -> bytes | None:
    """The content of a file.

    Raises:
        ConfigError: it cannot be read, or is too large for what it is to be.
    """
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"{path}: more than {_MOST_BYTES:,} bytes; that is no file of certificates")
    return content
