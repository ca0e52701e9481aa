"""The graph of a retrieval bundle that knows a user by the events of the history, whoever the user is.

The user's vector is the weighted sum of rows of the history's items; all items are scored by their own rows, and each
item of the history adds to its strongest neighbours, which few columns cannot hold. Nothing is known of a user before
the request, so an event counts as soon as the store has it, and a user who came after training is like any other.

Legend: ``S`` events, ``U`` distinct items of them, ``J`` neighbours, ``M`` items, ``D`` columns of their vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper

from recsys.arrays import Float32Array, Int32Array, Int64Array
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
from recsys.errors import InvalidInputError
from recsys.export.retrieval.by_history.added import TABLE_ROWS, split_rows, used_scores
from recsys.export.retrieval.by_history.search import history_search
from recsys.export.retrieval.codes import BITS, Coarse
from recsys.export.retrieval.graph import (
    Table,
    below_zeros,
    by_vectors_or_popularity,
    item_tables,
    top_items_node,
    write_graph,
)
from recsys.export.retrieval.top_items import top_items, top_scores
from recsys.features.hashing import MISSING, equal_keys
from recsys.features.names import ITEM_NAMES, write_names
from recsys.models.retrieval.history_weights import DAY_MS, HistoryWeights

_F32 = TensorProto.FLOAT


@dataclass(frozen=True, kw_only=True, eq=False)
class HistoryTables:
    """Tables of a model that knows users by their history.

    Attributes:
        item_keys: of all items.
        history_MD: what an item adds to the vector of a user who has it, float32.
        items_MD: what a user's vector is multiplied with, float32.
        neighbours_MJ: items whose scores each item of a history adds to; -1 for none; int32.
        added_MJ: what it adds, float32.
        popularity_M: the items' scores for users of whom no event counts, float32.
        item_names_M: the texts that the items' keys are of; None where items are named by integers.
        weights: of the events.
        added_from_bundle_D: factor of each column of the vector that events of the bundle's items make, where items are
            scored that the bundle has not; None: 1; float32.

    Raises:
        InvalidInputError: shapes do not fit, there is no item, two items have one key, or a number is not finite.
    """

    item_keys: Int64Array
    history_MD: Float32Array
    items_MD: Float32Array
    neighbours_MJ: Int32Array
    added_MJ: Float32Array
    popularity_M: Float32Array
    item_names_M: Sequence[str] | None = None
    weights: HistoryWeights = field(default_factory=HistoryWeights)
    added_from_bundle_D: Float32Array | None = None

    def __post_init__(self) -> None:
        items = len(self.item_keys)
        if not items:
            raise InvalidInputError("there are no items; expected at least one")
        for name, array, shape in (
            ("history_MD", self.history_MD, (items, self.items_MD.shape[-1])),
            ("items_MD", self.items_MD, (items, self.items_MD.shape[-1])),
            ("neighbours_MJ", self.neighbours_MJ, (items, self.added_MJ.shape[-1])),
            ("added_MJ", self.added_MJ, (items, self.added_MJ.shape[-1])),
            ("popularity_M", self.popularity_M, (items,)),
            ("added_from_bundle_D", self.from_bundle_D, (self.items_MD.shape[-1],)),
        ):
            if array.shape != shape:
                raise InvalidInputError(f"{name} is {list(array.shape)}; expected {list(shape)}")
            if not np.isfinite(array).all():
                raise InvalidInputError(f"{name} holds numbers that are not finite")
        if self.neighbours_MJ.size and not -1 <= self.neighbours_MJ.min() <= self.neighbours_MJ.max() < items:
            raise InvalidInputError(f"neighbours_MJ is not all in [-1, {items - 1}]")
        if (equal := equal_keys(self.item_keys)) is not None:
            names = self.item_names_M or self.item_keys.tolist()
            first, second = (names[place] for place in equal)
            raise InvalidInputError(
                f"items {first!r} and {second!r} have one key, {self.item_keys[equal[0]]}; expected distinct keys"
            )

    @property
    def from_bundle_D(self) -> Float32Array:
        """``added_from_bundle_D``, or ones."""
        given = self.added_from_bundle_D
        return np.ones(self.items_MD.shape[-1], dtype=np.float32) if given is None else given


def history_inputs(item_id: str, weights: HistoryWeights) -> dict[str, TensorInfo]:
    """Inputs of a graph with these weights, named as those of a ranking bundle's user graph."""
    names = [f"history.{item_id}"]
    names += [f"history.{weights.attribute}"] if weights.attribute else []
    names += ["history.timestamp"] if weights.reads_time else []
    return {**RETRIEVE_INPUTS, **{name: TensorInfo(dtype="int64", shape=("S",)) for name in names}}


def write_history_graph(
    tables: HistoryTables, folder: Path, *, item_id: str, takes_added: bool = False, coarse: Coarse = "int8"
) -> tuple[GraphInfo, dict[str, TableInfo]]:
    """Write ``retrieve.onnx`` and its files in ``tables/``, the items' names among them.

    Row 0 of each table stands for ids that are not there, as of ``write_retrieve_graph``.

    Args:
        tables: of the model.
        folder: of the bundle.
        item_id: name of the feature that is the item's id.
        takes_added: a request may bring items that the bundle has not: rows of ``history_MD`` and ``items_MD``, one
            behind the other.
        coarse: kind of codes of the items' vectors.
    """
    order_M = np.argsort(tables.item_keys)
    item_keys = tables.item_keys[order_M]
    row_M = np.empty(len(order_M) + 1, dtype=np.int32)  # of each item; the last: of none
    row_M[order_M], row_M[-1] = np.arange(1, len(order_M) + 1), 0
    items = build_id_table(item_keys, np.arange(1, len(item_keys) + 1))
    neighbours = tables.neighbours_MJ.shape[1]
    arrays: dict[str, Table] = {
        **item_tables(tables.items_MD[order_M], coarse),
        "item_id.history_rows": below_zeros(tables.history_MD[order_M]),
        "item_id.popularity": below_zeros(tables.popularity_M[order_M, None]),
        "item_id.keys": np.concatenate([np.full(1, MISSING), item_keys]),
        "item_id.ids": np.concatenate([items.keys_TW, items.rows_TW], axis=1),
    }
    if neighbours:
        rows_MJ = row_M[tables.neighbours_MJ[order_M]]
        arrays["item_id.neighbours"] = np.concatenate([np.zeros((1, neighbours), dtype=np.int32), rows_MJ])
        arrays["item_id.neighbours_add"] = below_zeros(np.where(rows_MJ > 0, tables.added_MJ[order_M], np.float32(0)))
    if tables.item_names_M is not None:
        write_names(folder / ITEM_NAMES, tables.item_keys, tables.item_names_M)
    weights = tables.weights
    floats: dict[str, npt.ArrayLike] = {"zero_f": 0.0, "other": weights.other}
    if weights.attribute:
        floats["action_weights"] = [[weight - weights.other] for _, weight in weights.actions]
    if weights.half_life_events:
        floats["of_newer"] = -np.log(2.0) / weights.half_life_events
    if weights.half_life_days:
        floats["of_age"] = -np.log(2.0) / (weights.half_life_days * DAY_MS)
    integers: dict[str, npt.ArrayLike] = {"action_keys": [[key for key, _ in weights.actions]]}
    inputs = history_inputs(item_id, weights)
    if takes_added:
        integers[TABLE_ROWS] = len(item_keys) + 1
        floats["no_history_D1"] = np.zeros((tables.items_MD.shape[1], 1))
        floats["added_from_bundle_1D"] = tables.from_bundle_D[None]
        inputs |= added_inputs(2 * tables.items_MD.shape[1])
    return write_graph(
        _nodes(item_id, weights, coarse, neighbours=bool(neighbours), takes_added=takes_added),
        arrays,
        {"item_id": items},
        folder,
        inputs=inputs,
        outputs={**RETRIEVE_OUTPUTS, **HISTORY_OUTPUTS},
        floats=floats,
        integers=integers,
        functions=[
            top_items(additions=bool(neighbours), added=takes_added, bits=coarse in BITS),
            top_scores(added=takes_added),
        ],
    )


def _nodes(
    item_id: str, weights: HistoryWeights, coarse: Coarse, *, neighbours: bool, takes_added: bool
) -> list[NodeProto]:
    node = helper.make_node
    search = history_search(f"history.{item_id}", takes_added=takes_added)
    return [
        *search.events,
        node("Cast", ["is_item"], ["plain_S"], to=_F32),
        *_weights(weights),
        node("ReduceMax", ["weight_S"], ["heaviest"], keepdims=0),
        node("Greater", ["heaviest", "zero_f"], ["is_known"]),
        node("Cast", ["is_known"], ["known_0"], to=TensorProto.INT64),
        node("Reshape", ["known_0", "one_long"], ["known"]),
        by_vectors_or_popularity(_search(coarse, neighbours=neighbours, takes_added=takes_added), search.by_popularity),
        *search.found,
    ]


def _search(coarse: Coarse, *, neighbours: bool, takes_added: bool) -> list[NodeProto]:
    """From ``event_rows`` and ``weight_S`` to the best rows."""
    node = helper.make_node
    gathered = [
        node("Gather", ["item_id.history_rows", "rows_U"], ["rows_UD"]),
        node("MatMul", ["weight_1U", "rows_UD"], ["user_1D"]),
    ]
    if takes_added:
        gathered = [
            *split_rows("rows_U", in_bundle="bundle_rows_U", place="place_U", is_in_bundle="is_in_bundle_U"),
            node("Gather", ["item_id.history_rows", "bundle_rows_U"], ["bundle_rows_UD"]),
            node("Gather", ["added.places", "place_U"], ["added_place_U"]),
            node("Gather", ["added.rows", "added_place_U"], ["added_rows_UR"]),
            node("Split", ["added_rows_UR"], ["added_rows_UD", "added_rows_as_items"], axis=1, num_outputs=2),
            # Row 0 of the bundle is zeros; the added row 0 of an item of the bundle is not.
            node("Where", ["is_in_bundle_U", "zero_f", "weight_U"], ["added_weight_U"]),
            node("Reshape", ["added_weight_U", "row"], ["added_weight_1U"]),
            node("MatMul", ["weight_1U", "bundle_rows_UD"], ["of_bundle_1D"]),
            node("MatMul", ["added_weight_1U", "added_rows_UD"], ["of_added_1D"]),
            node("Add", ["of_bundle_1D", "of_added_1D"], ["user_1D"]),
            node("Mul", ["of_bundle_1D", "added_from_bundle_1D"], ["of_bundle_as_added_1D"]),
            node("Add", ["of_bundle_as_added_1D", "of_added_1D"], ["user_of_added_1D"]),
            node("Reshape", ["user_of_added_1D", "column"], ["user_of_added_D1"]),
        ]
    scores = [
        # An item counts once, however often it comes, with the largest of its weights.
        node("Unique", ["event_rows"], ["rows_U", "", "place_S"], sorted=1),
        node("Shape", ["rows_U"], ["distinct"]),
        node("Expand", ["zero_f", "distinct"], ["zeros_U"]),
        node("ScatterElements", ["zeros_U", "place_S", "weight_S"], ["weight_U"], axis=0, reduction="max"),
        node("Reshape", ["weight_U", "row"], ["weight_1U"]),
        *gathered,
        node("Reshape", ["user_1D", "column"], ["user_D1"]),
    ]
    additions, added_scores = ("no_rows", "no_additions"), "no_added"
    if neighbours:
        rows, additions = "bundle_rows_U" if takes_added else "rows_U", ("near", "added")
        scores += [
            node("Reshape", ["weight_U", "column"], ["weight_U1"]),
            node("Gather", ["item_id.neighbours", rows], ["near_UJ"]),
            node("Gather", ["item_id.neighbours_add", rows], ["add_UJ"]),
            node("Mul", ["add_UJ", "weight_U1"], ["added_UJ"]),
            node("Reshape", ["near_UJ", "last_axis"], ["near_int32"]),
            node("Cast", ["near_int32"], ["near"], to=TensorProto.INT64),
            node("Reshape", ["added_UJ", "last_axis"], ["added"]),
        ]
    if takes_added:
        added_scores = "added_scores"
        scores += [
            # All columns, the first half times 0: cutting the rows apart would copy them.
            node("Concat", ["no_history_D1", "user_of_added_D1"], ["user_R1"], axis=0),
            node("MatMul", ["added.rows", "user_R1"], ["products_by_place"]),
            node("Gather", ["products_by_place", "added.places"], ["added_products"]),
            used_scores("added_products", used=added_scores),
        ]
    return [*scores, top_items_node("user_D1", coarse, additions=additions, added_scores=added_scores)]


def _weights(weights: HistoryWeights) -> list[NodeProto]:
    """From ``plain_S``, 1 for events of known items and 0 for others, to ``weight_S``."""
    node, nodes, last = helper.make_node, [], "plain_S"
    factors: list[tuple[str, list[NodeProto]]] = []
    if weights.attribute:
        action = [
            node("Unsqueeze", [f"history.{weights.attribute}", "last_axis"], ["action_S1"]),
            node("Equal", ["action_S1", "action_keys"], ["is_action"]),
            node("Cast", ["is_action"], ["action_SA"], to=_F32),
            node("MatMul", ["action_SA", "action_weights"], ["over_other_S1"]),
            node("Squeeze", ["over_other_S1", "last_axis"], ["over_other"]),
            node("Add", ["over_other", "other"], ["by_action"]),
        ]
        factors.append(("by_action", action))
    if weights.half_life_events:
        newer = [
            node("Size", ["plain_S"], ["events"]),
            node("Range", ["zero", "events", "one"], ["older"]),
            node("Sub", ["events", "one"], ["newest"]),
            node("Sub", ["newest", "older"], ["newer"]),
            node("Cast", ["newer"], ["newer_f"], to=_F32),
            node("Mul", ["newer_f", "of_newer"], ["log_by_newer"]),
            node("Exp", ["log_by_newer"], ["by_newer"]),
        ]
        factors.append(("by_newer", newer))
    if weights.half_life_days:
        age = [
            node("ReduceMax", ["history.timestamp"], ["newest_ms"], keepdims=1),
            node("Sub", ["newest_ms", "history.timestamp"], ["age_ms"]),
            node("Cast", ["age_ms"], ["age_f"], to=_F32),
            node("Mul", ["age_f", "of_age"], ["log_by_age"]),
            node("Exp", ["log_by_age"], ["by_age"]),
        ]
        factors.append(("by_age", age))
    for number, (factor, made) in enumerate(factors):
        nodes += [*made, node("Mul", [last, factor], [f"weighted_{number}"])]
        last = f"weighted_{number}"
    return [*nodes, node("Identity", [last], ["weight_S"])]
