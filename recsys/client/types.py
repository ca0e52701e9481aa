"""Results and errors of the client; import them from :mod:`recsys.client`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.client.filters import Where
from recsys.client.rules import Rule
from recsys.errors import (
    AccessError,
    AuthenticationError,
    InvalidInputError,
    NotExportedError,
    NotFoundError,
    OverloadedError,
    RecsysError,
    ReleaseError,
    StoreError,
    StoreUnavailableError,
)

Id = int | str
Ids = Sequence[int] | Sequence[str] | npt.NDArray[Any]
Integers = Sequence[int] | npt.NDArray[Any]


class RpcError(RecsysError):
    """A call failed. ``code`` is the gRPC status code's name, ``message`` what the server said."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Unauthenticated(RpcError, AuthenticationError):
    """The server knows no such caller: no token was sent, or one that is unknown or has expired."""


class PermissionDenied(RpcError, AccessError):
    """The caller lacks the role that the call needs; the message names it."""


class InvalidArgument(RpcError, InvalidInputError):
    """The request is not allowed, or too large, or its answer is; the message says what arrived, what is allowed."""


class NotFound(RpcError, NotFoundError):
    """The server does not serve the model that was asked for."""


class NotExported(RpcError, NotExportedError):
    """The bundle that is served was exported without what the call needs; the message names the option that has it."""


class Overloaded(RpcError, OverloadedError):
    """The server has no room or time for another request; ``retry_after_s`` says when it may have, if it said so."""


class Unavailable(RpcError):
    """The server, or the store behind it (:class:`StoreUnavailable`), cannot be reached, or is shutting down."""


class StoreUnavailable(Unavailable, StoreUnavailableError):
    """The server answers, but the feature store behind it is away or too slow; nothing is lost by a repetition."""


class StoreRefused(RpcError, StoreError):
    """The store is full, or holds foreign bytes or another layout: an operator must act before a repetition helps."""


class DeadlineExceeded(RpcError, TimeoutError):
    """No answer within the timeout, or none left: a timeout of 0 or less."""


class ShardsDiffer(RpcError, ReleaseError):
    """The servers that were asked are not all shards of one model, or did not answer of the same user."""

    def __init__(self, message: str) -> None:
        super().__init__("FAILED_PRECONDITION", message)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterReport:
    """The outcome of a request's filter (docs/guides/filters.md).

    Attributes:
        passed: items that pass: of all that the model could find, or of the distinct candidates.
        reason: why the answer is empty: ``contradiction``, ``no_item``, ``left_out`` (all that pass were seen, or
            excluded), ``not_ready`` (the items' values are not known yet); else empty.
        detail: the same in words.
        unknown_values: values in the filter's sets that no item has had, as ``attribute=value``, the first 20.
        age_ms: age of the items' values.
        filtered_out: of ``Client.rank``, places of the candidates that do not pass, and have no score.
        withdrawn_late: of ``Client.recommend``, items that passed when they were retrieved, and did not when ranked.
    """

    passed: int
    reason: str = ""
    detail: str = ""
    unknown_values: tuple[str, ...] = ()
    age_ms: int = 0
    filtered_out: tuple[int, ...] = ()
    withdrawn_late: int = 0


@dataclass(frozen=True, slots=True)
class RuleEffect:
    """The effect of a rule (docs/guides/rules.md).

    Attributes:
        acted: items of the list that it acted on.
        left_out: candidates that an ``at_most`` kept from the list.
        pin: what became of a pin: ``placed``, or why not: ``excluded``, ``seen``, ``unknown``, ``withdrawn``,
            ``filtered_out``, ``not_a_candidate``; empty of other rules.
        place: of the pinned item, 1-based; 0: it has none.
    """

    acted: int = 0
    left_out: int = 0
    pin: str = ""
    place: int = 0


@dataclass(frozen=True, slots=True)
class ItemReason:
    """The reason of an item's place in a list.

    Attributes:
        place_by_score: its place by its score alone among all that were ranked, 1-based.
        rules: places in the request's rules of those that acted on it.
    """

    place_by_score: int
    rules: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ListPlace:
    """The place of an item in a list, of ``Client.explain``.

    Attributes:
        place: 1-based; 0: it is not in the list.
        place_by_score: by its score alone, among all that were ranked; 0: it was not ranked.
        rules: places in the list's rules of those that moved it, or kept it from the list.
        why: the reason in words, which names these.
    """

    place: int
    place_by_score: int
    rules: tuple[int, ...]
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """A list in which ``Client.explain`` explains an item's place; its arguments are those of ``Client.recommend``."""

    top_k: int = 10
    candidates: int = 0
    exclude: Ids | None = None
    include_seen: bool = False
    filter: Where | None = None
    rules: Sequence[Rule] = ()


@dataclass(frozen=True, slots=True)
class RulesReport:
    """The outcome of a request's rules (docs/guides/rules.md).

    Attributes:
        effects: of each rule, in the request's order.
        lacking: places of ``top_k`` that stay empty.
        detail: why, in words.
        unknown_values: values in sets of tests that no item has had, as ``attribute=value``, the first 20.
        without_vector: candidates that ``diverse`` knows no vector of.
        age_ms: age of the items' values.
        reasons: of each item of the answer, if they were asked for.
    """

    effects: tuple[RuleEffect, ...]
    lacking: int = 0
    detail: str = ""
    unknown_values: tuple[str, ...] = ()
    without_vector: int = 0
    age_ms: int = 0
    reasons: tuple[ItemReason, ...] = ()


@dataclass(frozen=True, slots=True)
class Ranking:
    """Scored candidates, in the order they were sent, or best first with ``top_k``.

    Attributes:
        items: the candidates' ids as they were sent, in the order of ``scores``.
        scores: the model's probabilities in [0, 1]; float32, shape [C], or [min(top_k, distinct C)].
        positions: where each item stood in the request; int64, same shape.
        model, model_version, release: which model answered, and the release that it belongs to.
        history_events: how many past events it looked at.
        degraded: what the answer lacks: any of ``user``, ``items`` (the store could not give them), ``history`` (a long
            one was looked at in part); empty for a full answer.
        timings_us: if asked for, microseconds by stage (``Timings`` in ranker.proto).
        filter: what became of the filter; None: there was none.
    """

    items: list[Any]
    scores: npt.NDArray[np.float32]
    positions: npt.NDArray[np.int64]
    model: str
    model_version: str
    history_events: int
    degraded: tuple[str, ...]
    timings_us: Mapping[str, int] = field(default_factory=dict)
    release: str = ""
    filter: FilterReport | None = None
    rules: RulesReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RankQuery:
    """One request of ``Client.rank_batch``; its arguments are those of ``Client.rank``."""

    user: Id
    candidates: Ids
    features: Mapping[str, Any] | None = None
    top_k: int = 0
    model: str = ""
    time_ms: int | None = None
    filter: Where | None = None
    rules: Sequence[Rule] = ()
    reasons: bool = False


@dataclass(frozen=True, slots=True)
class Retrieval:
    """The best items of all.

    Attributes:
        items: ids, best first; int64, or strings (dtype object) where items are named by strings; [K], K <= top_k.
        scores: of any size, higher is better; float32, [K].
        model, model_version, release: which model answered, and the release that it belongs to.
        user_known: whether it knows the user; if not, the items are the most popular ones.
        fallback: of a user whom it does not know: ``popularity``; ``segment``, what is popular with users of the same
            segment; ``trending``, what has most events lately, and then what is popular; else empty.
        history_events: past events whose items were left out.
        degraded, timings_us, filter: as in :class:`Ranking`; of several shards ``shards`` too, if one did not answer.
        shard: the part of the items that was searched, from 1, and how many there are; None: all were.
        missing_shards: of several shards, addresses of those that did not answer, and why.
    """

    items: npt.NDArray[Any]
    scores: npt.NDArray[np.float32]
    model: str
    model_version: str
    user_known: bool
    history_events: int
    degraded: tuple[str, ...]
    timings_us: Mapping[str, int] = field(default_factory=dict)
    release: str = ""
    fallback: str = ""
    filter: FilterReport | None = None
    shard: tuple[int, int] | None = None
    missing_shards: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The best items of all, ranked.

    Attributes:
        items: ids, best first; int64, or strings (dtype object) where items are named by strings; [K], K <= top_k.
        scores: the ranking model's probabilities in [0, 1]; float32, [K].
        model, model_version: the ranking model.
        release: that it belongs to.
        retrieval_model, retrieval_model_version, retrieval_release: the one that chose the candidates.
        user_known: whether the retrieval model knows the user; if not, candidates were the most popular items.
        fallback: as in :class:`Retrieval`.
        history_events: past events the ranking model looked at.
        candidates: how many items were retrieved and ranked.
        degraded, timings_us, filter, rules: as in :class:`Ranking`.
    """

    items: npt.NDArray[Any]
    scores: npt.NDArray[np.float32]
    model: str
    model_version: str
    retrieval_model: str
    retrieval_model_version: str
    user_known: bool
    history_events: int
    candidates: int
    degraded: tuple[str, ...]
    timings_us: Mapping[str, int] = field(default_factory=dict)
    release: str = ""
    retrieval_release: str = ""
    fallback: str = ""
    filter: FilterReport | None = None
    rules: RulesReport | None = None


@dataclass(frozen=True, slots=True)
class SimilarItems:
    """The items most like given ones.

    Attributes:
        items: ids, most alike first, none of them given; as in :class:`Retrieval`.
        scores: mean likeness to the known ones, from -1 to 1 by vectors, above 0 to 1 by users; float32, [K].
        unknown: those of the given ids of which nothing is known; if these are all, there are no items.
        by: what made them alike: ``vectors`` or ``users``.
        model, model_version, release, timings_us, degraded, filter: as in :class:`Retrieval`.
    """

    items: npt.NDArray[Any]
    scores: npt.NDArray[np.float32]
    unknown: list[Any]
    model: str
    model_version: str
    release: str = ""
    timings_us: Mapping[str, int] = field(default_factory=dict)
    degraded: tuple[str, ...] = ()
    filter: FilterReport | None = None
    by: str = "vectors"


@dataclass(frozen=True, slots=True)
class TrendingItems:
    """The items with most events lately.

    Attributes:
        items: ids, most events first; as in :class:`Retrieval`.
        scores: weights of their events, each halved once for each half-life since it happened; float32, [K].
        as_of_ms: when they were counted, milliseconds since 1970; 0: never, as the store was away.
        half_life_s: the half-life.
        window_s: every event counts for so many seconds.
        stale: the store could not be read since.
        timings_us, filter: as in :class:`Ranking`.
        degraded: ``counts`` if the answer is stale, and as in :class:`Ranking`.
    """

    items: npt.NDArray[Any]
    scores: npt.NDArray[np.float32]
    as_of_ms: int
    half_life_s: int
    window_s: int
    stale: bool
    timings_us: Mapping[str, int] = field(default_factory=dict)
    degraded: tuple[str, ...] = ()
    filter: FilterReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """One part of what a model read for a score, and what it does to the logit.

    Attributes:
        name: the feature; of the history ``history``.
        side: where it comes from: ``user``, ``context``, ``item`` or ``history``.
        value: an id, a number, or a list of ids; None for the history, and where it is missing.
        missing: it has no value: there is nothing to leave out.
        contribution: its Shapley value; those of all parts and the base add up to the logit.
        standard_error: of that where it is an estimate, else 0.
        leave_out: the logit less the logit without this part alone; these do not add up.
    """

    name: str
    side: str
    value: Any
    missing: bool
    contribution: float
    standard_error: float
    leave_out: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedEvents:
    """Past events, oldest first, and what each does to the logit; all columns have shape [L].

    Attributes:
        items, timestamps_ms, attributes: as of a :class:`UserHistory`.
        leave_out: the logit less the logit without this event alone; these do not add up.
        shared_signatures: how many hash signatures the event shares with the item; None: the model has none.
        attention: the weight of the event's vector in target attention; None: the model has none.
    """

    items: npt.NDArray[Any]
    timestamps_ms: npt.NDArray[np.int64]
    attributes: Mapping[str, npt.NDArray[Any]]
    leave_out: npt.NDArray[np.float64]
    shared_signatures: npt.NDArray[np.int64] | None = None
    attention: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Reasons of one score (docs/guides/explain.md).

    Attributes:
        score: in [0, 1], as ``Client.rank`` gives it.
        logit: the score before the sigmoid: what is explained.
        base_logit: the logit with every part left out.
        contributions: of the parts: their ``contribution`` and ``base_logit`` add up to ``logit``.
        exact: they are of all orders of the parts; if not, they are estimates from ``orders`` of them.
        orders: 0 if exact.
        events: the newest past events; None: the model's features have no history.
        history_events: past events the model looked at.
        older_events: how many of these are older than ``events``.
        older_leave_out: the logit less the logit without those, all left out together.
        signatures: hash signatures that the model has, of which events share some with the item; 0: none.
        time_ms: as of when, milliseconds since 1970.
        runs: of the model that it took.
        model, model_version, release, degraded: as of a :class:`Ranking`.
        place: the item's place in the list that was asked for; None: none was.
    """

    score: float
    logit: float
    base_logit: float
    contributions: tuple[Contribution, ...]
    exact: bool
    orders: int
    events: ExplainedEvents | None
    history_events: int
    older_events: int
    older_leave_out: float
    signatures: int
    time_ms: int
    runs: int
    model: str
    model_version: str
    release: str
    degraded: tuple[str, ...]
    place: ListPlace | None = None


@dataclass(frozen=True, slots=True)
class Appended:
    """Result of one append.

    Attributes:
        added: events added by it.
        stored: events in the history now.
        skipped: events left out because a later one of their source was applied before. If that should not be, a wrong
            offset was sent: send them again with ``restart_source``.
    """

    added: int
    stored: int
    skipped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UserEvents:
    """L events of one user to append: what ``Client.append_stream`` takes.

    Attributes:
        user: the user's id.
        items: item ids, length L, 1 to 10,000.
        timestamps_ms: milliseconds since 1970, length L.
        arrivals_ms: when each became known; default: when the server receives it.
        attributes: ids by attribute name, each of length L; ``None`` for a missing one. One that is
            named like an item feature and without a value takes the item's stored one.
        source: where the events come from (a topic's partition, a file), if ``offsets`` are given.
        offsets: each event's place in the source, length L: 0 or more, growing along the source. Of a user's
            events of one source those up to the last offset applied are not applied again: send them in order. One may
            be up to 2^42 beyond the last one applied.
        restart_source: forget the last offset applied first: the source began anew, or did jump.
    """

    user: Id
    items: Ids
    timestamps_ms: Integers
    arrivals_ms: Integers | None = None
    attributes: Mapping[str, Any] | None = None
    source: str = ""
    offsets: Integers | None = None
    restart_source: bool = False


@dataclass(frozen=True, slots=True)
class AppendSummary:
    """Result of a stream of appends.

    Attributes:
        batches, events: received by the server.
        added: events added; the others were there already, or were rejected.
        rejected: batches that were not allowed; nothing of them was applied.
        rejections: of the first 100 of these the place in the stream, from 0, and the reason.
        skipped: as in :class:`Appended`.
    """

    batches: int
    events: int
    added: int
    rejected: int
    rejections: tuple[tuple[int, str], ...]
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class EntityFeatures:
    """The stored features of N entities.

    Attributes:
        ids: as they were sent.
        columns: every feature of the entity by name. Integer ids: int64, shape [N], -1 where missing; string ids: dtype
            object, strings, None where missing, and an ``UnknownText`` where only the key is known. Of a
            multi-valued feature [N, K], each row padded with -1 or None to the longest. Numbers: float32, shape [N],
            the feature's default where missing.
        damaged: places in ``ids`` of entities that could not be read, whose features are missing above, and why: the
            bytes under their keys in Redis are damaged. Empty for a whole answer.
    """

    ids: list[Any]
    columns: Mapping[str, npt.NDArray[Any]]
    damaged: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UserHistory:
    """A user's newest events, oldest first; all columns have shape [L].

    Integer ids are int64. String ids have dtype object: strings, and an ``UnknownText`` where only the key is known.

    Attributes:
        items: item ids.
        timestamps_ms, arrivals_ms: milliseconds since 1970; int64.
        attributes: ids by name; -1, or None among strings, where missing.
        appended, trimmed: events ever appended, and dropped since because the history was full.
        damaged: why the history could not be read, where it is one of several (``get_histories``): the bytes under its
            key in Redis are damaged. Empty if it could.
    """

    items: npt.NDArray[Any]
    timestamps_ms: npt.NDArray[np.int64]
    arrivals_ms: npt.NDArray[np.int64]
    attributes: Mapping[str, npt.NDArray[Any]]
    appended: int
    trimmed: int
    damaged: str = ""


@dataclass(frozen=True, slots=True)
class Audience:
    """The users who have most of some items.

    Attributes:
        users: ids, those with most of the items first, then those with fewer items in all; [K]: int64, or, where users
            are named by strings, :class:`UnknownText`, whose ``key`` is ``recsys.features.hashing.string_key`` of the
            id (dtype object): a server has no texts of user ids.
        shared: how many of the items each has; int64, [K].
        of: how many items each has in the log; int64, [K].
        total: how many users there are in all.
        unknown: those of the given ids that no user has.
        model, model_version, release, timings_us: as in :class:`Retrieval`.
    """

    users: npt.NDArray[Any]
    shared: npt.NDArray[np.int64]
    of: npt.NDArray[np.int64]
    total: int
    unknown: list[Any]
    model: str
    model_version: str
    release: str = ""
    timings_us: Mapping[str, int] = field(default_factory=dict)
