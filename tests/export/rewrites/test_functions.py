"""Functions in graphs: cut out whole or not at all, the same with their body as before, found in every model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from support.exported_models import MODELS, calls, exported, operators_run
from support.tiny_run import NAMESAKES, folder_of_this_process, odd_config, odd_dataset

from recsys.export import int8
from recsys.export.certificate import graph_certificate_logits
from recsys.export.onnx import export_bundle
from recsys.export.rewrites.extract_function import extract_function
from recsys.export.rewrites.functions import bucket_interest, head, id_rows, target_attention
from recsys.export.rewrites.simplify import replace_nodes
from recsys.models.ranking.din import DinConfig
from recsys.operators import run_here
from recsys.training.tables.plan import build_row_maps
from recsys.training.trained import build


def parsed(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}')


GRAPH = """
    one (float[N] x, float[N] y) => (float[N] out)
    {
        a = Add (x, y)
        b = LeakyRelu <alpha = 0.5> (a)
        c = Mul (b, y)
        out = Neg (c)
    }
"""


def run(model: onnx.ModelProto) -> list[float]:
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": np.array([1, -4], dtype="f"), "y": np.array([2, 2], dtype="f")})
    assert isinstance(found[0], np.ndarray)
    return [float(value) for value in found[0]]


def test_a_function_computes_what_the_nodes_in_its_place_did() -> None:
    model = parsed(GRAPH)
    act = model.graph.node[1]
    before = run(model)
    assert extract_function(model, "Part", {"left": "x", "right": "y"}, {"result": "c"}, {"slope": act})
    assert run(model) == before == [-6.0, 2.0]
    assert [node.op_type for node in model.graph.node] == ["Part", "Neg"]
    (function,) = model.functions
    assert list(function.input) == ["left", "right"] and list(function.attribute) == ["slope"]
    model.graph.node[0].attribute[0].f = 0.25
    assert run(model) == [-6.0, 1.0], "the slope is the call's"


@pytest.mark.parametrize(
    ("reader", "inputs", "because"),
    [
        ("out = Neg (c)\n other = Abs (b)", {"left": "x", "right": "y"}, "another node reads a tensor inside"),
        ("out = Neg (c)", {"left": "x"}, "an input is not named"),
    ],
)
def test_nodes_that_something_else_reads_or_feeds_stay(reader: str, inputs: dict[str, str], because: str) -> None:
    model = parsed(GRAPH.replace("out = Neg (c)", reader))
    if "other" in reader:
        model.graph.output.append(helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, ["N"]))
    before = model.SerializeToString()
    assert not extract_function(model, "Part", inputs, {"result": "c"}), because
    assert model.SerializeToString() == before


def test_a_tensor_inside_that_is_an_output_of_the_graph_stays() -> None:
    model = parsed(GRAPH)
    model.graph.output.append(helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, ["N"]))
    assert not extract_function(model, "Part", {"left": "x", "right": "y"}, {"result": "c"})


@pytest.mark.parametrize("name", MODELS)
def test_every_exact_id_map_is_a_function_and_no_other_domain_is_used(name: str) -> None:
    _, _, folder, manifest = exported(name)
    graphs = [onnx.load(folder / info.file, load_external_data=False) for info in manifest.graphs.values()]
    sdim = name == "sdim, sdim"
    assert set(calls(graphs)) - {"StackedIdRows"} == ({"IdRows", "BucketInterest"} if sdim else {"IdRows"})
    assert calls(graphs).count("BucketInterest") == sdim, "only of candidates; sums of events are another product"
    for graph in graphs:
        assert {entry.domain for entry in graph.opset_import} <= {"", "recsys"}
        assert {node.domain for function in graph.functions for node in function.node} == {""}
        for node in graph.graph.node:
            assert "IdRows" in node.op_type or not any(read.endswith("slots_TW") for read in node.input)


def test_onnx_runtime_runs_our_operators_where_they_are_and_bodies_elsewhere(tmp_path: Path) -> None:
    _, _, folder, _ = exported("sdim, sdim")
    for name, called in (("user", {"IdRows"}), ("rank", {"IdRows", "BucketInterest"})):
        assert operators_run(folder / f"{name}.onnx", tmp_path / "optimised.onnx") == called & set(run_here())


@pytest.mark.skipif(not run_here(), reason="no operators were compiled")
@pytest.mark.parametrize("name", MODELS)
def test_answers_of_float32_are_the_same_with_our_operators_and_standard_ones(name: str) -> None:
    _, dataset, folder, _ = exported(name)
    ours, standard = (graph_certificate_logits(folder, dataset, operators=by) for by in ("auto", "standard"))
    if name == "sdim, sdim":  # buckets are added up in another order
        np.testing.assert_allclose(ours, standard, rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_array_equal(ours, standard)


def test_a_graph_without_int8_products_has_none_to_cut_out() -> None:
    _, _, folder, _ = exported("din, items of an id only")
    rank = onnx.load(folder / "rank.onnx", load_external_data=False)
    assert not target_attention(rank) and not head(rank)


def test_bits_that_number_buckets_in_another_way_stay_as_they_are() -> None:
    _, _, folder, _ = exported("sdim, sdim")
    rank = onnx.load(folder / "rank.onnx", load_external_data=False)
    (function,) = (each for each in rank.functions if each.name == "BucketInterest")
    (call,) = (node for node in rank.graph.node if node.op_type == "BucketInterest")
    names = {
        **dict(zip(function.input, call.input, strict=True)),
        **dict(zip(function.output, call.output, strict=True)),
    }
    inside = []
    for node in function.node:
        node.input[:] = [names.get(tensor, tensor) for tensor in node.input]
        node.output[:] = [names.get(tensor, tensor) for tensor in node.output]
        if node.op_type == "Constant":
            rank.graph.initializer.append(node.attribute[0].t)
            rank.graph.initializer[-1].name = node.output[0]
        else:
            inside.append(node)
    place = list(rank.graph.node).index(call)
    nodes = [*rank.graph.node[:place], *inside, *rank.graph.node[place + 1 :]]
    replace_nodes(rank.graph, nodes)
    (bits,) = (tensor for tensor in rank.graph.initializer if tensor.name == call.input[1])
    right = numpy_helper.to_array(bits)
    bits.CopyFrom(numpy_helper.from_array(right[::-1].copy(), bits.name))
    assert not bucket_interest(rank)
    bits.CopyFrom(numpy_helper.from_array(right, bits.name))
    assert bucket_interest(rank)


@pytest.mark.parametrize(
    ("attention", "hidden"),
    [((129, 8), (8, 8)), pytest.param((8, 129), (8, 8), marks=pytest.mark.prove), ((8, 8), (8, 129))],
)
def test_layers_larger_than_an_operator_holds_stay_standard(
    tmp_path: Path, attention: tuple[int, int], hidden: tuple[int, int]
) -> None:
    features, dataset = NAMESAKES, odd_dataset(NAMESAKES, folder_of_this_process())
    config = replace(
        odd_config(), model=DinConfig(attention=attention, head=hidden, attention_act="prelu", head_act="prelu")
    )
    config = replace(config, tables=replace(config.tables, dims={}))
    trained = build(config, features, build_row_maps(config, dataset), device=torch.device("cpu"))
    trained.model.eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "SMALLEST_PRODUCT", 2)
        patch.setattr(int8, "SAMPLES", 20)
        patch.setattr(int8, "TOLERANCE", 1.0)  # the weights are the initial ones: logits hardly differ
        export_bundle(trained, dataset, tmp_path / "bundle", name="tiny", compute="int8")
    called = set(calls([onnx.load(tmp_path / "bundle" / "rank.onnx", load_external_data=False)]))
    assert called - {"StackedIdRows"} == {"IdRows", "TargetAttention" if hidden[1] > 128 else "Head"}


def test_a_graph_is_rewritten_once() -> None:
    _, _, folder, _ = exported("din")
    rank = onnx.load(folder / "rank.onnx", load_external_data=False)
    before = rank.SerializeToString()
    assert id_rows(rank) == 0
    assert rank.SerializeToString() == before
