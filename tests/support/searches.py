"""Searches of one operator: a graph of it, its inputs, and what it must find, from the definition in numpy."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from recsys.arrays import Float32Array, Int64Array
from recsys.export.retrieval.bits import bit_codes, rotation_of
from recsys.export.retrieval.codes import item_codes
from recsys.export.retrieval.top_items import top_items, top_scores
from recsys.operators import library, use_operators

LIBRARY: Any = ctypes.CDLL(str(library())) if library() else None
SCANS = range(1 if LIBRARY is None else LIBRARY.recsys_choose_scan(-1) + 1)
"""Kinds of processors that this one can be."""

_I64, _F32 = TensorProto.INT64, TensorProto.FLOAT
INPUTS = {
    "items": (_F32, 2),
    "codes": (TensorProto.INT8, 2),
    "scales": (_F32, 2),
    "rotation": (_F32, 2),
    "reranked": (_I64, 2),
    "user": (_F32, 2),
    "addition_rows": (_I64, 1),
    "additions": (_F32, 1),
    "given_scores": (_F32, 2),
    "added_scores": (_F32, 2),
    "left_out": (_I64, 1),
    "allowed": (_I64, 0),
    "allowed_rows": (_I64, 1),
    "allowed_mask": (TensorProto.UINT8, 1),
    "k": (_I64, 0),
}
_sessions: dict[Any, ort.InferenceSession] = {}


def session_of(name: str, operators: str, **body: Any) -> ort.InferenceSession:
    """A graph of one call of a function."""
    key = (name, operators, *body.items())
    if key not in _sessions:
        function = top_scores(**body) if name == "TopScores" else top_items(**body, bits=name == "TopItemsByBits")
        inputs = [helper.make_tensor_value_info(each, *_of(each, name)) for each in function.input]
        outputs = [
            helper.make_tensor_value_info("rows", _I64, [None]),
            helper.make_tensor_value_info("scores", _F32, [None]),
        ]
        graph = helper.make_graph(
            [helper.make_node(name, list(function.input), ["rows", "scores"], domain="recsys")], "one", inputs, outputs
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("recsys", 1)]
        model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        assert use_operators(options, operators) == (operators == "auto")  # type: ignore[arg-type]
        _sessions[key] = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return _sessions[key]


def _of(name: str, function: str) -> tuple[int, list[None]]:
    kind, dimensions = INPUTS[name]
    if (name, function) == ("codes", "TopItemsByBits"):
        kind, dimensions = TensorProto.UINT8, 3
    return kind, [None] * dimensions


def inputs(
    items: Float32Array,
    user: Float32Array,
    *,
    k: int,
    coarse: bool = True,
    bits: int = 0,
    reranked: Any = (),
    additions: tuple[Any, Any] = ((), ()),
    added: Any = (),
    out: Any = (),
    allowed: Int64Array | None = None,
    as_mask: bool = False,
) -> dict[str, Any]:
    """Inputs of ``TopItems``, or, with bits, of ``TopItemsByBits``."""
    of_codes: dict[str, Any] = {}
    if bits:
        of_codes["rotation"] = rotation_of(items.shape[1])
        of_codes["codes"], of_codes["scales"] = bit_codes(items, of_codes["rotation"], bits=bits)
        of_codes["reranked"] = np.array(reranked, dtype=np.int64).reshape(-1, 2)
    elif coarse:
        of_codes["codes"], of_codes["scales"] = item_codes(items)
    else:
        of_codes["codes"], of_codes["scales"] = np.zeros((0, 0), np.int8), np.zeros((0, 2), np.float32)
    every = len(items) + len(added)
    kind = 0 if allowed is None else 2 if as_mask else 1
    rows = np.zeros(1, np.int64) if allowed is None or as_mask or not len(allowed) else allowed
    mask = np.packbits(np.isin(np.arange(every), allowed), bitorder="little") if as_mask else np.zeros(1, np.uint8)
    return {
        "items": items,
        **of_codes,
        "user": user,
        "addition_rows": np.array(additions[0], dtype=np.int64),
        "additions": np.array(additions[1], dtype=np.float32),
        "added_scores": np.array(added, dtype=np.float32).reshape(-1, 1),
        "left_out": np.array(out, dtype=np.int64),
        "allowed": np.array(kind, dtype=np.int64),
        "allowed_rows": rows,
        "allowed_mask": mask,
        "k": np.array(k, dtype=np.int64),
    }


def scores_of(given: dict[str, Any]) -> Float32Array:
    """The definition: of all rows, -inf for those that cannot be found."""
    with np.errstate(all="ignore"):
        scores = (given["items"].astype(np.float64) @ given["user"].astype(np.float64)).max(axis=1)
        np.add.at(scores, given["addition_rows"], given["additions"].astype(np.float64))
        scores = np.concatenate([scores, given["added_scores"][:, 0]]).astype(np.float32)
    scores[given["left_out"]] = -np.inf
    scores[0] = -np.inf
    if given["allowed"] == 1:
        scores[~np.isin(np.arange(len(scores)), given["allowed_rows"])] = -np.inf
    if given["allowed"] == 2:
        scores[np.unpackbits(given["allowed_mask"], bitorder="little")[: len(scores)] == 0] = -np.inf
    return scores


def check(given: dict[str, Any], got: tuple[Int64Array, Float32Array], *, tolerance: float) -> None:
    """The list is the definition's, but for rows whose scores are nearly equal."""
    rows, scores = got
    expected = scores_of(given)
    best = np.lexsort((np.arange(len(expected)), -expected))[: int(given["k"])]
    best = best[expected[best] > -np.inf]
    assert len(rows) == len(best) and len(np.unique(rows)) == len(rows)
    np.testing.assert_allclose(scores, expected[rows], atol=tolerance, rtol=0)
    np.testing.assert_allclose(scores, expected[best], atol=tolerance, rtol=0)
    if tolerance == 0:
        assert rows.tolist() == best.tolist()
