"""A trained closed form: the tables of its bundle, and what its graphs must answer.

Legend: ``M`` items, ``J`` neighbours, ``A`` copies of items.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, hstack

from recsys.arrays import BoolArray, Float32Array, Int64Array
from recsys.bundle import GraphInfo, TableInfo
from recsys.data.interactions.ids import PairIds
from recsys.data.interactions.pairs import Interactions, ids_of
from recsys.embeddings.tables import ITEM
from recsys.evaluation.predictions import UserValues
from recsys.export.retrieval.by_history.certificate import ITEM_ROWS, certify_item_rows
from recsys.export.retrieval.by_history.linear.graph import HistoryTables, write_history_graph
from recsys.export.retrieval.by_history.linear.item_graph import write_item_graph
from recsys.export.retrieval.codes import Coarse
from recsys.features.columns import Column, missing_column
from recsys.features.number_transform import NumberTransform
from recsys.models.retrieval.linear import LinearModel
from recsys.training.retrieval.linear.fit import evaluate_model, load_fitted
from recsys.training.retrieval.linear.histories import histories, user_events
from recsys.training.retrieval.ranking import RankingMetrics


class LinearExport:
    """The run's model; see :class:`recsys.export.retrieval.by_history.bundle.HistoryModel`.

    Args:
        run_dir: of the run.
        interactions: what it was trained on.

    Raises:
        ConfigError: other data than the run's.
        DataFileError: ``run_dir`` is not such a run, or a file of it is damaged.
    """

    def __init__(self, run_dir: Path, interactions: Interactions) -> None:
        self.config, fitted = load_fitted(run_dir, interactions)
        self.model, self.attributes, self.notes = fitted.model, fitted.attributes, fitted.notes
        self._interactions = interactions
        self.events = user_events(self.config, interactions)
        self._history_NM = histories(self.config, interactions, self.model.settings.weights, test=True)
        self._near_MM = self.model.near_MM

    @property
    def library(self) -> str:
        """See ``Reference``."""
        return f"numpy {np.__version__}"

    @property
    def numbers(self) -> Mapping[str, NumberTransform]:
        """See ``HistoryModel``."""
        encoding = None if self.attributes is None else self.attributes.encoding
        return {} if encoding is None else {f"{ITEM}{name}": how for name, how in encoding.numbers.items()}

    @property
    def in_bundle_M(self) -> BoolArray:
        """See ``Reference``."""
        return self.model.learnt_M

    @property
    def popularity_M(self) -> Float32Array:
        """See ``Reference``."""
        return self.model.popularity_M

    def evaluate(self) -> tuple[RankingMetrics, UserValues]:
        """See ``HistoryModel``."""
        return evaluate_model(self.model, self.config, self._interactions, self._interactions.test, test=True)

    def write(self, folder: Path, coarse: Coarse) -> tuple[dict[str, GraphInfo], dict[str, TableInfo]]:
        """See ``HistoryModel``."""
        ids = ids_of(self._interactions)
        retrieve, tables = write_history_graph(
            history_tables(self.model, ids),
            folder,
            item_id=ids.features.item_id.name,
            takes_added=self.attributes is not None,
            coarse=coarse,
        )
        if self.attributes is None:
            return {"retrieve": retrieve}, tables
        item, of_item = write_item_graph(self.attributes, ids.features, folder)
        count = min(self._interactions.num_items, ITEM_ROWS)
        given = {
            each.name: np.concatenate([self._interactions.item_columns[each.name][:count], missing_column(each, 1)])
            for each in self.attributes.encoding.features
        }
        expected_AR, known_A = self.attributes.rows(given, count + 1)
        certify_item_rows(folder / item.file, given, expected_AR=expected_AR, known_A=known_A)
        return {"retrieve": retrieve, "item": item}, {**tables, **of_item}

    def begin(self, users: Int64Array) -> None:
        """See ``Reference``."""

    def user_inputs(self, user: int) -> Mapping[str, Column]:
        """See ``Reference``."""
        return {}

    def knows(self, user: int) -> bool:
        """See ``Reference``."""
        return bool(self._history_NM[user].multiply(self.model.learnt_M).max() > 0)

    def scores(self, user: int) -> Float32Array:
        """See ``Reference``."""
        (scores_M,) = self.model.scores(self._history_NM[user], self._near_MM)
        return np.asarray(scores_M)

    def copies(self, copied_A: Int64Array, renamed_A: BoolArray) -> _Copies | None:
        """See ``Reference``."""
        if self.attributes is None:
            return None
        return _Copies(self.model, self._history_NM, copied_A, renamed_A)


class _Copies:
    """See ``Copies``."""

    def __init__(self, model: LinearModel, history_NM: csr_matrix, copied_A: Int64Array, renamed_A: BoolArray) -> None:
        self.rows_AR = model.rows_MR[copied_A]
        self._model, self._history_NM = model.with_items(self.rows_AR), history_NM
        self._copied_A, self._renamed_A, self._near = copied_A, renamed_A, self._model.near_MM

    def scores(self, user: int) -> Float32Array:
        """See ``Copies``."""
        of_items = self._history_NM[user].toarray()[0]
        of_copies = np.where(self._renamed_A, of_items[self._copied_A], np.float32(0))
        of_items[self._copied_A[self._renamed_A]] = 0.0
        history_1X = csr_matrix(hstack([csr_matrix(of_items), csr_matrix(of_copies)]))
        (scores_X,) = self._model.scores(history_1X, self._near)
        return np.asarray(scores_X)


def history_tables(model: LinearModel, ids: PairIds) -> HistoryTables:
    """The tables of a model: of the items with a training pair, for nothing is known of the others."""
    known = np.flatnonzero(model.popularity_M > 0)
    place_M = np.full(len(model.popularity_M) + 1, -1, dtype=np.int32)  # the last: of none
    place_M[known] = np.arange(len(known))
    names = ids.item_names_M
    return HistoryTables(
        item_keys=ids.item_keys_M[known],
        history_MD=model.history_MK[known],
        items_MD=model.items_MK[known],
        neighbours_MJ=place_M[model.near_MJ[known]],
        added_MJ=model.add_MJ[known],
        popularity_M=model.popularity_M[known],
        item_names_M=None if names is None else [names[item] for item in known.tolist()],
        weights=model.settings.weights,
        added_from_bundle_D=model.alone_K,
    )
