"""The graph ``similar`` of a retrieval bundle: exact search for the items whose vectors are nearest to those of seeds.

It reads the tables of ``retrieve`` and one of its own, ``item_id.inverse_norm``, 4 bytes an item. Nearness is the
cosine, in the mean over the seeds: by the product long vectors would win, which are those of popular items, and every
item would have the same neighbours.

Legend: ``N`` seeds, ``M`` items of the bundle, ``A`` added items, ``D`` columns of an item's vector, ``R`` of an added
row, whose last ``D`` are the vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

import recsys
from recsys.arrays import Float32Array, Float64Array
from recsys.bundle import ALL_ALLOWED, SIMILAR_INPUTS, SIMILAR_OUTPUTS, GraphInfo, TableInfo, no_added_items
from recsys.errors import BundleError
from recsys.export.retrieval.by_history.added import added_rows, find_added, keys_of_rows, split_rows, used_scores
from recsys.export.retrieval.constants import constants, read_by
from recsys.export.retrieval.graph import external, lookup
from recsys.export.retrieval.top_items import top_scores
from recsys.export.rewrites.extract_function import DOMAIN, add_function
from recsys.export.rewrites.functions import OPSET
from recsys.features.hashing import MISSING
from recsys.files import write_array

_INVERSE = "item_id.inverse_norm"
_TOLERANCE = 1e-5
_CERTIFIED, _LENGTH = 32, 20
_node = helper.make_node


def add_similar(
    folder: Path, graphs: Mapping[str, GraphInfo], tables: Mapping[str, TableInfo]
) -> tuple[dict[str, GraphInfo], dict[str, TableInfo]]:
    """Write ``similar.onnx`` beside the graph ``retrieve`` of a bundle, and compare some of its lists with numpy's.

    Args:
        folder: of the bundle.
        graphs, tables: of the bundle, with ``retrieve``.

    Returns:
        The same with the new graph and table.

    Raises:
        BundleError: a list differs from the definition's by more than rounding.
    """
    retrieve = graphs["retrieve"]
    rows_MD = tables["item_id.rows"].read(folder)
    inverse_M1 = inverse_norms(rows_MD)[:, None]
    added = {name: info for name, info in tables.items() if name in ("item_id.rows", "item_id.keys", "item_id.ids")}
    added[_INVERSE] = TableInfo(file=f"tables/{_INVERSE}.bin", dtype="float32", shape=tuple(inverse_M1.shape))
    write_array(folder / added[_INVERSE].file, inverse_M1)
    of_added = {name: info for name, info in retrieve.inputs.items() if name.startswith("added.")}
    first = 0
    if of_added:
        width = of_added["added.rows"].shape[1]
        assert isinstance(width, int)
        first = width - rows_MD.shape[1]
    nodes = _nodes(takes_added=bool(of_added))
    used = read_by(nodes)
    # The hash functions of the items' ids are constants of the other graph.
    model = onnx.load(folder / retrieve.file, load_external_data=False)
    held = {each.name: each for each in (*constants(), *model.graph.initializer)}
    held |= {name: external(name, info) for name, info in added.items()}
    for name, value in (("first_column", [first]), ("end", [np.iinfo(np.int64).max])):
        held[name] = numpy_helper.from_array(np.array(value, dtype=np.int64), name)
    for name, number in (("zero_f", 0.0), ("one_f", 1.0)):
        held[name] = numpy_helper.from_array(np.array(number, dtype=np.float32), name)
    info = GraphInfo(file="similar.onnx", inputs={**SIMILAR_INPUTS, **of_added}, outputs=SIMILAR_OUTPUTS)
    kinds = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8}
    inputs, outputs = (
        [helper.make_tensor_value_info(name, kinds[each.dtype], each.shape) for name, each in values.items()]
        for values in (info.inputs, info.outputs)
    )
    graph = helper.make_graph(
        nodes,
        "similar",
        inputs,
        outputs,
        [each for name, each in held.items() if name in used],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    add_function(made, top_scores(added=bool(of_added)))
    made.producer_name, made.producer_version = "recsys", recsys.__version__
    (folder / info.file).write_bytes(made.SerializeToString())
    onnx.checker.check_model(folder / info.file)
    all_tables = {**tables, _INVERSE: added[_INVERSE]}
    _certify(folder, info, all_tables, rows_MD)
    return {**graphs, "similar": info}, all_tables


def inverse_norms(rows_MD: Float32Array) -> Float32Array:
    """One over the length of each row, [M]; 0 for rows of zeros, which are near to nothing.

    >>> inverse_norms(np.array([[3, 4], [0, 0]], dtype=np.float32)).tolist()
    [0.20000000298023224, 0.0]
    """
    norm_M: Float64Array = np.linalg.norm(rows_MD.astype(np.float64), axis=1)
    inverse_M: Float32Array = np.divide(1.0, norm_M, out=np.zeros_like(norm_M), where=norm_M > 0).astype(np.float32)
    # Of a row whose numbers are next to nothing it is no number.
    return np.where(np.isfinite(inverse_M), inverse_M, np.float32(0))


def _nodes(*, takes_added: bool) -> list[NodeProto]:
    """From ``seeds``, ``left_out`` and ``k`` to ``items``, ``scores`` and ``seeds_known``."""
    at, of = ("bundle_", "table_") if takes_added else ("", "")
    table_rows = "seed_table_rows" if takes_added else "seed_rows"
    seeds = [
        *lookup("seeds", table="item_id", rows=f"{at}seed_rows"),
        *lookup("seen", table="item_id", rows=f"{at}seen_rows"),
        *(_added_seeds() if takes_added else []),
        _node("Gather", ["item_id.rows", table_rows], [f"{of}seeds_ND"]),
        _node("Gather", [_INVERSE, table_rows], [f"{of}inverse_N1"]),
    ]
    if takes_added:
        seeds += [
            _node("Gather", ["added_AD", "seed_places"], ["added_seeds_ND"]),
            _node("Gather", ["added_inverse_A1", "seed_places"], ["added_seed_inverse_N1"]),
            _node("Unsqueeze", ["seed_is_in_bundle", "last_axis"], ["seed_is_in_bundle_N1"]),
            _node("Where", ["seed_is_in_bundle_N1", "table_seeds_ND", "added_seeds_ND"], ["seeds_ND"]),
            _node("Where", ["seed_is_in_bundle_N1", "table_inverse_N1", "added_seed_inverse_N1"], ["inverse_N1"]),
        ]
    mean = [
        _node("Squeeze", ["inverse_N1", "last_axis"], ["inverse_N"]),
        _node("Greater", ["inverse_N", "zero_f"], ["is_known_N"]),
        _node("Cast", ["is_known_N"], ["seeds_known"], to=TensorProto.INT64),
        _node("Cast", ["is_known_N"], ["known_f_N"], to=TensorProto.FLOAT),
        _node("ReduceSum", ["known_f_N"], ["known_count"], keepdims=0),
        _node("Max", ["known_count", "one_f"], ["seed_count"]),
        _node("Mul", ["seeds_ND", "inverse_N1"], ["units_ND"]),
        _node("ReduceSum", ["units_ND", "row_zero"], ["sum_D"], keepdims=0),
        _node("Div", ["sum_D", "seed_count"], ["mean_D"]),
        _node("Reshape", ["mean_D", "column"], ["mean_D1"]),
        _node("MatMul", ["item_id.rows", "mean_D1"], ["products_M1"]),
        _node("Mul", ["products_M1", _INVERSE], ["cosines_M1"]),
    ]
    left_out = _node("Concat", ["seen_rows", "seed_rows"], ["out_rows"], axis=0)
    if not takes_added:
        return [
            *seeds,
            *mean,
            left_out,
            _best("no_added"),
            _node("Gather", ["item_id.keys", "rows"], ["items"]),
        ]
    return [
        *added_rows(),
        *seeds,
        *mean,
        left_out,
        _node("MatMul", ["added_AD", "mean_D1"], ["added_products_A1"]),
        _node("Mul", ["added_products_A1", "added_inverse_A1"], ["added_cosines_A1"]),
        used_scores("added_cosines_A1", used="added_scores"),
        _best("added_scores"),
        *keys_of_rows("rows", keys="items"),
    ]


def _best(added_scores: str) -> NodeProto:
    inputs = ["cosines_M1", added_scores, "out_rows", "allowed", "allowed.rows", "allowed.mask", "k"]
    return _node("TopScores", inputs, ["rows", "scores"], domain=DOMAIN)


def _added_seeds() -> list[NodeProto]:
    """Vectors of the added items and one over their lengths, and the rows of seeds and of what is left out."""
    return [
        _node("Slice", ["added.rows", "first_column", "end", "one_long"], ["added_PD"]),
        _node("Gather", ["added_PD", "added.places"], ["added_AD"]),
        _node("ReduceL2", ["added_AD", "last_axis"], ["added_norm_A1"], keepdims=1),
        _node("Greater", ["added_norm_A1", "zero_f"], ["added_has_norm"]),
        _node("Where", ["added_has_norm", "added_norm_A1", "one_f"], ["added_divisor"]),
        _node("Cast", ["added_has_norm"], ["added_has_norm_f"], to=TensorProto.FLOAT),
        _node("Div", ["added_has_norm_f", "added_divisor"], ["added_inverse_A1"]),
        *find_added("seen", bundle_rows="bundle_seen_rows", rows="seen_rows"),
        *find_added("seeds", bundle_rows="bundle_seed_rows", rows="seed_rows"),
        *split_rows("seed_rows", in_bundle="seed_table_rows", place="seed_places", is_in_bundle="seed_is_in_bundle"),
    ]


def _certify(folder: Path, info: GraphInfo, tables: Mapping[str, TableInfo], rows_MD: Float32Array) -> None:
    """Compare lists of one and of three seeds with the definition in float64."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / info.file, options, providers=["CPUExecutionProvider"])
    keys_M = tables["item_id.keys"].read(folder)
    norm_M = np.linalg.norm(rows_MD.astype(np.float64), axis=1, keepdims=True)
    unit_MD = np.divide(rows_MD, norm_M, out=np.zeros(rows_MD.shape), where=norm_M > 0)
    usable = np.flatnonzero(inverse_norms(rows_MD) > 0)
    random = np.random.Generator(np.random.PCG64(0))
    nothing: dict[str, Any] = {}
    if "added.rows" in info.inputs:
        width = info.inputs["added.rows"].shape[1]
        assert isinstance(width, int)
        nothing |= no_added_items(width)
    for place in range(min(_CERTIFIED, len(usable))):
        seeds = random.choice(usable, size=min(1 + 2 * (place % 2), len(usable)), replace=False)
        given = {
            **nothing,
            "seeds": keys_M[seeds],
            **ALL_ALLOWED,
            "seen": np.full(1, MISSING),
            "k": np.array(_LENGTH, dtype=np.int64),
        }
        items, scores, known = session.run(list(SIMILAR_OUTPUTS), given)
        expected_M = unit_MD @ unit_MD[seeds].mean(axis=0)
        found = np.searchsorted(keys_M[1:], items) + 1
        left = np.delete(expected_M, [0, *seeds])
        best = -np.sort(-left)[:_LENGTH]
        same = len(scores) == len(best) and known.all() and not np.isin(found, seeds).any()
        worst = (
            max(np.abs(scores - best).max(initial=0), np.abs(scores - expected_M[found]).max(initial=0)) if same else 0
        )
        if not same or not worst <= _TOLERANCE:
            raise BundleError(
                f"certificate: ONNX Runtime's list of items like {keys_M[seeds].tolist()} is not that of the vectors' "
                f"cosines: largest difference {worst:.1e}, allowed {_TOLERANCE:.0e}. The bundle was not written"
            )
