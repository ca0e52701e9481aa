"""Families: what a server counts, by name and labels, and the bounds of its histograms.

A new counter is a line of :func:`families`, a line of docs/operate/monitoring.md, a call of ``Telemetry.count``; a
gauge the same with ``Telemetry.set``; a histogram is a line of :func:`histograms`; of each release a line of
:func:`slot_families`. Every label has a list of values here: the number of series is bounded, whatever callers send.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recsys.serving.current_call import REFUSALS
from recsys.serving.telemetry.stage_timer import STAGES

BOUNDS_US = (*(step * 10**power // 10 for power in range(1, 7) for step in (10, 15, 20, 30, 50, 70)), 10_000_000)
"""Upper ends of the histograms' buckets, 10 us to 10 s, six to a factor of ten. One more holds what is longer."""

SCORE_BOUNDS = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999,
    1.0,
)  # fmt: skip
"""Upper ends of the buckets of scores, narrow at both ends: a click is rare. One more holds what is larger."""

SCORE_BUCKETS = (*(f"{bound:g}" for bound in SCORE_BOUNDS), "+Inf")
"""Names of the buckets of scores."""

CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
"""All status codes of gRPC. Written out, for the supervisor counts and need not load gRPC; a test compares them."""

EARLY_ENDS = (
    "late",
    "incomplete",
    "malformed",
    "unknown_method",
    "full",
    "crowded_out",
    "draining",
    "unread",
    "no_time",
)
"""Reasons why a call ends before a handler has it: no message in time, or at all; one that is none; no such method; no
thread; a newer call that waits for its message; the drain; no time. And one after: its answer is not taken."""

DEGRADED_PARTS = ("user", "items", "history", "attributes")
"""Parts that an answer may lack, by the names that clients get (``Ranking.degraded``)."""

FALLBACKS = ("popularity", "segment", "trending")
"""Lists for a user whom a retrieval model does not know: what all users, or those of the same segment, take; what is
trending, where a request asks for that."""

STAGED = ("Rank", "RankBatch", "Retrieve", "Recommend", "Similar")
"""Methods whose calls have stages."""

TABLES = ("users", "items", "histories")
"""Tables of the feature store that a request's ids are looked up in."""

STORE_LINKS = ("rank", "calls")
"""Ways to the store's Redis: reads of requests to models, and the calls of FeatureStore."""

ITEM_OUTCOMES = (
    "added", "changed", "removed", "withdrawn", "no_attributes", "not_finite", "damaged", "no_name", "failed",
    "no_room",
)  # fmt: skip
"""Ends of a look at an item that came after training: it has a row, another one, none any more, or none and why."""

FILTER_OUTCOMES = ("rows", "mask", "cached", "empty", "not_ready")
"""Ends of a look for the items that pass: a list of rows, a mask of all, as before, none, or none are known."""

RULE_OUTCOMES = ("at_most_left_out", "boost_acted", "pin_acted", "pin_not_placed", "diverse_acted")
"""Outcomes of rules: candidates that one keeps from a list, items of lists that one acts on, pins without a place."""

ACCESS_REASONS = (
    "no_credentials", "malformed", "unknown", "expired", "not_yet_valid", "wrong_issuer", "wrong_audience",
    "bad_signature", "role", "undeclared",
)  # fmt: skip
"""Reasons for which a call is refused where access is on: nobody who is known, or not one who may."""

QUOTAS = ("calls", "events", "stream")
"""Quotas that a call may exceed; a stream is slowed down, the others are refused."""


@dataclass(frozen=True)
class Family:
    """Numbers of one name: one for each combination of the labels' values.

    Attributes:
        name: without ``recsys_``, and a counter's without ``_total``.
        help: a sentence for the page.
        labels: name -> values.
        gauge: it may fall; shown as the sum of the workers that live.
    """

    name: str
    help: str
    labels: Mapping[str, Sequence[str]]
    gauge: bool = False

    def combinations(self) -> list[tuple[str, ...]]:
        """List the values of the labels, one counter after another."""
        return list(itertools.product(*self.labels.values()))

    def keys(self) -> list[tuple[str, ...]]:
        """List the name with each combination."""
        return [(self.name, *values) for values in self.combinations()]


def families(methods: Sequence[str]) -> tuple[Family, ...]:
    """List all counters and gauges of a server.

    Args:
        methods: names of the methods whose calls are counted.
    """
    outcomes = ("used", "without", "refused", "read", "partial", "computed", "written", "dropped", "failed")
    return (
        Family("requests", "Calls that were answered, by method and gRPC status.", {"method": methods, "code": CODES}),
        Family("early_ends", "Calls that ended before a handler had them, by reason.", {"reason": EARLY_ENDS}),
        Family(
            "refused",
            "Calls that were refused for want of room, by method and reason.",
            {"method": methods, "reason": REFUSALS},
        ),
        Family("candidates", "Candidates that were scored.", {}),
        Family("degraded", "Answers worse than they could be, by the missing part.", {"part": DEGRADED_PARTS}),
        Family("states", "States of long histories, by outcome.", {"outcome": outcomes}),
        Family(
            "items",
            "Candidates whose features were in the server's memory, or had to be read.",
            {"source": ("memory", "store")},
        ),
        Family(
            "retrieve_history_events",
            "Events that users were known by in Retrieve and Recommend, by whether the model has the event's item.",
            {"item": ("known", "unknown")},
        ),
        Family(
            "fallbacks",
            "Answers of Retrieve and Recommend for users whom the retrieval model does not know, by what they got: "
            "what is popular with all users, or with those of the same segment, or trending.",
            {"by": FALLBACKS},
        ),
        Family(
            "similar_seeds",
            "Seeds of Similar, by whether the retrieval model, or the store beside it, knows anything of them.",
            {"item": ("known", "unknown")},
        ),
        Family(
            "item_rows",
            "Looks at items that came after training, by outcome: a row was made, or why there is none.",
            {"outcome": ITEM_OUTCOMES},
        ),
        Family(
            "filters",
            "Looks for the items that a search may find, by outcome: a list of rows, a mask, kept from before, none.",
            {"outcome": FILTER_OUTCOMES},
        ),
        Family(
            "rules",
            "Items that rules of Recommend and Rank left out, acted on, or could not place, by rule and outcome.",
            {"outcome": RULE_OUTCOMES},
        ),
        Family(
            "put_unknown_items",
            "Items put by PutEntities that are in no bundle of a served retrieval model, by when it finds them.",
            {"found": ("soon", "never")},
        ),
        Family(
            "store_round_trips",
            "Round trips to the feature store's Redis, by what they were for and how they ended, or were skipped.",
            {"link": STORE_LINKS, "outcome": ("ok", "failed", "skipped")},
        ),
        Family(
            "store_warnings",
            "Reasons to warn about the store's Redis: it drops keys when it is full, or has lost what it held.",
            {"reason": ("evicts", "lost")},
        ),
        Family(
            "trending_events",
            "Events added to histories by what became of their count for Trending: counted, or why not.",
            {"outcome": ("counted", "late", "no_room", "lost")},
        ),
        Family("trending_stale", "Answers of Trending that are as of before, as the store could not be read.", {}),
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
        Family("access_refused", "Calls that were refused for want of a right, by reason.", {"reason": ACCESS_REASONS}),
        Family(
            "quota_limited",
            "Calls over a quota of their caller: refused, or, of a stream, messages that had to wait.",
            {"quota": QUOTAS},
        ),
        Family("access_file", "Readings of a changed access file, by end.", {"outcome": ("loaded", "refused")}),
        Family("restarts", "Workers that were restarted, by the end of the one before.", {"reason": ("died", "hung")}),
        Family(
            "spans",
            "Spans of traced calls: sent, dropped because the queue was full, or lost because they could not be sent.",
            {"outcome": ("sent", "dropped", "failed")},
        ),
        Family("calls_in_flight", "Calls that are being answered.", {"method": methods}, gauge=True),
        Family("added_items", "Items that came after training and take part in searches.", {}, gauge=True),
        Family(
            "added_items_behind",
            "Worker processes in which what was written of such items 10 s ago may have no effect yet.",
            {},
            gauge=True,
        ),
        Family(
            "item_columns_age_seconds",
            "Whole seconds since item columns were current, by their writer.",
            {},
            gauge=True,
        ),
        Family(
            "item_columns_behind",
            "Worker processes to which the item columns are older than 2 s, or not there.",
            {},
            gauge=True,
        ),
        Family("item_columns_items", "Items in the item columns, told by who writes.", {}, gauge=True),
        Family("item_columns_bytes", "Memory of the item columns, which the workers share.", {}, gauge=True),
        Family("item_columns_left_out", "Items that the item columns have no room for.", {}, gauge=True),
        Family("withdrawn_items", "Items that are withdrawn, told by who writes the item columns.", {}, gauge=True),
        Family(
            "items_never_found",
            "Items of the store that are in no list of a served retrieval model, told by who writes the item columns.",
            {},
            gauge=True,
        ),
        Family("workers_serving", "Worker processes that answer calls.", {}, gauge=True),
    )


def histograms(methods: Sequence[str]) -> tuple[Family, ...]:
    """List all histograms of times, in seconds on the page. Stages of a call stand in a row: ``Telemetry.observe``
    counts on it.

    Args:
        methods: names of the methods whose calls are counted.
    """
    return (
        Family(
            "stage_seconds",
            "Time that an answered call of Ranker or Related spent in a stage, by method.",
            {"method": [method for method in methods if method in STAGED], "stage": STAGES},
        ),
        Family("call_seconds", "Time that a call took in the program, whatever its end.", {"method": methods}),
        Family(
            "added_item_seconds",
            "Time from the write of an item that came after training, by the store's clock, to its part in searches.",
            {},
        ),
        Family(
            "item_attribute_seconds",
            "Time from the write of an item's features, by the store's clock, to their part in filters.",
            {},
        ),
        Family("store_seconds", "Time of a round trip to the feature store's Redis.", {"link": STORE_LINKS}),
    )


def slot_families(methods: Sequence[str]) -> tuple[Family, ...]:
    """List the counters of each release in service, beside ``layout.RELEASE_COUNTS``; the page adds its labels.

    Args:
        methods: names of the methods whose calls are counted.
    """
    return (
        Family(
            "release_requests",
            "Ended calls of Ranker and Related to a release, by method and gRPC status.",
            {"method": methods, "code": CODES},
        ),
        Family("release_degraded_parts", "Answers of a release, by the missing part.", {"part": DEGRADED_PARTS}),
        Family("release_ids", "Ids of looked-into requests to a release, by the store's table.", {"table": TABLES}),
        Family("release_unknown_ids", "Ids among them of which the store's table has nothing.", {"table": TABLES}),
        Family(
            "release_features",
            "Feature values that looked-into requests to a release read of known ids.",
            {"table": ("users", "items")},
        ),
        Family("release_missing_features", "Values among them that were missing.", {"table": ("users", "items")}),
        Family("release_scores", "Scores of looked-into requests to a release.", {"bucket": SCORE_BUCKETS}),
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
    "release_score_drift": "Population stability index of a release's scores lately against those before.",
}
"""Families of each release in service, with the labels ``release`` and ``model``; helps by name."""

CALL_OUTCOMES = ("answered", "failed")
SHADOW_OUTCOMES = ("offered", "scored", "dropped", "failed")
"""Of ``release_shadow``; those offered end as one of the others."""
