"""Callers: who calls, by what the call brought: a token, a JWT, or the certificate of its connection."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from recsys.serving.rpc.access.identity import Identity, RefusedError
from recsys.serving.rpc.access.policy import Policy
from recsys.serving.rpc.access.tokens import MOST_BYTES, hash_token

AUTHORIZATION = "authorization"
"""Metadata that holds ``Bearer TOKEN``."""

_NEEDED = "send the metadata 'authorization: Bearer TOKEN' (Python client: token=)"


def identify(
    policy: Policy,
    metadata: Sequence[Any],
    peer: Callable[[], Mapping[str, Sequence[bytes]]],
    *,
    clock: Callable[[], float] = time.time,
) -> Identity:
    """Find out who calls.

    A token that is given must be good: a bad one is refused whatever certificate comes with it.

    Args:
        policy: who is known.
        metadata: of the call: pairs of key and value.
        peer: gives the connection's properties, as ``ServicerContext.auth_context``; asked only if there is no token.
        clock: seconds since 1970.

    Raises:
        RefusedError: nobody who is known; the message holds nothing of what was sent.
    """
    given = [value for key, value in metadata if key == AUTHORIZATION]
    if not given:
        return _by_certificate(policy, peer)
    if len(given) > 1 or not isinstance(given[0], str) or len(given[0]) > MOST_BYTES:
        raise RefusedError("malformed", f"authorization: expected one, of at most {MOST_BYTES:,} bytes; {_NEEDED}")
    scheme, _, token = given[0].partition(" ")
    if scheme.lower() != "bearer" or not token or not token.isascii() or " " in token:
        raise RefusedError("malformed", f"authorization: not of the form 'Bearer TOKEN'; {_NEEDED}")
    if token.count(".") == 2:
        if policy.web_tokens is None:
            raise RefusedError("unknown", "the token looks like a JWT, and this server takes none")
        return policy.web_tokens.identity_of(token, now_s=clock())
    digest = hash_token(token)
    # The table is searched by a hash that no caller can steer; what is found is compared in constant time.
    found = policy.tokens.get(digest)
    if found is None or not hmac.compare_digest(found.sha256, digest):
        raise RefusedError("unknown", "the token is not known: it was never let in, or was removed")
    if clock() >= found.expires_s:
        raise RefusedError("expired", f"the token of {found.identity.name!r} has expired; ask for a new one")
    return found.identity


def _by_certificate(policy: Policy, peer: Callable[[], Mapping[str, Sequence[bytes]]]) -> Identity:
    if not policy.spiffe:
        raise RefusedError("no_credentials", f"no token was sent; {_NEEDED}")
    # The SPIFFE standard for X.509: exactly one URI. Among all names, a DNS name could pose as one.
    uris = [uri.decode(errors="replace") for uri in peer().get("peer_uri", ())]
    if len(uris) != 1 or not uris[0].startswith("spiffe://"):
        raise RefusedError(
            "no_credentials", f"no token was sent, and no client certificate with one SPIFFE id; {_NEEDED}"
        )
    if (found := policy.spiffe.get(uris[0])) is None:
        raise RefusedError("unknown", f"the client certificate's SPIFFE id {uris[0]!r} is not let in")
    return found
