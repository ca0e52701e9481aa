"""Parts of a graph as ONNX functions, where ``recsys.operators`` has an operator that computes them faster.

A function is stored with its body of standard operators: any runtime runs that. ONNX Runtime with recsys's operators
runs the operator of the function's name in its place.

Legend: ``C`` candidates, ``S`` events, ``D`` width, ``H`` and ``N`` units of two layers.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
import onnx.parser
from onnx import helper, numpy_helper

from recsys.export.simplify import drop_unused, producers, readers, replace_nodes
from recsys.features.hashing import HALF_MASK, PRIME

DOMAIN = "recsys"
OPSET = 21

_Path = tuple[tuple[int, str], ...]
"""Steps from a node to those that make its inputs: the input's number, and the operator."""

_SECOND_LAYER: _Path = (
    (0, "Gemm"),
    (1, "LeakyRelu"),
    (0, "Add"),
    (0, "Mul"),
    (0, "Cast"),
    (0, "MatMulInteger"),
    (0, "DynamicQuantizeLinear"),
)
"""From a column of numbers, the last layer, up to what the second one multiplies."""
_ATTENTION: _Path = ((0, "Reshape"), *_SECOND_LAYER, (0, "Reshape"), (0, "LeakyRelu"), (0, "Gemm"))
_HEAD: _Path = (*_SECOND_LAYER, (0, "LeakyRelu"), (0, "Gemm"))
_TO_QUERY: _Path = ((0, "DequantizeLinear"), (0, "DynamicQuantizeLinear"))
_TO_CONSTANT_WEIGHT: _Path = ((1, "DequantizeLinear"),)
_TO_WEIGHT: _Path = (*_TO_CONSTANT_WEIGHT, (0, "Reshape"))
_TO_HEAD_BIAS: _Path = ((2, "DequantizeLinear"), (0, "Cast"), (0, "Round"), (0, "Div"), (0, "Div"))
_TO_BIAS: _Path = (*_TO_HEAD_BIAS, (0, "Reshape"))
_TO_KEYS: _Path = ((0, "MatMul"), (0, "Concat"), (0, "Unsqueeze"), (0, "Transpose"))
_TO_SIGNS: _Path = ((0, "Reshape"), (0, "Relu"), (0, "Gemm"), (0, "Reshape"), (0, "Cast"), (0, "Greater"))

_MOST_UNITS = 128
"""Of a layer that an operator keeps in registers."""

_ID_ROWS = f"""
<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>
IdRows (keys, of_low, of_folded, offset, count, first, table) => (rows)
{{
    prime = Constant <value = int64 {{{PRIME}}}> ()
    mask = Constant <value = int64 {{{HALF_MASK}}}> ()
    zero = Constant <value = int64 {{0}}> ()
    last = Constant <value = int64[1] {{-1}}> ()
    first_and_last = Constant <value = int64[2] {{0, -1}}> ()
    low = BitwiseAnd (keys, mask)
    folded = Mod (keys, prime)
    low_part = Mul (low, of_low)
    folded_part = Mul (folded, of_folded)
    sum = Add (low_part, folded_part)
    mixed = Add (sum, offset)
    hashed = Mod (mixed, prime)
    place = Mod (hashed, count)
    bucket = Add (place, first)
    slots = Gather (table, bucket)
    slot_keys, slot_rows = Split <axis = -1, num_outputs = 2> (slots)
    key = Unsqueeze (keys, last)
    found = Equal (slot_keys, key)
    rows_found = Where (found, slot_rows, zero)
    rows = ReduceSum <keepdims = 0> (rows_found, first_and_last)
}}
"""
"""``IdTableModule`` of ``embeddings/id_table.py``, for keys of any shape."""

_TO_BUCKETS: _Path = ((0, "Where"), (1, "Split"), (0, "Gather"), (1, "Add"))
_TO_MIXED: _Path = ((0, "Mod"), (0, "Mod"), (0, "Add"), (0, "Add"))


def id_rows(model: onnx.ModelProto) -> int:
    """Make each look-up of ids in an exact id map one node ``recsys.IdRows``; how many there are.

    Its inputs, all int64: keys of any shape; the two hash functions' coefficients and ranges, each [2, 1, ..] (see
    ``hash_ops.hash_all``); the table [T, 2 W]. Output: rows, of the keys' shape.
    """
    graph = model.graph
    made, constants = producers(graph), {t.name: t for t in graph.initializer}
    calls = []
    for node in graph.node:
        way = _path(made, node, _TO_BUCKETS) if node.op_type == "ReduceSum" else None
        mixed = None if way is None else _path(made, way[-1], _TO_MIXED)
        if way is None or mixed is None:
            continue
        found, _, gather, bucket = way
        equal = _path(made, found, ((0, "Equal"), (1, "Unsqueeze")))
        low = _path(made, mixed[-1], ((0, "Mul"), (0, "BitwiseAnd")))
        folded = _path(made, mixed[-1], ((1, "Mul"), (0, "Mod")))
        if equal is None or low is None or folded is None or equal[-1].input[0] != low[-1].input[0]:
            continue
        inputs = [
            equal[-1].input[0],
            low[0].input[1],
            folded[0].input[1],
            mixed[2].input[1],
            mixed[0].input[1],
            bucket.input[1],
            gather.input[0],
        ]
        if constants.keys() >= set(inputs[1:]):
            calls.append((node.output[0], helper.make_node("IdRows", inputs, [node.output[0]], domain=DOMAIN)))
    made_by = dict(calls)
    replace_nodes(graph, [made_by.get(node.output[0], node) for node in graph.node])
    drop_unused(graph)
    if calls:
        _add(model, onnx.parser.parse_function(_ID_ROWS))
    return len(calls)


def bucket_interest(model: onnx.ModelProto) -> bool:
    """Make adding up a candidate's buckets one node, ``recsys.BucketInterest``; whether the graph has that.

    Its inputs, G signatures of B bits: products [C, G B] float64; each bucket's bits as 1 and -1, [B, 2^B], and one
    less their number, [2^B]; sums [G 2^B, D]. Output: interest [C, D].
    """
    made, constants = producers(model.graph), {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        way = _path(made, node, _TO_SIGNS) if node.op_type == "MatMul" else None
        if way is None:
            continue
        gemm, greater = way[2], way[-1]
        if not constants.keys() >= {gemm.input[1], gemm.input[2], greater.input[1]}:
            continue
        bits, others, zero = (numpy_helper.to_array(constants[t]) for t in (*gemm.input[1:], greater.input[1]))
        buckets = np.arange(len(others))
        has = np.array([buckets >> bit & 1 for bit in range(len(bits))])
        if not (np.array_equal(bits, 2 * has - 1) and np.array_equal(others, 1 - has.sum(axis=0)) and zero == 0):
            continue
        inputs = {"products": greater.input[0], "bits": gemm.input[1], "others": gemm.input[2], "sums": node.input[1]}
        return outline(model, "BucketInterest", inputs, {"interest": node.output[0]})
    return False


def target_attention(rank: onnx.ModelProto) -> bool:
    """Make DIN's attention in 8-bit integers one node, ``recsys.TargetAttention``; whether the graph has one.

    Its inputs: query [C, D]; the first layer folded for the events, weight [D, S, H] int8 and its unit [], bias
    [S, H]; the second layer's weight [H, N] int8, units [N] and bias [N]; the last layer's weight [1, N] and bias [1];
    keys [S, D]. Attributes: the slopes of both layers' LeakyReLU. Output: interest [C, D]. All but weights float32.
    """
    made = producers(rank.graph)
    for node in rank.graph.node:
        way = _path(made, node, _ATTENTION) if node.op_type == "MatMul" else None
        if way is None:
            continue
        second, first_act, first = _second_layer(rank.graph, way[1:]), way[-2], way[-1]
        query, weight, bias = (_path(made, first, path) for path in (_TO_QUERY, _TO_WEIGHT, _TO_BIAS))
        if query is None or weight is None or bias is None or second is None or max(second.units) > _MOST_UNITS:
            continue
        inputs = {
            "query": query[-1].input[0],
            "weight": weight[-1].input[0],
            "weight_unit": weight[0].input[1],
            "bias": bias[-1].input[0],
            **second.inputs,
            "keys": node.input[1],
        }
        slopes = {"first_slope": first_act, "second_slope": second.act}
        return outline(rank, "TargetAttention", inputs, {"interest": node.output[0]}, slopes)
    return False


def head(rank: onnx.ModelProto) -> bool:
    """Make two hidden layers in 8-bit integers and the number after them one node, ``recsys.Head``; if there are any.

    Its inputs: x [C, K]; the first layer's weight [K, H] int8, units [H] and bias [H]; the others as those of
    :func:`target_attention`. Output: logits [C, 1].
    """
    made, constants = producers(rank.graph), {t.name for t in rank.graph.initializer}
    for node in rank.graph.node:
        way = _path(made, node, _HEAD) if node.op_type == "Reshape" else None
        if way is None:
            continue
        second, first_act, first = _second_layer(rank.graph, way), way[-2], way[-1]
        x, weight, bias = (_path(made, first, path) for path in (_TO_QUERY, _TO_CONSTANT_WEIGHT, _TO_HEAD_BIAS))
        if x is None or weight is None or bias is None or second is None or second.units[1] > _MOST_UNITS:
            continue
        if weight[0].input[0] in constants:
            inputs = {
                "x": x[-1].input[0],
                "weight": weight[0].input[0],
                "unit": weight[0].input[1],
                "bias": bias[-1].input[0],
                **second.inputs,
            }
            slopes = {"first_slope": first_act, "second_slope": second.act}
            return outline(rank, "Head", inputs, {"logits": node.output[0]}, slopes)
    return False


class _Second(NamedTuple):
    """A second and last layer: how many inputs and units; the inputs of a function; the activation."""

    units: tuple[int, int]
    inputs: dict[str, str]
    act: onnx.NodeProto


def _second_layer(graph: onnx.GraphProto, way: Sequence[onnx.NodeProto]) -> _Second | None:
    """From what is found on the way up that begins with :data:`_SECOND_LAYER`; None if its weights are no constants."""
    last, act, add, mul, _, product, _ = way[: len(_SECOND_LAYER)]
    sizes = {tensor.name: tensor.dims for tensor in graph.initializer}
    unit = _path(producers(graph), mul, ((1, "Mul"),))
    if unit is None:
        return None
    inputs = {
        "second_weight": product.input[1],
        "second_unit": unit[0].input[1],
        "second_bias": add.input[1],
        "last_weight": last.input[0],
        "last_bias": last.input[2],
    }
    if not sizes.keys() >= set(inputs.values()):
        return None
    inputs_of_second, units = sizes[product.input[1]]
    return _Second((inputs_of_second, units), inputs, act)


def attention_weight(user: onnx.ModelProto) -> bool:
    """Make folding the attention's first layer in 8-bit integers one node, ``recsys.AttentionWeight``; if there is any.

    Its inputs: keys [S, D]; the weights of q * k and of q, [D, 2, H]. Outputs: weight [D, S, H] int8, and its unit [].
    """
    made = producers(user.graph)
    for node in user.graph.node:
        way = _path(made, node, _TO_KEYS) if node.op_type == "QuantizeLinear" else None
        if way is not None:
            inputs = {"keys": way[-1].input[0], "folded": way[0].input[1]}
            return outline(user, "AttentionWeight", inputs, {"weight": node.output[0], "unit": node.input[1]})
    return False


def outline(
    model: onnx.ModelProto,
    name: str,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    slopes: Mapping[str, onnx.NodeProto] | None = None,
) -> bool:
    """Make all nodes between some tensors a function, in place; whether they are cut off from the rest by these.

    Args:
        model: the graph.
        name: the function's.
        inputs, outputs: parameter -> tensor.
        slopes: attribute -> the LeakyRelu in the function that has it.
    """
    graph, slopes = model.graph, slopes or {}
    given = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in inputs.values()}
    inside = _between(graph, set(inputs.values()) | set(given), list(outputs.values()))
    nodes = [node for node in graph.node if inside.intersection(node.output)]
    all_reads, own_reads = readers(graph), readers(onnx.GraphProto(node=nodes))
    hidden = {tensor for node in nodes for tensor in node.output} - set(outputs.values())
    if inside.difference(producers(graph)) or any(all_reads[tensor] != own_reads[tensor] for tensor in hidden):
        return False
    constants = dict.fromkeys(tensor for node in nodes for tensor in node.input if tensor in given)
    body = [helper.make_node("Constant", [], [tensor], value=given[tensor]) for tensor in constants]
    parameters = {tensor: parameter for parameter, tensor in (*inputs.items(), *outputs.items())}
    for node in nodes:
        moved = onnx.NodeProto()
        moved.CopyFrom(node)
        for slope, act in slopes.items():
            if act.output[0] == node.output[0]:
                moved.attribute[0].ClearField("f")
                moved.attribute[0].ref_attr_name = slope
        moved.input[:] = [parameters.get(tensor, tensor) for tensor in node.input]
        moved.output[:] = [parameters.get(tensor, tensor) for tensor in node.output]
        body.append(moved)
    versions = [entry for entry in model.opset_import if entry.domain != DOMAIN]
    _add(
        model, helper.make_function(DOMAIN, name, list(inputs), list(outputs), body, versions, attributes=list(slopes))
    )
    values = {slope: helper.get_attribute_value(act.attribute[0]) for slope, act in slopes.items()}
    call = helper.make_node(name, list(inputs.values()), list(outputs.values()), domain=DOMAIN, **values)
    rest = [node for node in graph.node if not inside.intersection(node.output)]
    makers = [place for place, node in enumerate(rest) if set(inputs.values()).intersection(node.output)]
    rest.insert(max(makers, default=-1) + 1, call)
    replace_nodes(graph, rest)
    drop_unused(graph)
    return True


def _add(model: onnx.ModelProto, function: onnx.FunctionProto) -> None:
    model.functions.append(function)
    if all(entry.domain != DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def _between(graph: onnx.GraphProto, begins: Container[str], ends: Sequence[str]) -> set[str]:
    """The tensors on the way up from some tensors to others, the upper ones not included."""
    made = producers(graph)
    met, open_ends = set(ends), list(ends)
    while open_ends:
        node = made.get(open_ends.pop())
        for tensor in () if node is None else node.input:
            if tensor and tensor not in begins and tensor not in met:
                met.add(tensor)
                open_ends.append(tensor)
    return met


def _path(made: Mapping[str, onnx.NodeProto], node: onnx.NodeProto, steps: _Path) -> list[onnx.NodeProto] | None:
    """The nodes met on a way up, of several views in a row the highest; None if one is of another operator."""
    met = []
    for number, operator in steps:
        above = made.get(node.input[number]) if number < len(node.input) else None
        if above is None or above.op_type != operator:
            return None
        while operator == "Reshape" and (higher := made.get(above.input[0])) and higher.op_type == "Reshape":
            above = higher
        met.append(above)
        node = above
    return met
