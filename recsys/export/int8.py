"""Matrix products of a ``rank`` graph in 8-bit integers, by the standard operators that ONNX Runtime has kernels for.

    x W + c  ~  deq(q(x)) deq(q(W)) + c

``x`` is quantised as it comes, all of it with one scale and zero point (DynamicQuantizeLinear, [0, 255]); a constant W
at export, column by column ([-127, 127]); a W that depends on the user in the ``user`` graph, once for a request, with
one scale. c becomes a multiple of the product's unit, in 32 bits. Written down as quantised and dequantised tensors
around a Gemm, each group of operators is one integer kernel in ONNX Runtime (QGemm), and right in any other runtime.
Processors with VNNI multiply 8-bit integers three to four times as fast as float32.

Legend: ``K`` columns of x, ``N`` columns of W.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from recsys.bundle import GraphInfo
from recsys.export.graph_files import graph_info, save_graph
from recsys.export.simplify import drop_unused, producers, replace_nodes

SMALLEST_PRODUCT = 2048
"""Products with fewer weights, K * N, stay in float32: quantising takes as long as they do."""


def quantize_products(folder: Path) -> dict[str, GraphInfo]:
    """Rewrite the ``rank`` graph in a folder, and the ``user`` graph before it; returns their new signatures."""
    user, rank = (onnx.load(folder / f"{name}.onnx", load_external_data=False) for name in ("user", "rank"))
    of_user = _quantize(rank.graph)
    for name in of_user:
        _quantize_output(user.graph, name)
    drop_unused(rank.graph)
    save_graph(user, folder / "user.onnx")
    save_graph(rank, folder / "rank.onnx")
    return {"user": graph_info(user, "user.onnx"), "rank": graph_info(rank, "rank.onnx")}


def _quantize(graph: onnx.GraphProto) -> list[str]:
    """Change the graph's products; returns the inputs of the graph that are now 8-bit weights with a scale."""
    constants = {tensor.name: tensor for tensor in graph.initializer if not tensor.external_data}
    inputs = {value.name: value for value in graph.input}
    made = producers(graph)
    of_user: list[str] = []
    zero = "int8_zero"
    graph.initializer.append(numpy_helper.from_array(np.array(0, dtype=np.int8), zero))
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        plain = node.op_type == "Gemm" and _has_attributes(node, alpha=1.0, beta=1.0, transA=0)
        weight = constants.get(node.input[1]) if plain else None
        side = _side_of(node.input[1], inputs, made) if plain else None
        if weight is not None:
            w = numpy_helper.to_array(weight)
            w = w.T if not _has_attributes(node, transB=0) else w
            if w.size >= SMALLEST_PRODUCT and min(w.shape) > 1:
                nodes += _product(node, *_constant_weight(graph, node.input[1], w))
                continue
        elif side is not None and _has_attributes(node, transB=0):
            if side not in of_user:
                of_user.append(side)
                _side_in_bytes(graph, inputs[side])
            nodes += _product(node, node.input[1], f"{side}.scale", zero)
            continue
        nodes.append(node)
    replace_nodes(graph, nodes)
    return of_user


def _product(node: onnx.NodeProto, weight: str, scale: str, zero: str) -> list[onnx.NodeProto]:
    """The operators in place of a Gemm with W or its transpose, given q(W) and its scale."""
    x, bias, result = node.input[0], list(node.input[2:]), node.output[0]
    name = {part: f"{result}.{part}" for part in ("x", "x_scale", "x_zero", "x_float", "w_float", "unit")}
    nodes = [
        helper.make_node("DynamicQuantizeLinear", [x], [name["x"], name["x_scale"], name["x_zero"]]),
        helper.make_node("DequantizeLinear", [name["x"], name["x_scale"], name["x_zero"]], [name["x_float"]]),
        helper.make_node("DequantizeLinear", [weight, scale, zero], [name["w_float"]], axis=1),
    ]
    if bias:
        nodes += [
            helper.make_node("Mul", [name["x_scale"], scale], [name["unit"]]),
            helper.make_node("Div", [bias[0], name["unit"]], [f"{result}.units"]),
            helper.make_node("Round", [f"{result}.units"], [f"{result}.rounded"]),
            helper.make_node("Cast", [f"{result}.rounded"], [f"{result}.bias"], to=TensorProto.INT32),
            helper.make_node("DequantizeLinear", [f"{result}.bias", name["unit"]], [f"{result}.bias_float"], axis=0),
        ]
        bias = [f"{result}.bias_float"]
    gemm = helper.make_node("Gemm", [name["x_float"], name["w_float"], *bias], [result], name=node.name)
    return [*nodes, gemm]


def _constant_weight(graph: onnx.GraphProto, name: str, w: npt.NDArray[np.float32]) -> tuple[str, str, str]:
    """Store W column by column as [-127, 127]; names of the weights, their scales and zero points."""
    names = (f"{name}.int8", f"{name}.scale", f"{name}.zero")
    if names[0] not in {tensor.name for tensor in graph.initializer}:
        largest = np.abs(w).max(axis=0)
        scale = np.where(largest > 0, largest / 127.0, 1.0).astype(np.float32)
        codes = np.rint(w / scale).astype(np.int8)
        arrays = (codes, scale, np.zeros_like(scale, dtype=np.int8))  # ONNX Runtime wants zero points to fuse
        graph.initializer.extend(numpy_helper.from_array(array, n) for array, n in zip(arrays, names, strict=True))
    return names


def _side_of(name: str, inputs: dict[str, onnx.ValueInfoProto], made: dict[str, onnx.NodeProto]) -> str | None:
    """The input of the graph that a tensor is a view of."""
    while name not in inputs:
        node = made.get(name)
        if node is None or node.op_type != "Reshape":
            return None
        name = node.input[0]
    return name


def _side_in_bytes(graph: onnx.GraphProto, side: onnx.ValueInfoProto) -> None:
    """Make an input one of 8-bit integers, with one more input for their scale."""
    side.type.tensor_type.elem_type = TensorProto.INT8
    graph.input.append(helper.make_tensor_value_info(f"{side.name}.scale", TensorProto.FLOAT, []))


def _quantize_output(graph: onnx.GraphProto, name: str) -> None:
    """Make an output of the ``user`` graph one of 8-bit integers, with one more output for their scale.

    The scale is the largest magnitude over 127, and 2^-100 for a tensor of zeros.
    """
    for node in graph.node:
        node.output[:] = [f"{name}.float" if output == name else output for output in node.output]
        node.input[:] = [f"{name}.float" if read == name else read for read in node.input]
    smallest, levels = f"{name}.smallest", f"{name}.levels"
    graph.initializer.append(numpy_helper.from_array(np.array(2.0**-100, dtype=np.float32), smallest))
    graph.initializer.append(numpy_helper.from_array(np.array(127.0, dtype=np.float32), levels))
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


def _has_attributes(node: onnx.NodeProto, **expected: float) -> bool:
    """Whether attributes have these values, or are absent where the value is the default (that of each name here)."""
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return all(given.get(name, value) == value for name, value in expected.items())
