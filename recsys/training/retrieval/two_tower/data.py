"""Columns that the two towers read of a log: features of items and users, and attributes of events, as codes of rows.

Legend: ``M`` items, ``N`` users, ``E`` events, ``T`` codes, ``K`` lookups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from recsys.arrays import BoolArray, Float32Array, Int64Array
from recsys.data.interactions.histories import UserEvents
from recsys.data.interactions.pairs import Interactions, ids_of
from recsys.data.samples.row_codes import encode_ids
from recsys.embeddings.row_maps.row_map import RowMap
from recsys.embeddings.tables import ITEM
from recsys.errors import ConfigError
from recsys.features.columns import Column
from recsys.features.feature_set import Categorical, FeatureSet, Numeric
from recsys.features.hashing import MISSING
from recsys.features.number_transform import NumberTransform
from recsys.models.retrieval.attributes import is_given
from recsys.models.retrieval.two_tower.config import TwoTowerConfig
from recsys.models.retrieval.two_tower.features import read_tables
from recsys.training.config import RowConfig, TableConfig
from recsys.training.retrieval.two_tower.sequences import Sequences
from recsys.training.tables.plan import row_maps_of
from recsys.training.warm_start.numbers import kept_numbers


@dataclass(frozen=True, kw_only=True, eq=False)
class TowerData:
    """Columns of a log, whose ids are codes (``data/samples/row_codes.py``).

    Attributes:
        features: of ``models.retrieval.two_tower.features.tower_features``.
        item, user: by feature, [M] or [M, K]; [N] or [N, K].
        rows_of_codes: table -> rows of each code, [T, K].
        keys: table -> the distinct ids that the log has, ascending.
    """

    features: FeatureSet
    item: Mapping[str, Column]
    user: Mapping[str, Column]
    rows_of_codes: Mapping[str, Int64Array]
    keys: Mapping[str, Int64Array]

    @property
    def with_attribute_M(self) -> BoolArray:
        """True for items of which the tables know an attribute, or that have a number (``is_given``)."""
        item_id = self.features.item_id.name
        found = np.zeros(len(self.item[item_id]), dtype=np.bool_)
        for feature in self.features.item:
            column = self.item[feature.name]
            if isinstance(feature, Numeric):
                found |= is_given(feature, column)
            else:  # code 0 has the unknown row in all lookups
                found |= (column > 0) if column.ndim == 1 else (column > 0).any(axis=1)
        return found


def tower_tables(model: TwoTowerConfig, features: FeatureSet) -> TableConfig:
    """Widths of the embedding tables."""
    return TableConfig(dim=model.attribute_dim, dims={features.item_id.table: model.dim}, optimizer="adam")


def tower_row_maps(
    model: TwoTowerConfig,
    rows: RowConfig,
    features: FeatureSet,
    interactions: Interactions,
    sequences: Sequences,
    *,
    older_items: Int64Array | None = None,
) -> dict[str, RowMap]:
    """A row map for each table, of the ids of the training sequences: an item counts with each event of it,
    and with each target that is no event.

    Args:
        model, rows: of the run.
        features: of ``tower_features``.
        interactions: the log.
        sequences: of training.
        older_items: ids that the run read which this one goes on from. Those of the log count ``rows.min_count`` times
            at least, so that an item keeps its row in a time without events; None: none.

    Raises:
        ConfigError: as of :func:`row_maps_of`; or a table other than the items' is to be clustered.
    """
    ids, train = ids_of(interactions), interactions.train
    found: dict[str, list[tuple[Int64Array, Int64Array]]] = {table: [] for table in read_tables(features)}
    for _, feature, column, weight in _weighted(features, interactions, sequences):
        if isinstance(feature, Categorical):
            if feature is features.item_id and older_items is not None:
                weight = np.maximum(weight, rows.min_count * np.isin(column, older_items))
            found[feature.table].append((column, weight if column.ndim == 1 else np.repeat(weight, column.shape[1])))
    counts = {}
    for table, parts in found.items():
        keys, count = (np.concatenate([part[n].ravel() for part in parts]) for n in (0, 1))
        used = (keys != MISSING) & (count > 0)
        distinct, inverse = np.unique(keys[used], return_inverse=True)
        counts[table] = distinct.astype(np.int64), np.bincount(inverse, count[used], len(distinct)).astype(np.int64)

    def pairs(left: str, right: str) -> tuple[Int64Array, Int64Array]:
        if (left, right) != (features.item_id.table, features.user_id.table):
            raise ConfigError(
                f"rows.map of {left!r}: of two_tower only the items' ids are clustered, with their users; allowed: "
                "another map"
            )
        return ids.item_keys_M[train.item_E], ids.user_keys_N[train.user_E]

    return row_maps_of(rows, tower_tables(model, features), features, counts, pairs=pairs)


def tower_numbers(
    features: FeatureSet,
    interactions: Interactions,
    sequences: Sequences,
    *,
    older: Mapping[str, NumberTransform] | None = None,
) -> dict[str, NumberTransform]:
    """Transforms of the numeric features, fitted to users and items as often as training has them; by input name.

    ``older``: of the run that this one goes on from, whose layers read what they were trained on.
    """
    found = (
        (name, feature, np.repeat(column, weight).astype(np.float32))
        for name, feature, column, weight in _weighted(features, interactions, sequences)
        if isinstance(feature, Numeric)
    )
    return kept_numbers(found, older or {})


def _weighted(
    features: FeatureSet, interactions: Interactions, sequences: Sequences
) -> Iterator[tuple[str, Categorical | Numeric, Column, Int64Array]]:
    """Input name, feature, its column, and how often training has each of its rows."""
    events, items = sequences.events.where(np.arange(sequences.own)), interactions.num_items
    of_items = np.bincount(events.item_E, minlength=items)
    user_T = sequences.events.user_E[sequences.last_T]
    if sequences.ordered:  # else the targets are the events
        beside_T = ~np.isin(user_T * items + sequences.item_T, events.user_E * items + events.item_E)
        of_items += np.bincount(sequences.item_T[beside_T], minlength=items)
    of_users = np.bincount(user_T, minlength=interactions.num_users)
    yield f"{ITEM}{features.item_id.name}", features.item_id, ids_of(interactions).item_keys_M, of_items
    for feature in features.item:
        yield f"{ITEM}{feature.name}", feature, interactions.item_columns[feature.name], of_items
    for feature in features.user:
        yield feature.name, feature, interactions.user_columns[feature.name], of_users
    for feature in features.event_features()[1:]:
        keys_E = events.attributes[feature.name].astype(np.int64)
        yield f"history.{feature.name}", feature, keys_E, np.ones(len(keys_E), dtype=np.int64)


def encode(
    features: FeatureSet,
    interactions: Interactions,
    row_maps: Mapping[str, RowMap],
    histories: Mapping[str, UserEvents],
) -> tuple[TowerData, dict[str, UserEvents]]:
    """Columns with codes in place of keys; and the histories with codes as their attributes.

    Args:
        features: of ``tower_features``.
        interactions: the log.
        row_maps: of the tables that the model reads.
        histories: by any name.
    """
    attributes = [each for each in features.event_features()[1:] if isinstance(each, Categorical)]
    columns: dict[tuple[str, str], tuple[Categorical, Column]] = {
        (ITEM, features.item_id.name): (features.item_id, ids_of(interactions).item_keys_M)
    }
    numbers: dict[tuple[str, str], Float32Array] = {}
    for side, declared, given in (
        (ITEM, features.item, interactions.item_columns),
        ("", features.user, interactions.user_columns),
    ):
        for feature in declared:
            if isinstance(feature, Categorical):
                columns[side, feature.name] = feature, np.asarray(given[feature.name])
            else:
                numbers[side, feature.name] = np.asarray(given[feature.name])
    for name, events in histories.items():
        for feature in attributes:
            columns[name, feature.name] = feature, events.attributes[feature.name].astype(np.int64)
    rows_of_codes: dict[str, Int64Array] = {}
    keys: dict[str, Int64Array] = {}
    codes: dict[tuple[str, str], Column] = dict(numbers)
    for table in read_tables(features):
        own = {f"{side}/{name}": column for (side, name), (f, column) in columns.items() if f.table == table}
        encoded, rows_of_codes[table] = encode_ids(table, own, row_maps[table].lookup)
        distinct = np.unique(np.concatenate([column.ravel() for column in own.values()]))
        keys[table] = distinct[distinct != MISSING]
        for at, column in encoded.items():
            side, _, name = at.rpartition("/")
            codes[side, name] = column
    made = TowerData(
        features=features,
        item={name: column for (side, name), column in codes.items() if side == ITEM},
        user={name: column for (side, name), column in codes.items() if side == ""},
        rows_of_codes=rows_of_codes,
        keys=keys,
    )
    return made, {
        name: replace(events, attributes={each.name: codes[name, each.name] for each in attributes})
        for name, events in histories.items()
    }
