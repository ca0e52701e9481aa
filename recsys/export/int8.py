"""Matrix products of a ``rank`` graph in 8-bit integers, by the standard operators that ONNX Runtime has kernels for.

    x W + c  ~  deq(q(x)) deq(q(W)) + c

``x`` is quantised as it comes, all of it with one scale and zero point (DynamicQuantizeLinear, [0, 255]); a constant W
at export, column by column ([-127, 127]); a W that depends on the user in the ``user`` graph, once for a request, with
one scale ([-64, 64], see below). Processors with VNNI multiply 8-bit integers three to four times as fast as float32.

ONNX Runtime makes one kernel of each product if it is written as it expects: a constant c is added to the scaled
product (DynamicQuantizeMatMul); one that depends on the user becomes whole units of the product, in 32 bits, in a Gemm
of dequantised tensors (QGemm). Any other runtime computes the same from the same operators.

Processors without VNNI add pairs of products in 16 bits, where 2 * 255 * 64 has room and 2 * 255 * 127 has not. ONNX
Runtime avoids that by itself for constant weights, if asked (:func:`recsys.operators.use_operators`), and only for
those: the others have 7 bits.

A product that is sorted or compared stays in float32: rounding would make another choice there, not a number that is
slightly different.

Legend: ``K`` columns of x, ``N`` columns of W.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from recsys.arrays import Float32Array, Int64Array
from recsys.bundle import Compute, GraphInfo
from recsys.data.samples.dataset import Dataset
from recsys.errors import BundleError, InvalidInputError
from recsys.evaluation.evaluate import evaluate
from recsys.export.certificate import graph_certificate_logits, graph_logits
from recsys.export.graphs.files import graph_info, save_graph
from recsys.export.rewrites.functions import attention_weight, head, target_attention
from recsys.export.rewrites.simplify import drop_unused, has_attributes, producers, readers, replace_nodes
from recsys.operators import WITH_VNNI, Operators, has_vnni

SAMPLES = 20_000
TOLERANCE = 0.05

SMALLEST_PRODUCT = 2048
"""Products with fewer weights, K * N, stay in float32: quantising takes as long as they do."""


_COMPARING = ("TopK", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal")

_ZERO, _SMALL = "int8.zero", "int8.small"

_LEVELS_OF_USER = 64.0
"""Largest magnitude of a weight that depends on the user."""


def use_int8(folder: Path, dataset: Dataset) -> tuple[dict[str, GraphInfo], Compute]:
    """Rewrite the graphs in a folder, and measure by how much the answers change, on up to ``SAMPLES`` test samples.

    With ONNX Runtime's operators, and with recsys's own where these run and the graphs have functions of theirs.

    Raises:
        BundleError: no product is large enough; or the answers to these samples, or to the certificate's requests
            with their edge cases, differ by more than ``TOLERANCE`` of what logits differ from each other.
    """
    tested = dataset.split("test") if len(dataset.split("test")) else dataset.split("train")
    random = np.random.Generator(np.random.PCG64(3))
    indices = np.sort(random.choice(tested, size=min(SAMPLES, len(tested)), replace=False))
    before, certified = graph_logits(folder, dataset, indices), graph_certificate_logits(folder, dataset)
    graphs = quantize_products(folder)
    rank = onnx.load(folder / graphs["rank"].file, load_external_data=False)
    user = onnx.load(folder / graphs["user"].file, load_external_data=False)
    own = any(f.name in WITH_VNNI for graph in (user, rank) for f in graph.functions)
    nodes = [*rank.graph.node, *(node for function in rank.functions for node in function.node)]
    if not any(node.op_type == "DynamicQuantizeLinear" for node in nodes):
        raise BundleError(
            f"int8 products: none of the model's is of {SMALLEST_PRODUCT:,} weights or more with a bias. The bundle "
            "was not written; export with float32 products"
        )
    allowed = TOLERANCE * float(before.std())

    def measured(operators: Operators) -> dict[str, Any]:
        """Of the graphs as they are now; what they change."""
        after = graph_logits(folder, dataset, indices, operators=operators)
        differences = np.abs(after - before)
        mean = float(differences.mean())
        of_certified = graph_certificate_logits(folder, dataset, operators=operators) - certified
        for of, change in (("test samples", mean), ("edge cases", float(np.abs(of_certified).mean()))):
            if not change <= allowed:  # NaN is refused too
                whose = "in recsys's own operators " if operators == "auto" else ""
                raise BundleError(
                    f"int8 products {whose}change logits of {of} by {change:.2e} on average; allowed: {allowed:.2e}, "
                    f"{TOLERANCE:.0%} of the standard deviation of test samples' logits. The bundle was not written; "
                    "export with float32 products"
                )
        return {
            "max_abs_logit_difference": float(differences.max()),
            "mean_abs_logit_difference": mean,
            "metrics": _metrics(dataset, indices, after[:, 0]),
        }

    compute = Compute(
        kind="int8",
        requests=len(before),
        candidates=before.size,
        tolerance=allowed,
        float32_metrics=_metrics(dataset, indices, before[:, 0]),
        **measured("standard"),
        own_operators=measured("auto") if has_vnni() and own else None,
    )
    return graphs, compute


def _metrics(dataset: Dataset, indices: Int64Array, logits: Float32Array) -> dict[str, float | None]:
    try:
        return asdict(evaluate(dataset, indices, logits))
    except InvalidInputError:  # one label only: there is nothing to measure
        return {}


def quantize_products(folder: Path) -> dict[str, GraphInfo]:
    """Rewrite the ``rank`` graph in a folder, and the ``user`` graph before it; returns their new signatures."""
    user, rank = (onnx.load(folder / f"{name}.onnx", load_external_data=False) for name in ("user", "rank"))
    of_user = _quantize(rank.graph)
    for name in of_user:
        _quantize_output(user.graph, name)
    drop_unused(rank.graph)
    attention_weight(user)
    target_attention(rank)
    head(rank)
    save_graph(user, folder / "user.onnx")
    save_graph(rank, folder / "rank.onnx")
    return {"user": graph_info(user, "user.onnx"), "rank": graph_info(rank, "rank.onnx")}


def _quantize(graph: onnx.GraphProto) -> list[str]:
    """Change the graph's products; returns the inputs of the graph that are now 8-bit weights with a scale."""
    constants = {tensor.name: tensor for tensor in graph.initializer if not tensor.external_data}
    inputs = {value.name: value for value in graph.input}
    made, uses = producers(graph), readers(graph)
    compared = {name for node in graph.node if node.op_type in _COMPARING for name in node.input}
    of_user: list[str] = []
    graph.initializer.append(numpy_helper.from_array(np.array(0, dtype=np.int8), _ZERO))
    graph.initializer.append(numpy_helper.from_array(np.array(2.0**-30, dtype=np.float32), _SMALL))
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        plain = node.op_type == "Gemm" and has_attributes(node, alpha=1.0, beta=1.0, transA=0)
        plain = plain and not compared.intersection(node.output)
        weight = constants.get(node.input[1]) if plain else None
        side = _side_of(node.input[1], inputs, made, uses) if plain else None
        if weight is not None:
            w, name = numpy_helper.to_array(weight), node.input[1]
            if not has_attributes(node, transB=0):
                w, name = w.T, f"{name}.transposed"
            if w.dtype == np.float32 and w.size >= SMALLEST_PRODUCT and min(w.shape) > 1:
                nodes += _product(node, _constant_weight(graph, name, w), constants)
                continue
        elif side is not None and has_attributes(node, transB=0):
            of_user.append(side)
            _side_in_bytes(graph, inputs[side])
            nodes += _product(node, (node.input[1], f"{side}.scale", _ZERO), constants)
            continue
        nodes.append(node)
    replace_nodes(graph, nodes)
    return of_user


def _product(node: onnx.NodeProto, weight: tuple[str, str, str], constants: Container[str]) -> list[onnx.NodeProto]:
    """The operators in place of a Gemm with W or its transpose. ``weight``: names of q(W), its scale and zero point."""
    x, result = node.input[0], node.output[0]
    quantised = [f"{result}.x", f"{result}.x_scale", f"{result}.x_zero"]
    first = helper.make_node("DynamicQuantizeLinear", [x], quantised)
    if len(node.input) > 2 and node.input[2] not in constants:
        return [first, *_with_whole_bias(node.input[2], quantised, weight, result)]
    return [first, *_with_bias(node.input[2:], quantised, weight, result)]


def _with_bias(
    bias: Sequence[str], x: Sequence[str], weight: tuple[str, str, str], result: str
) -> list[onnx.NodeProto]:
    scaled = f"{result}.scaled" if bias else result
    return [
        helper.make_node("MatMulInteger", [x[0], weight[0], x[2], weight[2]], [f"{result}.sums"]),
        helper.make_node("Cast", [f"{result}.sums"], [f"{result}.float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [x[1], weight[1]], [f"{result}.unit"]),
        helper.make_node("Mul", [f"{result}.float", f"{result}.unit"], [scaled]),
        *(helper.make_node("Add", [scaled, name], [result]) for name in bias),
    ]


def _with_whole_bias(bias: str, x: Sequence[str], weight: tuple[str, str, str], result: str) -> list[onnx.NodeProto]:
    """The bias in units of the product.

    If x is so small that these would not fit in 32 bits, its scale is taken larger: the product is then less than 0.01
    of the largest bias, and wrong by less than that.
    """
    name = {part: f"{result}.{part}" for part in ("of_w", "abs", "most", "least", "scale", "units", "rounded", "bias")}
    unit, of_x, of_w, of_bias = (f"{result}.{part}" for part in ("unit", "x_float", "w_float", "bias_float"))
    return [
        helper.make_node("Div", [bias, weight[1]], [name["of_w"]]),
        helper.make_node("Abs", [name["of_w"]], [name["abs"]]),
        helper.make_node("ReduceMax", [name["abs"]], [name["most"]], keepdims=0),
        helper.make_node("Mul", [name["most"], _SMALL], [name["least"]]),
        helper.make_node("Max", [x[1], name["least"]], [name["scale"]]),
        helper.make_node("Div", [name["of_w"], name["scale"]], [name["units"]]),
        helper.make_node("Round", [name["units"]], [name["rounded"]]),
        helper.make_node("Cast", [name["rounded"]], [name["bias"]], to=TensorProto.INT32),
        helper.make_node("Mul", [name["scale"], weight[1]], [unit]),
        helper.make_node("DequantizeLinear", [x[0], name["scale"], x[2]], [of_x]),
        helper.make_node("DequantizeLinear", weight, [of_w], axis=1),
        helper.make_node("DequantizeLinear", [name["bias"], unit], [of_bias], axis=0),
        helper.make_node("Gemm", [of_x, of_w, of_bias], [result]),
    ]


def _constant_weight(graph: onnx.GraphProto, name: str, w: Float32Array) -> tuple[str, str, str]:
    """Store W column by column as [-127, 127]; names of the weights, their scales and zero points."""
    names = (f"{name}.int8", f"{name}.scale", f"{name}.zero")
    if names[0] not in {tensor.name for tensor in graph.initializer}:
        largest = np.abs(w).max(axis=0)
        scale = np.where(largest > 0, largest / 127.0, 1.0).astype(np.float32)
        codes = np.rint(w / scale).astype(np.int8)
        arrays = (codes, scale, np.zeros_like(scale, dtype=np.int8))  # ONNX Runtime wants zero points to fuse
        graph.initializer.extend(numpy_helper.from_array(array, n) for array, n in zip(arrays, names, strict=True))
    return names


def _side_of(
    name: str, inputs: Container[str], made: Mapping[str, onnx.NodeProto], uses: Mapping[str, int]
) -> str | None:
    """The input of the graph that a tensor is a view of, if nothing else reads it, which would read other numbers."""
    while uses[name] == 1:
        if name in inputs:
            return name
        node = made.get(name)
        if node is None or node.op_type != "Reshape":
            return None
        name = node.input[0]
    return None


def _side_in_bytes(graph: onnx.GraphProto, side: onnx.ValueInfoProto) -> None:
    """Make an input one of 8-bit integers, with one more input for their scale."""
    side.type.tensor_type.elem_type = TensorProto.INT8
    graph.input.append(helper.make_tensor_value_info(f"{side.name}.scale", TensorProto.FLOAT, []))


def _quantize_output(graph: onnx.GraphProto, name: str) -> None:
    """Make an output of the ``user`` graph one of 8-bit integers, with one more output for their scale.

    The scale is the largest magnitude over 64, and 2^-100 for a tensor of zeros.
    """
    for node in graph.node:
        node.output[:] = [f"{name}.float" if output == name else output for output in node.output]
        node.input[:] = [f"{name}.float" if read == name else read for read in node.input]
    smallest, levels = f"{name}.smallest", f"{name}.levels"
    graph.initializer.append(numpy_helper.from_array(np.array(2.0**-100, dtype=np.float32), smallest))
    graph.initializer.append(numpy_helper.from_array(np.array(_LEVELS_OF_USER, dtype=np.float32), levels))
    graph.initializer.append(numpy_helper.from_array(np.array(0, dtype=np.int8), f"{name}.zero"))
    graph.node.extend(
        [
            helper.make_node("ReduceMax", [f"{name}.float"], [f"{name}.max"], keepdims=0),
            helper.make_node("ReduceMin", [f"{name}.float"], [f"{name}.min"], keepdims=0),
            helper.make_node("Neg", [f"{name}.min"], [f"{name}.minus_min"]),
            helper.make_node("Max", [f"{name}.max", f"{name}.minus_min", smallest], [f"{name}.largest"]),
            helper.make_node("Div", [f"{name}.largest", levels], [f"{name}.scale"]),
            helper.make_node("QuantizeLinear", [f"{name}.float", f"{name}.scale", f"{name}.zero"], [name]),
        ]
    )
    (output,) = (value for value in graph.output if value.name == name)
    output.type.tensor_type.elem_type = TensorProto.INT8
    graph.output.append(helper.make_tensor_value_info(f"{name}.scale", TensorProto.FLOAT, []))
