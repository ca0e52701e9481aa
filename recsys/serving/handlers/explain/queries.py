"""ExplainQuery and its answer, Explanation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from recsys.arrays import Float32Array, Float64Array, Int64Array
from recsys.features.columns import Column
from recsys.features.feature_set import Feature
from recsys.features.history.records import Events

Side = Literal["user", "context", "item", "history"]

EVENTS = 50
"""Newest events that are left out one by one, unless another number is asked for."""

MAX_EVENTS = 200
"""Most events that are left out one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainQuery:
    """A request to explain one score.

    Attributes:
        user_key, item_key: keys of their ids.
        features: raw values of user and context features that override stored ones.
        time_ms: events with an earlier timestamp count; default: the first millisecond after now.
        max_events: newest events that are left out one by one.
        texts: of string ids that the request gave, by key.
    """

    user_key: int
    item_key: int
    features: Mapping[str, Sequence[Any]]
    time_ms: int | None = None
    max_events: int = EVENTS
    texts: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """One part of what the model read, and what it does to the logit.

    Attributes:
        name: of the feature, or ``history``.
        side: where it comes from.
        feature: None for the history.
        value: its column of one row; None for the history.
        missing: it has no value: there is nothing to leave out.
        contribution: its Shapley value; those of all parts and the base add up to the logit.
        standard_error: of that where it is an estimate, else 0.
        leave_out: the logit less the logit without this part alone; these do not add up.
    """

    name: str
    side: Side
    feature: Feature | None
    value: Column | None
    missing: bool = False
    contribution: float = 0.0
    standard_error: float = 0.0
    leave_out: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EventEffects:
    """Past events, oldest first, and what leaving out each of them changes.

    Attributes:
        events: shape [S].
        leave_out: the logit less the logit without this event alone; these do not add up; [S].
        older: events before these that the model looked at, too.
        older_leave_out: the logit less the logit without those.
        signatures: hash signatures of the model; 0: it has none.
        shared: how many of them each event shares with the item; None: it has none; [S].
        attention: weights of target attention; None: the model has none; [S].
    """

    events: Events
    leave_out: Float64Array
    older: int = 0
    older_leave_out: float = 0.0
    signatures: int = 0
    shared: Int64Array | None = None
    attention: Float32Array | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Reasons of one score.

    Attributes:
        logit: what is explained.
        base_logit: the logit with every part left out.
        parts: their contributions and ``base_logit`` add up to ``logit``.
        orders: orders of the parts that were looked at; 0: all of them, so that contributions are exact.
        events: None: the FeatureSet declares no history.
        history_events: past events the model looked at.
        time_ms: events with an earlier timestamp counted.
        runs: of the model.
        texts: of string ids, by key, as far as they are known.
        model, model_version, release: that are explained.
        user_degraded, items_degraded, history_degraded, attributes_degraded: as of a RankResult.
    """

    logit: float
    base_logit: float
    parts: Sequence[Contribution]
    orders: int
    events: EventEffects | None
    history_events: int
    time_ms: int
    runs: int
    texts: Mapping[int, str]
    model: str
    model_version: str
    release: str
    user_degraded: bool = False
    items_degraded: bool = False
    history_degraded: bool = False
    attributes_degraded: bool = False
