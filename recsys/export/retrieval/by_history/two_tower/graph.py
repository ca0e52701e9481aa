"""The graph ``retrieve`` of ``two_tower``: the user's side over the newest events of known items, then exact search by
the best of the interests.

The user's side is traced, and stands in the branch that is taken if an event is of a known item.

Legend: ``S`` events, ``W`` of them that are read, ``Q`` interests, ``D`` width, ``M`` items of the bundle, ``A`` added
items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper

from recsys.arrays import Float32Array, Int64Array
from recsys.bundle import (
    HISTORY_OUTPUTS,
    RETRIEVE_INPUTS,
    RETRIEVE_OUTPUTS,
    GraphInfo,
    TableInfo,
    TensorInfo,
    added_inputs,
)
from recsys.embeddings.row_maps.id_table import build_id_table
from recsys.export.graphs.files import externalise, trace_graph
from recsys.export.graphs.modules import HISTORY
from recsys.export.retrieval.by_history.added import TABLE_ROWS, split_rows, used_scores
from recsys.export.retrieval.by_history.search import history_search
from recsys.export.retrieval.by_history.two_tower.modules import INTERESTS, ITEMS, OLDER, TIME, UserSide
from recsys.export.retrieval.codes import BITS, Coarse
from recsys.export.retrieval.graph import (
    below_zeros,
    by_vectors_or_popularity,
    item_tables,
    top_items_node,
    write_graph,
)
from recsys.export.retrieval.top_items import top_items, top_scores
from recsys.features.feature_set import Categorical, Feature
from recsys.features.hashing import MISSING
from recsys.features.names import ITEM_NAMES, write_names

_WINDOW = "window."
_NETWORK = "network."
_I64 = TensorProto.INT64
_node = helper.make_node


@dataclass(frozen=True, kw_only=True, eq=False)
class TowerTables:
    """Items of a bundle.

    Attributes:
        item_keys: distinct.
        items_MD: their vectors, float32.
        popularity_M: scores for users of whom no event counts, float32.
        item_names_M: the texts that the items' keys are of; None where items are named by integers.
    """

    item_keys: Int64Array
    items_MD: Float32Array
    popularity_M: Float32Array
    item_names_M: Sequence[str] | None = None


def write_tower_graph(
    items: TowerTables,
    user: UserSide,
    folder: Path,
    tables: dict[str, TableInfo],
    *,
    sizes: tuple[int, int],
    takes_added: bool,
    coarse: Coarse = "int8",
) -> GraphInfo:
    """Write ``retrieve.onnx`` and its files in ``tables/``, the items' names among them.

    Args:
        items: of the bundle.
        user: the user's side, in evaluation mode.
        folder: of the bundle.
        tables: those written so far, by name; new ones are added.
        sizes: newest events of known items that are read one by one, and events before them that are by their hashes.
        takes_added: a request may bring items that the bundle has not.
        coarse: kind of codes of the items' vectors.
    """
    order_M = np.argsort(items.item_keys)
    item_keys = items.item_keys[order_M]
    ids = build_id_table(item_keys, np.arange(1, len(item_keys) + 1))
    if items.item_names_M is not None:
        write_names(folder / ITEM_NAMES, items.item_keys, items.item_names_M)
    traced = trace_graph(user, user.example())
    externalise(traced, user.twin, folder, tables)
    _rename(traced)
    item_id = f"{HISTORY}{user.features.item_id.name}"
    of_events = [*([TIME] if user.reads_time else []), *user.events]
    inputs = dict(RETRIEVE_INPUTS)
    inputs |= {name: TensorInfo(dtype="int64", shape=("S",)) for name in (item_id, *of_events)}
    inputs |= {name: _of_user(feature) for name, feature in user.user.items()}
    integers: dict[str, npt.ArrayLike] = {"before_window": [-sizes[0]], "end": [np.iinfo(np.int64).max]}
    if user.reads_older:
        integers["before_older"] = [-sum(sizes)]
    if takes_added:
        integers[TABLE_ROWS] = len(item_keys) + 1
        inputs |= added_inputs(items.items_MD.shape[1])
    info, infos = write_graph(
        _nodes(item_id, of_events, traced, user, coarse, takes_added=takes_added),
        {
            **item_tables(items.items_MD[order_M], coarse),
            "item_id.popularity": below_zeros(items.popularity_M[order_M, None]),
            "item_id.keys": np.concatenate([np.full(1, MISSING), item_keys]),
            "item_id.ids": np.concatenate([ids.keys_TW, ids.rows_TW], axis=1),
        },
        {"item_id": ids},
        folder,
        inputs=inputs,
        outputs={**RETRIEVE_OUTPUTS, **HISTORY_OUTPUTS},
        integers=integers,
        functions=[
            top_items(interests=user.net.interests, added=takes_added, bits=coarse in BITS),
            top_scores(added=takes_added),
        ],
        traced=traced,
    )
    tables |= infos
    return info


def _nodes(
    item_id: str,
    of_events: Sequence[str],
    traced: onnx.ModelProto,
    user: UserSide,
    coarse: Coarse,
    *,
    takes_added: bool,
) -> list[NodeProto]:
    search = history_search(item_id, takes_added=takes_added)
    return [
        *search.events,
        _node("Min", ["history_known", "one_long"], ["known"]),
        _node("Greater", ["history_known_0", "zero"], ["is_known"]),
        by_vectors_or_popularity(
            _search(of_events, traced, user, coarse, takes_added=takes_added), search.by_popularity
        ),
        *search.found,
    ]


def _search(
    of_events: Sequence[str], traced: onnx.ModelProto, user: UserSide, coarse: Coarse, *, takes_added: bool
) -> list[NodeProto]:
    """From ``event_rows`` to the best rows."""
    interests, older = user.net.interests, []
    if user.reads_older:
        older = [
            _node("Slice", ["places_E", "before_older", "before_window"], ["places_O"]),
            _node("Gather", ["event_rows", "places_O"], ["older_rows_O"]),
            # Row 0 is zeros, and adds nothing to a sum: so there is always one.
            _node("Concat", ["row_zero", "older_rows_O"], ["rows_O"], axis=0),
            *_vectors("rows_O", OLDER, takes_added=takes_added),
        ]
    return [
        _node("NonZero", ["is_item"], ["places_1E"]),
        _node("Squeeze", ["places_1E", "row_zero"], ["places_E"]),
        _node("Slice", ["places_E", "before_window", "end"], ["places_W"]),
        _node("Gather", ["event_rows", "places_W"], ["rows_W"]),
        *_vectors("rows_W", ITEMS, takes_added=takes_added),
        *older,
        *(_node("Gather", [name, "places_W"], [_window(name)]) for name in of_events),
        *traced.graph.node,
        *_user_vectors(interests),
        *(_added_scores(interests) if takes_added else []),
        top_items_node("user_DQ", coarse, added_scores="added_scores" if takes_added else "no_added"),
    ]


def _vectors(rows: str, vectors: str, *, takes_added: bool) -> list[NodeProto]:
    """Vectors of rows of the bundle's items, then of added ones."""
    if not takes_added:
        return [_node("Gather", ["item_id.rows", rows], [vectors])]
    at = f"{rows}."
    return [
        *split_rows(rows, in_bundle=f"{at}in_bundle", place=f"{at}place", is_in_bundle=f"{at}is_in_bundle"),
        _node("Gather", ["item_id.rows", f"{at}in_bundle"], [f"{at}of_bundle"]),
        _node("Gather", ["added.places", f"{at}place"], [f"{at}added_place"]),
        _node("Gather", ["added.rows", f"{at}added_place"], [f"{at}of_added"]),
        _node("Unsqueeze", [f"{at}is_in_bundle", "last_axis"], [f"{at}is_in_bundle_1"]),
        _node("Where", [f"{at}is_in_bundle_1", f"{at}of_bundle", f"{at}of_added"], [vectors]),
    ]


def _user_vectors(interests: int) -> list[NodeProto]:
    """``user_DQ``: the interests as columns."""
    made = f"{_NETWORK}{INTERESTS}"
    if interests == 1:  # not a transposition, which ONNX Runtime would make a part of a product, and that slow
        return [_node("Reshape", [made, "column"], ["user_DQ"])]
    return [_node("Transpose", [made], ["user_DQ"], perm=[1, 0])]


def _added_scores(interests: int) -> list[NodeProto]:
    """The largest product of each added item's row with an interest, a column."""
    products = [_node("MatMul", ["added.rows", "user_DQ"], ["products_by_place"])]
    if interests > 1:
        products = [
            _node("MatMul", ["added.rows", "user_DQ"], ["products_PQ"]),
            _node("ReduceMax", ["products_PQ", "last_axis"], ["products_by_place"], keepdims=1),
        ]
    in_order = _node("Gather", ["products_by_place", "added.places"], ["added_products"])
    return [*products, in_order, used_scores("added_products", used="added_scores")]


def _rename(traced: onnx.ModelProto) -> None:
    """Give a traced model's tensors names that are no others', and its inputs of events those of the window."""
    graph = traced.graph
    names = {value.name: _window(value.name) for value in graph.input}

    def renamed(name: str) -> str:
        return names.setdefault(name, f"{_NETWORK}{name}") if name else ""

    for tensor in graph.initializer:
        tensor.name = renamed(tensor.name)
    for node in graph.node:
        assert not any(attribute.HasField("g") for attribute in node.attribute)
        node.name = ""
        node.input[:] = [renamed(name) for name in node.input]
        node.output[:] = [renamed(name) for name in node.output]


def _window(name: str) -> str:
    return f"{_WINDOW}{name.removeprefix(HISTORY)}" if name.startswith(HISTORY) else name


def _of_user(feature: Feature) -> TensorInfo:
    if isinstance(feature, Categorical):
        return TensorInfo(dtype="int64", shape=(1,) if feature.max_values == 1 else (1, feature.max_values))
    return TensorInfo(dtype="float32", shape=(1,))
