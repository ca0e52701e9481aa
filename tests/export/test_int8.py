"""Matrix products in 8-bit integers: near those of float32, one kernel each in ONNX Runtime, their cost recorded."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from support.exported_models import operators_run
from support.tiny_run import finished, folder_of_this_process

from recsys.arrays import Float32Array, Int64Array
from recsys.bundle import GraphInfo, Manifest, open_bundle
from recsys.data.samples.dataset import Dataset
from recsys.errors import BundleError, InvalidInputError
from recsys.export import int8
from recsys.export.certificate import OrtGraphs
from recsys.export.graphs.files import graph_info
from recsys.export.int8 import quantize_products
from recsys.export.onnx import export_bundle
from recsys.operators import Operators, has_vnni
from recsys.serving.inference import graphs
from recsys.serving.inference.ranking_session import open_ranking_session
from recsys.serving.process import startup
from recsys.serving.settings import Settings

K, N = 24, 96

LOOK_UPS = {"IdRows", "StackedIdRows"}


def write_graphs(
    folder: Path, *, by_user: bool, bias_by_user: bool, transposed: bool = False, same: bool = False
) -> None:
    """y = x W + c in ``rank``, of which W and c may come from ``user``, which makes W out of ``u`` times a constant.

    If they are the ``same``, all weights are 1, so that each is the largest.
    """
    random = np.random.Generator(np.random.PCG64(1))
    w = random.normal(size=(N, K) if transposed else (K, N)).astype(np.float32)
    w = np.ones_like(w) if same else w
    c = random.normal(size=N).astype(np.float32)
    opset = [helper.make_opsetid("", 21)]

    def value(name: str, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    user = helper.make_graph(
        [helper.make_node("Mul", ["u", "w"], ["side.w"]), helper.make_node("Mul", ["u", "c"], ["side.c"])],
        "user",
        [value("u", 1)],
        [value("side.w", K, N), value("side.c", N)],
        [numpy_helper.from_array(w.T if transposed else w, "w"), numpy_helper.from_array(c, "c")],
    )
    inputs = ["x", "side.w" if by_user else "w", "side.c" if bias_by_user else "c"]
    rank = helper.make_graph(
        [helper.make_node("Gemm", inputs, ["y"], transB=int(transposed))],
        "rank",
        [value("x", "C", K), value("side.w", K, N), value("side.c", N)],
        [value("y", "C", N)],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(c, "c")],
    )
    for name, graph in (("user", user), ("rank", rank)):
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), folder / f"{name}.onnx")


@settings(deadline=None, max_examples=20)
@given(
    size=st.sampled_from([0.0, 1e-6, 1.0, 1e6]),
    same=st.booleans(),
    rows=st.integers(1, 5),
    by_user=st.booleans(),
    bias_by_user=st.booleans(),
    transposed=st.booleans(),
)
def test_a_product_differs_by_no_more_than_its_rounding(
    size: float, same: bool, rows: int, by_user: bool, bias_by_user: bool, transposed: bool
) -> None:
    folder = folder_of_this_process()
    write_graphs(folder, by_user=by_user, bias_by_user=bias_by_user, transposed=transposed and not by_user, same=same)
    normal_RK = np.random.Generator(np.random.PCG64(2)).normal(size=(rows, K))
    x = (size * (np.ones((rows, K)) if same else normal_RK)).astype(np.float32)
    graphs = [OrtGraphs(folder)]
    quantize_products(folder)
    graphs.append(OrtGraphs(folder))
    outputs = []
    for each in graphs:
        names = {i.name for i in each.rank.get_inputs()}
        made = zip([o.name for o in each.user.get_outputs()], each.user.run(None, {"u": np.ones(1, "f")}), strict=True)
        outputs.append(each.rank.run(None, {"x": x, **{name: side for name, side in made if name in names}})[0])
    weights = {tensor.name: tensor for tensor in onnx.load(folder / "user.onnx").graph.initializer}
    w, c = numpy_helper.to_array(weights["w"]), numpy_helper.to_array(weights["c"])
    # A step of each number of x times those of W, a step of W times those of x, and what a bias leaves of tiny x.
    step_x = (max(x.max(), 0) - min(x.min(), 0)) / 255
    step_w = np.full(N, np.abs(w).max() / 64) if by_user else np.abs(w).max(axis=0) / 127
    # x of nothing but zeros has a scale of 1, and a bias of the user is whole units of that and W's.
    of_bias = step_w / 2 if bias_by_user and not x.any() else 0.01 * np.abs(c).max()
    allowed = step_x * np.abs(w).sum(axis=0) + step_w * (np.abs(x).sum(axis=1, keepdims=True) + K * step_x)
    assert (np.abs(outputs[1] - outputs[0]) <= allowed + 1e-5 * np.abs(outputs[0]) + of_bias).all()


@pytest.mark.parametrize("bias_by_user", [False, True])
@pytest.mark.parametrize("by_user", [False, True])
def test_onnx_runtime_makes_one_kernel_of_a_product_with_its_bias(
    tmp_path: Path, by_user: bool, bias_by_user: bool
) -> None:
    write_graphs(tmp_path, by_user=by_user, bias_by_user=bias_by_user)
    signatures = quantize_products(tmp_path)
    assert signatures["rank"].outputs["y"].dtype == "float32"
    assert signatures["user"].outputs["side.w"].dtype == ("int8" if by_user else "float32")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(tmp_path / "rank.onnx", options, providers=["CPUExecutionProvider"])
    kinds = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    assert ("QGemm" if bias_by_user else "DynamicQuantizeMatMul") in kinds
    assert not kinds & {"Gemm", "FusedGemm", "DequantizeLinear", "MatMulInteger", "Add"}


def test_small_products_and_single_columns_stay_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "SMALLEST_PRODUCT", K * N + 1)
    write_graphs(tmp_path, by_user=False, bias_by_user=False)
    quantize_products(tmp_path)
    assert [node.op_type for node in onnx.load(tmp_path / "rank.onnx").graph.node] == ["Gemm"]


@pytest.mark.parametrize(
    ("reader", "because"),
    [
        (helper.make_node("LessOrEqual", ["y", "c"], ["read"]), "the product is compared"),
        (helper.make_node("Neg", ["side.w"], ["read"]), "something else reads its weights"),
    ],
)
def test_products_that_another_node_needs_in_float32_stay(tmp_path: Path, reader: onnx.NodeProto, because: str) -> None:
    write_graphs(tmp_path, by_user=True, bias_by_user=True)
    rank = onnx.load(tmp_path / "rank.onnx")
    rank.graph.node.append(reader)
    kind = TensorProto.BOOL if reader.op_type == "LessOrEqual" else TensorProto.FLOAT
    rank.graph.output.append(helper.make_tensor_value_info("read", kind, None))
    onnx.save(rank, tmp_path / "rank.onnx")
    signatures = quantize_products(tmp_path)
    assert signatures["user"].outputs["side.w"].dtype == "float32", because
    assert [node.op_type for node in onnx.load(tmp_path / "rank.onnx").graph.node] == ["Gemm", reader.op_type]
    OrtGraphs(tmp_path)


def test_one_weight_read_as_it_is_and_transposed_is_stored_as_both(tmp_path: Path) -> None:
    w = np.random.Generator(np.random.PCG64(4)).normal(size=(48, 48)).astype(np.float32)
    opset = [helper.make_opsetid("", 21)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["C", 48]) for name in "xy")
    nodes = [helper.make_node("Gemm", ["x", "w"], ["h"]), helper.make_node("Gemm", ["h", "w"], ["y"], transB=1)]
    graph = helper.make_graph(nodes, "rank", [x], [y], [numpy_helper.from_array(w, "w")])
    one = helper.make_tensor_value_info("u", TensorProto.FLOAT, [1])
    user = helper.make_graph([helper.make_node("Neg", ["u"], ["side"])], "user", [one], [one])
    user.output[0].name = "side"
    for name, made in (("user", user), ("rank", graph)):
        onnx.save(helper.make_model(made, opset_imports=opset, ir_version=10), tmp_path / f"{name}.onnx")
    quantize_products(tmp_path)
    rows = np.random.Generator(np.random.PCG64(5)).normal(size=(3, 48)).astype(np.float32)
    (got,) = OrtGraphs(tmp_path).rank.run(None, {"x": rows})
    expected = rows @ w @ w.T
    assert np.abs(got - expected).max() < 0.05 * np.abs(expected).max()


@cache
def exported() -> tuple[Path, Manifest]:
    """The tiny run, all of whose products are in 8 bits."""
    folder = folder_of_this_process() / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "SMALLEST_PRODUCT", 2)
        run = finished()
        return folder, export_bundle(run.result.trained, run.dataset, folder, name="tiny", compute="int8")


def test_a_bundle_says_what_int8_changes() -> None:
    folder, manifest = exported()
    compute = manifest.compute
    assert compute is not None and compute.kind == "int8"
    assert 0 < compute.mean_abs_logit_difference <= compute.max_abs_logit_difference
    assert compute.mean_abs_logit_difference <= compute.tolerance
    before, after = compute.float32_metrics["auc"], compute.metrics["auc"]
    assert before is not None and after is not None and 0 < abs(before - after) < 0.01
    assert compute.requests == len(finished().dataset.split("test"))
    assert manifest.certificate.max_abs_logit_difference <= manifest.certificate.tolerance == 1e-4
    assert open_bundle(folder).manifest == manifest


def test_a_server_opens_a_bundle_of_int8_products_with_and_without_operators_of_our_own() -> None:
    folder, manifest = exported()
    for operators in ("auto", "standard"):
        open_ranking_session(open_bundle(folder), operators=operators)
    dtypes = {name: info.dtype for name, info in manifest.graphs["user"].outputs.items()}
    assert dtypes["side.attention_weight"] == "int8" and dtypes["side.attention_weight.scale"] == "float32"
    for name, operator in (("user", "AttentionWeight"), ("rank", "TargetAttention")):
        graph = onnx.load(folder / f"{name}.onnx", load_external_data=False)
        assert {function.name for function in graph.functions} - LOOK_UPS == {operator}
        assert {node.domain for function in graph.functions for node in function.node} == {""}, "standard operators"
        assert [node.op_type for node in graph.graph.node if node.domain and node.op_type not in LOOK_UPS] == [operator]


@pytest.mark.skipif(not has_vnni(), reason="operators not compiled, or this processor has no VNNI")
def test_onnx_runtime_runs_our_operators_of_int8_products(tmp_path: Path) -> None:
    for name, operator in (("user", "AttentionWeight"), ("rank", "TargetAttention")):
        ran = operators_run(exported()[0] / f"{name}.onnx", tmp_path / "optimised.onnx")
        assert ran - LOOK_UPS == {operator} and ran & LOOK_UPS


@pytest.mark.skipif(not has_vnni(), reason="operators not compiled, or this processor has no VNNI")
def test_a_bundle_says_what_our_own_operators_change_beside_what_standard_ones_do() -> None:
    compute = exported()[1].compute
    assert compute is not None and compute.own_operators is not None
    own = compute.own_operators["mean_abs_logit_difference"]
    # Rows are quantised one by one, not all with one scale.
    assert 0 < own <= 1.1 * compute.mean_abs_logit_difference
    assert own != compute.mean_abs_logit_difference


@pytest.mark.skipif(not has_vnni(), reason="operators not compiled, or this processor has no VNNI")
def test_our_own_operators_are_checked_at_export_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = int8.graph_logits

    def far(folder: Path, dataset: Dataset, indices: Int64Array, *, operators: Operators = "standard") -> Float32Array:
        return logits(folder, dataset, indices, operators="standard") + (100.0 if operators == "auto" else 0.0)

    monkeypatch.setattr(int8, "SAMPLES", 20)
    monkeypatch.setattr(int8, "SMALLEST_PRODUCT", 2)
    monkeypatch.setattr(int8, "graph_logits", far)
    refused(tmp_path, "int8 products in recsys's own operators change logits of test samples by 1.00e[+]02 on average")


def refused(path: Path, message: str) -> None:
    run = finished()
    with pytest.raises(BundleError, match=message):
        export_bundle(run.result.trained, run.dataset, path / "bundle", name="tiny", compute="int8")
    assert not list(path.iterdir())


def test_answers_too_far_from_float32_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "TOLERANCE", 1e-9)
    monkeypatch.setattr(int8, "SAMPLES", 20)
    refused(tmp_path, "int8 products change logits of test samples by .*; allowed: .*The bundle was not written")


def test_edge_cases_that_are_no_numbers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "SAMPLES", 20)
    certified = iter([np.zeros(3, dtype=np.float32), np.array([0.0, np.nan, 0.0], dtype=np.float32)])
    monkeypatch.setattr(int8, "graph_certificate_logits", lambda folder, dataset, **operators: next(certified))
    refused(tmp_path, "int8 products change logits of edge cases by nan")


def test_a_model_without_a_product_for_int8_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unchanged(folder: Path) -> dict[str, GraphInfo]:
        return {
            name: graph_info(onnx.load(folder / f"{name}.onnx", load_external_data=False), f"{name}.onnx")
            for name in ("user", "rank")
        }

    monkeypatch.setattr(int8, "SAMPLES", 20)
    monkeypatch.setattr(int8, "quantize_products", unchanged)
    refused(tmp_path, "none of the model's is of 2,048 weights or more with a bias")


def test_other_numbers_are_refused(tmp_path: Path) -> None:
    run = finished()
    with pytest.raises(InvalidInputError, match="compute 'int4': "):
        export_bundle(run.result.trained, run.dataset, tmp_path / "bundle", name="tiny", compute="int4")


@pytest.mark.parametrize(
    ("compiled", "reason"),
    [(Path("library"), "need AVX-512 with VNNI, which this processor does not have"), (None, "were not compiled")],
)
def test_a_server_says_why_int8_is_slower_than_it_could_be(
    compiled: Path | None,
    reason: str,
    redis_url: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = Settings(bundle=exported()[0], redis_url=redis_url, read_ahead_s=0.0)
    monkeypatch.setattr(startup, "has_vnni", lambda: False)
    monkeypatch.setattr(startup, "library", lambda: compiled)
    with startup.load_models(settings):
        assert f"recsys's own {reason}" in caplog.text
    caplog.clear()
    with startup.load_models(replace(settings, operators="standard")):
        assert not caplog.text, "it was asked for"


def test_the_setting_decides_who_computes(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Operators] = []
    monkeypatch.setattr(graphs, "use_operators", lambda options, operators: asked.append(operators))
    for operators in ("auto", "standard"):
        with startup.load_models(
            Settings(bundle=exported()[0], redis_url=redis_url, read_ahead_s=0.0, operators=operators)  # type: ignore[arg-type]
        ):
            assert set(asked) == {operators}
        asked.clear()
