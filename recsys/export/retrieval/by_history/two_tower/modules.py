"""The two sides of a trained ``two_tower`` as the modules whose graphs a bundle holds, and examples of what goes in.

``item``: features -> row, once per item that came after training. It takes no id: an item whose id is known is in the
bundle, and its row there was made with it.
``user``: rows and attributes of the newest events, user features -> interests, a part of the graph ``retrieve``.

Legend: ``A`` items, ``S`` events, ``O`` older ones, ``Q`` interests, ``D`` width, ``I`` columns of an id.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recsys.bundle import ITEM_OUTPUTS
from recsys.embeddings.dense_twin import DenseTwin, RawInputs, alike
from recsys.embeddings.numbers import NumberInputs, Side
from recsys.embeddings.row_maps.row_map import UNKNOWN_ROW, RowMap
from recsys.embeddings.tables import ITEM, combine
from recsys.export.graphs.modules import HISTORY, Example, example_input
from recsys.export.retrieval.by_history.given import given_numbers
from recsys.features.feature_set import Categorical, Feature, FeatureSet, Numeric
from recsys.features.number_transform import NumberTransform
from recsys.models.retrieval.two_tower.features import event_inputs, item_inputs, user_inputs
from recsys.models.retrieval.two_tower.network import TwoTowerNet

ITEMS = "window.items"
"""Input of the user's side: rows of the events' items."""
OLDER = "window.older"
"""Input of the user's side: rows of the items of the events before them, and a row of zeros."""
TIME = f"{HISTORY}timestamp"
INTERESTS = "interests"


class TrainedTowers(NamedTuple):
    """A trained model.

    Attributes:
        features: of ``tower_features``.
        net: the network.
        weights: physical table -> rows, float32.
        row_maps: table -> its map.
        numbers: input -> its transform.
        length: of rows that are made of attributes alone; that of others is 1.
    """

    features: FeatureSet
    net: TwoTowerNet
    weights: Mapping[str, Tensor]
    row_maps: Mapping[str, RowMap]
    numbers: Mapping[str, NumberTransform]
    length: float = 1.0

    @property
    def no_id_I(self) -> Tensor:
        """The vector of a missing item id."""
        row_map = self.row_maps[self.features.item_id.table]
        return combine([self.weights[each.table][UNKNOWN_ROW] for each in row_map.lookups], row_map.combine)

    def twin(self) -> DenseTwin:
        """The tables of all features but the item's id, which no graph looks up."""
        features = self.features
        parts = (*features.item, *features.user, *features.event_features()[1:])
        tables = {each.table for each in parts if isinstance(each, Categorical)}
        row_maps = {table: row_map for table, row_map in self.row_maps.items() if table in tables}
        physical = {each.table for row_map in row_maps.values() for each in row_map.lookups}
        weights = {table: rows.detach() for table, rows in self.weights.items() if table in physical}
        return DenseTwin(weights, row_maps, NumberInputs(features, self.numbers))


class ItemSide(nn.Module):
    """The graph ``item``. Inputs: the items' features, alike ones stacked; outputs: rows, known."""

    no_id_I: Tensor

    def __init__(self, trained: TrainedTowers, twin: DenseTwin) -> None:
        super().__init__()
        self.features, self.net, self.twin, self.length = trained.features, trained.net, twin, trained.length
        self.item: dict[str, Feature] = {f"{ITEM}{each.name}": each for each in trained.features.item}
        self.given = [each for each in trained.features.item if isinstance(each, Numeric)]
        self.of_item = alike(twin, self.item)
        self.stacks = [tuple(name.removeprefix(ITEM) for name in names) for names in self.of_item]
        self.register_buffer("no_id_I", trained.no_id_I.detach().clone())

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        named = dict(zip(self.of_item, tensors, strict=True))
        (names, tensor), *_ = named.items()
        no_id_AI = self.no_id_I.expand(tensor.shape[0 if len(names) == 1 else 1], -1)
        of_features = RawInputs(self.twin, self.item, named)
        inputs = _WithoutId(of_features, item_id=f"{ITEM}{self.features.item_id.name}", no_id_AI=no_id_AI)
        return self.net.item(*item_inputs(self.features, inputs)) * self.length, self._known(named)

    def _known(self, named: Mapping[tuple[str, ...], Tensor]) -> Tensor:
        """Count the features of each item that have a value that the tables know, [A], int64."""
        found = [] if not self.given else [given_numbers(self.twin, named, self.given)]
        for names, keys in named.items():
            features = [feature for name in names if isinstance(feature := self.item[name], Categorical)]
            if not features:
                continue
            rows = torch.stack(self.twin.maps.rows(keys, [each.table for each in features]))
            known = (rows > UNKNOWN_ROW).any(dim=0)
            if features[0].max_values > 1:
                known = known.any(dim=-1)
            found.append(known.to(torch.int64) if len(names) == 1 else known.to(torch.int64).sum(dim=0))
        return torch.stack(found).sum(dim=0)

    def example(self) -> Example:
        """The signature of the graph."""
        inputs = {name.removeprefix(ITEM): example_input(feature, 5) for name, feature in self.item.items()}
        dynamic = {name: {0: "A"} for name in (*inputs, *ITEM_OUTPUTS)}
        return Example(inputs=inputs, outputs=ITEM_OUTPUTS, dynamic=dynamic, stacks=self.stacks)


class _WithoutId:
    """Inputs (``vectors.Inputs``) of items whose ids are missing."""

    def __init__(self, of_features: RawInputs, *, item_id: str, no_id_AI: Tensor) -> None:
        self._of_features, self._item_id, self._no_id_AI = of_features, item_id, no_id_AI

    def vectors(self, name: str, feature: Categorical) -> Tensor:
        """See ``vectors.Inputs``."""
        return self._no_id_AI if name == self._item_id else self._of_features.vectors(name, feature)

    def numbers(self, side: Side) -> Tensor:
        """See ``vectors.Inputs``."""
        return self._of_features.numbers(side)


class UserSide(nn.Module):
    """Interests of one user. Inputs: ``ITEMS``; ``OLDER``, if a long history is read; the events' times and attributes,
    the user's features, alike ones stacked; output: interests, [Q, D].

    Args:
        trained: the model.
        twin: its tables.
        reads_time: attention depends on the events' times.
    """

    def __init__(self, trained: TrainedTowers, twin: DenseTwin, *, reads_time: bool) -> None:
        super().__init__()
        self.features, self.net, self.twin, self.reads_time = trained.features, trained.net, twin, reads_time
        self.events: dict[str, Feature] = {
            f"{HISTORY}{each.name}": each for each in trained.features.event_features()[1:]
        }
        self.user: dict[str, Feature] = {each.name: each for each in trained.features.user}
        self.of_events, self.of_user = alike(twin, self.events), alike(twin, self.user)
        self.reads_older = trained.net.long is not None
        older = [(OLDER,)] if self.reads_older else []
        self.stacks = [(ITEMS,), *older, *([(TIME,)] if reads_time else []), *self.of_events, *self.of_user]

    def forward(self, *tensors: Tensor) -> Tensor:
        named = dict(zip(self.stacks, tensors, strict=True))
        events = RawInputs(self.twin, self.events, {names: named[names] for names in self.of_events})
        user = RawInputs(self.twin, self.user, {names: named[names] for names in self.of_user})
        return self.net.user(
            named[ITEMS,],
            event_inputs(self.features, events),
            named[TIME,] if self.reads_time else None,
            user_inputs(self.features, user),
            named[OLDER,] if self.reads_older else None,
        )

    def example(self) -> Example:
        """The signature."""
        inputs = {ITEMS: torch.ones(7, self.net.head.in_features)}
        dynamic: dict[str, Mapping[int, str]] = {ITEMS: {0: "S"}, INTERESTS: {}}
        if self.reads_older:
            inputs[OLDER], dynamic[OLDER] = torch.ones(11, self.net.head.in_features), {0: "O"}
        of_events = {**({TIME: None} if self.reads_time else {}), **self.events}
        for name, feature in of_events.items():
            inputs[name] = torch.arange(7) * 1000 if feature is None else example_input(feature, 7)
            dynamic[name] = {0: "S"}
        for name, feature in self.user.items():
            inputs[name], dynamic[name] = example_input(feature, 1), {}
        return Example(inputs=inputs, outputs=(INTERESTS,), dynamic=dynamic, stacks=self.stacks)
