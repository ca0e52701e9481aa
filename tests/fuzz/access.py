"""Targets of who may do what: access files, keys of issuers, their tokens, and the certificates of both sides."""

from __future__ import annotations

import base64
import contextlib
import json
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from recsys.certificates import CertificateFiles, read_certificates
from recsys.errors import ConfigError
from recsys.serving.rpc.access.callers import identify
from recsys.serving.rpc.access.identity import RefusedError
from recsys.serving.rpc.access.policy import Policy, read_policy
from recsys.serving.rpc.access.roles import ROLES
from recsys.serving.rpc.access.web_tokens import read_keys
from recsys.serving.telemetry.families import ACCESS_REASONS

ALGORITHMS = ("RS256", "PS384", "ES256", "ES512", "EdDSA")
NOW_S = 1_700_000_000.0
_CERTIFICATES = Path(__file__).parent / "corpus" / "certificates" / "valid.bin"
"""Issued for a hundred years."""

_KEY = ec.derive_private_key(1_234_567, ec.SECP256R1())

ACCESS = b"""format = 1
[[tokens]]
name = "a"
roles = ["rank"]
sha256 = "5f89595900000000000000000000000000000000000000000000000000000000"
expires = 2999-01-01T00:00:00Z
calls_per_s = 5
[jwt]
issuer = "i"
audience = "a"
algorithms = ["ES256"]
jwks_file = "keys.json"
roles_claim = "groups"
[jwt.roles]
r = ["read", "write"]
[[spiffe]]
id = "spiffe://a.b/c"
roles = ["admin"]
[quota]
events_per_s = 2.5
"""


def jwks() -> bytes:
    """The keys of the issuer whose tokens are fuzzed."""
    return json.dumps({"keys": [{**jwt.algorithms.ECAlgorithm.to_jwk(_KEY.public_key(), as_dict=True)}]}).encode()


def access_file(data: bytes) -> None:
    """An access file, as TOML and as JSON, with a good file of keys."""
    for name in ("access.toml", "access.json"):
        path = Path("/none") / name
        with contextlib.suppress(ConfigError):
            policy = read_policy(path, contents=_AnyKeys({path: data}))
            found = [token.identity for token in policy.tokens.values()] + list(policy.spiffe.values())
            for each in found:
                assert each.roles and each.roles <= set(ROLES)
                assert all(rate is None or rate > 0 for rate in (each.quota.calls_per_s, each.quota.events_per_s))
            assert found or policy.web_tokens is not None


class _AnyKeys(dict[Path, bytes]):
    """Contents in which every other file holds the issuer's keys."""

    def __missing__(self, path: Path) -> bytes:
        return jwks()


def issuer_keys(data: bytes) -> None:
    """A JWKS."""
    with contextlib.suppress(ConfigError):
        for key in read_keys(data, ALGORITHMS, path=Path("keys.json")):
            assert set(key.algorithms) <= set(ALGORITHMS) and not hasattr(key.key, "sign")


@lru_cache
def _policy() -> Policy:
    path = Path("/none/access.toml")
    return read_policy(path, contents=_AnyKeys({path: ACCESS}))


def web_token(data: bytes) -> None:
    """A token: as it is; and a header and claims, a zero byte between them, that the issuer has signed."""
    header, _, claims = data.partition(b"\0")
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, claims))
    signature = base64.urlsafe_b64encode(
        jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA256).sign(signed, _KEY)
    )
    for token in (data, signed + b"." + signature.rstrip(b"=")):
        value = b"Bearer " + token
        with contextlib.suppress(RefusedError, UnicodeDecodeError):
            try:
                found = identify(_policy(), [("authorization", value.decode())], dict, clock=lambda: NOW_S)
            except RefusedError as error:
                assert error.reason in ACCESS_REASONS
                raise
            assert found.roles <= {"read", "write"} and found.name.startswith("jwt:")
            held = json.loads(claims)
            assert held["iss"] == "i" and held["exp"] > NOW_S and token != data


def certificates(data: bytes) -> None:
    """Files of a server: certificate, key and CA, a zero byte between them."""
    chain, _, rest = data.partition(b"\0")
    key, _, ca = rest.partition(b"\0")
    folder = Path(_folder().name)
    for file, content in (("crt", chain), ("key", key), ("ca", ca)):
        (folder / file).write_bytes(content)
    own = CertificateFiles(certificate=folder / "crt", key=folder / "key", ca=folder / "ca")
    for files in (own, CertificateFiles(ca=folder / "crt")):
        with contextlib.suppress(ConfigError):
            found = read_certificates(files)
            assert found.begins_s < found.ends_s


@lru_cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """A folder in memory, where there is one."""
    return tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


TARGETS: tuple[Callable[[bytes], None], ...] = (access_file, issuer_keys, web_token, certificates)


def examples() -> dict[str, list[bytes]]:
    """Valid inputs of each, always the same ones."""
    ed = {"kty": "OKP", "crv": "Ed25519", "x": _base64(bytes(range(32)))}
    keys = [{"kty": "RSA", "n": _base64(b"\xff" * 256), "e": "AQAB"}, json.loads(jwks())["keys"][0], ed]
    claims = {"iss": "i", "aud": ["a"], "sub": "s", "exp": NOW_S + 1, "nbf": NOW_S, "groups": ["r"]}
    document = {
        "format": 1,
        "tokens": [{"name": "a", "roles": ["rank"], "sha256": "00" * 32, "expires": "2999-01-01T00:00:00Z"}],
    }
    return {
        "access_file": [ACCESS, json.dumps(document).encode()],
        "issuer_keys": [json.dumps({"keys": [{**key, "kid": str(n)} for n, key in enumerate(keys)]}).encode(), jwks()],
        "web_token": [b'{"alg":"ES256","typ":"JWT"}\0' + json.dumps(claims).encode(), b"a.b.c"],
        "certificates": [_CERTIFICATES.read_bytes()],
    }
