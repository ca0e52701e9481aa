"""Queries of Retrieve and Recommend, and their results.

Shapes use ``K`` items in an answer, ``N`` items to leave out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recsys.arrays import Float32Array, Int64Array
from recsys.serving.filters.language import Filter
from recsys.serving.filters.selection import FilterReport, Selection
from recsys.serving.handlers.ranker import Ranked
from recsys.serving.inference.candidate_index import AddedItems
from recsys.serving.rules.language import Rules
from recsys.serving.rules.report import RulesReport
from recsys.serving.settings.items_shard import ItemsShard
from recsys.serving.telemetry.stage_timer import StageTimer

CANDIDATES = 500
"""Items that are retrieved for the ranker, unless a request asks for others or more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieveQuery:
    """A query for the best items of all.

    Attributes:
        user_key: key of the user's id.
        top_k: how many items.
        exclude: keys of items to leave out, shape [N], N >= 0; may hold duplicates and unknown ones.
        include_seen: do not leave out the items of the user's history.
        time_ms: only events before this time, and arrived by then, count as seen; None: all that are stored.
        timer: the request's clock.
        features: raw values, in place of the user's stored ones where the model reads them; of other names passed over.
        filter: only items that pass are found; None: all may be.
        trending: a user whom the model does not know, and who has no segment, gets what is trending first.
    """

    user_key: int
    top_k: int
    exclude: Int64Array
    include_seen: bool = False
    time_ms: int | None = None
    timer: StageTimer = field(default_factory=StageTimer)
    features: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    filter: Filter | None = None
    trending: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieveResult:
    """The items retrieved.

    Attributes:
        items: keys, best first; [K], K <= top_k.
        scores: of any size, higher is better; [K].
        user_known: True if the model knows the user; if not, the items are the most popular ones.
        history_events: past events whose items were left out.
        history_known, history_unknown: events that the user was known by, and those of items that the model has not;
            0 where it knows users by their ids.
        user_degraded: the history could not be read, so that seen items may be among these.
        added: items that took part beside those of the bundle.
        segment: the items are popular with users of the same segment, for the model does not know the user.
        trending: the items are trending, then popular with all, for the model does not know the user; a score is 1 /
            the item's place.
        attributes_degraded: the values of items, or which were withdrawn, may not be what the store has.
        selection: rows that could be found, and what became of the filter.
        taken: keys of the items that were left out, as seen or excluded; [N].
        shard: the part of the items that was searched; None: all.
        items_degraded, history_degraded: never so.
    """

    items: Int64Array
    scores: Float32Array
    model: str
    model_version: str
    release: str
    user_known: bool
    history_events: int
    user_degraded: bool
    history_known: int = 0
    history_unknown: int = 0
    added: AddedItems | None = None
    segment: bool = False
    trending: bool = False
    attributes_degraded: bool = False
    selection: Selection | None = None
    taken: Int64Array = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    shard: ItemsShard | None = None
    items_degraded: bool = False
    history_degraded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommendQuery:
    """A query for the best items of all, ranked.

    Attributes:
        user_key, exclude, include_seen, time_ms, timer: as in :class:`RetrieveQuery`.
        top_k: how many items.
        candidates: how many are retrieved and ranked, at least top_k.
        features: as in ``RankRequest``; the search reads those of the user, too.
        filter: as in :class:`RetrieveQuery`; asked again of the list when it is ranked.
        rules: by which the list is made of what was ranked; None: the best by their scores.
        trending: as in :class:`RetrieveQuery`, of the candidates.
    """

    user_key: int
    top_k: int
    candidates: int
    exclude: Int64Array
    features: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    include_seen: bool = False
    time_ms: int | None = None
    timer: StageTimer = field(default_factory=StageTimer)
    filter: Filter | None = None
    rules: Rules | None = None
    trending: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommendResult:
    """The items recommended.

    Attributes:
        items: keys, best first, or as the rules order them; [K], K <= top_k.
        scores: the ranking model's, in [0, 1]; [K].
        user_known: True if the retrieval model knows the user.
        history_events: past events the ranking model looked at.
        candidates: how many items were retrieved and ranked, pinned ones among them.
        history_known, history_unknown, added, segment, trending: as in :class:`RetrieveResult`.
        ranked: all of them; None if there were none.
        filter: what became of the filter.
        withdrawn_late: items that were retrieved, and passed no more when they were ranked.
        rules: what became of the rules; None: there were none.
        user_degraded, items_degraded, history_degraded: as in ``RankResult``.
        attributes_degraded: as in :class:`RetrieveResult`.
    """

    items: Int64Array
    scores: Float32Array
    model: str
    model_version: str
    release: str
    retrieval_model: str
    retrieval_model_version: str
    retrieval_release: str
    user_known: bool
    history_events: int
    candidates: int
    history_known: int = 0
    history_unknown: int = 0
    added: AddedItems | None = None
    segment: bool = False
    trending: bool = False
    ranked: Ranked | None = None
    filter: FilterReport | None = None
    withdrawn_late: int = 0
    rules: RulesReport | None = None
    attributes_degraded: bool = False
    user_degraded: bool = False
    items_degraded: bool = False
    history_degraded: bool = False
