"""A trained ``two_tower``: the tables of its bundle, and what its graphs must answer.

Legend: ``M`` items, ``A`` copies of items, ``Q`` interests, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recsys.arrays import BoolArray, Float32Array, Int64Array
from recsys.bundle import GraphInfo, TableInfo
from recsys.data.interactions.pairs import Interactions, ids_of
from recsys.embeddings.sharding.shard import table_weights
from recsys.evaluation.predictions import UserValues
from recsys.export.graphs.files import write_graph
from recsys.export.retrieval.by_history.certificate import ITEM_ROWS, certify_item_rows
from recsys.export.retrieval.by_history.two_tower.graph import TowerTables, write_tower_graph
from recsys.export.retrieval.by_history.two_tower.modules import ItemSide, TrainedTowers, UserSide
from recsys.export.retrieval.codes import Coarse
from recsys.features.columns import Column
from recsys.features.feature_set import Categorical
from recsys.features.number_transform import NumberTransform
from recsys.models.retrieval.attributes import is_given
from recsys.models.retrieval.two_tower.config import TwoTowerConfig
from recsys.models.retrieval.two_tower.loss import scores
from recsys.training.retrieval.linear.histories import user_events
from recsys.training.retrieval.ranking import RankingMetrics
from recsys.training.retrieval.two_tower.trained import load_two_tower


class TowerExport:
    """The run's model; see :class:`recsys.export.retrieval.by_history.bundle.HistoryModel`.

    Args:
        run_dir: of the run.
        interactions: what it was trained on.

    Raises:
        ConfigError: other data than the run's.
        DataFileError: ``run_dir`` is not such a run, or a file of it is damaged.
    """

    def __init__(self, run_dir: Path, interactions: Interactions) -> None:
        self.config, self._learner = load_two_tower(run_dir, interactions)
        self.notes = (*self._learner.notes, *self._learner.told())
        self._interactions = interactions
        self.events = user_events(self.config, interactions)
        tower = self._learner.tower
        tower.net.eval()
        self.numbers: Mapping[str, NumberTransform] = self._learner.numbers
        self._trained = TrainedTowers(
            features=tower.data.features,
            net=tower.net,
            weights=table_weights(tower.tables),
            row_maps=self._learner.row_maps,
            numbers=self.numbers,
            length=self._learner.length.times,
        )
        assert isinstance(self.config.model, TwoTowerConfig)
        self._long_history = self.config.model.long_history
        self._items_MD = self._learner.item_rows()
        self._interests: dict[int, Tensor | None] = {}

    @property
    def library(self) -> str:
        """See ``Reference``."""
        return f"torch {torch.__version__}"

    @property
    def in_bundle_M(self) -> BoolArray:
        """See ``Reference``."""
        return self._learner.known.items_M

    @property
    def popularity_M(self) -> Float32Array:
        """See ``Reference``."""
        found: Float32Array = self._learner.popularity_M.numpy()
        return found

    @property
    def takes_added(self) -> bool:
        """True if the model has learnt to do without the ids of items that have features."""
        return self._learner.drops_ids

    def evaluate(self) -> tuple[RankingMetrics, UserValues]:
        """See ``HistoryModel``."""
        return self._learner.evaluate(self._interactions.test, test=True)

    def write(self, folder: Path, coarse: Coarse) -> tuple[dict[str, GraphInfo], dict[str, TableInfo]]:
        """See ``HistoryModel``."""
        ids, tables, twin = ids_of(self._interactions), dict[str, TableInfo](), self._trained.twin()
        known = np.flatnonzero(self.in_bundle_M)
        names = ids.item_names_M
        user = UserSide(self._trained, twin, reads_time=self._learner.tower.net.time_gaps and self._has_times)
        graphs = {
            "retrieve": write_tower_graph(
                TowerTables(
                    item_keys=ids.item_keys_M[known],
                    items_MD=self.rows_of(known),
                    popularity_M=self.popularity_M[known],
                    item_names_M=None if names is None else [names[item] for item in known.tolist()],
                ),
                user.eval(),
                folder,
                tables,
                sizes=(self._learner.window, self._long_history),
                takes_added=self.takes_added,
                coarse=coarse,
            )
        }
        if self.takes_added:
            item = ItemSide(self._trained, twin)
            graphs["item"] = write_graph(item, item.example(), folder / "item.onnx", tables)
            self._certify_items(folder / "item.onnx")
        return graphs, tables

    @property
    def _has_times(self) -> bool:
        return self.events.time_ms_E is not None

    def _certify_items(self, graph: Path) -> None:
        # An item whose id training never read has the same row in the bundle; these come first.
        by_attributes_M = self.in_bundle_M & ~self._learner.read_M
        items = np.argsort(~by_attributes_M, kind="stable")[:ITEM_ROWS]
        tower = self._learner.tower
        given = {each.name: self._interactions.item_columns[each.name][items] for each in tower.data.features.item}
        with torch.no_grad():
            inputs = tower.look_up(items, without_id_A=np.ones(len(items), dtype=np.bool_))
            rows_AR = tower.items(inputs) * self._learner.length.times
        in_bundle_A1 = torch.from_numpy(by_attributes_M[items, None])
        expected_AR = torch.where(in_bundle_A1, self._items_MD[torch.from_numpy(items)], rows_AR).numpy()
        known_A = np.zeros(len(items), dtype=np.int64)
        for feature in tower.data.features.item:
            if isinstance(feature, Categorical):
                rows = self._learner.row_maps[feature.table].lookup(given[feature.name])
                known_A += (rows > 0).reshape(len(items), -1).any(axis=1)
            else:
                known_A += is_given(feature, given[feature.name])
        certify_item_rows(graph, given, expected_AR=expected_AR, known_A=known_A)

    def user_inputs(self, user: int) -> Mapping[str, Column]:
        """See ``Reference``."""
        features = self._learner.tower.data.features.user
        return {each.name: np.asarray(self._interactions.user_columns[each.name][user : user + 1]) for each in features}

    def knows(self, user: int) -> bool:
        """See ``Reference``."""
        return self._interests[user] is not None

    def begin(self, users: Int64Array) -> None:
        """See ``Reference``."""
        interests_GQD, known_G = self._learner.interests(self._items_MD, users, test=True)
        self._interests = {
            user: interests_QD if known else None
            for user, interests_QD, known in zip(users.tolist(), interests_GQD, known_G.tolist(), strict=True)
        }

    def scores(self, user: int) -> Float32Array:
        """See ``Reference``."""
        interests_QD = self._interests[user]
        if interests_QD is None:
            return self.popularity_M
        found: Float32Array = scores(interests_QD[None], self._items_MD)[0].numpy()
        return found

    def copies(self, copied_A: Int64Array, renamed_A: BoolArray) -> _Copies | None:
        """See ``Reference``; a copy's row is the item's own, so that a history reads the same with either."""
        return _Copies(self, copied_A) if self.takes_added else None

    def rows_of(self, items: Int64Array) -> Float32Array:
        """Rows of some items, [A, D]."""
        return self._items_MD[torch.from_numpy(items)].numpy()


class _Copies:
    """See ``Copies``."""

    def __init__(self, export: TowerExport, copied_A: Int64Array) -> None:
        self.rows_AR = export.rows_of(copied_A)
        self._export, self._copied_A = export, copied_A

    def scores(self, user: int) -> Float32Array:
        """See ``Copies``."""
        scores_M = self._export.scores(user)
        of_copies_A = scores_M[self._copied_A] * np.float32(self._export.knows(user))
        return np.concatenate([scores_M, of_copies_A])
