"""Rewrites of exported graphs that leave what they compute unchanged and make ONNX Runtime compute it faster.

ONNX Runtime has optimisations of its own, at load; these are the ones it lacks, and those that must come before its own
can. Each is a function that changes a graph in place; ``simplify`` runs all. What is in a bundle stays standard
ONNX, so other runtimes read it too. Times are of one core, for the model of ``benchmarks/harness/reference.py`` at 200
candidates and 50 events; all of them together are in ``docs/understand/graphs.md``.

Legend: ``M`` rows, ``K`` columns, ``C`` candidates, ``S`` events.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from recsys.arrays import Float32Array

_VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")
_ELEMENTWISE = ("LeakyRelu", "Relu", "Sigmoid", "Tanh")
_LARGEST_CONSTANT = 1 << 24
"""Bytes of what is computed at export; tables of rows are larger, and stay as they are."""


def simplify(model: onnx.ModelProto) -> None:
    """All rewrites, in place, in an order in which each finds what those before it leave.

    A graph with bodies (``If``, ``Loop``) stays as it is: they read the graph's tensors by name, which no rewrite sees.
    """
    if any(has_body(node) for node in model.graph.node):
        return
    for rewrite in (
        fold_constants,
        merge_duplicates,
        activations_before_views,
        single_columns_as_rows,
        merge_views,
        join_pieces,
        drop_unused,
    ):
        rewrite(model.graph)


def fold_constants(graph: onnx.GraphProto) -> None:
    """f(constants) is a constant.

    Slices, transposes and sums of weights are so computed once, and the file holds what is used. ONNX Runtime does it
    too, at each load: no difference in a request, 15 nodes fewer in a file.
    """
    known = {tensor.name: tensor for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        inputs = [known.get(name) for name in node.input if name]
        small = all(t is not None and t.ByteSize() <= _LARGEST_CONSTANT for t in inputs)
        if not small:
            kept.append(node)
            continue
        found = ReferenceEvaluator(node).run(None, {t.name: numpy_helper.to_array(t) for t in inputs if t is not None})
        values = {name: np.asarray(value) for name, value in zip(node.output, found, strict=True) if name}
        if sum(value.nbytes for value in values.values()) > _LARGEST_CONSTANT:
            kept.append(node)
            continue
        for name, value in values.items():
            known[name] = numpy_helper.from_array(value, name)
            graph.initializer.append(known[name])
    replace_nodes(graph, kept)


def merge_duplicates(graph: onnx.GraphProto) -> None:
    """Two nodes of one operator, with the same inputs and attributes, compute the same.

    An id that several tables or features look up is hashed once. ONNX Runtime merges them at load as well.
    """
    first: dict[tuple[object, ...], onnx.NodeProto] = {}
    renamed: dict[str, str] = {}
    outputs = {value.name for value in graph.output}
    kept = []
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        attributes = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
        wanted = tuple(bool(name) for name in node.output)  # an optional output that nobody reads has no name
        key = (node.op_type, node.domain, wanted, *node.input, *attributes)
        same = first.setdefault(key, node)
        if same is node or outputs.intersection(node.output):
            kept.append(node)
        else:
            renamed |= {old: new for old, new in zip(node.output, same.output, strict=True) if old}
    replace_nodes(graph, kept)


def activations_before_views(graph: onnx.GraphProto) -> None:
    """act(view(x)) = view(act(x)) for an elementwise act.

    Behind the matrix product ONNX Runtime makes the activation part of it: the 200 x 4,000 hidden units of the
    attention are then not read and written once more. 1,033 + 126 us become 1,060 us.
    """
    moved = True
    while moved:
        moved = False
        made, uses = producers(graph), readers(graph)
        for place, act in enumerate(graph.node):
            view = made.get(act.input[0]) if act.op_type in _ELEMENTWISE else None
            if view is None or view.op_type not in _VIEWS or uses[view.output[0]] > 1:
                continue
            before = list(graph.node).index(view)
            source, between, result = view.input[0], f"{act.output[0]}.before", act.output[0]
            act.input[0], act.output[0] = source, between
            view.input[0], view.output[0] = between, result
            nodes = list(graph.node)
            nodes[before], nodes[place] = nodes[place], nodes[before]
            replace_nodes(graph, nodes)
            moved = True
            break


def single_columns_as_rows(graph: onnx.GraphProto) -> None:
    """x w + c = (w' x' + c)' for a column w: a product with one row instead of one column.

    ONNX Runtime packs a constant w for a kernel that works on 16 columns at a time; a row it multiplies as a vector.
    The last layer of the attention, 10,000 x 40 with 40 x 1: 121 us become 24 us.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        column = _column(node, constants)
        if column is None:
            nodes.append(node)
            continue
        name, result = f"{node.input[1]}.row", node.output[0]
        if name not in constants:
            constants[name] = numpy_helper.from_array(column.reshape(1, -1), name)
            shape = numpy_helper.from_array(np.array([-1, 1], dtype=np.int64), f"{name}.shape")
            graph.initializer.extend([constants[name], shape])
        inputs = [name, node.input[0], *node.input[2:]]
        nodes.append(helper.make_node("Gemm", inputs, [f"{result}.row"], name=node.name, transB=1))
        nodes.append(helper.make_node("Reshape", [f"{result}.row", f"{name}.shape"], [result]))
    replace_nodes(graph, nodes)


def merge_views(graph: onnx.GraphProto) -> None:
    """view(view(x)) = view(x) for a last view that states its whole shape. A node less, about 1 us."""
    made = producers(graph)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        while node.op_type == "Reshape" and node.input[1] in constants:
            before = made.get(node.input[0])
            whole = (numpy_helper.to_array(constants[node.input[1]]) != 0).all()
            if before is None or before.op_type not in _VIEWS or not whole:
                break
            node.input[0] = before.input[0]


def join_pieces(graph: onnx.GraphProto) -> None:
    """concat(split(x)) = x: pieces that are next to each other before and after stay one.

    Features that are looked up together are put in the order in which a network reads them: where that is the order of
    the look-up, nothing is copied twice.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    uses = readers(graph)
    concat_of = {name: node for node in graph.node if node.op_type == "Concat" for name in node.input}
    whole: dict[str, str] = {}
    for split in graph.node:
        if split.op_type != "Split" or len(split.input) < 2 or split.input[1] not in constants:
            continue
        sizes, axis = numpy_helper.to_array(constants[split.input[1]]).tolist(), _axis(split)

        def follows(name: str, before: str, axis: int = axis) -> bool:
            node = concat_of.get(name)
            together = node is not None and node is concat_of.get(before) and _axis(node) == axis
            order = list(node.input) if node is not None and together else []
            return uses[name] == uses[before] == 1 and before in order[:-1] and order[order.index(before) + 1] == name

        runs = [[(split.output[0], sizes[0])]]
        for piece in zip(split.output[1:], sizes[1:], strict=True):
            if follows(piece[0], runs[-1][-1][0]):
                runs[-1].append(piece)
            else:
                runs.append([piece])
        for run in runs:
            gone = {name for name, _ in run[1:]}
            if gone:
                inputs = concat_of[run[0][0]].input
                inputs[:] = [name for name in inputs if name not in gone]
        if len(runs) == 1:
            whole[split.output[0]] = split.input[0]
        elif len(runs) < len(sizes):
            joined = np.array([sum(size for _, size in run) for run in runs], dtype=np.int64)
            name = f"{split.output[0]}.sizes"
            graph.initializer.append(numpy_helper.from_array(joined, name))
            split.input[1], split.output[:] = name, [run[0][0] for run in runs]
    alone = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Concat" and len(n.input) == 1}
    outputs = {value.name for value in graph.output}
    whole |= {made: made_of for made, made_of in alone.items() if made not in outputs}
    for node in graph.node:
        for place, name in enumerate(node.input):
            while name in whole:
                name = whole[name]
            node.input[place] = name


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove what no output depends on: it is not computed, and not stored."""
    needed = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    replace_nodes(graph, kept[::-1])
    unused = [place for place, tensor in enumerate(graph.initializer) if tensor.name not in needed]
    for place in reversed(unused):
        del graph.initializer[place]


def independent_of(graph: onnx.GraphProto, inputs: Iterable[str]) -> list[onnx.NodeProto]:
    """Nodes that compute something which none of these inputs plays a part in, and which is no constant.

    In a ``rank`` graph, of the candidates' inputs: work that could be done once for a request, in the ``user`` graph.
    Views of user-side tensors, and what is computed from their sizes, are no work.
    """
    depends = set(inputs)
    constant = {tensor.name for tensor in graph.initializer} | {""}
    found = []
    for node in graph.node:
        if depends.intersection(node.input):
            depends.update(node.output)
        elif constant.issuperset(node.input) or node.op_type == "Shape":
            constant.update(node.output)
        elif node.op_type not in _VIEWS:
            found.append(node)
    return found


def _column(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> Float32Array | None:
    """The constant w of a Gemm that computes x w + c, if w has one column and c is a constant number."""
    if node.op_type != "Gemm" or node.input[1] not in constants:
        return None
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    w = constants[node.input[1]]
    plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0 and not attributes.get("transA", 0)
    if not plain or w.dims[0 if attributes.get("transB", 0) else 1] != 1:
        return None
    if len(node.input) > 2 and (node.input[2] not in constants or np.prod(constants[node.input[2]].dims) != 1):
        return None
    column: Float32Array = numpy_helper.to_array(w)
    return column


def _axis(node: onnx.NodeProto) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "axis"), 0)


def has_body(node: onnx.NodeProto) -> bool:
    return any(
        attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for attribute in node.attribute
    )


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The node that makes each tensor."""
    return {name: node for node in graph.node for name in node.output}


def readers(graph: onnx.GraphProto) -> Counter[str]:
    """Number of nodes and outputs that read each tensor."""
    return Counter([*(name for node in graph.node for name in node.input), *(value.name for value in graph.output)])


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Put these nodes, some of which may be the graph's own, in the place of all."""
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del graph.node[:]
    graph.node.extend(copies)


def has_attributes(node: onnx.NodeProto, **expected: float | list[int]) -> bool:
    """True if attributes have these values, or are absent where the value is the default (that of each name here)."""
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return all(given.get(name, value) == value for name, value in expected.items())
