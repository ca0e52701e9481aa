"""UserNeighbours: the items that share most users with seeds, by the lists of a bundle.

Shapes use ``N`` seeds, ``C`` items found.
"""

from __future__ import annotations

import numpy as np

from recsys.arrays import Float32Array, Int32Array, Int64Array
from recsys.bundle import Bundle
from recsys.errors import ModelError
from recsys.serving.inference.related.similar import Neighbours
from recsys.serving.inference.related.tables import check_begins, map_tables, places_of
from recsys.serving.inference.retrieval_session import RetrievalSession

_TABLES = {"keys": "int64", "begins": "int64", "rows": "int32", "scores": "float32"}


class UserNeighbours:
    """Looks items up. Safe to use from several threads.

    Args:
        session: of the same bundle.
        keys: of items with a user, ascending.
        begins: where each one's list begins, and where the last one's ends.
        rows: of the session's items, those of each list nearest first; the first item's is 1.
        scores: Jaccard similarities.
    """

    def __init__(
        self, session: RetrievalSession, keys: Int64Array, begins: Int64Array, rows: Int32Array, scores: Float32Array
    ) -> None:
        self._session = session
        self._keys, self._begins, self._rows, self._scores = keys, begins, rows, scores

    def find(self, seeds: Int64Array) -> Neighbours:
        """Find all items of the seeds' lists, those with the largest mean over the known seeds first, then by key.

        None is a seed. With a seed on whose list it is not an item counts 0.

        Args:
            seeds: keys, distinct, [N], N >= 1.

        Raises:
            ModelError: the bundle's tables were changed; names the release.
        """
        keys_M = self._session.keys
        with self._session.guard.reading():
            place_N, known_N = places_of(self._keys, seeds)
            lists = [slice(*self._begins[place : place + 2]) for place in place_N[known_N].tolist()]
            rows = np.concatenate([np.empty(0, dtype=np.int32), *(self._rows[each] for each in lists)])
            scores = np.concatenate([np.empty(0, dtype=np.float32), *(self._scores[each] for each in lists)])
            if len(rows) and not (rows.min() >= 1 and rows.max() <= len(keys_M)):
                raise ModelError(
                    f"retrieval model {self._session.model!r} of {self._session.guard.label} has lists by shared users "
                    "of items that it has not: go back to another release"
                )
            rows, place_C = np.unique(rows, return_inverse=True)
            items = keys_M[rows.astype(np.int64) - 1]
        sums = np.bincount(place_C, weights=scores.astype(np.float64), minlength=len(rows))
        means = (sums / max(1, len(lists))).astype(np.float32)
        kept = ~np.isin(items, seeds)
        items, means = items[kept], means[kept]
        order = np.argsort(-means, kind="stable")  # the rows' order is that of keys
        return Neighbours(items[order], means[order], known_N)


def open_neighbours(bundle: Bundle, session: RetrievalSession) -> UserNeighbours | None:
    """Map the lists of a bundle; None if it was exported without them.

    Raises:
        BundleError: they are not as ``docs/specs/bundle.md`` says.
    """
    tables = map_tables(bundle, "neighbours", _TABLES)
    if tables is None:
        return None
    rows, scores = tables["rows"], tables["scores"]
    check_begins(bundle, "neighbours", tables["keys"], tables["begins"], len(rows) if len(rows) == len(scores) else -1)
    return UserNeighbours(session, tables["keys"], tables["begins"], rows, scores)
