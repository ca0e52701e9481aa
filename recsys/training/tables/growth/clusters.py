"""Clusters that a growth needs: those of training made again, or of training and new log together.

A run keeps its row maps and not the clustering they came from; the same data and seed give it again.

Legend: ``V`` ids, ``A`` ids to admit, ``E`` edges, ``K`` clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from recsys.arrays import Int64Array
from recsys.data.samples.dataset import Dataset
from recsys.data.samples.fingerprint import data_fingerprint
from recsys.data.samples.id_pairs import id_pairs
from recsys.data.samples.ids import id_counts
from recsys.embeddings.row_maps.clusters import NO_CLUSTER, Clusters, Side, assign_unseen, cluster_again, index_keys
from recsys.embeddings.row_maps.growth import most_common
from recsys.embeddings.row_maps.method import Counts
from recsys.embeddings.row_maps.row_map import RowMap
from recsys.training.config import RunConfig
from recsys.training.run.folder import compare_data
from recsys.training.tables.plan import cluster_training, clustered_together, graph_partner


class GrowthGraphs:
    """Clusters of training, made again as ``plan.py`` made them, and of training and new log together."""

    def __init__(
        self,
        config: RunConfig,
        *,
        row_maps: Mapping[str, RowMap],
        log: Dataset,
        fingerprint: str,
        trained_on: Callable[[], Dataset],
        report: Callable[[str], None],
    ) -> None:
        self._config, self._row_maps, self._log, self._report = config, row_maps, log, report
        self._fingerprint, self._trained_on = fingerprint, trained_on
        self._training: Dataset | None = None
        self._counts: dict[str, Counts] = {}
        self._of_training: dict[str, tuple[Clusters, Int64Array, Int64Array]] = {}
        self._anew: dict[str, tuple[Int64Array, Int64Array]] = {}

    def finder(self, table: str) -> Callable[[Int64Array], Int64Array]:
        """Keys to the clusters of those they met in the new log, by ``assign_unseen``."""

        def find(keys_A: Int64Array) -> Int64Array:
            found_A = np.full(len(keys_A), NO_CLUSTER, dtype=np.int64)
            if not len(keys_A):
                return found_A
            left, right, side = self._sides(table)
            clusters, left_V, right_V = self._clusters(left, right)
            own_V, other_V = (left_V, right_V) if side == "left" else (right_V, left_V)
            labels_V = clusters.left_labels if side == "left" else clusters.right_labels
            everything = np.arange(len(self._log))
            own_E, other_E = id_pairs(self._log, everything, left=table, right=right if side == "left" else left)
            used_E = np.isin(own_E, keys_A) & np.isin(other_E, other_V)
            keys, order = np.sort(keys_A), np.argsort(keys_A)
            new_E, known_E = np.searchsorted(keys, own_E[used_E]), np.searchsorted(other_V, other_E[used_E])
            found_A[order] = assign_unseen(clusters, new_E, known_E, num_new=len(keys_A), side=side)
            return self._rows_now(table, own_V, labels_V)[found_A]

        return find

    def clustered_anew(self, table: str) -> tuple[Int64Array, Int64Array]:
        """Keys of training and new log, and their clusters, begun at those that they are in."""
        if table not in self._anew:
            left, right, _ = self._sides(table)
            training = self._data()
            before, _, before_V = self._clusters(left, right)
            pairs = [
                id_pairs(training, training.split("train"), left=left, right=right),
                id_pairs(self._log, np.arange(len(self._log)), left=left, right=right),
            ]
            left_E, left_V = index_keys(np.concatenate([keys for keys, _ in pairs]))
            right_E, right_V = index_keys(np.concatenate([keys for _, keys in pairs]))
            both = self._both(left, right)
            found = cluster_again(
                left_E,
                right_E,
                left_start_V=self._row_now(left, left_V),
                right_start_V=self._row_now(right, right_V)
                if both
                else _labels_of(right_V, before_V, before.right_labels),
                resolution=before.resolution,
            )
            self._anew[left] = left_V, found.left_labels
            if both:
                self._anew[right] = right_V, found.right_labels
        return self._anew[table]

    def _row_now(self, table: str, keys_V: Int64Array) -> Int64Array:
        """The cluster that ids are in now, ``NO_CLUSTER`` for none."""
        ids = self._row_maps[table].ids
        assert ids is not None, "maps of clusters know their ids"
        return ids.lookup(keys_V) - 1

    def _sides(self, table: str) -> tuple[str, str, Side]:
        """Left and right table of the clustering that a table's map came from, and the table's side."""
        other = graph_partner(self._config.rows, self._log.table.features, table)
        order = list(self._row_maps)
        if self._both(table, other) and order.index(other) < order.index(table):
            return other, table, "right"
        return table, other, "left"

    def _both(self, left: str, right: str) -> bool:
        kinds = {table: row_map.kind for table, row_map in self._row_maps.items()}
        return clustered_together(self._config.rows, self._log.table.features, kinds, left, right)

    def _clusters(self, left: str, right: str) -> tuple[Clusters, Int64Array, Int64Array]:
        if left not in self._of_training:
            training = self._data()
            self._report(f"graph of {left} and {right}, as in training")
            self._of_training[left] = cluster_training(
                self._config.rows,
                id_pairs(training, training.split("train"), left=left, right=right),
                self._counts,
                tables=(left, right) if self._both(left, right) else (left,),
                report=self._report,
            )
        return self._of_training[left]

    def _rows_now(self, table: str, keys_V: Int64Array, labels_V: Int64Array) -> Int64Array:
        """Label of each cluster of training in the map as it is: growths may have renumbered and evicted since."""
        now_V = self._row_now(table, keys_V)
        known_V = (now_V != NO_CLUSTER) & (labels_V != NO_CLUSTER)
        labels, clusters = most_common(labels_V[known_V], now_V[known_V])
        now_K = np.full(int(labels_V.max()) + 2, NO_CLUSTER, dtype=np.int64)  # the last is that of NO_CLUSTER
        now_K[labels] = clusters
        return now_K

    def _data(self) -> Dataset:
        if self._training is None:
            self._training = self._trained_on()
            compare_data("the run", self._fingerprint, data_fingerprint(self._training))
            self._counts = id_counts(self._training, self._training.split("train"))
        return self._training


def _labels_of(keys_V: Int64Array, known_V: Int64Array, labels_V: Int64Array) -> Int64Array:
    """Labels by key; ``known_V`` is ascending, and a key that is not in it has none."""
    at = np.minimum(np.searchsorted(known_V, keys_V), len(known_V) - 1)
    return np.where(known_V[at] == keys_V, labels_V[at], NO_CLUSTER)
