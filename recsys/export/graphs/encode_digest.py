"""The digest of what the sums of events depend on: equal for two models whose users' states are the same numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.embeddings.dense_twin import DenseTwin
from recsys.embeddings.row_maps.id_table import IdTable
from recsys.embeddings.row_maps.row_map import RowMap
from recsys.export.graphs.files import trace_graph
from recsys.export.graphs.modules import EncodeGraph, encode_example


def encode_digest(encode: EncodeGraph) -> str:
    """SHA-256, in hex digits, of an ``encode`` graph and of the tables and id maps that events are looked up in.

    The graph in a bundle refers to files that hold other tables too, and has their sizes among its constants. The
    graph that is hashed is traced over the events' own tables alone, each cut to one row, and their whole content is
    hashed beside it. So a change of any other table, or of the network behind the sums, leaves the digest as it is.

    Args:
        encode: in evaluation mode.
    """
    twin, features = encode.twin, encode.features
    maps = {feature.table: twin.row_maps[feature.table] for feature in features.event_features()}
    tables = {lookup.table: twin.tables[lookup.table] for row_map in maps.values() for lookup in row_map.lookups}
    short = {name: replace(table, rows=table.rows[:1]) for name, table in tables.items()}
    small = DenseTwin(short, {name: _emptied(row_map) for name, row_map in maps.items()}, twin.numbers).eval()
    graph = EncodeGraph(features, net=encode.net, twin=small)
    digest = hashlib.sha256(trace_graph(graph, encode_example(graph)).SerializeToString(deterministic=True))
    for row_map in maps.values():
        arrays = row_map.arrays()
        del arrays["spare_rows"]  # no id is looked up there
        _add(digest, arrays)
    for name, table in tables.items():
        _add(digest, {f"{name}, {table.kind}, {table.width}": table.rows})
    return digest.hexdigest()


def _emptied(row_map: RowMap) -> RowMap:
    """A map of the same form, of few bytes."""
    if row_map.ids is None:
        return row_map
    ids = row_map.ids
    return replace(row_map, ids=IdTable(ids.keys_TW[:2], ids.rows_TW[:2], ids.coefficients))


def _add(digest: Any, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    for name, array in arrays.items():
        text = array.dtype.kind == "U"
        digest.update(f"{name}: {array.item() if text else (array.dtype.str, array.shape)}\n".encode())
        if not text:
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
