"""Rows of a run's users and items: one of each id's own, or rows that ids share by a row map.

A side without a row map has a row for each id of the log, also for those without a training pair. A run with row maps
keeps them in its folder: a later version may cluster or hash otherwise.

Legend: ``N`` users, ``M`` items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from recsys.arrays import Int64Array
from recsys.data.interactions.pairs import Interactions, ids_of
from recsys.embeddings.row_maps.method import Counts
from recsys.embeddings.row_maps.row_map import Lookup, RowMap
from recsys.embeddings.tables import TableSpec
from recsys.errors import ConfigError, nearest
from recsys.models.retrieval.first_rows import FirstRows
from recsys.models.retrieval.mf import IdRows, full_rows, mapped_rows
from recsys.training.config import TableConfig
from recsys.training.retrieval.config import RetrievalRunConfig
from recsys.training.run.folder import load_row_maps, save_row_maps
from recsys.training.tables.plan import row_maps_of, table_specs

ROW_MAPS = "row_maps.npz"
"""Row maps in the folder of a run whose ids share rows."""

SIDES = ("user", "item")

SharedMaps = dict[str, RowMap]
"""Side -> its row map; a side whose ids have rows of their own is not in it."""


def shared_maps(
    config: RetrievalRunConfig, interactions: Interactions, *, report: Callable[[str], None] = lambda message: None
) -> SharedMaps:
    """The row maps that ``rows`` asks for, of the ids with a training pair.

    Args:
        config: of the run.
        interactions: of the run.
        report: called with each step that takes long.

    Raises:
        ConfigError: ``rows`` names a table that is neither the users' nor the items', both have one name, or a table is
            left without a row.
        InvalidInputError: a method cannot make a map of these ids.
    """
    rows, ids, train = config.rows, ids_of(interactions), interactions.train
    if not asks_for_maps(config):
        return {}
    tables = (ids.features.user_id.table, ids.features.item_id.table)
    for name in (*rows.maps, *rows.rows):
        if name not in tables:
            raise ConfigError(
                f"rows names no table of {config.model.kind} {name!r}: {nearest(name, tables)}; it has vectors of "
                "users and of items alone"
            )
    if tables[0] == tables[1]:
        raise ConfigError(
            f"rows.map: users and items of the FeatureSet are one table, {tables[0]!r}; allowed: vocabulary, or name "
            "two tables in it"
        )
    of_tables = dict(zip(tables, (train.user_E, train.item_E), strict=True))
    keys = dict(zip(tables, (ids.user_keys_N, ids.item_keys_M), strict=True))
    maps = row_maps_of(
        rows,
        TableConfig(dim=config.model.dim),
        ids.features,
        {table: _counted(keys[table], index_E) for table, index_E in of_tables.items()},
        pairs=lambda left, right: (keys[left][of_tables[left]], keys[right][of_tables[right]]),
        report=report,
    )
    found = {side: maps[table] for side, table in zip(SIDES, tables, strict=True)}
    return {side: row_map for side, row_map in found.items() if row_map.kind != "vocabulary"}


def maps_for(config: RetrievalRunConfig, interactions: Interactions, resumed: Path | None) -> SharedMaps:
    """The row maps of a run.

    Args:
        config, interactions: of the run.
        resumed: the folder of a run that goes on, which holds them; None: the run begins.

    Raises:
        ConfigError, InvalidInputError: as :func:`shared_maps`.
        DataFileError: the folder's file is damaged.
    """
    if resumed is not None and (resumed / ROW_MAPS).exists():
        return load_row_maps(resumed / ROW_MAPS)
    return shared_maps(config, interactions)


def first_rows(maps: SharedMaps, user_keys_N: Int64Array, item_keys_M: Int64Array) -> FirstRows:
    """The rows of all ids.

    Args:
        maps: of a run.
        user_keys_N, item_keys_M: keys of its ids, by index.
    """
    users, items = (
        _rows_of(maps.get(side), keys) for side, keys in zip(SIDES, (user_keys_N, item_keys_M), strict=True)
    )
    return FirstRows(users=users, items=items, one_table=_is_one_table(maps))


def all_maps(maps: SharedMaps, *, num_users: int, num_items: int) -> dict[str, RowMap]:
    """A map for each side: of a row for each index, where ids have rows of their own."""
    sizes = dict(zip(SIDES, (num_users, num_items), strict=True))
    own = {
        side: RowMap(kind="vocabulary", lookups=(Lookup(table=side, num_rows=size),)) for side, size in sizes.items()
    }
    return {side: maps.get(side, own[side]) for side in SIDES}


def looked_up(side: str, maps: SharedMaps, keys_N: Int64Array) -> Int64Array:
    """Rows of the ids of a side in the tables of :func:`all_maps`, [N, K]."""
    return maps[side].lookup(keys_N) if side in maps else np.arange(len(keys_N), dtype=np.int64)[:, None]


def id_tables(config: RetrievalRunConfig, row_maps: Mapping[str, RowMap]) -> list[TableSpec]:
    """The physical tables of row maps by side."""
    return table_specs(TableConfig(dim=config.model.dim), config.rows, row_maps)


def describe_rows(maps: SharedMaps, interactions: Interactions) -> tuple[str, ...]:
    """A sentence on the rows that ids share; none where they share none."""
    sizes = dict(zip(SIDES, (interactions.num_users, interactions.num_items), strict=True))
    told = [
        f"{sizes[side]:,} {side}s in {sum(row_map.table_rows().values()):,} rows by {row_map.kind}"
        for side, row_map in maps.items()
    ]
    of_one = ", which are of one table" if _is_one_table(maps) else ""
    return (f"ids share rows: {', '.join(told)}{of_one}",) if told else ()


def asks_for_maps(config: RetrievalRunConfig) -> bool:
    """True if ids of a run may share rows."""
    return config.rows.map != "vocabulary" or bool(config.rows.maps)


def save_maps(config: RetrievalRunConfig, maps: SharedMaps, run_dir: Path) -> None:
    """Write the row maps to a run's folder, if it asks for some."""
    if asks_for_maps(config):
        save_row_maps(maps, run_dir / ROW_MAPS)


def kept_maps(config: RetrievalRunConfig, run_dir: Path) -> SharedMaps:
    """The row maps of a run's folder.

    Raises:
        DataFileError: its file is missing or damaged.
    """
    if not asks_for_maps(config):
        return {}
    return load_row_maps(run_dir / ROW_MAPS)


def _is_one_table(maps: SharedMaps) -> bool:
    """True if users and items look up in the same rows (``unified``)."""
    return len(maps) == len(SIDES) and maps["user"].table_rows() == maps["item"].table_rows()


def _rows_of(row_map: RowMap | None, keys_N: Int64Array) -> IdRows:
    return full_rows(len(keys_N)) if row_map is None else mapped_rows(row_map, keys_N)


def _counted(keys_N: Int64Array, index_E: Int64Array) -> Counts:
    counts_N = np.bincount(index_E, minlength=len(keys_N))
    return keys_N[counts_N > 0], counts_N[counts_N > 0]
