"""Each rewrite of a graph leaves what it computes unchanged, and leaves what it promises."""

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from recsys.arrays import Float32Array
from recsys.export.rewrites.simplify import (
    activations_before_views,
    drop_unused,
    fold_constants,
    independent_of,
    join_pieces,
    merge_duplicates,
    merge_views,
    simplify,
    single_columns_as_rows,
)

sizes = st.integers(1, 9)


def model(
    nodes: list[onnx.NodeProto], constants: Mapping[str, npt.NDArray[np.generic]], *, outputs: tuple[str, ...] = ("y",)
) -> onnx.ModelProto:
    """A model with one input ``x``, [rows, columns], float32."""
    rows = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", "columns"])]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "graph", rows, made, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def answers(of: onnx.ModelProto, x: Float32Array) -> list[Float32Array]:
    session = onnxruntime.InferenceSession(of.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, {"x": x})]


def rewritten(of: onnx.ModelProto, rewrite: Callable[[onnx.GraphProto], None], x: Float32Array) -> Counter[str]:
    """Rewrite in place; the answers must stay. Returns how many nodes there are of each operator."""
    before = answers(of, x)
    rewrite(of.graph)
    for expected, got in zip(before, answers(of, x), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    return Counter(node.op_type for node in of.graph.node)


def normal(seed: int, *shape: int) -> Float32Array:
    return np.random.Generator(np.random.PCG64(seed)).normal(size=shape).astype(np.float32)


node = helper.make_node


@given(rows=sizes, inner=sizes, events=sizes, units=sizes, act=st.sampled_from(["LeakyRelu", "Relu", "Sigmoid"]))
def test_an_activation_moves_before_views_to_the_product(
    rows: int, inner: int, events: int, units: int, act: str
) -> None:
    nodes = [
        node("Gemm", ["x", "w"], ["product"]),
        node("Reshape", ["product", "flat"], ["view"]),
        node("Unsqueeze", ["view", "axis"], ["second"]),
        node(act, ["second"], ["y"]),
    ]
    constants = {"w": normal(1, inner, events * units), "flat": np.array([-1, units]), "axis": np.array([0])}
    made = model(nodes, constants)
    rewritten(made, activations_before_views, normal(2, rows, inner))
    assert [n.op_type for n in made.graph.node] == ["Gemm", act, "Reshape", "Unsqueeze"]


def test_a_view_that_something_else_reads_too_stays_where_it_is() -> None:
    nodes = [node("Reshape", ["x", "flat"], ["view"]), node("Relu", ["view"], ["y"]), node("Neg", ["view"], ["z"])]
    made = model(nodes, {"flat": np.array([-1, 2])}, outputs=("y", "z"))
    rewritten(made, activations_before_views, normal(2, 3, 4))
    assert [n.op_type for n in made.graph.node] == ["Reshape", "Relu", "Neg"]


@given(rows=sizes, inner=sizes, transposed=st.booleans(), biased=st.booleans())
def test_a_product_with_one_column_becomes_one_with_a_row(
    rows: int, inner: int, transposed: bool, biased: bool
) -> None:
    w = normal(1, 1, inner) if transposed else normal(1, inner, 1)
    inputs = ["x", "w", "c"] if biased else ["x", "w"]
    made = model([node("Gemm", inputs, ["y"], transB=int(transposed))], {"w": w, "c": normal(3, 1)})
    rewritten(made, single_columns_as_rows, normal(2, rows, inner))
    assert [n.op_type for n in made.graph.node] == ["Gemm", "Reshape"]
    assert made.graph.node[0].input[1] == "x"


@pytest.mark.parametrize(
    ("w", "c", "attributes"),
    [
        (normal(1, 4, 2), normal(3, 2), {}),
        (normal(1, 4, 1), normal(3, 1), {"alpha": 2.0}),
        (normal(1, 3, 1), normal(3, 1), {"transA": 1}),
        (normal(1, 4, 1), normal(3, 3, 1), {}),
    ],
)
def test_other_products_stay(w: Float32Array, c: Float32Array, attributes: dict[str, float]) -> None:
    made = model([node("Gemm", ["x", "w", "c"], ["y"], **attributes)], {"w": w, "c": c})
    before = made.SerializeToString()
    single_columns_as_rows(made.graph)
    assert made.SerializeToString() == before


@given(rows=sizes, columns=sizes)
def test_views_of_views_are_one_view(rows: int, columns: int) -> None:
    nodes = [
        node("Reshape", ["x", "one"], ["a"]),
        node("Unsqueeze", ["a", "axis"], ["b"]),
        node("Reshape", ["b", "two"], ["y"]),
    ]
    constants = {"one": np.array([-1]), "axis": np.array([1]), "two": np.array([columns, -1])}
    made = model(nodes, constants)
    rewritten(made, lambda graph: (merge_views(graph), drop_unused(graph), None)[-1], normal(1, rows, columns))
    assert [n.op_type for n in made.graph.node] == ["Reshape"]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), widths=st.lists(st.integers(1, 4), min_size=1, max_size=7))
def test_pieces_that_stay_next_to_each_other_stay_one(data: st.DataObject, widths: list[int]) -> None:
    """Of two concatenations, in any order, one of which may be of x itself."""
    pieces = [f"p{place}" for place in range(len(widths))]
    order = data.draw(st.permutations(pieces))
    cut = data.draw(st.integers(0, len(order)))
    first, second = order[:cut], [*order[cut:], "x"]
    nodes = [node("Split", ["x", "widths"], pieces, axis=1), node("Concat", second, ["z"], axis=1)]
    if first:
        nodes.append(node("Concat", first, ["y"], axis=1))
    of = model(nodes, {"widths": np.array(widths)}, outputs=("y", "z") if first else ("z",))
    left = rewritten(of, join_pieces, normal(0, 3, sum(widths)))
    runs = sum(
        1
        for part in (first, second)
        for place, name in enumerate(part)
        if name != "x" and (place == 0 or pieces.index(name) != pieces.index(part[place - 1]) + 1)
    )
    drop_unused(of.graph)
    split = [name for each in of.graph.node if each.op_type == "Split" for name in each.output]
    assert len(split) == (runs if runs > 1 else 0), left


def test_pieces_that_something_else_reads_or_that_lie_on_another_axis_stay() -> None:
    def pieces(*others: onnx.NodeProto, axis: int = 1, outputs: tuple[str, ...] = ("y",)) -> list[str]:
        split = node("Split", ["x", "widths"], ["a", "b"], axis=1)
        nodes = [split, node("Concat", ["a", "b"], ["y"], axis=axis), *others]
        of = model(nodes, {"widths": np.array([2, 2])}, outputs=outputs)
        rewritten(of, join_pieces, normal(1, 3, 4))
        drop_unused(of.graph)
        return [name for each in of.graph.node if each.op_type == "Split" for name in each.output]

    assert pieces() == []
    assert pieces(axis=0) == ["a", "b"]
    assert pieces(node("Relu", ["b"], ["z"]), outputs=("y", "z")) == ["a", "b"]
    assert pieces(outputs=("y", "b")) == ["a", "b"]


def test_what_depends_on_constants_alone_is_computed_at_export() -> None:
    nodes = [
        node("Transpose", ["w"], ["t"]),
        node("Slice", ["t", "begin", "end"], ["part"]),
        node("MatMul", ["x", "part"], ["y"]),
    ]
    w = normal(1, 5, 3)
    made = model(nodes, {"w": w, "begin": np.array([0]), "end": np.array([2])})
    left = rewritten(made, lambda graph: (fold_constants(graph), drop_unused(graph), None)[-1], normal(2, 4, 2))
    assert left == {"MatMul": 1}
    (part,) = made.graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(part), w.T[:2])


def test_the_same_computation_is_done_once() -> None:
    nodes = [
        node("Mul", ["x", "w"], ["a"]),
        node("Mul", ["x", "w"], ["b"]),
        node("Exp", ["a"], ["c"]),
        node("Exp", ["b"], ["d"]),
        node("LeakyRelu", ["c"], ["e"], alpha=0.1),
        node("LeakyRelu", ["d"], ["f"], alpha=0.2),
        node("Sub", ["e", "f"], ["y"]),
    ]
    made = model(nodes, {"w": normal(1, 3)})
    assert rewritten(made, merge_duplicates, normal(2, 2, 3)) == {"Mul": 1, "Exp": 1, "LeakyRelu": 2, "Sub": 1}


def test_outputs_without_a_name_are_not_taken_for_each_other() -> None:
    nodes = [
        node("LayerNormalization", ["x", "w"], ["a", "", "unit"]),
        node("LayerNormalization", ["x", "w"], ["b", "mean", "same_unit"]),
        node("LayerNormalization", ["x", "w"], ["c", "same_mean", "again"]),
        node("Sum", ["a", "b", "c", "mean", "same_mean", "unit", "same_unit", "again"], ["y"]),
    ]
    made = model(nodes, {"w": normal(1, 3)})
    assert rewritten(made, merge_duplicates, normal(2, 2, 3)) == {"LayerNormalization": 2, "Sum": 1}


def test_a_constant_that_would_be_large_is_not_computed() -> None:
    nodes = [node("Expand", ["w", "shape"], ["large"]), node("Gather", ["large", "place"], ["row"])]
    nodes.append(node("Add", ["x", "row"], ["y"]))
    made = model(nodes, {"w": normal(1, 1, 1), "shape": np.array([1 << 21, 3]), "place": np.array(5)})
    assert rewritten(made, fold_constants, normal(2, 4, 3)) == {"Expand": 1, "Gather": 1, "Add": 1}


def test_a_graph_with_bodies_stays_as_it_is() -> None:
    result = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    bodies = [helper.make_graph([node(kind, ["inner"], ["z"])], kind, [], [result]) for kind in ("Exp", "Neg")]
    nodes = [
        node("Mul", ["x", "w"], ["inner"]),
        node("If", ["is_so"], ["y"], then_branch=bodies[0], else_branch=bodies[1]),
    ]
    made = model(nodes, {"w": normal(1, 3), "is_so": np.array(True)})
    assert rewritten(made, lambda _: simplify(made), normal(2, 2, 3)) == {"Mul": 1, "If": 1}


def test_what_no_output_needs_is_dropped() -> None:
    nodes = [node("Mul", ["x", "w"], ["y"]), node("Mul", ["x", "v"], ["a"]), node("Exp", ["a"], ["b"])]
    made = model(nodes, {"w": normal(1, 3), "v": normal(2, 3)})
    assert rewritten(made, drop_unused, normal(2, 2, 3)) == {"Mul": 1}
    assert [tensor.name for tensor in made.graph.initializer] == ["w"]


@given(rows=sizes, inner=sizes, events=sizes, units=st.integers(2, 9))
def test_all_together_leave_the_attentions_answer(rows: int, inner: int, events: int, units: int) -> None:
    nodes = [
        node("Transpose", ["first"], ["first_t"]),
        node("Gemm", ["x", "first_t", "bias"], ["product"]),
        node("Reshape", ["product", "by_event"], ["view"]),
        node("LeakyRelu", ["view"], ["hidden"], alpha=0.25),
        node("Gemm", ["hidden", "last", "last_bias"], ["weights"]),
        node("Reshape", ["weights", "by_candidate"], ["y"]),
    ]
    constants = {
        "first": normal(1, events * units, inner),
        "bias": normal(2, events * units),
        "last": normal(3, units, 1),
        "last_bias": normal(4, 1),
        "by_event": np.array([-1, units]),
        "by_candidate": np.array([-1, events]),
    }
    made = model(nodes, constants)
    before = answers(made, normal(5, rows, inner))
    simplify(made)
    np.testing.assert_allclose(answers(made, normal(5, rows, inner))[0], before[0], rtol=1e-4, atol=1e-5)
    kinds = [n.op_type for n in made.graph.node]
    assert kinds == ["Gemm", "LeakyRelu", "Reshape", "Gemm", "Reshape"]


def test_work_that_no_candidate_plays_a_part_in_is_found() -> None:
    nodes = [
        node("Exp", ["side"], ["once"]),
        node("Neg", ["w"], ["constant"]),
        node("Reshape", ["once", "flat"], ["view"]),
        node("Mul", ["x", "view"], ["each"]),
        node("Add", ["each", "constant"], ["y"]),
    ]
    made = model(nodes, {"w": normal(1, 3), "flat": np.array([-1])})
    made.graph.input.append(helper.make_tensor_value_info("side", TensorProto.FLOAT, [3]))
    assert [n.op_type for n in independent_of(made.graph, ["x"])] == ["Exp"]
