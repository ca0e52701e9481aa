"""Cases of a replay: runs of a new release's models, and of the live one's, on the same requests. ``C`` candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from recsys.errors import BundleError
from recsys.features.encode import EncodedRequest, encode_request
from recsys.features.feature_set import FeatureSet
from recsys.features.history.records import Events, event_dtype, missing_events
from recsys.serving.deadline import Deadline
from recsys.serving.handlers.ranker import Ranker
from recsys.serving.handlers.recommender import Recommender
from recsys.serving.handlers.recorder import RecordedQuery, RecordedRequest
from recsys.serving.handlers.routes import LoadedRelease
from recsys.serving.process.releases.replay.samples import sample_queries, sample_requests

_RUN_S = 10.0
"""Longest wait before a run, which holds the lock already: never over."""

Run = Callable[[], Any]
"""Runs a model once; its scores: float32, [C]. Raises ModelError if one is not finite."""


@dataclass(frozen=True, slots=True)
class Case:
    """A request to put to two releases. Each makes its inputs of it, which may fail as a call would.

    Attributes:
        new: makes the run of the new release.
        live: of the live one; None: nothing is compared.
    """

    new: Callable[[], Run]
    live: Callable[[], Run] | None


def ranking_cases(
    new: Ranker, live: Ranker | None, recorded: Sequence[RecordedRequest], notes: list[str]
) -> list[Case]:
    """Make the cases of a ranking model; what they do not cover is added to ``notes``."""
    if live is None or not recorded:
        notes.append(_alone("ranking", live is not None))
        return [Case(ranking_run(new, request), None) for request in sample_requests(new)]
    notes.extend(_uncovered(new, live))
    return [Case(ranking_run(new, request), ranking_run(live, request)) for request in recorded]


def ranking_run(ranker: Ranker, request: RecordedRequest) -> Callable[[], Run]:
    """A run of a request, to be encoded first."""

    def prepared() -> Run:
        encoded = encode_recorded(ranker.features, request)
        return lambda: ranker.session.score(encoded, deadline=Deadline.after(_RUN_S)).scores

    return prepared


def encode_recorded(features: FeatureSet, request: RecordedRequest) -> EncodedRequest:
    """Encode a recorded request for a release of this FeatureSet; what was not recorded for it is missing.

    Raises:
        InvalidInputError: the request gave a value that this FeatureSet does not take.
    """
    return encode_request(
        features,
        user_key=request.user_key,
        user_columns=request.user_columns,
        request_values=request.values,
        events=_events(features, request.events),
        item_keys=request.item_keys,
        item_columns=request.item_columns,
    )


def _events(features: FeatureSet, events: Events | None) -> Events | None:
    if events is None or features.history is None or events.dtype == event_dtype(features):
        return events
    same = missing_events(features, len(events))
    for name in set(same.dtype.names or ()) & set(events.dtype.names or ()):
        same[name] = events[name]
    return same


def _uncovered(new: Ranker, live: Ranker) -> Iterator[str]:
    names = sorted(_read_names(new.features) - _read_names(live.features))
    if names:
        yield f"what live requests were not read for was taken as missing: {', '.join(names)}"
    if new.states is not None or live.states is not None:
        yield "of long histories the newest events were looked at by both, without the sums of older ones"


def _read_names(features: FeatureSet) -> set[str]:
    attributes = () if features.history is None else features.history.attributes
    own = {feature.name for feature in (*features.user, *features.item)}
    return own | {f"history.{attribute.name}" for attribute in attributes}


def retrieval_cases(
    release: LoadedRelease,
    new: Recommender,
    live: Recommender | None,
    recorded: Sequence[RecordedQuery],
    notes: list[str],
) -> list[Case]:
    """Make the cases of a release's retrieval model; what they do not cover is added to ``notes``."""
    if live is None or not recorded:
        notes.append(_alone("retrieval", live is not None))
        return [Case(_retrieval_run(new, query, filled=True), None) for query in sample_queries(release)]
    notes.extend(_unread(new, live))
    return [
        # Of a user who has seen everything nothing is left, by either.
        Case(
            _retrieval_run(new, query, filled=not len(query.taken) and query.filter is None),
            _retrieval_run(live, query),
        )
        for query in recorded
    ]


def _unread(new: Recommender, live: Recommender) -> Iterator[str]:
    """Inputs that a new retrieval model knows users by, and that were not recorded as the live one has not them."""
    if new.index.history_fields and not live.index.history_fields:
        yield "live searches were recorded without the users' events: by them the new model knows none of the users"
    names = sorted(set(new.index.user_inputs) - set(live.index.user_inputs))
    if names:
        yield f"what live searches were not read for was taken as missing: {', '.join(names)}"


def _retrieval_run(recommender: Recommender, query: RecordedQuery, *, filled: bool = False) -> Callable[[], Run]:
    def run() -> Any:
        index, added = recommender.index, recommender.added()
        allowed = recommender.items.select(query.filter, added).allowed
        found = index.retrieve(
            query.user_key, query.taken, query.top_k, query.events, added, query.user, allowed=allowed
        )
        if filled and not len(found.items):
            raise BundleError("no items were found; expected at least one")
        return found.scores

    return lambda: run


def _alone(kind: str, live: bool) -> str:
    why = "no requests were recorded" if live else "no release was live for that name"
    return f"{kind}: nothing was compared, as {why}; its own sample requests gave finite scores"
