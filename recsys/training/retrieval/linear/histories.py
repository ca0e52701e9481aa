"""Weighted histories of users: what a model that knows users by their history is given of them.

Legend: ``N`` users, ``M`` items, ``E`` events, ``S`` events of one user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.sparse import csr_matrix

from recsys.arrays import Int64Array
from recsys.data.interactions.histories import UserEvents
from recsys.data.interactions.ids import PairIds
from recsys.data.interactions.pairs import Interactions, Pairs
from recsys.errors import InvalidInputError
from recsys.features.hashing import MISSING
from recsys.features.history.rules import inherited_attributes
from recsys.models.retrieval.history_weights import HistoryWeights
from recsys.training.retrieval.config import RetrievalRunConfig

MOST_ACTIONS = 32
"""Values of an attribute that are weighed one by one; more are no actions."""


def user_events(config: RetrievalRunConfig, interactions: Interactions, *, test: bool = True) -> UserEvents:
    """Events of all users as they are when the validation part, or the test part, begins.

    Of pairs alone these are the training pairs, for the test the validation pairs, too, where they count as taken
    (``data.mask_validation``): the store of a server would have both.
    """
    if (known := interactions.histories.get("test" if test else "validation")) is not None:
        return known
    parts = [interactions.train]
    if test and config.data.mask_validation:
        parts.append(interactions.validation)
    return pair_events(parts)


def pair_events(parts: Sequence[Pairs]) -> UserEvents:
    """Pairs as events, whose time and action are not known."""
    user_E = np.concatenate([part.user_E for part in parts])
    item_E = np.concatenate([part.item_E for part in parts])
    order = np.argsort(user_E, kind="stable")
    return UserEvents(user_E=user_E[order], item_E=item_E[order], attributes={})


def weighted(events: UserEvents, weights: HistoryWeights, *, num_users: int, num_items: int) -> csr_matrix:
    """Weights of each user's items, the largest of an item's events, [N, M], float32."""
    user_E = events.user_E
    end_E = np.searchsorted(user_E, np.arange(num_users), side="right")[user_E]
    time_ms_E = events.time_ms_E
    weight_E = weights.of(
        newer_S=end_E - 1 - np.arange(len(user_E)),
        age_ms_S=None if time_ms_E is None else time_ms_E[end_E - 1] - time_ms_E,
        action_S=events.attributes.get(weights.attribute),
    )
    order = np.lexsort((-weight_E, events.item_E, user_E))
    user_E, item_E, weight_E = user_E[order], events.item_E[order], weight_E[order]
    first = np.ones(len(order), dtype=np.bool_)
    first[1:] = (user_E[1:] != user_E[:-1]) | (item_E[1:] != item_E[:-1])
    first &= weight_E > 0
    return csr_matrix((weight_E[first], (user_E[first], item_E[first])), shape=(num_users, num_items))


def action_weights(
    events: UserEvents, interactions: Interactions, beside: HistoryWeights
) -> tuple[HistoryWeights, ...]:
    """Weights by the values of each attribute that says what a user did, and has few: over all training pairs, the
    share of events with a value whose user and item are such a pair; that of the best value is 1.

    Args:
        events: before validation.
        interactions: whose training pairs count.
        beside: the other weights.
    """
    features = None if interactions.ids is None else interactions.ids.features
    inherited = () if features is None or features.history is None else inherited_attributes(features)
    width, train = interactions.num_items, interactions.train
    positive_E = np.isin(events.user_E * width + events.item_E, train.user_E * width + train.item_E)
    found = []
    for name, keys_E in events.attributes.items():
        keys, place_E, counts = np.unique(keys_E, return_inverse=True, return_counts=True)
        if name in inherited or not 1 < len(keys) <= MOST_ACTIONS:
            continue
        shares = np.bincount(place_E, weights=positive_E, minlength=len(keys)) / counts
        if shares.max() > shares.min():
            of_keys = tuple(
                (int(key), round(float(share / shares.max()), 4)) for key, share in zip(keys, shares, strict=True)
            )
            other = round(float(positive_E.mean() / shares.max()), 4)
            found.append(replace(beside, attribute=name, actions=of_keys, other=other))
    return tuple(found)


def histories(
    config: RetrievalRunConfig, interactions: Interactions, weights: HistoryWeights, *, test: bool
) -> csr_matrix:
    """Weights of each user's items before the validation part, or the test part, [N, M], float32."""
    events = user_events(config, interactions, test=test)
    return weighted(events, weights, num_users=interactions.num_users, num_items=interactions.num_items)


def history_inputs(events: UserEvents, user: int, ids: PairIds, fields: Sequence[str]) -> dict[str, Int64Array]:
    """Inputs of a graph that reads these fields of a user's history, [max(S, 1)].

    Raises:
        InvalidInputError: the events have no such field.
    """
    held = [ids.features.item_id.name, *(() if events.time_ms_E is None else ("timestamp",)), *events.attributes]
    if lacking := [field for field in fields if field not in held]:
        raise InvalidInputError(
            f"the model reads {', '.join(lacking)} of each event, which these events do not have: they have "
            f"{', '.join(held)}; give a log of events with it, as `recsys prepare` writes"
        )
    begin, end = np.searchsorted(events.user_E, [user, user + 1])
    if begin == end:
        return {f"history.{field}": np.full(1, MISSING, dtype=np.int64) for field in fields}
    own = {ids.features.item_id.name: ids.item_keys_M[events.item_E[begin:end]]}
    if events.time_ms_E is not None:
        own["timestamp"] = events.time_ms_E[begin:end]
    own |= {name: keys_E[begin:end].astype(np.int64) for name, keys_E in events.attributes.items()}
    return {f"history.{field}": own[field] for field in fields}
