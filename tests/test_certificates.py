"""Certificate files are read as a whole, checked, and followed; what is new and no good leaves the last good ones."""

from __future__ import annotations

import base64
import logging
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from support.certificates import DAY, Authority, Pair, Secret, files_of, mtls, private_pem

from recsys import certificates
from recsys.certificates import (
    CertificateFiles,
    CertificateWatch,
    grpc_takes_key,
    moment,
    read_certificates,
    validity_s,
)
from recsys.errors import ConfigError

AUTHORITY = Authority()
PAIR = AUTHORITY.issue()
OTHER = AUTHORITY.issue()
DER = x509.load_pem_x509_certificate(PAIR.certificate).public_bytes(Encoding.DER)
LOG = logging.getLogger("certificates in tests")


def of(folder: Path | Secret) -> CertificateFiles:
    return CertificateFiles(certificate=folder / "cert", key=folder / "key", ca=folder / "ca")


def put(folder: Path, pair: Pair = PAIR, **changed: bytes) -> Path:
    for name, content in {**files_of(AUTHORITY, pair), **changed}.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("days", [1, 9_000, 9_999, 30_000, 700_000])  # the year is of two digits until 2049
def test_the_times_of_a_certificate_are_those_that_it_was_issued_with(days: int) -> None:
    made = x509.load_pem_x509_certificate(AUTHORITY.issue(begins=-2 * DAY, ends=days * DAY).certificate)
    expected = (made.not_valid_before_utc.timestamp(), made.not_valid_after_utc.timestamp())
    assert validity_s(made.public_bytes(Encoding.DER)) == expected


@given(st.integers(0, len(DER) - 1))
def test_a_certificate_that_is_cut_short_is_none(size: int) -> None:
    with pytest.raises(ValueError):
        validity_s(DER[:size])


@given(st.binary(max_size=200))
def test_bytes_that_are_no_certificate_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        validity_s(data)


def test_good_files_are_read_as_they_are(tmp_path: Path) -> None:
    found = read_certificates(of(put(tmp_path)))
    assert (found.chain, found.key, found.ca) == (PAIR.certificate, PAIR.key, AUTHORITY.pem)
    assert validity_s(DER) == (found.begins_s, found.ends_s)
    assert PAIR.key.decode() not in repr(found) and "PRIVATE" not in repr(found)
    alone = read_certificates(CertificateFiles(ca=tmp_path / "ca"))
    assert (alone.chain, alone.ca, alone.ends_s) == (None, AUTHORITY.pem, math.inf)


def test_a_chain_ends_with_the_first_of_its_certificates_that_does(tmp_path: Path) -> None:
    short = Authority("between", ends=timedelta(hours=1))
    found = read_certificates(of(put(tmp_path, cert=PAIR.certificate + short.pem)))
    assert found.ends_s == x509.load_pem_x509_certificate(short.pem).not_valid_after_utc.timestamp()


def _with_endless_subject(der: bytes) -> bytes:
    """A certificate whose subject, behind the second of two UTCTimes, claims to be of 4 GB."""
    at = der.rindex(b"\x17\x0d") + 15
    return der[: at + 1] + b"\x84" + b"\xff" * 4 + der[at + 6 :]


def _pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


ENDED, LATER = AUTHORITY.issue(ends=-timedelta(hours=1)), AUTHORITY.issue(begins=timedelta(hours=1))
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no certificate file": (lambda folder: (folder / "cert").unlink(), "cert: cannot be read: No such file"),
    "no key file": (lambda folder: (folder / "key").unlink(), "key: cannot be read: No such file"),
    "no CA file": (lambda folder: (folder / "ca").unlink(), "ca: cannot be read: No such file"),
    "a folder": (lambda folder: (folder / "key").unlink() or (folder / "key").mkdir(), "key: cannot be read: Is a dir"),
    "another's key": (lambda folder: put(folder, key=OTHER.key), "key: the key does not fit the certificate in .*cert"),
    "half a certificate": (lambda folder: put(folder, cert=PAIR.certificate[:200]), "cert: .* damaged or cut short"),
    "half a key": (lambda folder: put(folder, key=PAIR.key[:100]), "cert with .*key: damaged"),
    "an empty certificate": (lambda folder: put(folder, cert=b""), "cert: there is no certificate in it; allowed: PEM"),
    "an empty key": (lambda folder: put(folder, key=b""), "key: there is no private key in it; allowed: PEM"),
    "the files swapped": (lambda folder: put(folder, cert=PAIR.key), "cert: there is no certificate in it"),
    "a key with a passphrase": (
        lambda folder: put(folder, key=private_pem(ec.generate_private_key(ec.SECP256R1()), b"word")),
        "key: the key has a passphrase; allowed: one without",
    ),
    "an ended one": (lambda folder: put(folder, ENDED), r"cert: the certificate ended on \d{4}-.* UTC; put a new one"),
    "a later one": (lambda folder: put(folder, LATER), r"cert: the certificate begins on \d{4}-.* only; .* clock"),
    "bytes": (lambda folder: put(folder, cert=bytes(range(256))), "cert: there is no certificate in it"),
    "a damaged certificate": (
        lambda folder: put(folder, cert=PAIR.certificate[:90] + b"AAAA" + PAIR.certificate[94:]),
        "cert",
    ),
    "one damaged behind its validity": (
        lambda folder: put(folder, cert=_pem(_with_endless_subject(DER))),
        "cert: a certificate in it is damaged: it is cut short",
    ),
    "too much": (lambda folder: put(folder, ca=b"#" * 4_000_001), "ca: more than 4,000,000 bytes"),
    "no CA": (lambda folder: put(folder, ca=b"none"), "ca: there is no certificate in it"),
    "an ended CA": (lambda folder: put(folder, ca=Authority(ends=-DAY / 2).pem), "ca: no certificate of a CA .* valid"),
}


@pytest.mark.parametrize("kind", BAD)
def test_files_that_are_no_good_are_named_with_what_is_wrong(kind: str, tmp_path: Path) -> None:
    spoil, complaint = BAD[kind]
    spoil(put(tmp_path))
    with pytest.raises(ConfigError, match=complaint) as error:
        read_certificates(of(tmp_path))
    assert str(tmp_path) in str(error.value) and "PRIVATE KEY-----\nM" not in str(error.value)
    with pytest.raises(ConfigError, match=complaint):
        CertificateWatch(of(tmp_path), log=LOG)


KEYS: dict[str, Callable[[], CertificateIssuerPrivateKeyTypes]] = {
    "RSA": lambda: rsa.generate_private_key(65_537, 2_048),
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "P-224": lambda: ec.generate_private_key(ec.SECP224R1()),
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "Ed448": ed448.Ed448PrivateKey.generate,
}


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_is_taken_if_and_only_if_grpc_answers_with_it(kind: str, tmp_path: Path) -> None:
    pair = AUTHORITY.issue(key=KEYS[kind]())
    server = grpc.server(ThreadPoolExecutor(1))
    works = False
    try:
        port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([(pair.key, pair.certificate)]))
        server.start()
        with grpc.secure_channel(f"localhost:{port}", grpc.ssl_channel_credentials(AUTHORITY.pem)) as channel:
            channel.unary_unary("/none")(b"", timeout=20)
    except grpc.RpcError as error:
        works = error.code() is grpc.StatusCode.UNIMPLEMENTED  # there is no such method, and the server says so
    except RuntimeError:  # the port cannot be had with such a key
        pass
    finally:
        server.stop(None)
    put(tmp_path, pair)
    if works:
        assert read_certificates(of(tmp_path)).chain == pair.certificate
    else:
        with pytest.raises(ConfigError, match="cert: gRPC takes no certificate with a key of this kind; allowed: RSA"):
            read_certificates(of(tmp_path))


@given(st.integers(0, len(DER) - 1))
def test_the_key_of_a_certificate_that_is_cut_short_is_none(size: int) -> None:
    with pytest.raises(ValueError):
        grpc_takes_key(DER[:size])


def test_new_files_are_taken_when_the_link_is_swapped(tmp_path: Path) -> None:
    secret = mtls(AUTHORITY, tmp_path / "secret")
    watch = CertificateWatch(of(secret), log=LOG)
    assert watch.poll() == "same"
    for pair in (OTHER, PAIR, AUTHORITY.issue()):
        secret.swap(**files_of(AUTHORITY, pair))
        assert watch.poll() == "taken" and watch.current.chain == pair.certificate
        assert watch.poll() == "same"
    assert watch.counts() == {"taken": 3, "refused": 0}


@pytest.mark.parametrize("kind", BAD)
def test_new_files_that_are_no_good_leave_the_last_good_ones(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watch = CertificateWatch(of(put(tmp_path)), log=LOG)
    BAD[kind][0](tmp_path)
    assert [watch.poll() for _ in range(3)] == ["refused", "same", "same"]
    assert watch.current.chain == PAIR.certificate and str(tmp_path) in watch.refused
    assert watch.counts() == {"taken": 0, "refused": 1}
    assert caplog.text.count("the last good certificates stay in force") == 1, "once a minute"
    if (tmp_path / "key").is_dir():
        (tmp_path / "key").rmdir()
    put(tmp_path, OTHER)
    assert watch.poll() == "taken" and watch.refused == "" and watch.current.key == OTHER.key


def test_files_that_are_as_they_were_again_are_no_change(tmp_path: Path) -> None:
    watch = CertificateWatch(of(put(tmp_path)), log=LOG)
    put(tmp_path, key=OTHER.key)
    assert watch.poll() == "refused"
    put(tmp_path)
    assert watch.poll() == "same" and watch.refused == ""


def test_a_certificate_of_later_is_taken_when_its_time_has_come(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="begins on"):
        read_certificates(of(put(tmp_path, LATER)))
    after_s = validity_s(x509.load_pem_x509_certificate(LATER.certificate).public_bytes(Encoding.DER))[0]
    assert read_certificates(of(tmp_path), now_s=after_s).begins_s == after_s


def test_a_fallback_is_in_force_if_the_files_are_no_good_at_the_start(tmp_path: Path) -> None:
    good = read_certificates(of(put(tmp_path))).without_context()
    put(tmp_path, key=OTHER.key)
    watch = CertificateWatch(of(tmp_path), log=LOG, fallback=good)
    assert watch.current == good and "does not fit" in watch.refused
    put(tmp_path, OTHER)
    assert watch.poll() == "taken"


@pytest.mark.parametrize("nth", range(1, 10))
def test_a_swap_between_the_readings_of_two_files_mixes_no_pair(
    nth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = mtls(AUTHORITY, tmp_path / "secret")
    watch = CertificateWatch(of(secret), log=LOG)
    secret.swap(**files_of(AUTHORITY, PAIR))
    read, count = certificates._read, 0

    def swapped_before_the_nth(path: Path | None) -> bytes | None:
        nonlocal count
        count += 1
        if count == nth:
            secret.swap(**files_of(AUTHORITY, OTHER))
        return read(path)

    monkeypatch.setattr(certificates, "_read", swapped_before_the_nth)
    assert watch.poll() == "taken"
    assert (watch.current.chain, watch.current.key) in {(pair.certificate, pair.key) for pair in (PAIR, OTHER)}
    watch.poll()
    assert (watch.current.chain, watch.current.key) == (OTHER.certificate, OTHER.key)
    assert watch.counts()["refused"] == 0


def test_a_time_is_written_for_people() -> None:
    assert (moment(86_400.0), moment(math.inf)) == ("1970-01-02 00:00 UTC", "never")
