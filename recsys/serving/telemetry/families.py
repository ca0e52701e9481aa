"""Families: the counters of a server by name and labels, and the bounds of its histograms.

A new counter is a line of :func:`families`, a line of docs/monitoring.md, and a call of ``Telemetry.count``.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BOUNDS_US = (*(step * 10**power // 10 for power in range(1, 7) for step in (10, 15, 20, 30, 50, 70)), 10_000_000)
"""Upper ends of the histograms' buckets, 10 us to 10 s, six to a factor of ten. One more holds what is longer."""

CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
"""All status codes of gRPC. Written out, for the supervisor counts and need not load gRPC; a test compares them."""

EARLY_ENDS = ("late", "incomplete", "malformed", "unknown_method", "full", "crowded_out", "draining", "unread")
"""Reasons why a call ends before a handler has it: no message in time, or at all; one that is none; no such method; no
thread; a newer call that waits for its message; the drain. And one after: its answer is not taken."""

DEGRADED_PARTS = ("user", "items", "history")
"""Parts that an answer may lack, by the names that clients get (``Ranking.degraded``)."""


@dataclass(frozen=True)
class Family:
    """Counters of one name: one for each combination of the labels' values."""

    name: str
    help: str
    labels: Mapping[str, Sequence[str]]

    def combinations(self) -> list[tuple[str, ...]]:
        """List the values of the labels, one counter after another."""
        return list(itertools.product(*self.labels.values()))


def families(methods: Sequence[str]) -> tuple[Family, ...]:
    """List all counters of a server.

    Args:
        methods: names of the methods whose calls are counted.
    """
    outcomes = ("used", "without", "refused", "read", "partial", "computed", "written", "dropped", "failed")
    return (
        Family("requests", "Calls that were answered, by method and gRPC status.", {"method": methods, "code": CODES}),
        Family("early_ends", "Calls that ended before a handler had them, by reason.", {"reason": EARLY_ENDS}),
        Family("candidates", "Candidates that were scored.", {}),
        Family("degraded", "Answers worse than they could be, by the missing part.", {"part": DEGRADED_PARTS}),
        Family("states", "States of long histories, by outcome.", {"outcome": outcomes}),
        Family(
            "items",
            "Candidates whose features were in the server's memory, or had to be read.",
            {"source": ("memory", "store")},
        ),
        Family(
            "store_warnings",
            "Reasons to warn about the store's Redis: it drops keys when it is full, or has lost what it held.",
            {"reason": ("evicts", "lost")},
        ),
        Family(
            "release_switches",
            "Switches of releases, by end: made, refused, or made because the release before was worse or damaged.",
            {"outcome": ("switched", "refused", "went_back")},
        ),
        Family(
            "certificates",
            "Contents of the certificate files that came into force in place of others, or were refused.",
            {"outcome": ("taken", "refused")},
        ),
        Family("restarts", "Workers that were restarted, by the end of the one before.", {"reason": ("died", "hung")}),
    )


RELEASE_FAMILIES = {
    "release_calls": "Calls to a release, by outcome; a status that is the caller's fault is none.",
    "release_degraded": "Answers of a release that lack a part.",
    "release_seconds": "Time that an answered call to a release took.",
    "release_score": "Scores of the candidates that a release ranked.",
    "release_shadow": "Requests that a release was to score beside the one that answered, by outcome.",
    "release_shadow_seconds": "Time that a release took to score such a request.",
    "release_shadow_difference": "Absolute differences of its scores to those that were answered, by candidate.",
    "release_shadow_overlap": "Share of the best candidates that it has in common with the answer, by request.",
    "release_shadow_items_overlap": "Share of the items that it retrieves in common with the answer, by request.",
}
"""Families of each release in service, with the labels ``release`` and ``model``; helps by name."""

CALL_OUTCOMES = ("answered", "failed")
SHADOW_OUTCOMES = ("offered", "scored", "dropped", "failed")
"""Of ``release_shadow``; those offered end as one of the others."""
