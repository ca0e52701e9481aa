"""Missing: ids that the store does not know and values that are missing, in what a request read.

Seen in the columns that were read: an id of which every feature is missing is one that the store has nothing of. A
number with a default is not told from that default: it tells of an unknown id, but never counts as missing by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from recsys.features.columns import Column
from recsys.features.feature_set import Categorical, Feature, FeatureSet
from recsys.features.hashing import MISSING

Lookups = dict[tuple[str, str], int]
"""(family of ``families.slot_families``, table) -> number."""


def lookups(
    features: FeatureSet,
    *,
    user_columns: Mapping[str, Column] | None,
    item_columns: Mapping[str, Column] | None,
    events: int | None,
) -> Lookups:
    """Count the ids and values of a request, and those that are not there.

    Args:
        features: of the model.
        user_columns: the user's features as they were read, N = 1; None: they could not be read.
        item_columns: the candidates', N = C; None: they could not be read.
        events: of the user's history; None: it could not be read, or there is none.
    """
    found: Lookups = {}
    for table, declared, columns in (("users", features.user, user_columns), ("items", features.item, item_columns)):
        if declared and columns is not None:
            _add_table(found, table, declared, columns)
    if events is not None and features.history is not None:
        found["release_ids", "histories"] = 1
        found["release_unknown_ids", "histories"] = int(events == 0)
    return found


def _add_table(found: Lookups, table: str, declared: Sequence[Feature], columns: Mapping[str, Column]) -> None:
    read = [feature for feature in declared if feature.name in columns]
    if not read:
        return
    empty = np.array([_empty(feature, columns[feature.name]) for feature in read])  # [F, N]
    unknown = np.asarray(empty.all(axis=0))
    known = ~unknown
    tells = np.array([isinstance(feature, Categorical) or feature.default is None for feature in read])
    found["release_ids", table] = len(unknown)
    found["release_unknown_ids", table] = int(np.count_nonzero(unknown))
    found["release_features", table] = int(np.count_nonzero(tells)) * int(np.count_nonzero(known))
    found["release_missing_features", table] = int(np.count_nonzero(empty[tells] & known))


def _empty(feature: Feature, column: Column) -> Column:
    """Mask the values of a column that stand for a missing one."""
    if isinstance(feature, Categorical):
        absent = column == MISSING
        return np.asarray(absent if absent.ndim == 1 else absent.all(axis=1))
    return np.asarray(np.isnan(column) if feature.default is None else column == np.float32(feature.default))
