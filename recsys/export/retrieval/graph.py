"""The graph of a retrieval bundle: exact search over the whole item table (``top_items.py``).

Legend: ``N`` items to leave out, ``K`` found, ``M`` items and ``D`` columns of their vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import FunctionProto, NodeProto, TensorProto, helper, numpy_helper

import recsys
from recsys.arrays import Float32Array, Int8Array, Int32Array, Int64Array, UInt8Array
from recsys.bundle import RETRIEVE_INPUTS, RETRIEVE_OUTPUTS, GraphInfo, TableInfo, TensorInfo
from recsys.bundle.index import index_fingerprint
from recsys.embeddings.row_maps.id_table import IdTable, build_id_table
from recsys.errors import InvalidInputError
from recsys.export.retrieval.bits import bit_codes, rotation_of
from recsys.export.retrieval.codes import BITS, Coarse, item_codes
from recsys.export.retrieval.constants import RERANKED, constants, read_by
from recsys.export.retrieval.top_items import top_items, top_scores
from recsys.export.rewrites.extract_function import DOMAIN, add_function
from recsys.export.rewrites.functions import OPSET
from recsys.features.hashing import MISSING, equal_keys
from recsys.features.names import ITEM_NAMES, write_names
from recsys.files import write_array

_I64, _F32 = TensorProto.INT64, TensorProto.FLOAT
Table = Int64Array | Int32Array | Int8Array | UInt8Array | Float32Array
"""A table of a bundle."""

_KINDS = {
    "float32": _F32,
    "int8": TensorProto.INT8,
    "int64": _I64,
    "int32": TensorProto.INT32,
    "uint8": TensorProto.UINT8,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class RetrievalTables:
    """Tables that the graph searches.

    Attributes:
        user_keys, users_ND: users that the model knows, and their vectors, float32.
        item_keys, items_MD: all items, and their vectors, float32.
        popularity_M: the items' scores for users that it does not know, float32.
        item_names_M: the texts that the items' keys are of; None where items are named by integers.

    Raises:
        InvalidInputError: shapes do not fit, there is no item, two items have one key, or a number is not finite.
    """

    user_keys: Int64Array
    users_ND: Float32Array
    item_keys: Int64Array
    items_MD: Float32Array
    popularity_M: Float32Array
    item_names_M: Sequence[str] | None = None

    def __post_init__(self) -> None:
        users, items, width = len(self.user_keys), len(self.item_keys), self.items_MD.shape[-1]
        for name, array, shape in (
            ("users_ND", self.users_ND, (users, width)),
            ("items_MD", self.items_MD, (items, width)),
            ("popularity_M", self.popularity_M, (items,)),
        ):
            if array.shape != shape:
                raise InvalidInputError(f"{name} is {list(array.shape)}; expected {list(shape)}")
            if not np.isfinite(array).all():
                raise InvalidInputError(f"{name} holds numbers that are not finite")
        if self.item_names_M is not None and len(self.item_names_M) != items:
            raise InvalidInputError(f"item_names_M has {len(self.item_names_M)} names; expected {items}")
        if (equal := equal_keys(self.item_keys)) is not None:
            names = self.item_names_M or self.item_keys.tolist()
            first, second = (names[place] for place in equal)
            raise InvalidInputError(
                f"items {first!r} and {second!r} have one key, {self.item_keys[equal[0]]}; expected distinct keys"
            )
        if not items:
            raise InvalidInputError("there are no items; expected at least one")

    @property
    def index_fingerprint(self) -> str:
        """The fingerprint of the items and their vectors, in whatever order they are."""
        order_M = np.argsort(self.item_keys)
        return index_fingerprint(self.item_keys[order_M], self.items_MD[order_M])


def write_retrieve_graph(
    tables: RetrievalTables, folder: Path, *, coarse: Coarse = "int8"
) -> tuple[GraphInfo, dict[str, TableInfo]]:
    """Write ``retrieve.onnx`` and its files in ``tables/``, the items' names among them.

    Row 0 of each table stands for ids that are not there, as in ranking bundles: the user's is zeros, the item's is
    never found. The items' rows are in the order of their keys, so that a key's row, and its name, is a search away.
    """
    order_M = np.argsort(tables.item_keys)
    item_keys = tables.item_keys[order_M]
    users = build_id_table(tables.user_keys, np.arange(1, len(tables.user_keys) + 1))
    items = build_id_table(item_keys, np.arange(1, len(item_keys) + 1))
    arrays: dict[str, Table] = {
        "user_id.rows": below_zeros(tables.users_ND),
        **item_tables(tables.items_MD[order_M], coarse),
        "item_id.popularity": below_zeros(tables.popularity_M[order_M, None]),
        "item_id.keys": np.concatenate([np.full(1, MISSING), item_keys]),
        "user_id.ids": np.concatenate([users.keys_TW, users.rows_TW], axis=1),
        "item_id.ids": np.concatenate([items.keys_TW, items.rows_TW], axis=1),
    }
    if tables.item_names_M is not None:
        write_names(folder / ITEM_NAMES, tables.item_keys, tables.item_names_M)
    maps = {"user_id": users, "item_id": items}
    return write_graph(
        _nodes(coarse),
        arrays,
        maps,
        folder,
        inputs=RETRIEVE_INPUTS,
        outputs=RETRIEVE_OUTPUTS,
        functions=[top_items(bits=coarse in BITS), top_scores()],
    )


def write_graph(
    nodes: Sequence[NodeProto],
    arrays: Mapping[str, Table],
    maps: Mapping[str, IdTable],
    folder: Path,
    *,
    inputs: Mapping[str, TensorInfo],
    outputs: Mapping[str, TensorInfo],
    floats: Mapping[str, npt.ArrayLike] | None = None,
    integers: Mapping[str, npt.ArrayLike] | None = None,
    functions: Sequence[FunctionProto] = (),
    traced: onnx.ModelProto | None = None,
) -> tuple[GraphInfo, dict[str, TableInfo]]:
    """Write ``retrieve.onnx`` of these nodes, and its tables.

    Args:
        nodes: in order; they may use those of ``constants``.
        arrays: tables by name, each a file.
        maps: id maps, whose hash functions are constants of the graph.
        folder: of the bundle.
        inputs, outputs: of the graph.
        floats, integers: further constants, float32 and int64.
        functions: that the nodes call.
        traced: a model whose nodes are among these: its tensors and functions are taken over.
    """
    infos: dict[str, TableInfo] = {}
    for name, array in arrays.items():
        file = f"tables/{name}.bin"
        write_array(folder / file, array)
        infos[name] = TableInfo(file=file, dtype=str(array.dtype), shape=tuple(array.shape))
    held = constants(**maps)
    held += [numpy_helper.from_array(np.array(value, dtype=np.float32), name) for name, value in (floats or {}).items()]
    held += [numpy_helper.from_array(np.array(value, dtype=np.int64), name) for name, value in (integers or {}).items()]
    used = read_by(nodes)
    graph = helper.make_graph(
        list(nodes),
        "retrieve",
        [_value(name, info) for name, info in inputs.items()],
        [_value(name, info) for name, info in outputs.items()],
        [
            *(each for each in held if each.name in used),
            *(external(name, info) for name, info in infos.items()),
            *(() if traced is None else traced.graph.initializer),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    if traced is not None:
        model.opset_import.extend(each for each in traced.opset_import if each.domain)
        model.functions.extend(traced.functions)
    for function in functions:
        add_function(model, function)
    model.producer_name, model.producer_version = "recsys", recsys.__version__
    (folder / "retrieve.onnx").write_bytes(model.SerializeToString())
    onnx.checker.check_model(folder / "retrieve.onnx")
    return GraphInfo(file="retrieve.onnx", inputs=inputs, outputs=outputs), infos


def _nodes(coarse: Coarse) -> list[NodeProto]:
    node = helper.make_node
    return [
        *lookup("user_id", table="user_id", rows="user_row"),
        *lookup("seen", table="item_id", rows="seen_rows"),
        node("Greater", ["user_row", "zero"], ["known_1"]),
        node("Cast", ["known_1"], ["known"], to=_I64),
        node("Squeeze", ["known_1"], ["is_known"]),
        by_vectors_or_popularity(
            [
                node("Gather", ["user_id.rows", "user_row"], ["user_1D"]),
                # Not a transposition, which ONNX Runtime would make a part of the product, and that slow.
                node("Reshape", ["user_1D", "column"], ["user_D1"]),
                top_items_node("user_D1", coarse),
            ],
            [top_scores_node("item_id.popularity")],
        ),
        node("Gather", ["item_id.keys", "rows"], ["items"]),
    ]


_WHICH = ("seen_rows", "allowed", "allowed.rows", "allowed.mask", "k")


def item_tables(items_MD: Float32Array, coarse: Coarse) -> dict[str, Table]:
    """The tables of items' vectors: ``item_id.rows``; ``codes`` and ``scales`` if there are codes, and ``rotation`` if
    these are of bits.

    Args:
        items_MD: in the order of the items' keys.
        coarse: kind of codes.
    """
    rows = below_zeros(items_MD)
    if coarse == "none":
        return {"item_id.rows": rows}
    of_codes: dict[str, Table] = {}
    if coarse in BITS:
        of_codes["item_id.rotation"] = rotation = rotation_of(rows.shape[1])
        of_codes["item_id.codes"], of_codes["item_id.scales"] = bit_codes(rows, rotation, bits=BITS[coarse])
    else:
        of_codes["item_id.codes"], of_codes["item_id.scales"] = item_codes(rows)
    return {"item_id.rows": rows, **of_codes}


def top_items_node(
    user: str,
    coarse: Coarse,
    *,
    additions: tuple[str, str] = ("no_rows", "no_additions"),
    added_scores: str = "no_added",
) -> NodeProto:
    """A call of ``TopItems``, or of ``TopItemsByBits``, with outputs ``vector_rows`` and ``vector_scores``.

    Without the items of ``seen_rows``.

    Args:
        user: name of the user's vectors, [D, Q].
        coarse: kind of codes that the bundle has.
        additions: names of rows and what is added to their scores, [T] each.
        added_scores: name of the added items' scores, [A, 1].
    """
    codes = ["no_codes", "no_scales"] if coarse == "none" else ["item_id.codes", "item_id.scales"]
    codes += ["item_id.rotation", RERANKED] if coarse in BITS else []
    inputs = ["item_id.rows", *codes, user, *additions, added_scores, *_WHICH]
    name = "TopItemsByBits" if coarse in BITS else "TopItems"
    return helper.make_node(name, inputs, ["vector_rows", "vector_scores"], domain=DOMAIN)


def top_scores_node(scores: str, *, added_scores: str = "no_added") -> NodeProto:
    """A call of ``TopScores`` with outputs ``given_rows`` and ``given_best``."""
    inputs = [scores, added_scores, *_WHICH]
    return helper.make_node("TopScores", inputs, ["given_rows", "given_best"], domain=DOMAIN)


def by_vectors_or_popularity(by_vectors: Sequence[NodeProto], by_popularity: Sequence[NodeProto]) -> NodeProto:
    """A branch on ``is_known``, with outputs ``rows`` and ``scores``: only one of the two tables is read."""
    found = ["rows", "scores"]
    return helper.make_node(
        "If", ["is_known"], found, then_branch=_branch(by_vectors), else_branch=_branch(by_popularity)
    )


def _branch(nodes: Sequence[NodeProto]) -> onnx.GraphProto:
    """A branch that ends in a search, with its outputs."""
    outputs = [
        helper.make_tensor_value_info(name, kind, [None])
        for name, kind in zip(nodes[-1].output, (_I64, _F32), strict=True)
    ]
    return helper.make_graph(list(nodes), outputs[0].name, [], outputs)


def lookup(keys: str, *, table: str, rows: str) -> list[NodeProto]:
    """``IdTables`` (``embeddings/row_maps/id_table.py``): rows of keys, 0 for keys that are not in the table."""

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
        return helper.make_node(kind, inputs, [output], **attributes)

    at = f"{rows}."
    return [
        node("BitwiseAnd", [keys, "half_mask"], f"{at}low"),
        node("Mod", [keys, "prime"], f"{at}folded"),
        node("Mul", [f"{at}low", f"{table}.of_low"], f"{at}low_part"),
        node("Mul", [f"{at}folded", f"{table}.of_folded"], f"{at}folded_part"),
        node("Add", [f"{at}low_part", f"{at}folded_part"], f"{at}mixed"),
        node("Add", [f"{at}mixed", f"{table}.shift"], f"{at}shifted"),
        node("Mod", [f"{at}shifted", "prime"], f"{at}hashed"),
        node("Mod", [f"{at}hashed", f"{table}.buckets"], f"{at}bucket"),
        node("Add", [f"{at}bucket", f"{table}.first"], f"{at}buckets"),
        node("Gather", [f"{table}.ids", f"{at}buckets"], f"{at}entries"),
        helper.make_node("Split", [f"{at}entries"], [f"{at}slot_keys", f"{at}slot_rows"], axis=-1, num_outputs=2),
        node("Unsqueeze", [keys, "last_axis"], f"{at}column"),
        node("Equal", [f"{at}slot_keys", f"{at}column"], f"{at}is_key"),
        node("Where", [f"{at}is_key", f"{at}slot_rows", "zero"], f"{at}found_rows"),
        node("ReduceSum", [f"{at}found_rows", "outer_axes"], rows, keepdims=0),
    ]


def external(name: str, info: TableInfo) -> TensorProto:
    """A tensor that lies in a file of its own."""
    tensor = TensorProto(name=name, data_type=_KINDS[info.dtype], dims=info.shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", info.file), ("offset", "0"), ("length", str(info.size_bytes))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def _value(name: str, info: TensorInfo) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, _KINDS[info.dtype], info.shape)


def below_zeros(rows: Float32Array) -> Float32Array:
    """The rows below one of zeros, which stands for ids that are not there."""
    return np.concatenate([np.zeros_like(rows[:1], shape=(1, rows.shape[1])), rows])
