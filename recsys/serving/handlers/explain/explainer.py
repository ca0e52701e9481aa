"""Explain one score: contributions of the parts of a request, which add up to it, and what each past event changes.

Everything comes of runs of the graphs that are served, with parts left out. They are as many as :data:`MOST_RUNS`
says, and one for each event; before each of them other calls go first.

Legend: ``S`` events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from recsys.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from recsys.errors import StoreError
from recsys.features.columns import Column
from recsys.features.encode import EncodedRequest
from recsys.features.feature_set import Categorical, FeatureSet
from recsys.features.hashing import MISSING
from recsys.features.history.records import attribute_keys, encode_history
from recsys.features.history.rules import visible
from recsys.features.names import Names
from recsys.serving.deadline import Deadline
from recsys.serving.handlers.explain.attention import attention_weights
from recsys.serving.handlers.explain.parts import HISTORY, Part, PartScores, Runs, parts_of
from recsys.serving.handlers.explain.past import Past, Pasts, PlainPasts, SummedPasts
from recsys.serving.handlers.explain.queries import Contribution, EventEffects, ExplainQuery, Explanation
from recsys.serving.handlers.explain.shapley import Shares, exact_shares, sampled_shares
from recsys.serving.handlers.names import KeyColumn
from recsys.serving.handlers.ranker import Ranker, RankReading, RankRequest

MOST_RUNS = 512
"""Runs of the model for the contributions of parts: as many as 9 parts of the user's side have coalitions."""

MOST_SCORES = 1 << 15
"""Candidates scored for these, in all."""

FEWEST_PAIRS = 2
"""Pairs of orders that are looked at in any case, for there to be a standard error."""


def explain(
    ranker: Ranker, query: ExplainQuery, *, deadline: Deadline, names: Mapping[str, Names] | None = None
) -> Explanation:
    """Explain the score of one item for one user. Trouble with the store degrades the answer and never fails it.

    Args:
        ranker: its model explains.
        query: the request.
        deadline: looked at before each run.
        names: texts of string ids, by embedding table.

    Raises:
        TimeoutError: the deadline has passed, or nobody waits for the answer any more.
        InvalidInputError: a feature's name or value is not what the FeatureSet declares.
        ModelError: a logit is not finite, or the bundle's tables were changed.
    """
    request = RankRequest(
        user_key=query.user_key,
        candidate_keys=np.array([query.item_key], dtype=np.int64),
        features=query.features,
        time_ms=query.time_ms,
    )
    reading = ranker.read_unseen(request, deadline=deadline)
    others = ranker.admission
    runs = Runs(ranker.session, model_lock=ranker.model_lock, deadline=deadline, others=lambda: others.in_flight > 0)
    pasts = _pasts(ranker, reading)
    parts, shares = _contributions(ranker.features, reading.encoded, pasts, runs)
    events = None
    if ranker.features.history is not None:
        events = _event_effects(ranker, reading.encoded, pasts, runs, most=query.max_events)
    inputs = reading.inputs
    return Explanation(
        logit=shares.everything,
        base_logit=shares.nothing,
        parts=parts,
        orders=shares.orders,
        events=events,
        history_events=pasts.count,
        time_ms=reading.time_ms,
        runs=runs.count,
        texts=_texts(_key_columns(ranker.features, parts, events), query.texts, names or {}, ranker, deadline),
        model=ranker.session.model,
        model_version=ranker.session.version,
        release=ranker.release,
        user_degraded=inputs.user_degraded,
        items_degraded=inputs.items_degraded,
        history_degraded=reading.state is not None and reading.state.partial,
    )


def shares_of(worth: PartScores, parts: int) -> Shares:
    """Shapley values of parts: exact if there are few of them, else from as many orders as :data:`MOST_RUNS` allows."""
    of_user = worth.user_parts
    if of_user <= MOST_RUNS.bit_length() - 1 and parts <= MOST_SCORES.bit_length() - 1:
        return exact_shares(worth, parts)
    by_runs = (MOST_RUNS - 2) // (2 * max(of_user - 1, 1))
    by_scores = MOST_SCORES // (2 * parts)
    return sampled_shares(worth, parts, pairs=max(FEWEST_PAIRS, min(by_runs, by_scores)))


def _contributions(
    features: FeatureSet, encoded: EncodedRequest, pasts: Pasts, runs: Runs
) -> tuple[list[Contribution], Shares]:
    every = parts_of(features, encoded, past_events=pasts.count)
    parts = [part for part in every if not part.missing]
    worth = PartScores(parts, encoded, pasts, runs)
    shares = shares_of(worth, len(parts))
    all_but_one: BoolArray = ~np.eye(len(parts), dtype=np.bool_)
    leave_outs = shares.everything - worth(all_but_one)
    numbers = iter(zip(shares.values.tolist(), shares.errors.tolist(), leave_outs.tolist(), strict=True))
    made = []
    for part in every:
        contribution = _contribution(part)
        if not part.missing:
            value, error, leave_out = next(numbers)
            contribution = replace(contribution, contribution=value, standard_error=error, leave_out=leave_out)
        made.append(contribution)
    return made, shares


def _contribution(part: Part) -> Contribution:
    return Contribution(name=part.name, side=part.side, feature=part.feature, value=part.value, missing=part.missing)


def _pasts(ranker: Ranker, reading: RankReading) -> Pasts:
    if reading.state is None:
        return PlainPasts(ranker.features, reading.events)
    stored = visible(ranker.features, reading.inputs.tail, reading.time_ms)
    return SummedPasts(ranker.session, reading.state, stored)


def _event_effects(ranker: Ranker, encoded: EncodedRequest, pasts: Pasts, runs: Runs, *, most: int) -> EventEffects:
    user = {name: column for name, column in encoded.user.items() if not name.startswith(f"{HISTORY}.")}
    shown = min(most, len(pasts.seen))
    first = len(pasts.seen) - shown

    def logit(past: Past) -> float:
        return float(runs.logits(user, past, encoded.candidates)[0])

    # Of one candidate, as every run below: equal inputs then give equal numbers, to the last bit.
    whole = logit(pasts.whole())
    leave_out: Float64Array = np.array(
        [whole - logit(pasts.without(first + n)) for n in range(shown)], dtype=np.float64
    )
    older = pasts.count - shown
    effects = EventEffects(
        events=pasts.seen[first:],
        leave_out=leave_out,
        older=older,
        older_leave_out=whole - logit(pasts.newest(shown)) if older else 0.0,
        attention=_attention(ranker, encoded, user, pasts, runs, shown=shown),
    )
    if isinstance(pasts, SummedPasts):
        signatures, shared = _shared_signatures(ranker.features, encoded, pasts, shown=shown)
        effects = replace(effects, signatures=signatures, shared=shared)
    return effects


def _shared_signatures(
    features: FeatureSet, encoded: EncodedRequest, pasts: SummedPasts, *, shown: int
) -> tuple[int, Int64Array]:
    """Count the signatures of the model, and how many of them each of the newest events shares with the item.

    The sums of one event alone have a row that is not zero in each bucket that the event is in: one of each signature.
    """

    def buckets(columns: Mapping[str, Column]) -> BoolArray:
        found: BoolArray = (pasts.session.encode(columns) != 0.0).any(axis=1)
        return found

    of_item = buckets(_item_as_event(features, encoded))
    of_events = [
        buckets(encode_history(features, pasts.seen[place : place + 1]))
        for place in range(len(pasts.seen) - shown, len(pasts.seen))
    ]
    shared = np.array([np.count_nonzero(of_event & of_item) for of_event in of_events], dtype=np.int64)
    return max((int(np.count_nonzero(each)) for each in (of_item, *of_events)), default=0), shared


def _attention(
    ranker: Ranker, encoded: EncodedRequest, user: Mapping[str, Column], pasts: Pasts, runs: Runs, *, shown: int
) -> Float32Array | None:
    """Weights of the newest events; 0 for those that the attention does not read."""
    whole = pasts.whole()
    item = Past(columns=_item_as_event(ranker.features, encoded), events=1, sums=whole.sums)
    if item.sums is not None:
        item = replace(item, fresh=np.zeros(1, dtype=np.float32))
    side = runs.user_side(user, whole)
    weights = attention_weights(
        ranker.session.bundle.path, side, lambda: runs.user_side(user, item), events=whole.events
    )
    if weights is None:
        return None
    weights = weights[max(0, len(weights) - shown) :]
    return np.concatenate([np.zeros(shown - len(weights), dtype=np.float32), weights])


def _item_as_event(features: FeatureSet, encoded: EncodedRequest) -> dict[str, Column]:
    """The ``history.<name>`` columns of an event of the item; an attribute that items do not have is missing."""
    columns: dict[str, Column] = {}
    stand_ins = features.stand_ins()
    for feature in features.event_features():
        known = feature not in stand_ins
        column = encoded.candidates[feature.name] if known else np.full(1, MISSING, dtype=np.int64)
        columns[f"{HISTORY}.{feature.name}"] = column
    return columns


def _key_columns(features: FeatureSet, parts: Sequence[Contribution], events: EventEffects | None) -> list[KeyColumn]:
    columns = [
        (part.feature, part.value) for part in parts if isinstance(part.feature, Categorical) and part.value is not None
    ]
    if events is not None and features.history is not None:
        columns.append((features.item_id, events.events["item"]))
        columns += [(a, attribute_keys(a, events.events)) for a in features.history.attributes]
    return columns


def _texts(
    columns: Sequence[KeyColumn],
    given: Mapping[int, str],
    names: Mapping[str, Names],
    ranker: Ranker,
    deadline: Deadline,
) -> dict[int, str]:
    """Texts of string ids: of the request, the bundles, and else the store, as far as they are known."""
    texts: dict[int, str] = {}
    lacking: set[int] = set()
    for feature, column in columns:
        if feature.id_type != "string":
            continue
        keys = np.unique(column[column != MISSING])
        found = names[feature.table].find(keys) if feature.table in names else [None] * len(keys)
        for key, text in zip(keys.tolist(), found, strict=True):
            if (known := given.get(key, text)) is not None:
                texts[key] = known
            else:
                lacking.add(key)
    lacking -= texts.keys()
    if lacking:
        timeout_s = min(ranker.store_timeout_s, deadline.remaining_s() / 2)
        try:
            texts |= ranker.store.names(sorted(lacking), timeout_s=timeout_s)
        except StoreError:
            pass  # the keys are shown
    return texts
