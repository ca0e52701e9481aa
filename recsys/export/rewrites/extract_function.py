"""Cutting nodes out of a graph, as an ONNX function that is stored with them."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import onnx
from onnx import helper

from recsys.export.rewrites.simplify import drop_unused, has_body, producers, readers, replace_nodes

DOMAIN = "recsys"

Path = tuple[tuple[int, str], ...]
"""Steps from a node to those that make its inputs: the input's number, and the operator."""


def path_up(made: Mapping[str, onnx.NodeProto], node: onnx.NodeProto, steps: Path) -> list[onnx.NodeProto] | None:
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


def extract_function(
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
    if any(map(has_body, graph.node)) or not all(act.attribute for act in slopes.values()):
        return False
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
    add_function(
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


def add_function(model: onnx.ModelProto, function: onnx.FunctionProto) -> None:
    """Store a function of :data:`DOMAIN` with a graph that calls it."""
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
