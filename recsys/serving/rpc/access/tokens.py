"""Tokens: made by ``recsys access token``, known to a server by their hashes alone.

A token has 256 random bits, so nobody can find it by trying, whatever a guess costs. That is why one SHA-256 is the
right hash here: slow ones (bcrypt, argon2) protect passwords, which people choose, and would cost each call 100 ms.
"""

from __future__ import annotations

import hashlib
import re
import secrets

PREFIX = "recsys_"
"""Of every token, so that scanners of repositories and logs can find one that leaked."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@/-]{0,127}")
"""Form of the names of those who have tokens."""

MOST_BYTES = 8_192
"""The longest ``authorization`` that is looked at."""


def make_token() -> str:
    """Make a new token: the prefix and 43 characters of base64."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_token(token: str) -> bytes:
    """Hash a token; 32 bytes.

    >>> hash_token("recsys_x").hex()[:8]
    '5f895969'
    """
    return hashlib.sha256(token.encode()).digest()


def token_entry(token: str, *, name: str, roles: tuple[str, ...], expires: str) -> str:
    """Write the lines of a TOML access file that let a token in.

    Args:
        token: which is not in them.
        name: of who has it.
        roles: what it allows.
        expires: moment of its end, ISO 8601 with an offset.
    """
    listed = ", ".join(f'"{role}"' for role in roles)
    return (
        f'[[tokens]]\nname = "{name}"\nroles = [{listed}]\nsha256 = "{hash_token(token).hex()}"\nexpires = {expires}\n'
    )
