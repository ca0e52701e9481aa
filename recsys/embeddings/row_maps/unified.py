"""``unified``: features share tables, each with a salt of its own (Coleman et al., NeurIPS 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recsys.embeddings.row_maps.hash_ops import hashed_rows
from recsys.embeddings.row_maps.hashing import check_rows
from recsys.embeddings.row_maps.method import TrainingIds
from recsys.embeddings.row_maps.row_map import Lookup, RowMap
from recsys.errors import ConfigError, InvalidInputError


def unified_rows(
    tables: Sequence[str], *, rows: int, chunks: Mapping[str, int], num_tables: int = 1, seed: int = 0
) -> dict[str, RowMap]:
    """Feature multiplexing: every table's ids hash into shared tables, with a salt per table and chunk.

    Args:
        tables: whose ids share; their order decides which physical tables each uses.
        rows: of each physical table ``unified_0``, ``unified_1``, ..., row 0 included.
        chunks: table -> its number of lookups; its vector is all of them, one after another.
        num_tables: physical tables; chunks take them in turn.
        seed: of the salts.

    Returns:
        A map per table.

    Raises:
        InvalidInputError: a table is given twice or has no number of chunks, or a number is out of range.
    """
    check_rows("unified_0", rows)
    if num_tables < 1:
        raise InvalidInputError(f"unified: {num_tables} shared tables; allowed: 1 or more")
    maps: dict[str, RowMap] = {}
    turn = 0
    for table in tables:
        if table in maps:
            raise InvalidInputError(f"unified: table {table!r} is declared twice")
        if chunks.get(table, 0) < 1:
            raise InvalidInputError(f"unified: {chunks.get(table, 0)} chunks for table {table!r}; allowed: 1 or more")
        lookups = []
        for chunk in range(chunks[table]):
            shared = f"unified_{turn % num_tables}"
            hashed = hashed_rows((seed, table, chunk), first=1, count=rows - 1)
            lookups.append(Lookup(table=shared, num_rows=rows, hashed=hashed))
            turn += 1
        maps[table] = RowMap(kind="unified", lookups=tuple(lookups), combine="concat")
    return maps


def unified_maps(tables: Sequence[str], training: TrainingIds) -> dict[str, RowMap]:
    """Build a recipe's ``unified`` of all tables that share: ``chunks`` of each, ``widths``, the budget of all.

    Raises:
        ConfigError: a table is given rows of its own, or the budget or the widths do not fit.
    """
    rows, widths = training.settings, training.shared_widths()
    if given := [table for table in tables if table in rows.rows]:
        raise ConfigError(f"rows.rows gives {given[0]!r} rows, but its rows are shared; give rows.budget")
    full = sum(len(training.counts[table][0]) * training.width(table) for table in tables)
    number = round(rows.budget * full / sum(widths))
    if number < len(tables):
        raise ConfigError(
            f"rows.budget {rows.budget} is {number} shared rows for {len(tables)} tables; allowed: one each or more"
        )
    chunks = {table: rows.chunks_of.get(table, rows.chunks) for table in tables}
    if len(widths) > sum(chunks.values()):
        raise ConfigError(
            f"rows.widths has {len(widths)} shared tables for {sum(chunks.values())} lookups; allowed: a lookup in each"
        )
    return unified_rows(tables, rows=number + 1, chunks=chunks, num_tables=len(widths), seed=rows.seed)
