"""Parts of a graph as ONNX functions, where ``recsys.operators`` has an operator that computes them faster.

A function is stored with its body of standard operators: any runtime runs that. ONNX Runtime with recsys's operators
runs the operator of the function's name in its place.

Legend: ``C`` candidates, ``S`` events, ``D`` width, ``H`` and ``N`` units of two layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
import onnx.parser
from onnx import helper, numpy_helper

from recsys.export.rewrites.extract_function import DOMAIN, Path, add_function, extract_function, path_up
from recsys.export.rewrites.simplify import drop_unused, has_attributes, has_body, producers, replace_nodes
from recsys.features.hashing import HALF_MASK, PRIME

OPSET = 21

_SECOND_LAYER: Path = (
    (0, "Gemm"),
    (1, "LeakyRelu"),
    (0, "Add"),
    (0, "Mul"),
    (0, "Cast"),
    (0, "MatMulInteger"),
    (0, "DynamicQuantizeLinear"),
)
"""From a column of numbers, the last layer, up to what the second one multiplies."""
_ATTENTION: Path = ((0, "Reshape"), *_SECOND_LAYER, (0, "Reshape"), (0, "LeakyRelu"), (0, "Gemm"))
_HEAD: Path = (*_SECOND_LAYER, (0, "LeakyRelu"), (0, "Gemm"))
_TO_QUERY: Path = ((0, "DequantizeLinear"), (0, "DynamicQuantizeLinear"))
_TO_CONSTANT_WEIGHT: Path = ((1, "DequantizeLinear"),)
_TO_WEIGHT: Path = (*_TO_CONSTANT_WEIGHT, (0, "Reshape"))
_TO_HEAD_BIAS: Path = ((2, "DequantizeLinear"), (0, "Cast"), (0, "Round"), (0, "Div"), (0, "Div"))
_TO_BIAS: Path = (*_TO_HEAD_BIAS, (0, "Reshape"))
_TO_KEYS: Path = ((0, "MatMul"), (0, "Concat"), (0, "Unsqueeze"), (0, "Transpose"))
_TO_SIGNS: Path = ((0, "Reshape"), (0, "Relu"), (0, "Gemm"), (0, "Reshape"), (0, "Cast"), (0, "Greater"))

_MOST_UNITS = 128
"""Of a layer that an operator keeps in registers."""

_ID_ROWS = f"""
<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>
NAME (keys, of_low, of_folded, offset, count, first, table) => (rows)
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
"""``IdTables`` of ``embeddings/row_maps/id_table.py``, for keys of any shape; of several tables the name is another,
and the keys' first dimension is over them."""

_TO_BUCKETS: Path = ((0, "Where"), (1, "Split"), (0, "Gather"), (1, "Add"))
_TO_MIXED: Path = ((0, "Mod"), (0, "Mod"), (0, "Add"), (0, "Add"))


def id_rows(model: onnx.ModelProto) -> int:
    """Make look-ups of ids in exact id maps one node each, ``recsys.IdRows``, and those in M maps at once one,
    ``recsys.StackedIdRows``; how many there are.

    Their inputs, all int64: keys of any shape, or [M, ..]; the two hash functions' coefficients and ranges, each
    [2, 1, ..], or [2, M, 1, ..] (see ``hash_ops.hash_all``); the table [T, 2 W]. Output: rows, of the keys' shape.
    """
    graph = model.graph
    made, constants = producers(graph), {t.name: t for t in graph.initializer}
    calls: dict[str, onnx.NodeProto] = {}
    for node in () if any(map(has_body, graph.node)) else graph.node:
        inputs = _look_up(node, made, constants)
        if inputs is not None:
            name = "IdRows" if np.prod(constants[inputs[1]].dims) == 2 else "StackedIdRows"
            calls[node.output[0]] = helper.make_node(name, inputs, [node.output[0]], domain=DOMAIN)
    if calls:
        replace_nodes(graph, [calls.get(node.output[0], node) for node in graph.node])
        drop_unused(graph)
        for name in dict.fromkeys(call.op_type for call in calls.values()):
            add_function(model, onnx.parser.parse_function(_ID_ROWS.replace("NAME", name)))
    return len(calls)


def _look_up(
    last: onnx.NodeProto, made: Mapping[str, onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]
) -> list[str] | None:
    """The inputs of ``IdRows`` in place of what ends with this node; None if that is something else."""

    def is_constant(name: str, value: int | list[int]) -> bool:
        return name in constants and np.array_equal(numpy_helper.to_array(constants[name]), value)

    way = path_up(made, last, _TO_BUCKETS) if last.op_type == "ReduceSum" else None
    mixed = None if way is None else path_up(made, way[-1], _TO_MIXED)
    equal = None if way is None else path_up(made, way[0], ((0, "Equal"), (1, "Unsqueeze")))
    low = None if mixed is None else path_up(made, mixed[-1], ((0, "Mul"), (0, "BitwiseAnd")))
    folded = None if mixed is None else path_up(made, mixed[-1], ((1, "Mul"), (0, "Mod")))
    if way is None or mixed is None or equal is None or low is None or folded is None:
        return None
    (found, split, gather, bucket), (place, hashed, offset, _), keys = way, mixed, equal[1].input[0]
    same = (
        list(split.output) == [equal[0].input[0], found.input[1]]
        and keys == low[1].input[0] == folded[1].input[0]
        and is_constant(last.input[1], [0, -1])
        and is_constant(found.input[2], 0)
        and is_constant(hashed.input[1], PRIME)
        and is_constant(folded[1].input[1], PRIME)
        and is_constant(low[1].input[1], HALF_MASK)
        and any(attribute.name == "keepdims" and attribute.i == 0 for attribute in last.attribute)
        and has_attributes(gather, axis=0)
        and all(has_attributes(mod, fmod=0) for mod in (place, hashed, folded[1]))
    )
    of_hashes = [low[0].input[1], folded[0].input[1], offset.input[1], place.input[1], bucket.input[1]]
    inputs = [keys, *of_hashes, gather.input[0]]
    return inputs if same and constants.keys() >= set(inputs[1:]) else None


def bucket_interest(model: onnx.ModelProto) -> bool:
    """Make adding up a candidate's buckets one node, ``recsys.BucketInterest``; whether the graph has that.

    Its inputs, G signatures of B bits: products [C, G B] float64; each bucket's bits as 1 and -1, [B, 2^B], and one
    less their number, [2^B]; sums [G 2^B, D]. Output: interest [C, D].
    """
    made, constants = producers(model.graph), {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        way = path_up(made, node, _TO_SIGNS) if node.op_type == "MatMul" else None
        if way is None:
            continue
        rows, _, gemm, of_signs, _, greater = way
        read = (*gemm.input[1:], greater.input[1], of_signs.input[1], rows.input[1])
        in_float64 = path_up(made, greater, ((0, "MatMul"), (0, "Cast")))
        plain = has_attributes(gemm, alpha=1.0, beta=1.0, transA=0, transB=0)
        if in_float64 is None or not plain or not constants.keys() >= {*read, in_float64[0].input[1]}:
            continue
        bits, others, zero, signs_shape, rows_shape = (numpy_helper.to_array(constants[tensor]) for tensor in read)
        buckets = np.arange(len(others))
        has = np.array([buckets >> bit & 1 for bit in range(len(bits))])
        signatures = constants[in_float64[0].input[1]].dims[1] // len(bits)
        same = (
            np.array_equal(bits, 2 * has - 1)
            and np.array_equal(others, 1 - has.sum(axis=0))
            and not zero.any()
            and signs_shape.tolist() == [-1, len(bits)]
            and rows_shape.tolist() == [-1, signatures * len(others)]
            and has_attributes(in_float64[1], to=onnx.TensorProto.DOUBLE)
        )
        if not same:
            continue
        inputs = {"products": greater.input[0], "bits": gemm.input[1], "others": gemm.input[2], "sums": node.input[1]}
        return extract_function(model, "BucketInterest", inputs, {"interest": node.output[0]})
    return False


def target_attention(rank: onnx.ModelProto) -> bool:
    """Make DIN's attention in 8-bit integers one node, ``recsys.TargetAttention``; whether the graph has one.

    Its inputs: query [C, D]; the first layer folded for the events, weight [D, S, H] int8 and its unit [], bias
    [S, H]; the second layer's weight [H, N] int8, units [N] and bias [N]; the last layer's weight [1, N] and bias [1];
    keys [S, D]. Attributes: the slopes of both layers' LeakyReLU. Output: interest [C, D]. All but weights float32.
    """
    made = producers(rank.graph)
    for node in rank.graph.node:
        way = path_up(made, node, _ATTENTION) if node.op_type == "MatMul" else None
        if way is None:
            continue
        second, first_act, first = _second_layer(rank.graph, way[1:]), way[-2], way[-1]
        query, weight, bias = (path_up(made, first, path) for path in (_TO_QUERY, _TO_WEIGHT, _TO_BIAS))
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
        return extract_function(rank, "TargetAttention", inputs, {"interest": node.output[0]}, slopes)
    return False


def head(rank: onnx.ModelProto) -> bool:
    """Make two hidden layers in 8-bit integers and the number after them one node, ``recsys.Head``; if there are any.

    Its inputs: x [C, K]; the first layer's weight [K, H] int8, units [H] and bias [H]; the others as those of
    :func:`target_attention`. Output: logits [C, 1].
    """
    made, constants = producers(rank.graph), {t.name for t in rank.graph.initializer}
    shapes = {t.name: numpy_helper.to_array(t).tolist() for t in rank.graph.initializer if t.dims == [2]}
    for node in rank.graph.node:
        way = path_up(made, node, _HEAD) if node.op_type == "Reshape" else None
        if way is None:
            continue
        second, first_act, first = _second_layer(rank.graph, way), way[-2], way[-1]
        x, weight, bias = (path_up(made, first, path) for path in (_TO_QUERY, _TO_CONSTANT_WEIGHT, _TO_HEAD_BIAS))
        if x is None or weight is None or bias is None or second is None or second.units[1] > _MOST_UNITS:
            continue
        if weight[0].input[0] in constants and shapes.get(node.input[1]) == [-1, 1]:
            inputs = {
                "x": x[-1].input[0],
                "weight": weight[0].input[0],
                "unit": weight[0].input[1],
                "bias": bias[-1].input[0],
                **second.inputs,
            }
            slopes = {"first_slope": first_act, "second_slope": second.act}
            return extract_function(rank, "Head", inputs, {"logits": node.output[0]}, slopes)
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
    unit = path_up(producers(graph), mul, ((1, "Mul"),))
    if unit is None or len(last.input) < 3:
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
        way = path_up(made, node, _TO_KEYS) if node.op_type == "QuantizeLinear" else None
        if way is not None and _is_folding(user.graph, way):
            inputs = {"keys": way[-1].input[0], "folded": way[0].input[1]}
            return extract_function(user, "AttentionWeight", inputs, {"weight": node.output[0], "unit": node.input[1]})
    return False


def _is_folding(graph: onnx.GraphProto, way: Sequence[onnx.NodeProto]) -> bool:
    """True if a product is of [keys.T, ones], [D, S, 2]."""
    product, pair, column, transpose = way
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if not tensor.external_data}
    ones = producers(graph).get(pair.input[1])
    if ones is None:
        are_ones = pair.input[1] in constants and bool((constants[pair.input[1]] == 1).all())
    else:  # as many as there are events
        are_ones = ones.op_type == "Expand" and bool((constants.get(ones.input[0], np.zeros(1)) == 1).all())
    return (
        are_ones
        and product.input[1] in constants
        and constants[product.input[1]].shape[1] == 2
        and constants.get(column.input[1], np.zeros(1)).tolist() in ([2], [-1])
        and (has_attributes(pair, axis=2) or has_attributes(pair, axis=-1))
        and has_attributes(transpose, perm=[1, 0])
    )
