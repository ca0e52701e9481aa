"""Raw values to model inputs: the only encoder, used by requests and by training samples alike.

Shapes use ``B`` samples, ``C`` candidates, ``K`` values of a multi-valued feature, ``S`` recent
events, ``E`` events of a whole batch. Ids become int64 keys (``hashing.py``); ``MISSING`` (-1)
stands for no value. Looking keys up in tables happens later: in the loader for training, inside
the ONNX graph for serving.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.arrays import Float32Array, Int64Array
from recsys.errors import InvalidInputError, nearest
from recsys.features.columns import Column, feature_column, feature_keys, missing_column
from recsys.features.feature_set import Categorical, Feature, FeatureSet
from recsys.features.history.records import Events, encode_history


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """The inputs of a bundle's two graphs for one request.

    Attributes:
        user: inputs of the ``user`` graph: the user's and the context's features, N = 1, and
            ``history.<name>`` columns, shape [max(S, 1)]. An empty history is one missing event.
        candidates: inputs of the ``rank`` graph: item id and item features, N = C.
        history_events: S, the number of events the model reads.
    """

    user: dict[str, Column]
    candidates: dict[str, Column]
    history_events: int

    @property
    def candidate_count(self) -> int:
        """C."""
        return len(next(iter(self.candidates.values())))


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """B training samples. Ids are keys, or rows once ``data.samples`` has mapped them.

    Attributes:
        user: user and context features, N = B.
        item: the candidate's id and features, N = B.
        history: ``history.<name>`` columns, shape [E], the samples' histories one after another.
        history_offsets: sample b's events are history_offsets[b]:history_offsets[b + 1]; [B + 1], int64.
        labels: 0 or 1, shape [B], float32.
    """

    user: dict[str, Column]
    item: dict[str, Column]
    history: dict[str, Column]
    history_offsets: Int64Array
    labels: Float32Array

    @property
    def size(self) -> int:
        """B."""
        return len(self.labels)


def encode_request(
    features: FeatureSet,
    *,
    user_key: int,
    user_columns: Mapping[str, Column],
    request_values: Mapping[str, Sequence[Any]],
    events: Events | None,
    item_keys: Int64Array,
    item_columns: Mapping[str, Column],
) -> EncodedRequest:
    """Encode one request.

    Args:
        features: the bundle's FeatureSet.
        user_key: key of the user id.
        user_columns: the user's stored features, N = 1; a name that is absent is missing, others are passed over.
        request_values: raw values the caller sent for user or context features; they override
            stored ones.
        events: the user's recent events, oldest first; the newest ``history.recent`` are used.
        item_keys: candidates, shape [C].
        item_columns: the candidates' stored features, N = C; a name that is absent is missing, others are passed over.

    Raises:
        InvalidInputError: a request value has an unknown name, the wrong type or the wrong length.
    """
    request_features = {f.name: f for f in (*features.user, *features.context)}
    for name in request_values:
        if name not in request_features:
            raise InvalidInputError(f"unknown feature {name!r}: {nearest(name, request_features)}")
    user: dict[str, Column] = {features.user_id.name: np.array([user_key], dtype=np.int64)}
    for place, feature in enumerate(request_features.values()):
        if feature.name in request_values:
            user[feature.name] = request_column(feature, request_values[feature.name])
        else:
            # For another release the store may hold a user's feature of the name that a context feature has here.
            stored = user_columns.get(feature.name) if place < len(features.user) else None
            user[feature.name] = missing_column(feature, 1) if stored is None else stored
    used = 0
    if features.history is not None:
        recent = None if events is None else events[-features.history.recent :]
        used = 0 if recent is None else len(recent)
        user.update(encode_history(features, recent))
    candidates: dict[str, Column] = {features.item_id.name: item_keys}
    for feature in features.item:
        stored = item_columns.get(feature.name)
        candidates[feature.name] = missing_column(feature, len(item_keys)) if stored is None else stored
    return EncodedRequest(user=user, candidates=candidates, history_events=used)


def request_column(feature: Feature, values: Sequence[Any]) -> Column:
    """The column, N = 1, of a feature's raw values that a caller sent; of none: missing.

    Raises:
        InvalidInputError: they are of the wrong type, or too many.
    """
    if isinstance(feature, Categorical) and feature.max_values > 1:
        return feature_keys(feature, [values])
    if len(values) > 1:
        raise InvalidInputError(f"feature {feature.name!r}: {len(values)} values; allowed: at most 1")
    return feature_column(feature, values if len(values) else [None])
