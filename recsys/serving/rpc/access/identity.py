"""Identity: a caller that is known, and the error of one that is not."""

from __future__ import annotations

from dataclasses import dataclass

from recsys.errors import AuthenticationError


@dataclass(frozen=True, kw_only=True)
class Quota:
    """Rates of one identity; None: no bound."""

    calls_per_s: float | None = None
    events_per_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A caller that is known.

    Attributes:
        name: of the kind and the entry: ``token:web``, ``jwt:SUBJECT``, a SPIFFE id. Not secret.
        roles: what it may do.
        quota: how often.
    """

    name: str
    roles: frozenset[str]
    quota: Quota = Quota()


class RefusedError(AuthenticationError):
    """A call that its sender may not make; ``reason`` is one of ``families.ACCESS_REASONS``."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
