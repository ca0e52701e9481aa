"""WebTokens: JSON Web Tokens (RFC 7519), checked by PyJWT against the keys of a file; no network is asked.

Algorithms are those that the access file lists, never the one that a token wants: a key serves only an algorithm of
its own kind, so that no public key is taken for a secret (RFC 8725, 2.1 and 3.1).
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recsys.errors import ConfigError
from recsys.serving.rpc.access.identity import Identity, Quota, RefusedError

MOST_CACHED = 4_096
"""Verified tokens that are remembered, the last used ones."""

_CLOCK_SKEW_S = 10.0
"""Seconds by which the issuer's clock may be ahead of ours."""

_MOST_SUBJECT = 128
_RSA_BITS = 2_048, 16_384
"""RFC 7518, 3.3; and what takes no second to verify."""

_KINDS = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
"""First letters of an algorithm -> kind of its keys."""


@dataclass(frozen=True, kw_only=True)
class VerifyingKey:
    """A public key.

    Attributes:
        name: ``kid``; empty if it has none.
        algorithms: that it may be used with.
        key: PyJWT's.
    """

    name: str
    algorithms: tuple[str, ...]
    key: Any = field(repr=False)


class WebTokens:
    """Checks JWTs and remembers those that are good until they expire. Safe to use from several threads.

    Args:
        issuer, audience: that a token must name.
        keys: of the issuer.
        algorithms: that are taken.
        roles_claim: the claim that names what its bearer may do: a list of texts, or one with spaces between.
        roles: value of that claim -> roles.
        quota: of each subject.
    """

    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        keys: Sequence[VerifyingKey],
        algorithms: Sequence[str],
        roles_claim: str,
        roles: Mapping[str, frozenset[str]],
        quota: Quota,
    ) -> None:
        import jwt  # an extra: a server without JWT has none

        self._jwt = jwt
        self._issuer = issuer
        self._audience = audience
        self._keys = tuple(keys)
        self._algorithms = tuple(algorithms)
        self._roles_claim = roles_claim
        self._roles = dict(roles)
        self._quota = quota
        self._lock = threading.Lock()
        self._verified: OrderedDict[bytes, tuple[Identity, float]] = OrderedDict()
        """Hash of a good token -> whose it is, when it expires; the last used last."""

    @property
    def cached(self) -> int:
        """Number of remembered tokens."""
        return len(self._verified)

    @property
    def keys(self) -> int:
        """Number of keys."""
        return len(self._keys)

    def described(self) -> list[dict[str, Any]]:
        """List what each value of the roles claim allows, for people."""
        rates = {"calls_per_s": self._quota.calls_per_s, "events_per_s": self._quota.events_per_s}
        return [
            {"caller": f"jwt with {self._roles_claim}={value}", "roles": sorted(roles), **rates}
            for value, roles in self._roles.items()
        ]

    def identity_of(self, token: str, *, now_s: float | None = None) -> Identity:
        """Find out whose token it is.

        Args:
            token: as it was sent.
            now_s: seconds since 1970; None: now.

        Raises:
            RefusedError: it is not good; the message says why, and holds nothing of it.
        """
        now_s = time.time() if now_s is None else now_s
        digest = hashlib.sha256(token.encode()).digest()
        with self._lock:
            found = self._verified.get(digest)
            if found is not None:
                if now_s < found[1]:
                    self._verified.move_to_end(digest)
                    return found[0]
                del self._verified[digest]
        identity, expires_s = self._verify(token, now_s)
        with self._lock:
            self._verified[digest] = identity, expires_s
            while len(self._verified) > MOST_CACHED:
                self._verified.popitem(last=False)
        return identity

    def _verify(self, token: str, now_s: float) -> tuple[Identity, float]:
        claims = self._claims(token)
        expires_s, not_before_s = _seconds(claims, "exp"), _seconds(claims, "nbf")
        if expires_s is None:
            raise RefusedError("malformed", "the JWT has no exp: one that never expires is not taken")
        if now_s >= expires_s:
            raise RefusedError("expired", "the JWT has expired; ask its issuer for a new one")
        if not_before_s is not None and now_s < not_before_s - _CLOCK_SKEW_S:
            raise RefusedError("not_yet_valid", "the JWT is not yet valid (nbf); is a clock wrong?")
        if claims.get("iss") != self._issuer:
            raise RefusedError("wrong_issuer", f"the JWT is of another issuer; expected: {self._issuer}")
        audiences = claims.get("aud")
        if self._audience not in (audiences if isinstance(audiences, list) else [audiences]):
            raise RefusedError("wrong_audience", f"the JWT is for another audience; expected: {self._audience}")
        subject = claims.get("sub")
        if not isinstance(subject, str) or not 0 < len(subject) <= _MOST_SUBJECT or not subject.isprintable():
            raise RefusedError("malformed", f"the JWT's sub is no text of 1 to {_MOST_SUBJECT} characters")
        given = claims.get(self._roles_claim, [])
        values = given.split() if isinstance(given, str) else given
        if not isinstance(values, list):
            values = []
        known = (self._roles[value] for value in values if isinstance(value, str) and value in self._roles)
        return Identity(name=f"jwt:{subject}", roles=frozenset().union(*known), quota=self._quota), expires_s

    def _claims(self, token: str) -> Mapping[str, Any]:
        """The claims, if a key of ours signed them."""
        try:
            header = self._jwt.get_unverified_header(token)
        except self._jwt.PyJWTError:
            raise RefusedError("malformed", "the token is no JWT: its header cannot be read") from None
        algorithm, name = header.get("alg"), header.get("kid")
        if algorithm not in self._algorithms:
            taken = ", ".join(self._algorithms)
            raise RefusedError("bad_signature", f"the JWT's algorithm is not taken; allowed: {taken}")
        keys = [key for key in self._keys if algorithm in key.algorithms and name in (None, key.name)]
        if len(keys) != 1:  # one try a token: many keys of no name must not multiply the work
            told = "no key of ours suits the JWT's kid" if name is not None else "the JWT needs a kid: several keys fit"
            raise RefusedError("bad_signature", f"{told}; were keys changed?")
        checks: Any = {f"verify_{claim}": False for claim in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")}
        try:
            claims = self._jwt.decode(token, key=keys[0].key, algorithms=[algorithm], options=checks)
        except self._jwt.InvalidSignatureError:
            raise RefusedError("bad_signature", "the JWT's signature is not of a key of ours") from None
        except (self._jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise RefusedError("malformed", "the token is no JWT that can be read") from None
        return claims if isinstance(claims, dict) else {}


def read_keys(data: bytes, algorithms: Sequence[str], *, path: Path) -> tuple[VerifyingKey, ...]:
    """Read a JWKS (RFC 7517): public keys that sign.

    Args:
        data: content of its file.
        algorithms: that are taken; keys of no use to them are left out.
        path: of the file, for errors.

    Raises:
        ConfigError: PyJWT is not installed; it is no JWKS, has no key of use, or one that is too weak, or holds a
            secret.
    """
    try:
        import cryptography  # noqa: F401  # PyJWT does without, and then knows HMAC alone
        import jwt
    except ImportError:
        raise ConfigError("[jwt] needs PyJWT: pip install 'recsys[jwt]', or leave [jwt] out") from None
    try:
        listed = json.loads(data)["keys"]
    except (ValueError, TypeError, KeyError, RecursionError):
        listed = None
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise ConfigError(f"jwks_file {str(path)!r} is no JWKS: expected JSON with a list of keys under 'keys'")
    keys: list[VerifyingKey] = []
    for place, each in enumerate(listed):
        where = f"jwks_file {str(path)!r}: keys[{place}]"
        if each.get("kty") == "oct" or "d" in each:
            raise ConfigError(f"{where} is a secret; allowed: public keys, which cannot sign")
        uses = _uses(each, algorithms)
        if not uses:
            continue
        try:
            key = jwt.PyJWK(each, algorithm=uses[0]).key
        except (jwt.PyJWTError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{where} cannot be read: {error}") from None
        if each["kty"] == "RSA" and not _RSA_BITS[0] <= key.key_size <= _RSA_BITS[1]:
            raise ConfigError(
                f"{where} is an RSA key of {key.key_size:,} bits; allowed: {_RSA_BITS[0]:,} to {_RSA_BITS[1]:,}"
            )
        name = each.get("kid", "")
        if not isinstance(name, str):
            raise ConfigError(f"{where}: kid is {name!r}; allowed: a text")
        if any(name == other.name and set(uses) & set(other.algorithms) for other in keys):
            raise ConfigError(f"{where}: kid {name!r} is another key's, too; allowed: each once")
        keys.append(VerifyingKey(name=name, algorithms=uses, key=key))
    if not keys:
        raise ConfigError(f"jwks_file {str(path)!r} has no key for {', '.join(algorithms)}")
    return tuple(keys)


_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}


def _uses(given: Mapping[str, Any], algorithms: Sequence[str]) -> tuple[str, ...]:
    """The algorithms that a key may be used with, of those that are taken."""
    if given.get("use", "sig") != "sig":
        return ()
    fits = (name for name in algorithms if _KINDS[name[:2]] == given.get("kty"))
    fits = (name for name in fits if given.get("alg", name) == name)
    return tuple(name for name in fits if name not in _CURVES or given.get("crv") == _CURVES[name])


def _seconds(claims: Mapping[str, Any], name: str) -> float | None:
    """A moment among the claims; RefusedError if it is none."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        raise RefusedError("malformed", f"the JWT's {name} is no time in seconds since 1970")
    return float(value)
