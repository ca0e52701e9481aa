"""Items that are stored: those that a served retrieval model will find, or never will, are counted."""

from __future__ import annotations

import contextlib
import logging

import numpy as np

from recsys.arrays import Int64Array
from recsys.errors import ModelError
from recsys.rate_limited_log import RateLimitedLog
from recsys.serving.handlers.model_slot import ModelSlot
from recsys.serving.telemetry.label_counts import LabelCounts

_log = logging.getLogger("recsys.serving")


class PutItems:
    """Counts the items put that a served bundle has not: ``soon`` where its model makes rows of items, ``never`` where
    only items of the training data are found. Safe to use from several threads.

    Args:
        models: the releases in service.
        most: bound of the items that a search has beside the bundle's; with 0 none is ever found.
    """

    def __init__(self, models: ModelSlot, *, most: int) -> None:
        self.counts = LabelCounts()
        self._models = models
        self._most = most
        self._trouble = RateLimitedLog(_log, every_s=3600.0)
        self._last: tuple[Int64Array, tuple[str, ...], int] = (np.empty(0, dtype=np.int64), (), 0)

    def never_found(self, keys: Int64Array) -> int:
        """Number of stored items that are in no list of a served model: its bundle has them not, and it makes no rows.

        Of all models together; of one whose tables are damaged none. Counted anew where the array, keys [N], is another
        one, or the releases are others.
        """
        with self._models.current() as routes:
            names = tuple(route.live.name for route in routes.models.values())
            if self._last[0] is keys and self._last[1] == names:
                return self._last[2]
            found = 0
            for route in routes.models.values():
                if (recommender := route.live.recommender) is None or (recommender.index.item_inputs and self._most):
                    continue
                with contextlib.suppress(ModelError):  # its calls say so
                    found += int(np.count_nonzero(~recommender.index.has_items(keys)))
        self._last = keys, names, found
        return found

    def put(self, keys: Int64Array) -> None:
        """Count items that were stored, keys [N]; of a release whose tables are damaged none."""
        with self._models.current() as routes:
            for route in routes.models.values():
                if route.live.recommender is None:
                    continue
                index = route.live.recommender.index
                try:
                    unknown = int(np.count_nonzero(~index.has_items(np.unique(keys))))
                except ModelError:
                    continue  # its calls say so
                if not unknown:
                    continue
                if index.item_inputs and self._most:
                    self.counts.add("soon", by=unknown)
                    continue
                self.counts.add("never", by=unknown)
                self._trouble.warning(
                    route.live.name,
                    "release %s: a put of %d items that retrieval model %s never finds: %s; they are found once a "
                    "release is trained with them",
                    route.live.name,
                    unknown,
                    index.model,
                    "RECSYS_MAX_ADDED_ITEMS is 0" if index.item_inputs else "its bundle has no graph 'item'",
                )
