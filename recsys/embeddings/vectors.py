"""Features to vectors: which features make up the user, the candidate, and a past event.

One assembly for all models, used with two kinds of input: positions in TorchRec's lookups for
training (:class:`LookedUp`), raw ids in the exported graph (``dense_twin.py``).

Legend: ``N`` rows of one side (B samples, C candidates or E events), ``K`` values; ``U``, ``I`` and ``D``
the widths of the user, of the item's other features, and of an event.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from recsys.embeddings.jagged import gather_rows
from recsys.embeddings.numbers import NumberInputs, Side
from recsys.embeddings.tables import ITEM, QUERY, TensorBatch
from recsys.features.feature_set import Categorical, Feature, FeatureSet


class Inputs(Protocol):
    """Source of the vectors and numbers of inputs."""

    def vectors(self, name: str, feature: Categorical) -> Tensor:
        """[N, D]: the embedding of a single value, or the mean over the values present (zero if none)."""
        ...

    def numbers(self, side: Side) -> Tensor:
        """[N, F], float32: the transformed numeric features of a side, in declared order."""
        ...


class LookedUp:
    """Inputs of a training batch: each feature gathers from its table's distinct rows."""

    def __init__(self, batch: TensorBatch, table_rows: Mapping[str, Tensor], numbers: NumberInputs) -> None:
        self._batch = batch
        self._rows = table_rows
        self._numbers = numbers

    def vectors(self, name: str, feature: Categorical) -> Tensor:
        """See :class:`Inputs`."""
        slots = self._batch.slots[name]
        rows = self._rows[feature.table]
        if slots.dim() == 2:
            # Padding looks up a row of zeros behind the others: where nobody has a value, there are no others.
            padded = F.pad(rows, (0, 0, 0, 1))
            return mean_of_present(F.embedding(slots.where(slots >= 0, len(rows)), padded), slots >= 0)
        return gather_rows(rows, slots)

    def numbers(self, side: Side) -> Tensor:
        """See :class:`Inputs`."""
        transformed: Tensor = self._numbers(side, self._batch.numbers)
        return transformed


def mean_of_present(vectors_NKD: Tensor, present_NK: Tensor) -> Tensor:
    """Mean of vectors over the values that are present; zero where there is none. [N, D], any dimensions before."""
    weights_NK = present_NK.to(vectors_NKD.dtype)
    count_N1 = weights_NK.sum(dim=-1, keepdim=True).clamp_min(1.0)
    return (vectors_NKD * weights_NK[..., None]).sum(dim=-2) / count_N1


def user_vectors(features: FeatureSet, inputs: Inputs) -> Tensor:
    """User id, user features and context, concatenated; [N, U]."""
    return side_vectors((features.user_id, *features.user, *features.context), inputs, side="user")


def item_vectors(features: FeatureSet, inputs: Inputs) -> Tensor:
    """The candidate's features that are not part of :func:`query_vectors`; [N, I] (I may be 0)."""
    rest = _not_in_events(features)
    if not rest:
        query = inputs.vectors(f"{ITEM}{features.item_id.name}", features.item_id)
        return query[:, :0]
    return side_vectors(rest, inputs, side="item")


def query_vectors(features: FeatureSet, inputs: Inputs) -> Tensor:
    """The candidate in the form of an event: item id and history attributes; [N, D].

    An attribute that items do not have (a rating) is unknown for a candidate: row 0 of its table.
    """
    parts = [inputs.vectors(f"{ITEM}{features.item_id.name}", features.item_id)]
    stand_ins = features.stand_ins()
    for attribute in features.event_features()[1:]:
        side = QUERY if attribute in stand_ins else ITEM
        parts.append(inputs.vectors(f"{side}{attribute.name}", attribute))
    return torch.cat(parts, dim=1)


def key_vectors(features: FeatureSet, inputs: Inputs) -> Tensor:
    """Past events: item id and attributes; [N, D]. Only for features with a history."""
    return torch.cat([inputs.vectors(f"history.{f.name}", f) for f in features.event_features()], dim=1)


def user_fields(features: FeatureSet, dims: Mapping[str, int]) -> tuple[int, ...]:
    """Columns of each feature in :func:`user_vectors`, given each table's width."""
    return vector_widths((features.user_id, *features.user, *features.context), dims)


def item_fields(features: FeatureSet, dims: Mapping[str, int]) -> tuple[int, ...]:
    """Columns of each feature in :func:`item_vectors`."""
    return vector_widths(_not_in_events(features), dims)


def key_fields(features: FeatureSet, dims: Mapping[str, int]) -> tuple[int, ...]:
    """Columns of each feature in :func:`query_vectors` and :func:`key_vectors`."""
    return vector_widths(features.event_features() or (features.item_id,), dims)


def _not_in_events(features: FeatureSet) -> tuple[Feature, ...]:
    """Item features that are not compared with the history's."""
    compared = {f.name for f in features.event_features()}
    return tuple(f for f in features.item if f.name not in compared)


def side_vectors(parts: Sequence[Feature], inputs: Inputs, *, side: Literal["user", "item", "history"]) -> Tensor:
    """Vectors and numbers of some features, at least one, of one side, in the order given; [N, columns].

    Numbers must be all that the side has, in declared order; numbers next to each other are one part.
    """
    prefix = {"item": ITEM, "history": "history.", "user": ""}[side]
    runs = [(is_id, list(run)) for is_id, run in itertools.groupby(parts, key=lambda f: isinstance(f, Categorical))]
    sizes = [len(run) for is_id, run in runs if not is_id]
    assert side != "history" or not sizes
    numbers = iter(torch.split(inputs.numbers(side), sizes, dim=1) if sizes and side != "history" else ())
    joined: list[Tensor] = []
    for is_id, run in runs:
        joined += [inputs.vectors(f"{prefix}{f.name}", f) for f in run if isinstance(f, Categorical)]
        if not is_id:
            joined.append(next(numbers))
    return torch.cat(joined, dim=1)


def vector_widths(parts: Sequence[Feature], dims: Mapping[str, int]) -> tuple[int, ...]:
    """Columns of each of some features, given each table's width."""
    return tuple(dims[f.table] if isinstance(f, Categorical) else 1 for f in parts)
