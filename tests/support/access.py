"""Access files for tests: tokens, keys that sign, and tokens that they signed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from recsys.serving.rpc.access.tokens import make_token, token_entry

ISSUER, AUDIENCE = "https://issuer.example", "recsys"
LONG_AFTER, LONG_AGO = "2999-01-01T00:00:00Z", "2020-01-01T00:00:00Z"


def write_access(path: Path, *entries: str, quota: str = "") -> Path:
    """Write an access file of these entries."""
    path.write_text("\n".join(["format = 1", quota, *entries]))
    return path


def token_of(*roles: str, name: str = "", expires: str = LONG_AFTER, more: str = "") -> tuple[str, str]:
    """A new token, and its entry."""
    token = make_token()
    return token, token_entry(token, name=name or "-".join(roles), roles=roles, expires=expires) + more


class Issuer:
    """Somebody who signs: keys by name, the JWKS of them, and tokens."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {}

    def add_rsa(self, name: str) -> None:
        self.keys[name] = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def add_ec(self, name: str) -> None:
        self.keys[name] = ec.generate_private_key(ec.SECP256R1())

    def jwks(self, **changes: Any) -> dict[str, Any]:
        """The public keys; ``changes`` are made to each."""
        listed = []
        for name, key in self.keys.items():
            is_rsa = isinstance(key, rsa.RSAPrivateKey)
            algorithm = jwt.algorithms.RSAAlgorithm if is_rsa else jwt.algorithms.ECAlgorithm
            listed.append({**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": name, **changes})
        return {"keys": listed}

    def write_jwks(self, path: Path, **changes: Any) -> Path:
        """Write them to a file, renamed into place."""
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(self.jwks(**changes)))
        temporary.replace(path)
        return path

    def token(self, key: str, *, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token of a subject ``web`` with the role ``ranker`` for a minute; what is None is left out."""
        usual = {"iss": ISSUER, "aud": AUDIENCE, "sub": "web", "exp": time.time() + 60, "groups": ["ranker"]}
        claims = {name: value for name, value in {**usual, **claims}.items() if value is not None}
        algorithm = "RS256" if isinstance(self.keys[key], rsa.RSAPrivateKey) else "ES256"
        named = {name: value for name, value in {"kid": key, **(headers or {})}.items() if value is not None}
        return jwt.encode(claims, self.keys[key], algorithm=algorithm, headers=named)


def jwt_entry(jwks: str = "jwks.json", *, algorithms: tuple[str, ...] = ("RS256", "ES256"), more: str = "") -> str:
    """The entry that takes the issuer's tokens."""
    listed = ", ".join(f'"{name}"' for name in algorithms)
    return (
        f'[jwt]\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\nalgorithms = [{listed}]\njwks_file = "{jwks}"\n'
        f'roles_claim = "groups"\n{more}[jwt.roles]\nranker = ["rank"]\neditor = ["read", "write"]\n'
    )


def bearer(token: str) -> list[tuple[str, str]]:
    """Metadata of a call with a token."""
    return [("authorization", f"Bearer {token}")]
