"""The graph of a retrieval bundle, of standard ONNX operators: exact search over the whole item table.

Written operator by operator: its outputs are as long as there are items left, and which operators touch the item
table decides its speed. On one core, 1,000,000 items of 64 columns:

- the table times the user's vector as a [D, 1] matrix: 10 ms, the speed of memory; times a [D] vector, which
  ONNX Runtime multiplies row by row: 300 ms;
- the user's vector times the transposed table: as fast, but ONNX Runtime keeps a packed copy of a constant right-hand
  side, 256 MB in each process. A left-hand side stays in the file, shared by all processes.

Legend: ``N`` items to leave out, ``K`` found, ``M`` items and ``D`` columns of their vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

import recsys
from recsys.arrays import Float32Array, Int32Array, Int64Array
from recsys.bundle import RETRIEVE_INPUTS, RETRIEVE_OUTPUTS, GraphInfo, TableInfo, TensorInfo
from recsys.bundle.index import index_fingerprint
from recsys.embeddings.row_maps.id_table import IdTable, build_id_table
from recsys.errors import InvalidInputError
from recsys.export.rewrites.functions import OPSET
from recsys.features.hashing import HALF_MASK, MISSING, PRIME, equal_keys
from recsys.features.names import ITEM_NAMES, write_names
from recsys.files import write_array

_I64, _F32 = TensorProto.INT64, TensorProto.FLOAT
_KINDS = {"float32": _F32, "int64": _I64, "int32": TensorProto.INT32}


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


def write_retrieve_graph(tables: RetrievalTables, folder: Path) -> tuple[GraphInfo, dict[str, TableInfo]]:
    """Write ``retrieve.onnx`` and its files in ``tables/``, the items' names among them.

    Row 0 of each table stands for ids that are not there, as in ranking bundles: the user's is zeros, the item's is
    never found. The items' rows are in the order of their keys, so that a key's row, and its name, is a search away.
    """
    order_M = np.argsort(tables.item_keys)
    item_keys = tables.item_keys[order_M]
    users = build_id_table(tables.user_keys, np.arange(1, len(tables.user_keys) + 1))
    items = build_id_table(item_keys, np.arange(1, len(item_keys) + 1))
    arrays: dict[str, Int64Array | Int32Array | Float32Array] = {
        "user_id.rows": below_zeros(tables.users_ND),
        "item_id.rows": below_zeros(tables.items_MD[order_M]),
        "item_id.popularity": below_zeros(tables.popularity_M[order_M, None]),
        "item_id.keys": np.concatenate([np.full(1, MISSING), item_keys]),
        "user_id.ids": np.concatenate([users.keys_TW, users.rows_TW], axis=1),
        "item_id.ids": np.concatenate([items.keys_TW, items.rows_TW], axis=1),
    }
    if tables.item_names_M is not None:
        write_names(folder / ITEM_NAMES, tables.item_keys, tables.item_names_M)
    maps = {"user_id": users, "item_id": items}
    return write_graph(_nodes(), arrays, maps, folder, inputs=RETRIEVE_INPUTS, outputs=RETRIEVE_OUTPUTS)


def write_graph(
    nodes: Sequence[NodeProto],
    arrays: Mapping[str, Int64Array | Int32Array | Float32Array],
    maps: Mapping[str, IdTable],
    folder: Path,
    *,
    inputs: Mapping[str, TensorInfo],
    outputs: Mapping[str, TensorInfo],
    floats: Mapping[str, npt.ArrayLike] | None = None,
    integers: Mapping[str, npt.ArrayLike] | None = None,
    traced: onnx.ModelProto | None = None,
) -> tuple[GraphInfo, dict[str, TableInfo]]:
    """Write ``retrieve.onnx`` of these nodes, and its tables.

    Args:
        nodes: in order; they may use the constants of ``id_constants``.
        arrays: tables by name, each a file.
        maps: id maps, whose hash functions are constants of the graph.
        folder: of the bundle.
        inputs, outputs: of the graph.
        floats, integers: further constants, float32 and int64.
        traced: a model whose nodes are among these: its tensors and functions are taken over.
    """
    infos: dict[str, TableInfo] = {}
    for name, array in arrays.items():
        file = f"tables/{name}.bin"
        write_array(folder / file, array)
        infos[name] = TableInfo(file=file, dtype=str(array.dtype), shape=tuple(array.shape))
    constants = id_constants(**maps)
    constants += [
        numpy_helper.from_array(np.array(value, dtype=np.float32), name) for name, value in (floats or {}).items()
    ]
    constants += [
        numpy_helper.from_array(np.array(value, dtype=np.int64), name) for name, value in (integers or {}).items()
    ]
    used = read_by(nodes)
    graph = helper.make_graph(
        list(nodes),
        "retrieve",
        [_value(name, info) for name, info in inputs.items()],
        [_value(name, info) for name, info in outputs.items()],
        [
            *(each for each in constants if each.name in used),
            *(external(name, info) for name, info in infos.items()),
            *(() if traced is None else traced.graph.initializer),
        ],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    opsets += [each for each in (() if traced is None else traced.opset_import) if each.domain]
    functions = [] if traced is None else list(traced.functions)
    model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)
    model.producer_name, model.producer_version = "recsys", recsys.__version__
    (folder / "retrieve.onnx").write_bytes(model.SerializeToString())
    onnx.checker.check_model(folder / "retrieve.onnx")
    return GraphInfo(file="retrieve.onnx", inputs=inputs, outputs=outputs), infos


def _nodes() -> list[NodeProto]:
    node = helper.make_node
    return [
        *lookup("user_id", table="user_id", rows="user_row"),
        node("Greater", ["user_row", "zero"], ["known_1"]),
        node("Cast", ["known_1"], ["known"], to=_I64),
        node("Squeeze", ["known_1"], ["is_known"]),
        # A branch, not a choice of two results: only one of the two tables is read.
        node(
            "If",
            ["is_known"],
            ["all_scores"],
            then_branch=branch(
                node("Gather", ["user_id.rows", "user_row"], ["user_1D"]),
                # Not a transposition, which ONNX Runtime would make a part of the product, and that slow.
                node("Reshape", ["user_1D", "column"], ["user_D1"]),
                node("MatMul", ["item_id.rows", "user_D1"], ["by_vectors"]),
            ),
            else_branch=branch(node("Identity", ["item_id.popularity"], ["by_popularity"])),
        ),
        *best_of_bundle("all_scores"),
    ]


def best_left(all_scores: str, left_out: Sequence[str]) -> list[NodeProto]:
    """The ``k`` best of all rows' scores: outputs ``scores`` and ``rows``, int64.

    Args:
        all_scores: name of them, float32, a column; the first is of no item.
        left_out: names of lists of rows that are never found.
    """
    node = helper.make_node
    return [
        node("Squeeze", [all_scores, "last_axis"], ["scores_M"]),
        node("Concat", [*left_out, "row_zero"], ["out_rows"], axis=0),
        node("Shape", ["out_rows"], ["out_shape"]),
        node("Expand", ["never", "out_shape"], ["out_scores"]),
        node("ScatterElements", ["scores_M", "out_rows", "out_scores"], ["left_M"], axis=0),
        node("Shape", ["left_M"], ["all_items"]),
        node("Min", ["k", "all_items"], ["most"]),
        node("TopK", ["left_M", "most"], ["best_scores", "best_rows"], axis=0, largest=1, sorted=1),
        # What is left out comes last.
        node("Greater", ["best_scores", "never"], ["is_left"]),
        node("Cast", ["is_left"], ["left_ones"], to=_I64),
        node("ReduceSum", ["left_ones"], ["found"], keepdims=1),
        node("Slice", ["best_scores", "row_zero", "found"], ["scores"]),
        node("Slice", ["best_rows", "row_zero", "found"], ["rows"]),
    ]


def best_of_bundle(all_scores: str) -> list[NodeProto]:
    """The ``k`` best items of the bundle without those of ``seen``: outputs ``items`` and ``scores``."""
    return [
        *lookup("seen", table="item_id", rows="seen_rows"),
        *best_left(all_scores, ["seen_rows"]),
        helper.make_node("Gather", ["item_id.keys", "rows"], ["items"]),
    ]


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


def branch(*nodes: NodeProto) -> onnx.GraphProto:
    """A branch of ``If`` with the scores of all rows, [M + 1, 1]."""
    (output,) = nodes[-1].output
    return helper.make_graph(list(nodes), output, [], [helper.make_tensor_value_info(output, _F32, [None, 1])])


def read_by(nodes: Iterable[NodeProto]) -> set[str]:
    """Names that nodes read, those of their branches too."""
    names: set[str] = set()
    for node in nodes:
        names.update(node.input)
        for attribute in node.attribute:
            names |= read_by(attribute.g.node)
    return names


def id_constants(**tables: IdTable) -> list[TensorProto]:
    """Constants that the nodes of this module read, and the hash functions of these maps of ids."""
    values: dict[str, npt.ArrayLike] = {
        "zero": 0,
        "one": 1,
        "two": 2,
        "row_zero": [0],
        "one_long": [1],
        "row": [1, -1],
        "column": [-1, 1],
        "last_axis": [-1],
        "outer_axes": [0, -1],
        "half_mask": HALF_MASK,
        "prime": PRIME,
    }
    for name, table in tables.items():
        a1, a2, b = table.coefficients.T[:, :, None]  # [2, 1] each: one hash a row
        half = len(table.keys_TW) // 2
        values |= {
            f"{name}.of_low": (a1 - a2) % PRIME,
            f"{name}.of_folded": a2,
            f"{name}.shift": b,
            f"{name}.buckets": half,
            f"{name}.first": [[0], [half]],
        }
    integers = [numpy_helper.from_array(np.array(value, dtype=np.int64), name) for name, value in values.items()]
    return [*integers, numpy_helper.from_array(np.array([-np.inf], dtype=np.float32), "never")]


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
